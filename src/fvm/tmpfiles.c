#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/tmpfiles.h"

#define FILE_LIMIT (256 * 1024)
#define LIST_LIMIT (1024 * 1024)

/* "NAME:x:ID:" in a passwd or group text. Numbers are taken as they are. */
static bool find_id(const char *database, const char *name, uint32_t *ret)
{
	char *end;
	if (strcmp(name, "-") == 0) {
		*ret = 0;
		return true;
	}
	unsigned long id = strtoul(name, &end, 10);
	if (*end == '\0' && end != name) {
		*ret = (uint32_t)id;
		return id < UINT32_MAX;
	}
	size_t n = strlen(name);
	for (const char *line = database; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (strncmp(line, name, n) != 0 || line[n] != ':')
			continue;
		const char *p = strchr(line + n + 1, ':');
		if (!p)
			return false;
		*ret = (uint32_t)strtoul(p + 1, &end, 10);
		return *end == ':';
	}
	return false;
}

/* Path below /run without its prefix, or NULL when it is elsewhere or odd. */
static const char *below_run(const char *path)
{
	static const char *const tops[] = { "/run/", "/var/run/" };
	if (strchr(path, '%') || strstr(path, "/.") || strstr(path, "//"))
		return NULL;
	for (size_t i = 0; i < FVM_COUNT(tops); i++) {
		size_t n = strlen(tops[i]);
		if (strncmp(path, tops[i], n) == 0 && path[n] && path[n] != '/')
			return path + n;
	}
	return NULL;
}

struct view {
	const char *passwd, *group;
	struct fvm_buf *out;
};

static void take_line(const struct view *v, char *line)
{
	char type[8], path[512], mode[16] = "-", user[64] = "-", group[64] = "-", age[32] = "-";
	char arg[256] = "";
	if (sscanf(line, "%7s %511s %15s %63s %63s %31s %255s", type, path, mode, user, group, age,
		   arg) < 2)
		return;
	const char *at = below_run(path);
	uint32_t uid, gid;
	if (!at || !strchr("dDfFL", type[0]) || strchr(type, '!') ||
	    !find_id(v->passwd, user, &uid) || !find_id(v->group, group, &gid))
		return;
	char *end;
	const char *digits = mode + strspn(mode, "~:");
	unsigned long bits = strtoul(digits, &end, 8);
	if (*end || end == digits)
		bits = type[0] == 'd' || type[0] == 'D' ? 0755 : 0644;
	fvm_buf_printf(v->out, "%c %lo %u %u %s%s%s\n", type[0], bits & 07777, uid, gid, at,
		       arg[0] && strcmp(arg, "-") != 0 ? " " : "",
		       strcmp(arg, "-") != 0 ? arg : "");
}

static void take_file(const struct view *v, int dir, const char *name)
{
	scoped_free char *text = NULL;
	/* a symlink (often to /dev/null, which masks the file) can't lead out of the directory */
	scoped_fd fd = fvm_open_nofollow(dir, name, O_RDONLY | O_NONBLOCK);
	struct stat st;
	char link[64];
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (fvm_read_file(AT_FDCWD, link, FILE_LIMIT, &text, NULL) < 0)
		return;
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line && v->out->len < LIST_LIMIT;
	     line = strtok_r(NULL, "\n", &save)) {
		if (line[0] != '#')
			take_line(v, line);
	}
}

static int only_conf(const struct dirent *e)
{
	size_t n = strlen(e->d_name);
	return n > 5 && strcmp(e->d_name + n - 5, ".conf") == 0;
}

static void take_dir(const struct view *v, int dir, int hiding)
{
	struct dirent **names = NULL;
	int n = scandirat(dir, ".", &names, only_conf, alphasort);
	for (int i = 0; i < n; i++) {
		if (hiding < 0 ||
		    faccessat(hiding, names[i]->d_name, F_OK, AT_SYMLINK_NOFOLLOW) < 0)
			take_file(v, dir, names[i]->d_name);
		free(names[i]);
	}
	free(names);
}

static char *read_text(int root, const char *path)
{
	char *text = NULL;
	scoped_fd fd = fvm_open_nofollow(root, path, O_RDONLY | O_NONBLOCK);
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (fd < 0 || fvm_read_file(AT_FDCWD, link, 4 << 20, &text, NULL) < 0)
		text = strdup("");
	return text;
}

