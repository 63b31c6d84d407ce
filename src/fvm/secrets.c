/*
 * What is hidden from every VM that has a network, unless --secrets: the files by which somebody
 * could act as the user elsewhere. One list for all homes; a policy adds with "hide" and takes
 * away with "show".
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/accounts.h"
#include "fvm/hide.h"

#define PASSWD_MAX (64 << 20)
#define NAMES_MAX  64

/* Below a home: a directory, and what in it. The home itself comes first. */
static const struct group {
	const char *dir; /* "" is the home itself */
	const char *names[NAMES_MAX];
} groups[] = {
	/* clang-format off */
	{ "", { /* keys and passwords */
		".authinfo", ".authinfo.gpg", ".gnupg", ".lastpass", ".minisign", ".netrc", ".op",
		".password-store", ".pki", ".putty", ".ssh", ".vault-token",
		/* clouds, code, packages */
		".aws", ".azure", ".boto", ".cloudflared", ".databrickscfg", ".git-credentials",
		".huggingface", ".kaggle", ".kube", ".npmrc", ".oci", ".pypirc", ".rclone.conf",
		".s3cfg", ".terraformrc", ".yarnrc.yml",
		/* data bases, mail, file servers, assistants */
		".claude.json", ".fetchmailrc", ".filezilla", ".mbsyncrc", ".msmtprc", ".my.cnf",
		".mylogin.cnf", ".offlineimaprc", ".pgpass", ".purple", ".smbcredentials",
		".thunderbird",
		/* browsers, coins, the display, what was typed */
		".ICEauthority", ".Xauthority", ".bash_history", ".bitcoin", ".electrum",
		".ethereum", ".librewolf", ".mozilla", ".mysql_history", ".node_repl_history",
		".psql_history", ".python_history", ".sqlite_history", ".waterfox", ".zen",
		".zsh_history" } },
	{ ".aliyun", { "config.json" } },
	{ ".cache/huggingface", { "stored_tokens", "token" } },
	{ ".cargo", { "credentials", "credentials.toml" } },
	{ ".claude", { ".credentials.json" } },
	{ ".codex", { "auth.json" } },
	{ ".composer", { "auth.json" } },
	{ ".config", { /* programs that keep keys or tokens there */
		"1Password", "Bitwarden", "age", "argocd", "composer/auth.json",
		"configstore/firebase-tools.json", "containers/auth.json",
		"dart/pub-credentials.json", "doctl", "evolution", "filezilla",
		"gcloud", "gh",
		"git/credentials", "github-copilot", "glab-cli", "goa-1.0", "hcloud",
		"helm/registry", "hub", "keepassxc", "linode-cli", "ngrok", "op",
		"pypoetry/auth.toml", "rclone", "remmina", "scw", "sops",
		/* browsers and messengers */
		"BraveSoftware", "Element", "Signal", "Slack", "chromium", "discord", "epiphany",
		"falkon", "google-chrome", "google-chrome-beta", "google-chrome-unstable",
		"microsoft-edge", "microsoft-edge-beta", "microsoft-edge-dev", "mozilla", "opera",
		"qutebrowser", "vivaldi", "vivaldi-snapshot" } },
	{ ".docker", { "config.json" } },
	{ ".fly", { "config.yml" } },
	{ ".gem", { "credentials" } },
	{ ".gemini", { "oauth_creds.json" } },
	{ ".gradle", { "gradle.properties" } },
	{ ".ivy2", { ".credentials" } },
	{ ".local/share", { /* key rings, messages, that user's VMs */
		"TelegramDesktop", "com.vercel.cli/auth.json", "epiphany", "evolution", "falkon",
		"fish/fish_history", "fvm", "gopass", "keyrings", "kwalletd",
		"opencode/auth.json", "qutebrowser", "remmina", "torbrowser" } },
	{ ".m2", { "settings-security.xml", "settings.xml" } },
	{ ".pulumi", { "credentials.json" } },
	{ ".sbt", { ".credentials" } },
	{ ".subversion", { "auth" } },
	{ ".terraform.d", { "credentials.tfrc.json" } },
	{ ".var/app", { /* Flatpak's */
		"com.bitwarden.desktop", "com.brave.Browser", "com.google.Chrome",
		"com.microsoft.Edge", "com.opera.Opera", "com.slack.Slack",
		"com.vivaldi.Vivaldi", "io.gitlab.librewolf-community", "org.chromium.Chromium",
		"org.gnome.Epiphany", "org.keepassxc.KeePassXC", "org.mozilla.Thunderbird",
		"org.mozilla.firefox", "org.signal.Signal", "org.telegram.desktop" } },
	{ ".vnc", { "passwd" } },
	{ "snap", { /* Snap's */
		"bitwarden", "brave", "chromium", "discord", "firefox", "opera", "slack",
		"telegram-desktop", "thunderbird" } },
	/* clang-format on */
};

