#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <grp.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/command.h"
#include "fvm/accounts.h"
#include "fvm/policy.h"
#include "fvm/procs.h"

extern char **environ;

#define ROOT_PATH "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#define USER_PATH "/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"

/* Names of things that are not there inside. */
static const char *const cut_off[] = {
	"DBUS_*",      "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "SSH_AGENT_PID",   "SSH_ASKPASS",
	"GPG_AGENT*",  "DISPLAY",	  "WAYLAND_*",	   "XAUTHORITY",      "PULSE_*",
	"PIPEWIRE_*",  "NOTIFY_SOCKET",	  "LISTEN_*",	   "JOURNAL_STREAM",  "INVOCATION_ID",
	"TMUX",	       "TMUX_PANE",	  "STY",	   "SESSION_MANAGER", "KRB5CCNAME",
	"DOCKER_HOST", "FVM_HOME",	  "SYSTEMD_*",	   "WATCHDOG_*",      "CONTAINER_HOST",
	"AT_SPI_*",    "GNOME_KEYRING_*", "ICEAUTHORITY",  "VSCODE_*",	      "NVIM*",
	"SWAYSOCK",    "I3SOCK",	  "KITTY_*",
};

static const char *const secret[] = {
	"*TOKEN*",   "*SECRET*", "*PASSWORD*",	  "*PASSWD*",	   "*PASSPHRASE*",
	"*API_KEY*", "*APIKEY*", "*CREDENTIAL*",  "*PRIVATE_KEY*", "*ACCESS_KEY*",
	"*_PASS",    "*_PAT",	 "*_PWD",	  "SSHPASS",	   "PGPASS*",
	"*_KEY",     "*COOKIE*", "*AUTH_CONFIG*", "*_AUTH",	   "*WEBHOOK*",
	"*_SK",	     "*_DSN",	 "BW_SESSION",
};

/* Who the command runs as. */
struct who {
	char name[256], home[PATH_MAX], shell[PATH_MAX];
	uid_t uid;
	gid_t gid;
	bool found;   /* in the database: name, home, shell are filled */
	bool outside; /* by a name service of the host */
};

int cli_command_option(struct cli_command_options *o, int key, const char *value,
		       struct fvm_error *err)
{
	switch (key) {
	case OPT_ROOT:
		o->root = true;
		return 1;
	case OPT_USER:
		o->user = value;
		return 1;
	case OPT_WORKDIR:
		o->workdir = value;
		return value[0] == '/'
			       ? 1
			       : fvm_error_set(err, EINVAL, "'%s' is no absolute path", value);
	case OPT_ENV:
		if (value[0] == '=' || value[0] == '\0')
			return fvm_error_set(err, EINVAL, "'%s' is not K=V", value);
		return fvm_strv_add(&o->env, value) < 0 ? fvm_error_set(err, ENOMEM, "keep it") : 1;
	case 't':
		o->tty = true;
		return 1;
	case 'T':
		o->no_tty = true;
		return 1;
	default:
		return 0;
	}
}

void cli_command_options_free(struct cli_command_options *o)
{
	fvm_strv_free(&o->env);
}

/* ---- the VM's own account databases, through its layers ---- */

/* By @name, or by @uid when that is NULL. */
static bool find_user(const struct fvm_vm *vm, const char *name, uid_t uid, struct who *w)
{
	scoped_free char *text = fvm_vm_read_etc(vm, "passwd");
	char *save = NULL, *fields[7];
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
	     line = strtok_r(NULL, "\n", &save)) {
		if (!fvm_account_fields(line, fields, FVM_COUNT(fields)))
			continue;
		uid_t id = (uid_t)strtoul(fields[2], NULL, 10);
		if (name ? strcmp(fields[0], name) != 0 : id != uid)
			continue;
		snprintf(w->name, sizeof(w->name), "%s", fields[0]);
		snprintf(w->home, sizeof(w->home), "%s", fields[5]);
		snprintf(w->shell, sizeof(w->shell), "%s", fields[6][0] ? fields[6] : "/bin/sh");
		w->uid = id;
		w->gid = (gid_t)strtoul(fields[3], NULL, 10);
		w->found = true;
		return true;
	}
	return false;
}

static void add_group(struct fvm_command *c, gid_t gid)
{
	for (size_t i = 0; i < c->group_count; i++) {
		if (c->groups[i] == gid)
			return;
	}
	if (c->group_count < FVM_COUNT(c->groups))
		c->groups[c->group_count++] = gid;
}

