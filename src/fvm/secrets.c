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

#include "fvm/hide.h"

#define PASSWD_MAX (64 << 20)

/* Below a home: a directory, and what in it. */
static const struct group {
	const char *dir; /* "" is the home itself */
	const char *names[32];
} groups[] = {
	/* clang-format off */
	{ "", { /* keys and passwords */
		".authinfo", ".authinfo.gpg", ".gnupg", ".netrc", ".op", ".password-store", ".pki",
		".ssh", ".vault-token" } },
	{ "", { /* clouds, code, packages */
		".aws", ".azure", ".boto", ".git-credentials", ".kube", ".npmrc", ".oci", ".pypirc",
		".s3cfg", ".yarnrc.yml" } },
	{ "", { /* data bases, mail, file servers, assistants */
		".claude.json", ".fetchmailrc", ".mbsyncrc", ".msmtprc", ".my.cnf", ".mylogin.cnf",
		".offlineimaprc", ".pgpass", ".smbcredentials", ".thunderbird" } },
	{ "", { /* browsers, coins, the display, what was typed */
		".ICEauthority", ".Xauthority", ".bash_history", ".bitcoin", ".electrum",
		".ethereum", ".librewolf", ".mozilla", ".mysql_history", ".psql_history",
		".python_history", ".zsh_history" } },
	{ ".cargo", { "credentials", "credentials.toml" } },
	{ ".claude", { ".credentials.json" } },
	{ ".codex", { "auth.json" } },
	{ ".composer", { "auth.json" } },
	{ ".config", { /* programs that keep keys or tokens there */
		"composer/auth.json", "containers/auth.json", "doctl", "evolution", "gcloud", "gh",
		"git/credentials", "github-copilot", "glab-cli", "goa-1.0", "hcloud", "hub",
		"keepassxc", "op", "pypoetry/auth.toml", "rclone", "sops" } },
	{ ".config", { /* browsers and messengers */
		"BraveSoftware", "Element", "Signal", "Slack", "chromium", "discord",
		"google-chrome", "microsoft-edge", "mozilla", "opera", "vivaldi" } },
	{ ".docker", { "config.json" } },
	{ ".gem", { "credentials" } },
	{ ".gemini", { "oauth_creds.json" } },
	{ ".gradle", { "gradle.properties" } },
	{ ".local/share", { /* key rings, messages, that user's VMs */
		"TelegramDesktop", "evolution", "fish/fish_history", "fvm", "gopass", "keyrings",
		"kwalletd" } },
	{ ".m2", { "settings-security.xml", "settings.xml" } },
	{ ".terraform.d", { "credentials.tfrc.json" } },
	{ ".var/app", { /* Flatpak's */
		"com.brave.Browser", "com.google.Chrome", "org.mozilla.Thunderbird",
		"org.mozilla.firefox" } },
	{ "snap", { "chromium", "firefox" } },
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
	for (size_t i = 0; i <= HOME; i++) {
		fields[i] = strsep(&line, ":");
		if (!fields[i])
			return 0;
	}
	if (!is_wanted(fields[NAME], strtoul(fields[UID], NULL, 10), whose) ||
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
	DIR *d = opendir("/home");
	int r = 0;
	for (struct dirent *e; d && r == 0 && (e = readdir(d));) {
		char path[NAME_MAX + 16];
		snprintf(path, sizeof(path), "/home/%s", e->d_name);
		if (e->d_name[0] != '.' && e->d_type != DT_REG && is_home(plan, path))
			r = add_once(ret, path);
	}
	if (d)
		closedir(d);
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

int fvm_hide_resolve(const struct fvm_plan *plan, const char *path, bool must_exist,
		     struct fvm_strv *ret)
{
	char dir[PATH_MAX], real[PATH_MAX], full[PATH_MAX], target[2];
	const char *slash = strrchr(path, '/');
	if (path[0] != '/' || !slash[1] || strlen(path) >= sizeof(dir))
		return 0;
	if (plan->mounts[fvm_plan_find(plan, path, false)].network)
		return must_exist ? 0 : fvm_strv_add(ret, path);
	snprintf(dir, sizeof(dir), "%.*s/", (int)(slash - path), path);
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
	int dir;
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

static int add_name(const struct home *h, int dir, const char *path, const char *name)
{
	char full[PATH_MAX], target[2];
	if (snprintf(full, sizeof(full), "%s/%s", path, name) >= (int)sizeof(full))
		return 0;
	ssize_t n = readlinkat(dir, name, target, sizeof(target));
	if (n < 0 && errno != EINVAL && !h->own)
		return 0;
	int r = fvm_strv_add(h->list, full);
	return r == 0 && n >= 0 ? add_target(full, h->list) : r;
}

static int add_group(const struct home *h, const struct group *g)
{
	char path[PATH_MAX];
	scoped_fd dir = openat(h->dir, g->dir[0] ? g->dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || path_of(dir, path) < 0)
		return 0;
	int r = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(g->names) && g->names[i]; i++)
		r = add_name(h, dir, path, g->names[i]);
	return r;
}

/* A network's home may hang: the names alone are taken, and whether they do any good is seen by
 * whoever can stack a layer on it. */
static int add_unseen(const struct home *h, const struct group *g)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(g->names) && g->names[i]; i++)
		r = fvm_strv_addf(h->list, "%s/%s%s%s", h->real, g->dir, g->dir[0] ? "/" : "",
				  g->names[i]);
	return r;
}

/* Whether a home that is not ours may have anything: most system accounts' have no dot files. */
static bool has_candidates(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	bool any = false;
	if (!d)
		fvm_fd_closep(&fd);
	for (struct dirent *e; d && !any && (e = readdir(d));)
		any = strcmp(e->d_name, "snap") == 0 ||
		      (e->d_name[0] == '.' && e->d_name[1] && strcmp(e->d_name, "..") != 0);
	if (d)
		closedir(d);
	return any;
}

static int add_home(struct home *h, const char *home)
{
	h->network = h->plan->mounts[fvm_plan_find(h->plan, home, false)].network;
	if (h->network) {
		snprintf(h->real, sizeof(h->real), "%s", home);
	} else {
		h->dir = open(home, O_PATH | O_DIRECTORY | O_CLOEXEC);
		if (h->dir < 0 || path_of(h->dir, h->real) < 0 || !is_home(h->plan, h->real) ||
		    (!h->own && !has_candidates(h->dir)))
			return 0;
	}
	int r = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(groups); i++)
		r = h->network ? add_unseen(h, &groups[i]) : add_group(h, &groups[i]);
	return r;
}

int fvm_secrets_list(const struct fvm_plan *plan, struct fvm_strv *ret)
{
	scoped_strv own = { 0 }, all = { 0 };
	int r = add_own(plan, &own);
	if (r == 0)
		r = fvm_homes_list(plan, false, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		struct home h = { .plan = plan, .dir = -1, .own = i < own.count, .list = ret };
		r = add_home(&h, all.items[i]);
		fvm_fd_closep(&h.dir);
	}
	for (size_t i = 0; r == 0 && i < FVM_COUNT(machine_secrets); i++) {
		if (faccessat(AT_FDCWD, machine_secrets[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
			r = fvm_hide_resolve(plan, machine_secrets[i], true, ret);
	}
	return r;
}