/* Of the machine; only what no package's own scripts look for. */
static const char *const machine_secrets[] = {
	"/etc/NetworkManager/system-connections",
	"/etc/krb5.keytab",
	"/etc/kubernetes/admin.conf",
	"/etc/rancher/k3s/k3s.yaml",
	"/etc/wireguard",
	"/var/lib/fvm",
};

/* ---- homes ---- */

static int add_once(struct fvm_strv *list, const char *item)
{
	return fvm_strv_has(list, item) ? 0 : fvm_strv_add(list, item);
}

/* Not what a system account has for want of a home. */
static bool is_home(const struct fvm_plan *plan, const char *path)
{
	static const char *const never[] = { "/bin",  "/dev", "/proc", "/run",
					     "/sbin", "/sys", "/usr" };
	if (path[0] != '/' || path[1] == '\0' || strlen(path) >= PATH_MAX - 128)
		return false;
	for (size_t i = 0; i < FVM_COUNT(never); i++) {
		if (fvm_path_below(path, never[i]) && !fvm_path_below(path, "/usr/home"))
			return false;
	}
	const struct fvm_mount *m = &plan->mounts[fvm_plan_find(plan, path, false)];
	return m->class != FVM_MOUNT_FRESH && m->class != FVM_MOUNT_LEFT_OUT;
}

enum whose { CALLERS, PEOPLES, ALL };

static bool is_wanted(const char *name, unsigned long uid, enum whose whose)
{
	const char *sudo = getenv("SUDO_USER");
	if (whose == CALLERS)
		return sudo && strcmp(sudo, name) == 0;
	return whose == ALL || uid == 0 || (uid >= 1000 && uid < 65534);
}

/* "name:x:uid:gid:comment:home:shell" */
static int add_account(const struct fvm_plan *plan, char *line, enum whose whose,
		       struct fvm_strv *ret)
{
	enum { NAME, UID = 2, HOME = 5 };
	char *fields[HOME + 1];
	if (!fvm_account_fields(line, fields, HOME + 1) ||
	    !is_wanted(fields[NAME], strtoul(fields[UID], NULL, 10), whose) ||
	    !is_home(plan, fields[HOME]))
		return 0;
	return add_once(ret, fields[HOME]);
}

/* By the file alone: asking the name service would load libraries at each start, and the C
 * library's own reader of this file seeks at each line. */
static int add_accounts(const struct fvm_plan *plan, enum whose whose, struct fvm_strv *ret)
{
	scoped_free char *text = NULL;
	if (fvm_read_file(AT_FDCWD, "/etc/passwd", PASSWD_MAX, &text, NULL) < 0)
		return 0;
	int r = 0;
	for (char *rest = text, *line; r == 0 && (line = strsep(&rest, "\n"));)
		r = add_account(plan, line, whose, ret);
	return r;
}

static int add_directories(const struct fvm_plan *plan, struct fvm_strv *ret)
{
	if (plan->mounts[fvm_plan_find(plan, "/home", false)].network)
		return 0;
	scoped_dir d = opendir("/home");
	int r = 0;
	for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
		char path[NAME_MAX + 16];
		snprintf(path, sizeof(path), "/home/%s", e->d_name);
		if (e->d_name[0] != '.' && e->d_type != DT_REG && is_home(plan, path))
			r = add_once(ret, path);
	}
	return r;
}