static bool is_member(const char *members, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = members; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (strncmp(p, name, n) == 0 && (p[n] == ',' || p[n] == '\0'))
			return true;
	}
	return false;
}

static void find_groups(const struct fvm_vm *vm, const struct who *w, struct fvm_command *c)
{
	scoped_free char *text = fvm_vm_read_etc(vm, "group");
	char *save = NULL;
	add_group(c, w->gid);
	for (char *line = text ? strtok_r(text, "\n", &save) : NULL; line;
	     line = strtok_r(NULL, "\n", &save)) {
		strsep(&line, ":");
		strsep(&line, ":");
		const char *gid = strsep(&line, ":");
		if (gid && line && w->found && is_member(line, w->name))
			add_group(c, (gid_t)strtoul(gid, NULL, 10));
	}
	gid_t more[FVM_ACCOUNT_GROUPS];
	int n = FVM_ACCOUNT_GROUPS;
	if (w->outside && getgrouplist(w->name, w->gid, more, &n) >= 0) {
		for (int i = 0; i < n; i++)
			add_group(c, more[i]);
	}
}

static int parse_ids(const char *text, struct who *w)
{
	char *end;
	unsigned long uid = strtoul(text, &end, 10);
	if (end == text || uid >= UINT_MAX)
		return -EINVAL;
	if (*end == ':') {
		const char *rest = end + 1;
		unsigned long gid = strtoul(rest, &end, 10);
		if (end == rest || gid >= UINT_MAX)
			return -EINVAL;
		w->gid = (gid_t)gid;
	}
	w->uid = (uid_t)uid;
	return *end ? -EINVAL : 0;
}

/* Whom only a name service of the host knows: he is put into /run/userdb of the VM that is started
 * for him. */
static bool find_outside(const char *name, uid_t uid, struct who *w)
{
	const struct passwd *pw = name ? getpwnam(name) : getpwuid(uid);
	if (!pw || fvm_account_in_file("/etc/passwd", pw->pw_uid))
		return false; /* the VM's own file is what counts */
	snprintf(w->name, sizeof(w->name), "%s", pw->pw_name);
	snprintf(w->home, sizeof(w->home), "%s", pw->pw_dir);
	snprintf(w->shell, sizeof(w->shell), "%s", pw->pw_shell[0] ? pw->pw_shell : "/bin/sh");
	w->uid = pw->pw_uid;
	w->gid = pw->pw_gid;
	w->found = w->outside = true;
	return true;
}

static bool find_anywhere(const struct fvm_vm *vm, const char *name, uid_t uid, struct who *w)
{
	return find_user(vm, name, uid, w) || find_outside(name, uid, w);
}

static int identify(const struct fvm_vm *vm, const struct cli_command_options *o, struct who *w,
		    struct fvm_error *err)
{
	if (o->root && o->user)
		return fvm_error_say(err, EINVAL, "--root and --user exclude each other");
	if (o->user && find_anywhere(vm, o->user, 0, w))
		return 0;
	w->uid = o->root ? 0 : geteuid();
	w->gid = o->root ? 0 : getegid();
	if (o->user) {
		struct who ids = { .gid = (gid_t)-1 };
		if (parse_ids(o->user, &ids) < 0) {
			fvm_error_say(err, ENOENT, "VM '%s' has no user '%s'", vm->config.name,
				      o->user);
			fvm_error_hint(err, "add it inside, or give a number");
			return -ENOENT;
		}
		w->uid = ids.uid;
		bool known = find_anywhere(vm, NULL, ids.uid, w);
		if (ids.gid != (gid_t)-1 || !known)
			w->gid = ids.gid != (gid_t)-1 ? ids.gid : (gid_t)ids.uid;
		return 0;
	}
	gid_t gid = w->gid;
	if (find_anywhere(vm, NULL, w->uid, w) && !o->root)
		w->gid = gid;
	return 0;
}

/* ---- environment ---- */

static bool matches(const char *const *patterns, size_t count, const char *entry)
{
	char name[128];
	size_t n = strcspn(entry, "=");
	if (n >= sizeof(name))
		return false;
	memcpy(name, entry, n);
	name[n] = '\0';
	for (size_t i = 0; i < count; i++) {
		if (fnmatch(patterns[i], name, FNM_CASEFOLD) == 0)
			return true;
	}
	return false;
}

