/*
 * From fork to exec: what a session's child does to become its command.
 *
 * It is still a copy of PID 1, not dumpable, and everything it opens by name belongs to the VM's
 * root, who may have put anything there. So it may hang or fail, alone; PID 1 waits for nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/copy.h"
#include "fvm/init_priv.h"
#include "fvm/recorder.h"
#include "fvm/seccomp.h"
#include "vin/become.h"

#define REPORT 3 /* where the report's descriptor stands until exec */

static const char default_path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

int fvm_exec_status(int r)
{
	return r == -ENOENT || r == -ENOTDIR || r == -ENAMETOOLONG ? 127 : 126;
}

static _Noreturn void fail(int report, const struct fvm_error *err)
{
	if (report >= 0)
		(void)!write(report, err, sizeof(*err));
	_exit(fvm_exec_status(-err->code));
}

/* The caller's descriptors become 0 to 2, the report 3, and nothing else is left. */
static int set_stdio(const struct child *child, struct fvm_error *err)
{
	for (int i = 0; i < 3; i++) {
		int fd = child->stdio[i];
		if (fd < 0)
			fd = open("/dev/null", O_RDWR | O_NOCTTY | O_CLOEXEC);
		if (fd < 0)
			return fvm_error_set(err, errno, "open the VM's /dev/null");
		if (dup2(fd, i) < 0)
			return fvm_error_set(err, errno, "pass descriptor %d", i);
	}
	unsigned int last = REPORT;
	if (child->report >= 0) {
		if (child->report != REPORT && dup2(child->report, REPORT) < 0)
			return fvm_error_set(err, errno, "pass the report's descriptor");
		(void)fcntl(REPORT, F_SETFD, FD_CLOEXEC);
		last++;
	}
	fvm_close_range(last, ~0U);
	return 0;
}

/* The terminal belongs to who works at it, as login(1) does; with one mapped uid it stays root's.
 */
static int set_terminal(const struct child *child, struct fvm_error *err)
{
	if (ioctl(child->tty, TIOCSCTTY, 0) < 0)
		return fvm_error_set(err, errno, "make the terminal the session's own");
	(void)!fchown(child->tty, child->command->uid, (gid_t)-1);
	(void)fchmod(child->tty, 0620);
	return 0;
}

/*
 * The filter whose notifications the supervisor answers. Each session has its own, as the kernel
 * takes one listener from a process and its ancestors: PID 1 itself asks nobody.
 */
static int take_filter(const struct child *child, struct fvm_error *err)
{
	const unsigned int asking =
		FVM_FILTER_ROOTLESS | FVM_FILTER_ONE_UID | FVM_FILTER_OWNERS | FVM_FILTER_LATE_NET;
	const struct fvm_filter *filter = fvm_filter_get(child->filter);
	int listener = -1, r;
	if (child->supervisor < 0)
		return 0;
	if (child->trace)
		r = listener = fvm_trace_filter_install(filter);
	else
		r = fvm_filter_install(filter, &listener);
	/* inside a VM that has a supervisor: its filter holds for us, and it adopts for us */
	if (r == -EBUSY && !child->trace)
		r = fvm_filter_install(fvm_filter_get(child->filter & ~asking), NULL);
	if (r == -EBUSY)
		fvm_error_hint(err, "this is inside a VM, which hears of such calls itself: leave "
				    "--trace out, or trace the VM around this one");
	if (r < 0)
		return fvm_error_set(err, -r, "install the system call filter");
	r = listener < 0 ? 0 : fvm_send_fds(child->supervisor, "f", 1, &listener, 1);
	fvm_fd_closep(&listener);
	return r < 0 ? fvm_error_set(err, -r, "reach the supervisor") : 0;
}

static void reset_process(const struct child *child)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	umask(022);
	(void)setrlimit(RLIMIT_NOFILE, &child->nofile);
}

/*
 * The session's XDG_RUNTIME_DIR: of whom the VM was started for it is there already. Made while we
 * are root, and given away as any program gives it: a supervisor knows what number means whom.
 */
static void make_runtime_dir(const struct fvm_command *c)
{
	char path[32];
	struct stat st;
	snprintf(path, sizeof(path), "/run/user/%u", c->uid);
	if (lstat(path, &st) == 0)
		return;
	if ((mkdir("/run/user", 0755) < 0 && errno != EEXIST) || mkdir(path, 0700) < 0)
		return;
	if (c->uid != 0)
		(void)!lchown(path, c->uid, c->gid);
}

static int set_ids(const struct fvm_command *c, struct fvm_error *err)
{
	/* EPERM: the VM has one mapped id only, and setgroups() is denied for good */
	if (setgroups(c->group_count, c->groups) < 0 && errno != EPERM)
		return fvm_error_set(err, errno, "set the groups");
	if (setresgid(c->gid, c->gid, c->gid) < 0) {
		int r = fvm_error_set(err, errno, "take on group %u", c->gid);
		fvm_error_hint(err, "this id has no place in the VM; use --root");
		return r;
	}
	if (setresuid(c->uid, c->uid, c->uid) < 0) {
		int r = fvm_error_set(err, errno, "take on user %u", c->uid);
		fvm_error_hint(err, "this id has no place in the VM; use --root");
		return r;
	}
	return 0;
}

static int set_workdir(const struct fvm_command *c, struct fvm_error *err)
{
	if (!c->workdir || chdir(c->workdir) == 0)
		return 0;
	if (c->workdir_must)
		return fvm_error_say(err, errno, "work in %.200s inside the VM: %s", c->workdir,
				     strerror(errno));
	dprintf(STDERR_FILENO, "fvm: warning: can't work in %s (%s), working in /\n", c->workdir,
		strerror(errno));
	(void)!chdir("/");
	return 0;
}