/* Root's and the caller's: they come first, and are told from the others by that. */
static int add_own(const struct fvm_plan *plan, struct fvm_strv *ret)
{
	const char *home = getenv("HOME");
	int r = add_once(ret, "/root");
	if (r == 0 && home && is_home(plan, home))
		r = add_once(ret, home);
	if (r == 0 && getenv("SUDO_USER"))
		r = add_accounts(plan, CALLERS, ret);
	return r;
}

int fvm_homes_list(const struct fvm_plan *plan, bool people, struct fvm_strv *ret)
{
	int r = add_own(plan, ret);
	if (r == 0)
		r = add_accounts(plan, people ? PEOPLES : ALL, ret);
	if (r == 0 && !people)
		r = add_directories(plan, ret);
	return r;
}

/* ---- symlinks ---- */

/* What a hidden link leads to is hidden too, unless that would be far more than a secret. */
static int add_target(const char *link, struct fvm_strv *ret)
{
	char target[PATH_MAX];
	if (!realpath(link, target) || fvm_path_below(link, target))
		return 0;
	static const char *const whole[] = { "/bin", "/dev", "/etc", "/home", "/lib", "/proc",
					     "/run", "/sys", "/tmp", "/usr",  "/var" };
	for (size_t i = 0; i < FVM_COUNT(whole); i++) {
		if (strcmp(target, whole[i]) == 0)
			return 0;
	}
	if (fvm_path_below(target, "/dev") || fvm_path_below(target, "/proc"))
		return 0;
	return fvm_strv_add(ret, target);
}

/* Without what a shell or a person puts behind a directory's name: "/", "/.", "/..". */
static bool without_tail(const char *path, char ret[PATH_MAX])
{
	char real[PATH_MAX];
	size_t len = strlen(path);
	if (path[0] != '/' || len >= PATH_MAX)
		return false;
	memcpy(ret, path, len + 1);
	while (len > 1 && (ret[len - 1] == '/' || (ret[len - 1] == '.' && ret[len - 2] == '/')))
		ret[--len] = '\0';
	if (len > 2 && strcmp(ret + len - 3, "/..") == 0 && realpath(ret, real))
		memcpy(ret, real, strlen(real) + 1);
	return ret[1] != '\0';
}

int fvm_hide_resolve(const struct fvm_plan *plan, const char *path, bool must_exist,
		     struct fvm_strv *ret)
{
	char bare[PATH_MAX], dir[PATH_MAX], real[PATH_MAX], full[PATH_MAX], target[2];
	if (!without_tail(path, bare))
		return 0;
	const char *slash = strrchr(bare, '/');
	if (plan->mounts[fvm_plan_find(plan, bare, false)].network)
		return must_exist ? 0 : fvm_strv_add(ret, bare);
	snprintf(dir, sizeof(dir), "%.*s/", (int)(slash - bare), bare);
	if (!realpath(dir, real) ||
	    snprintf(full, sizeof(full), "%s%s", real[1] ? real : "", slash) >= (int)sizeof(full))
		return 0;
	ssize_t n = readlink(full, target, sizeof(target));
	if (n < 0 && errno != EINVAL && must_exist)
		return 0;
	int r = fvm_strv_add(ret, full);
	return r == 0 && n >= 0 ? add_target(full, ret) : r;
}

/* ---- one home ---- */

struct home {
	const struct fvm_plan *plan;
	int root, dir;
	char real[PATH_MAX];
	bool own;	       /* also what does not exist yet */
	bool network;	       /* not to be looked at */
	struct fvm_strv *list; /* borrowed */
};

/* The path of an open directory, which has no symlinks. */
static int path_of(int dir, char ret[PATH_MAX])
{
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
	ssize_t n = readlink(link, ret, PATH_MAX - 1);
	if (n < 0)
		return -errno;
	ret[n] = '\0';
	return ret[0] == '/' ? 0 : -ENOENT;
}

/* What a name may be, by its directory's list. */
enum kind { ABSENT, PLAIN, TO_LOOK_AT };