/* Put "K=V" in, in place of an older K. */
static int set_env(struct fvm_strv *env, const char *entry)
{
	size_t n = strcspn(entry, "=") + 1;
	fvm_strv_each(env, i) {
		if (strncmp(env->items[i], entry, n) != 0)
			continue;
		char *copy = strdup(entry);
		if (!copy)
			return -ENOMEM;
		free(env->items[i]);
		env->items[i] = copy;
		return 0;
	}
	return fvm_strv_add(env, entry);
}

static int setf(struct fvm_strv *env, const char *key, const char *value)
{
	scoped_buf entry = { 0 };
	fvm_buf_printf(&entry, "%s=%s", key, value);
	return entry.failed ? -ENOMEM : set_env(env, entry.data);
}

static int set_identity(struct fvm_strv *env, const struct fvm_vm *vm, const struct who *w)
{
	char text[64];
	int r = 0;
	bool same = w->uid == geteuid();
	if (w->found) {
		r |= setf(env, "HOME", w->home);
		r |= setf(env, "USER", w->name);
		r |= setf(env, "LOGNAME", w->name);
		r |= setf(env, "SHELL", w->shell);
	}
	if (!same || !getenv("PATH"))
		r |= setf(env, "PATH", w->uid == 0 ? ROOT_PATH : USER_PATH);
	snprintf(text, sizeof(text), "/run/user/%u", w->uid);
	r |= setf(env, "XDG_RUNTIME_DIR", text);
	r |= setf(env, "FVM_VM", vm->config.name);
	r |= setf(env, "debian_chroot", vm->config.name);
	return r;
}

static int set_chosen(struct fvm_strv *env, const struct fvm_strv *chosen)
{
	fvm_strv_each(chosen, i) {
		const char *entry = chosen->items[i];
		int r = 0;
		if (strchr(entry, '='))
			r = set_env(env, entry);
		else if (getenv(entry))
			r = setf(env, entry, getenv(entry));
		if (r < 0)
			return r;
	}
	return 0;
}

/* An address that has a password in it: "scheme://user:password@host". A proxy's is kept, as
 * nothing that needs the proxy would work without it. */
static bool has_password(const char *entry)
{
	static const char *const proxies[] = { "*_PROXY" };
	const char *at = strstr(strchr(entry, '='), "://");
	size_t n = at ? strcspn(at + 3, "/?#") : 0;
	return n && memchr(at + 3, ':', n) && memchr(at + 3, '@', n) &&
	       !matches(proxies, FVM_COUNT(proxies), entry);
}

static bool is_secret(const char *entry)
{
	return matches(secret, FVM_COUNT(secret), entry) || has_password(entry);
}

static int make_env(struct fvm_strv *env, const struct fvm_vm *vm, const struct fvm_config *c,
		    const struct cli_command_options *o, const struct who *w)
{
	bool keep_secrets = c->secrets || (c->net == FVM_NET_NONE && !c->no_secrets);
	for (char **e = environ; e && *e; e++) {
		if (!strchr(*e, '=') || matches(cut_off, FVM_COUNT(cut_off), *e) ||
		    (!keep_secrets && is_secret(*e)))
			continue;
		if (fvm_strv_add(env, *e) < 0)
			return -ENOMEM;
	}
	if (set_identity(env, vm, w) < 0 || set_chosen(env, &c->env) < 0)
		return -ENOMEM;
	return set_chosen(env, &o->env);
}

/* ---- all together ---- */

static int set_argv(struct fvm_command *c, const struct who *w, int argc, char **argv)
{
	for (int i = 0; i < argc; i++) {
		if (fvm_strv_add(&c->argv, argv[i]) < 0)
			return -ENOMEM;
	}
	if (argc > 0)
		return 0;
	return fvm_strv_add(&c->argv, w->found ? w->shell : "/bin/sh");
}

static int set_workdir(struct fvm_command *c, const struct cli_command_options *o)
{
	char here[PATH_MAX];
	c->workdir_must = o->workdir != NULL;
	if (o->workdir)
		c->workdir = strdup(o->workdir);
	else
		c->workdir = strdup(getcwd(here, sizeof(here)) && here[0] == '/' ? here : "/");
	return c->workdir ? 0 : -ENOMEM;
}