int fvm_tmpfiles_collect(int root, struct fvm_buf *ret)
{
	scoped_free char *passwd = read_text(root, "etc/passwd");
	scoped_free char *group = read_text(root, "etc/group");
	scoped_fd lib = fvm_open_nofollow(root, "usr/lib/tmpfiles.d", O_RDONLY | O_DIRECTORY);
	scoped_fd etc = fvm_open_nofollow(root, "etc/tmpfiles.d", O_RDONLY | O_DIRECTORY);
	if (!passwd || !group)
		return -ENOMEM;
	const struct view v = { passwd, group, ret };
	if (lib >= 0)
		take_dir(&v, lib, etc);
	if (etc >= 0)
		take_dir(&v, etc, -1);
	return ret->failed ? -ENOMEM : 0;
}

/* Return: 1 made, 0 it was there, or negative errno */
static int make_one(int dir, const char *name, char type, mode_t mode, const char *arg)
{
	switch (type) {
	case 'd':
	case 'D':
		return mkdirat(dir, name, mode) == 0 ? 1 : errno == EEXIST ? 0 : -errno;
	case 'L':
		return *arg && symlinkat(arg, dir, name) < 0 ? -errno : 1;
	default: {
		scoped_fd fd = fvm_create_beneath(dir, name, O_WRONLY | O_EXCL, mode);
		int r = fd < 0 ? fd : fvm_write_all(fd, arg, strlen(arg));
		return r < 0 ? r : 1;
	}
	}
}

/* What all lines of a list have to do with. */
struct place {
	int run;
	uint32_t (*uid)(const void *arg, uint32_t id);
	uint32_t (*gid)(const void *arg, uint32_t id);
	const void *arg;
	struct stat made; /* the owner of what we make */
	char path[512];	  /* of the directory that is open: many lines have the same */
	int dir;
};

static int enter_dir(struct place *p, const char *path)
{
	if (p->dir >= 0 && strcmp(p->path, path) == 0)
		return p->dir;
	fvm_fd_closep(&p->dir);
	/* the list is the VM's, and so may be a symlink that an earlier line has made */
	p->dir = path[0] ? fvm_mkdir_nofollow(p->run, path, 0755)
			 : fvm_open_nofollow(p->run, ".", O_PATH | O_DIRECTORY);
	strcpy(p->path, path);
	return p->dir;
}

/* What is new has what was asked for already, but set-id bits and somebody else's name. */
static void set_owner(const struct place *p, const char *name, bool is_new, mode_t mode,
		      const uint32_t ids[2])
{
	uint32_t uid = p->uid(p->arg, ids[0]), gid = p->gid(p->arg, ids[1]);
	bool ours = uid == p->made.st_uid && gid == p->made.st_gid;
	if (!is_new || !ours)
		(void)!fchownat(p->dir, name, uid, gid, AT_SYMLINK_NOFOLLOW);
	if (is_new && ours && !(mode & 06000))
		return;
	scoped_fd made = fvm_open_nofollow(p->dir, name, O_RDONLY | O_NONBLOCK);
	if (made >= 0)
		(void)fchmod(made, mode);
}

static void apply_line(struct place *p, const char *line)
{
	char type, path[512], value[256] = "";
	unsigned int mode;
	uint32_t ids[2];
	if (sscanf(line, "%c %o %u %u %511s %255[^\n]", &type, &mode, &ids[0], &ids[1], path,
		   value) < 5)
		return;
	char *slash = strrchr(path, '/');
	if (slash)
		*slash = '\0';
	const char *name = slash ? slash + 1 : path;
	if (enter_dir(p, slash ? path : "") < 0)
		return;
	int r = make_one(p->dir, name, type, mode, value);
	if (r >= 0 && type != 'L')
		set_owner(p, name, r == 1, mode, ids);
}

void fvm_tmpfiles_apply(int run, const char *list, uint32_t (*uid)(const void *arg, uint32_t id),
			uint32_t (*gid)(const void *arg, uint32_t id), const void *arg)
{
	struct place p = { .run = run, .uid = uid, .gid = gid, .arg = arg, .dir = -1 };
	if (fstat(run, &p.made) < 0)
		return;
	mode_t mask = umask(0);
	while (*list) {
		char line[1024];
		size_t n = strcspn(list, "\n");
		if (n < sizeof(line)) {
			memcpy(line, list, n);
			line[n] = '\0';
			apply_line(&p, line);
		}
		list += n + (list[n] == '\n');
	}
	umask(mask);
	fvm_fd_closep(&p.dir);
}