static int add_name(const struct home *h, int dir, const char *path, const char *name,
		    enum kind kind)
{
	char full[PATH_MAX], target[2];
	if ((kind == ABSENT && !h->own) ||
	    snprintf(full, sizeof(full), "%s/%s", path, name) >= (int)sizeof(full))
		return 0;
	ssize_t n = -1;
	if (kind == TO_LOOK_AT) {
		n = readlinkat(dir, name, target, sizeof(target));
		if (n < 0 && errno != EINVAL && !h->own)
			return 0;
	}
	int r = fvm_strv_add(h->list, full);
	return r == 0 && n >= 0 ? add_target(full, h->list) : r;
}

/* Fifty directories are read at a start, and the C library makes four calls more for each. */
struct names {
	int dir;
	ssize_t at, len;
	_Alignas(struct dirent64) char buf[16384];
};

/* Return: the next entry, or NULL; @n->len < 0: it can't be read */
static const struct dirent64 *next_name(struct names *n)
{
	if (n->at >= n->len) {
		n->len = getdents64(n->dir, n->buf, sizeof(n->buf));
		n->at = 0;
	}
	if (n->len <= 0)
		return NULL;
	const struct dirent64 *e = (const struct dirent64 *)(const void *)(n->buf + n->at);
	n->at += e->d_reclen;
	return e;
}

static bool is_plain(const struct dirent64 *e)
{
	return e->d_type == DT_REG || e->d_type == DT_DIR;
}

/* To be read, or where we may not, to be looked at. */
static int open_dir(int at, const char *path)
{
	int fd = fvm_open_nofollow(at, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK);
	return fd == -EACCES ? fvm_open_nofollow(at, path, O_PATH | O_DIRECTORY) : fd;
}

static void match(const struct group *g, const char *entry, bool plain, enum kind kinds[NAMES_MAX])
{
	for (size_t i = 0; i < NAMES_MAX && g->names[i]; i++) {
		size_t n = strcspn(g->names[i], "/");
		if (strncmp(entry, g->names[i], n) == 0 && !entry[n])
			kinds[i] = plain && !g->names[i][n] ? PLAIN : TO_LOOK_AT;
	}
}

/* One call for a hundred names, instead of one for each that we have. */
static void look_up(const struct group *g, int dir, enum kind kinds[NAMES_MAX])
{
	struct names n;
	n.dir = dir;
	n.at = n.len = 0;
	for (size_t i = 0; i < NAMES_MAX; i++)
		kinds[i] = ABSENT;
	for (const struct dirent64 *e; (e = next_name(&n));)
		match(g, e->d_name, is_plain(e), kinds);
	for (size_t i = 0; n.len < 0 && i < NAMES_MAX; i++)
		kinds[i] = TO_LOOK_AT;
}

/* @g's directory, and its path without symlinks. Return: descriptor or negative errno */
static int open_group(const struct home *h, const struct group *g, char path[PATH_MAX])
{
	scoped_fd dir = open_dir(h->dir, g->dir);
	if (dir >= 0)
		return snprintf(path, PATH_MAX, "%s/%s", h->real, g->dir) < PATH_MAX
			       ? fvm_fd_take(&dir)
			       : -ENAMETOOLONG;
	if (dir != -ELOOP)
		return dir;
	scoped_fd led = openat(h->dir, g->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = led < 0 ? -errno : path_of(led, path);
	return r < 0 ? r : open_dir(led, ".");
}

static int add_group(const struct home *h, const struct group *g)
{
	char path[PATH_MAX];
	enum kind kinds[NAMES_MAX];
	scoped_fd dir = open_group(h, g, path);
	if (dir < 0)
		return 0;
	look_up(g, dir, kinds);
	int r = 0;
	for (size_t i = 0; r == 0 && i < NAMES_MAX && g->names[i]; i++)
		r = add_name(h, dir, path, g->names[i], kinds[i]);
	return r;
}

/* A network's home may hang: the names alone are taken, and whether they do any good is seen by
 * whoever can stack a layer on it. */
static int add_unseen(const struct home *h, const struct group *g)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < NAMES_MAX && g->names[i]; i++)
		r = fvm_strv_addf(h->list, "%s/%s%s%s", h->real, g->dir, g->dir[0] ? "/" : "",
				  g->names[i]);
	return r;
}