int cli_command_make(const struct fvm_vm *vm, const struct cli_command_options *o, bool detached,
		     int argc, char **argv, struct fvm_command *ret, struct fvm_error *err)
{
	scoped_command c = { .fds = { -1, -1, -1 }, .detached = detached };
	struct who w = { 0 };
	scoped_config named = { 0 };
	const struct fvm_config *config = vm->effective ? vm->effective : &vm->config;
	int r = identify(vm, o, &w, err);
	if (r == 0 && !vm->effective && vm->config.policies.count) {
		r = fvm_policy_apply(&vm->config, NULL, &named, NULL, err);
		config = &named;
	}
	if (r < 0)
		return r;
	c.uid = w.uid;
	c.gid = w.gid;
	find_groups(vm, &w, &c);
	if (set_argv(&c, &w, argc, argv) < 0 || set_workdir(&c, o) < 0 ||
	    make_env(&c.env, vm, config, o, &w) < 0)
		return fvm_error_set(err, ENOMEM, "prepare the command");
	if (detached)
		c.terminal = o->tty;
	else
		r = fvm_client_stdio(&c,
				     o->no_tty ? FVM_TTY_NEVER
				     : o->tty  ? FVM_TTY_FORCE
					       : FVM_TTY_AUTO,
				     err);
	if (r < 0)
		return r;
	*ret = c;
	c = (struct fvm_command){ .fds = { -1, -1, -1 } };
	return 0;
}

int cli_exec_failure(const struct fvm_error *err)
{
	/* what execve(2) says of a file that is there */
	static const int not_executable[] = { EACCES, ENOEXEC, EISDIR, ETXTBSY, ELOOP, ENOTDIR };
	fvm_error_print("fvm", err);
	if (err->plain)
		return CLI_FAILED; /* not what execve(2) says */
	if (err->code == ENOENT)
		return CLI_NOT_FOUND;
	for (size_t i = 0; i < FVM_COUNT(not_executable); i++) {
		if (err->code == not_executable[i])
			return CLI_NOT_EXECUTABLE;
	}
	return CLI_FAILED;
}

int cli_need_awake(const struct fvm_vm *vm, struct fvm_error *err)
{
	const char *name = vm->config.name;
	enum fvm_state state = fvm_vm_state(vm);
	if (state == FVM_RUNNING)
		return 0;
	int r = fvm_error_say(err, ESRCH, "VM '%s' is %s", name, fvm_state_name(state));
	if (state == FVM_PAUSED)
		fvm_error_hint(err, "fvm resume %s", name);
	else
		fvm_error_hint(err, "fvm start %s, or fvm run --name %s CMD", name, name);
	return r;
}

int cli_follow(const struct cli *cli, const struct fvm_vm *vm, int sock, bool terminal, int session)
{
	struct fvm_error err = { 0 };
	const char *name = vm->config.name;
	int status = 0;
	int r = fvm_client_stream(sock, -1, -1, terminal, &status, &err);
	if (r == -EPIPE) {
		/* killed, or at the end of its grace period: as the shell says it, whoever asked */
		fprintf(stderr, "fvm: VM '%s' has ended, and the command with it\n", name);
		return 128 + SIGKILL;
	}
	if (r < 0)
		return cli_fail(&err);
	if (r == 1 && session)
		cli_say(cli, "\r\nDetached; it goes on:  fvm attach %s %d", name, session);
	else if (r == 1)
		cli_say(cli, "\r\nDetached; it goes on:  fvm attach %s", name);
	if (r == 1)
		return 0;
	return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int cli_exec_in(const struct cli *cli, const struct fvm_vm *vm, const struct cli_command_options *o,
		enum cli_exec how, int argc, char **argv)
{
	scoped_command command = { .fds = { -1, -1, -1 } };
	struct fvm_error err = { 0 };
	int session = 0;
	if (cli_command_make(vm, o, how != CLI_EXEC_FOLLOW, argc, argv, &command, &err) < 0)
		return cli_fail(&err);
	scoped_fd sock = fvm_control_connect(vm, &err);
	if (sock < 0)
		return cli_fail(&err);
	if (fvm_control_run(sock, &command, &session, &err) < 0)
		return cli_exec_failure(&err);
	if (how == CLI_EXEC_FOLLOW)
		return cli_follow(cli, vm, sock, command.terminal, session);
	if (how == CLI_EXEC_PRINT_SESSION)
		printf("%d\n", session);
	else if (cli->json)
		return cli_print_json(
			json_pack("{s:s, s:i}", "name", vm->config.name, "session", session));
	else
		printf("%s\n", vm->config.name);
	return 0;
}