static const char *env_get(const struct fvm_command *c, const char *name)
{
	size_t len = strlen(name);
	fvm_strv_each(&c->env, i) {
		const char *item = c->env.items[i];
		if (strncmp(item, name, len) == 0 && item[len] == '=')
			return item + len + 1;
	}
	return NULL;
}

static char **environment(const struct fvm_command *c)
{
	static char *none[] = { NULL };
	return c->env.items ? c->env.items : none;
}

/* A file that is executable, yet of no format the kernel knows, is a script for sh. */
static void exec_script(const char *path, char *const *argv, char **env)
{
	size_t count = 0;
	while (argv[count])
		count++;
	char **with_sh = calloc(count + 3, sizeof(*with_sh));
	if (!with_sh)
		return;
	with_sh[0] = (char *)(uintptr_t) "sh";
	with_sh[1] = (char *)(uintptr_t)path;
	for (size_t i = 1; i < count; i++)
		with_sh[i + 1] = argv[i];
	execve("/bin/sh", with_sh, env);
	free(with_sh);
	errno = ENOEXEC;
}

static int exec_file(const char *path, char *const *argv, char **env)
{
	execve(path, argv, env);
	if (errno == ENOEXEC)
		exec_script(path, argv, env);
	return -errno;
}

/* As execvpe(3), but by the command's own PATH; *ret_found when a file was there at all. */
static int stat_errno(const char *path, struct stat *ret)
{
	return stat(path, ret) == 0 ? 0 : errno;
}

static int exec_path(const struct fvm_command *c, const char *name, char *const *argv,
		     bool *ret_found)
{
	char **env = environment(c);
	struct stat st;
	if (strchr(name, '/')) {
		int r = exec_file(name, argv, env);
		*ret_found = stat(name, &st) == 0;
		return *ret_found && r == -EACCES && S_ISDIR(st.st_mode) ? -EISDIR : r;
	}
	const char *path = env_get(c, "PATH");
	int result = -ENOENT;
	for (const char *at = path ? path : default_path; *name; at++) {
		size_t len = strcspn(at, ":");
		char file[PATH_MAX];
		int n = snprintf(file, sizeof(file), "%.*s%s%s", (int)len, at, len ? "/" : "./",
				 name);
		/* an execve() that finds nothing costs ten times a stat() */
		int stat_error = n > 0 && (size_t)n < sizeof(file) ? stat_errno(file, &st) : ENOENT;
		if (stat_error != ENOENT && stat_error != ENOTDIR) {
			int r = exec_file(file, argv, env);
			bool is_there = stat_error == 0 && !S_ISDIR(st.st_mode);
			if (is_there || (r != -ENOENT && r != -ENOTDIR && r != -EACCES)) {
				*ret_found = is_there;
				result = r;
			}
			if (r != -ENOENT && r != -ENOTDIR && r != -EACCES)
				break;
		}
		at += len;
		if (!*at)
			break;
	}
	return result;
}

static int exec_failed(const char *name, int r, bool found, struct fvm_error *err)
{
	if (r == -ENOENT && found) {
		fvm_error_set(err, ENOENT, "execute '%.200s': its interpreter", name);
		return r;
	}
	fvm_error_set(err, -r, "execute '%.200s'", name);
	if (r == -ENOENT && !strchr(name, '/'))
		fvm_error_hint(err, "it is in no directory of PATH inside the VM");
	else if (r == -EACCES && found)
		fvm_error_hint(err, "the file is there but not executable for this user");
	return r;
}

static int exec_shell(const struct fvm_command *c, struct fvm_error *err)
{
	const char *shell = env_get(c, "SHELL");
	const char *const try[] = { shell && *shell ? shell : "/bin/sh", "/bin/sh" };
	int r = 0;
	for (size_t i = 0; i < FVM_COUNT(try); i++) {
		const char *slash = strrchr(try[i], '/');
		char name[256];
		bool found = false;
		snprintf(name, sizeof(name), "%s%s", c->login ? "-" : "",
			 slash ? slash + 1 : try[i]);
		char *argv[] = { name, NULL };
		r = exec_path(c, try[i], argv, &found);
		exec_failed(try[i], r, found, err);
	}
	return r;
}

_Noreturn void fvm_child_main(const struct child *child)
{
	const struct fvm_command *c = child->command;
	struct fvm_error err = { 0 };
	bool found = false;
	setsid();
	if (take_filter(child, &err) < 0)
		fail(child->report, &err);
	if (child->tty >= 0 && set_terminal(child, &err) < 0)
		fail(child->report, &err);
	if (set_stdio(child, &err) < 0)
		fail(child->report, &err);
	int report = child->report >= 0 ? REPORT : -1;
	reset_process(child);
	/* nothing of the host's is open any more, and our memory is a copy of nothing secret */
	if (child->supervisor >= 0)
		(void)prctl(PR_SET_DUMPABLE, 1);
	make_runtime_dir(c);
	if (set_ids(c, &err) < 0)
		fail(report, &err);
	(void)prctl(PR_SET_DUMPABLE, 0);
	if (set_workdir(c, &err) < 0)
		fail(report, &err);
	if (c->helper) {
		close(report); /* as an exec would */
		if (c->helper == FVM_HELPER_BLANK)
			vin_become(STDIN_FILENO, false);
		_exit(fvm_copy_helper(c));
	}
	if (c->argv.count == 0) {
		exec_shell(c, &err);
	} else {
		int r = exec_path(c, c->argv.items[0], c->argv.items, &found);
		exec_failed(c->argv.items[0], r, found, &err);
	}
	fail(report, &err);
}