/* What the home's own list tells: of its own names, and which groups have a directory at all. */
struct found {
	enum kind kinds[NAMES_MAX];
	bool groups[FVM_COUNT(groups)];
	bool any; /* most system accounts have no dot files */
};

static void look_around(int home, struct found *ret)
{
	struct names n;
	n.dir = home;
	n.at = n.len = 0;
	*ret = (struct found){ 0 };
	for (const struct dirent64 *e; (e = next_name(&n));) {
		const char *name = e->d_name;
		if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0 ||
		    (name[0] != '.' && strcmp(name, "snap") != 0))
			continue;
		ret->any = true;
		match(&groups[0], name, is_plain(e), ret->kinds);
		for (size_t i = 1; i < FVM_COUNT(groups); i++) {
			size_t len = strcspn(groups[i].dir, "/");
			ret->groups[i] |= strncmp(name, groups[i].dir, len) == 0 && !name[len];
		}
	}
	if (n.len >= 0)
		return;
	ret->any = true;
	for (size_t i = 0; i < NAMES_MAX; i++)
		ret->kinds[i] = TO_LOOK_AT;
	for (size_t i = 0; i < FVM_COUNT(groups); i++)
		ret->groups[i] = true;
}

static int add_known(const struct home *h)
{
	struct found found;
	look_around(h->dir, &found);
	int r = 0;
	for (size_t i = 0; r == 0 && (h->own || found.any) && i < NAMES_MAX && groups[0].names[i];
	     i++)
		r = add_name(h, h->dir, h->real, groups[0].names[i], found.kinds[i]);
	for (size_t i = 1; r == 0 && i < FVM_COUNT(groups); i++)
		r = found.groups[i] ? add_group(h, &groups[i]) : 0;
	return r;
}

/* A path as path_of() would print it, if it has no symlinks. */
static bool is_canonical(const char *path)
{
	if (path[0] != '/' || !path[1] || strlen(path) >= PATH_MAX)
		return false;
	for (const char *at = path; *at; at += 1 + strcspn(at + 1, "/")) {
		size_t n = strcspn(at + 1, "/");
		if (n == 0 || (n == 1 && at[1] == '.') || (n == 2 && at[1] == '.' && at[2] == '.'))
			return false;
	}
	return true;
}

/* With its path without symlinks as h->real. Return: descriptor or negative errno */
static int open_home(struct home *h, const char *home)
{
	int dir = is_canonical(home) ? open_dir(h->root, home + 1) : -ELOOP;
	if (dir != -ELOOP) {
		snprintf(h->real, sizeof(h->real), "%s", home);
		return dir;
	}
	scoped_fd led = open(home, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = led < 0 ? -errno : path_of(led, h->real);
	return r < 0 ? r : open_dir(led, ".");
}

static int add_home(struct home *h, const char *home)
{
	h->network = h->plan->mounts[fvm_plan_find(h->plan, home, false)].network;
	if (!h->network) {
		h->dir = open_home(h, home);
		return h->dir < 0 || !is_home(h->plan, h->real) ? 0 : add_known(h);
	}
	snprintf(h->real, sizeof(h->real), "%s", home);
	int r = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(groups); i++)
		r = add_unseen(h, &groups[i]);
	return r;
}

int fvm_secrets_list(const struct fvm_plan *plan, struct fvm_strv *ret)
{
	scoped_strv own = { 0 }, all = { 0 };
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = root < 0 ? -errno : add_own(plan, &own);
	if (r == 0)
		r = fvm_homes_list(plan, false, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		struct home h = {
			.plan = plan, .root = root, .dir = -1, .own = i < own.count, .list = ret
		};
		r = add_home(&h, all.items[i]);
		fvm_fd_closep(&h.dir);
	}
	for (size_t i = 0; r == 0 && i < FVM_COUNT(machine_secrets); i++) {
		if (faccessat(AT_FDCWD, machine_secrets[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			r = fvm_hide_resolve(plan, machine_secrets[i], true, ret);
	}
	return r;
}
