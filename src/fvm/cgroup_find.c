/* Which cgroup hierarchies a host has, and where in them a VM's place is. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>
#include <linux/magic.h>

#include "common/quote.h"
#include "fvm/cgroup.h"

/* What the kernel calls each controller: in mountinfo's options, and in cgroup.controllers. */
static const struct {
	const char *v1, *v2;
} names[FVM_CG_COUNT] = {
	[FVM_CG_MEMORY] = { "memory", "memory" }, [FVM_CG_CPU] = { "cpu", "cpu" },
	[FVM_CG_CPUACCT] = { "cpuacct", NULL },	  [FVM_CG_PIDS] = { "pids", "pids" },
	[FVM_CG_FREEZER] = { "freezer", NULL },	  [FVM_CG_IO] = { "blkio", "io" },
};

/* Whether @word stands in @list, separated by any of @separators. */
static bool listed(const char *list, size_t len, const char *separators, const char *word)
{
	size_t wanted = strlen(word);
	for (const char *p = list; p < list + len;) {
		size_t n = strcspn(p, separators);
		if (n > (size_t)(list + len - p))
			n = (size_t)(list + len - p);
		if (n == wanted && memcmp(p, word, n) == 0)
			return true;
		p += n + 1;
	}
	return false;
}

/* One field of a line of mountinfo. */
static int field_copy(char *to, size_t size, const char *from, size_t len)
{
	if (len >= size)
		return -ENAMETOOLONG;
	memcpy(to, from, len);
	to[len] = '\0';
	fvm_unoctal(to);
	return 0;
}

struct field {
	const char *at;
	size_t len;
};

struct mount_line {
	struct field root, point, type, super;
};

/* Split "36 35 98:0 ROOT POINT OPTIONS [TAG..] - TYPE SOURCE SUPER"; false: not such a line. */
static bool line_split(const char *line, size_t len, struct mount_line *ret)
{
	struct field f[24];
	size_t count = 0, dash = 0;
	for (size_t i = 0; i < len && count < FVM_COUNT(f);) {
		size_t n = 0;
		while (i + n < len && line[i + n] != ' ')
			n++;
		f[count] = (struct field){ line + i, n };
		if (!dash && count >= 6 && n == 1 && line[i] == '-')
			dash = count;
		count++;
		i += n + 1;
	}
	if (!dash || count < dash + 4)
		return false;
	*ret = (struct mount_line){ f[3], f[4], f[dash + 1], f[dash + 3] };
	return true;
}

static bool field_is(struct field f, const char *word)
{
	return f.len == strlen(word) && memcmp(f.at, word, f.len) == 0;
}

/* Path of the caller's cgroup in the hierarchy of @controller; NULL: v2. "" if it is not told. */
static struct field own_path(const char *text, const char *controller)
{
	while (*text) {
		size_t len = strcspn(text, "\n");
		const char *list = memchr(text, ':', len);
		const char *path =
			list ? memchr(list + 1, ':', len - (size_t)(list + 1 - text)) : NULL;
		if (path) {
			size_t n = (size_t)(path - list - 1);
			bool match = controller ? listed(list + 1, n, ",", controller) : n == 0;
			if (match)
				return (struct field){ path + 1, len - (size_t)(path + 1 - text) };
		}
		text += len + (text[len] == '\n');
	}
	return (struct field){ "", 0 };
}

/* A mount shows the hierarchy from its root on: take that away from the caller's path. */
static void tree_fill(struct fvm_cgroup_tree *t, const struct mount_line *m, struct field own)
{
	char root[FVM_CGROUP_PATH], path[FVM_CGROUP_PATH];
	struct fvm_cgroup_tree found = { 0 };
	if (field_copy(found.top, sizeof(found.top), m->point.at, m->point.len) < 0 ||
	    field_copy(root, sizeof(root), m->root.at, m->root.len) < 0 || own.len >= sizeof(path))
		return;
	memcpy(path, own.at, own.len);
	path[own.len] = '\0';

	size_t skip = strcmp(root, "/") == 0 ? 0 : strlen(root);
	bool inside = own.len > 0 && strncmp(path, root, skip) == 0 &&
		      strncmp(path, "/..", 3) != 0 && (path[skip] == '/' || path[skip] == '\0');
	const char *rest = inside ? path + skip : "";
	if (strcmp(rest, "/") == 0)
		rest = "";
	if (inside && strlen(found.top) + strlen(rest) < sizeof(found.own)) {
		strcpy(found.own, found.top);
		strcat(found.own, rest);
	}
	/* of several mounts of one hierarchy, rather one that shows where we are */
	if (!t->top[0] || found.own[0])
		*t = found;
}

static void line_use(const struct mount_line *m, const char *own, struct fvm_cgroup_host *ret)
{
	if (field_is(m->type, "cgroup2")) {
		tree_fill(&ret->v2, m, own_path(own, NULL));
		/* an option of the hierarchy, the same for all its mounts */
		ret->v2.nsdelegate = listed(m->super.at, m->super.len, ",", "nsdelegate");
		return;
	}
	if (!field_is(m->type, "cgroup"))
		return;
	for (int i = 0; i < FVM_CG_COUNT; i++) {
		if (listed(m->super.at, m->super.len, ",", names[i].v1))
			tree_fill(&ret->v1[i], m, own_path(own, names[i].v1));
	}
}

void fvm_cgroup_find(const char *mountinfo, const char *own, struct fvm_cgroup_host *ret)
{
	*ret = (struct fvm_cgroup_host){ 0 };
	while (*mountinfo) {
		size_t len = strcspn(mountinfo, "\n");
		struct mount_line m;
		if (line_split(mountinfo, len, &m))
			line_use(&m, own, ret);
		mountinfo += len + (mountinfo[len] == '\n');
	}
}

/* Something else may be mounted over it since: then it can't be reached. */
static void tree_check(struct fvm_cgroup_tree *t, long magic)
{
	struct statfs fs;
	if (t->top[0] && (statfs(t->top, &fs) < 0 || fs.f_type != magic))
		*t = (struct fvm_cgroup_tree){ 0 };
}

int fvm_cgroup_host(struct fvm_cgroup_host *ret)
{
	scoped_free char *mounts = NULL, *own = NULL;
	int r = fvm_read_file(AT_FDCWD, "/proc/self/mountinfo", 64 << 20, &mounts, NULL);
	if (r == 0)
		r = fvm_read_file(AT_FDCWD, "/proc/self/cgroup", 1 << 20, &own, NULL);
	if (r == -ENOENT)
		own = strdup(""); /* a kernel without cgroups */
	else if (r < 0)
		return r;
	if (!mounts || !own)
		return r < 0 ? r : -ENOMEM;
	fvm_cgroup_find(mounts, own, ret);
	tree_check(&ret->v2, CGROUP2_SUPER_MAGIC);
	for (int i = 0; i < FVM_CG_COUNT; i++)
		tree_check(&ret->v1[i], CGROUP_SUPER_MAGIC);
	return 0;
}

static int path_join(char *to, const char *a, const char *b)
{
	int n = snprintf(to, FVM_CGROUP_PATH, "%s/%s", a, b);
	if (n < FVM_CGROUP_PATH)
		return 0;
	to[0] = '\0';
	return -ENAMETOOLONG;
}

/* Whether the caller may make cgroups in @dir and put processes there. */
static bool writable(const char *dir)
{
	char path[FVM_CGROUP_PATH];
	return faccessat(AT_FDCWD, dir, W_OK, AT_EACCESS) == 0 &&
	       path_join(path, dir, "cgroup.procs") == 0 &&
	       faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0 &&
	       path_join(path, dir, "cgroup.subtree_control") == 0 &&
	       faccessat(AT_FDCWD, path, W_OK, AT_EACCESS) == 0;
}

/*
 * X of the header's drawing: where the caller may make cgroups, "" if nowhere. Beside him is
 * better than below him, and he may move only between cgroups below a directory he can write.
 */
static void delegated(const struct fvm_cgroup_tree *t, char x[FVM_CGROUP_PATH])
{
	strcpy(x, t->own);
	if (strlen(t->own) > strlen(t->top)) {
		*strrchr(x, '/') = '\0';
		if (writable(x))
			return;
		strcpy(x, t->own);
	}
	if (!x[0] || !writable(x))
		x[0] = '\0';
}

static void plan_v2(const char *x, struct fvm_cgroups *g)
{
	char path[FVM_CGROUP_PATH];
	scoped_free char *has = NULL;
	if (path_join(path, x, "cgroup.controllers") < 0 ||
	    fvm_read_file(AT_FDCWD, path, 4096, &has, NULL) < 0)
		return;
	for (int i = 0; i < FVM_CG_COUNT; i++)
		g->v2_has[i] = names[i].v2 && listed(has, strlen(has), " \n", names[i].v2);
}

static int plan_v1(const struct fvm_cgroup_host *host, struct fvm_cgroups *g)
{
	for (int i = 0; i < FVM_CG_COUNT; i++) {
		/* v2 freezes and counts time by itself, and its freezer can be killed through */
		bool by_v2 = g->v2[0] && (i == FVM_CG_FREEZER || i == FVM_CG_CPUACCT);
		if (!host->v1[i].top[0] || by_v2)
			continue;
		int r = path_join(g->v1[i], host->v1[i].top, g->name);
		if (r < 0)
			return r;
	}
	return 0;
}

int fvm_cgroup_plan_on(const struct fvm_cgroup_host *host, const char *id, bool rootless,
		       struct fvm_cgroups *ret)
{
	struct fvm_cgroups g = { .rootless = rootless };
	char x[FVM_CGROUP_PATH];
	snprintf(g.name, sizeof(g.name), "fvm/%s", id);
	if (rootless)
		delegated(&host->v2, x);
	else
		strcpy(x, host->v2.top);

	int r = x[0] ? path_join(g.v2, x, g.name) : 0;
	if (r == 0 && x[0])
		plan_v2(x, &g);
	if (r == 0 && !rootless)
		r = plan_v1(host, &g);
	if (r < 0)
		return r;
	g.below = rootless && g.v2[0] && !host->v2.nsdelegate;
	if (rootless) /* the name is kept below TOP, wherever in it X is */
		strcpy(g.name, x[0] ? g.v2 + strlen(host->v2.top) + 1 : "");
	*ret = g;
	return 0;
}

int fvm_cgroup_plan(const char *id, bool rootless, struct fvm_cgroups *ret, struct fvm_error *err)
{
	struct fvm_cgroup_host host;
	int r = fvm_cgroup_host(&host);
	if (r == 0)
		r = fvm_cgroup_plan_on(&host, id, rootless, ret);
	return r < 0 ? fvm_error_set(err, -r, "find the host's cgroups") : 0;
}

int fvm_cgroup_named_on(const struct fvm_cgroup_host *host, const char *name,
			struct fvm_cgroups *ret)
{
	struct fvm_cgroups g = { 0 };
	int r = 0;
	*ret = g;
	if (!name[0])
		return 0;
	if (strlen(name) >= sizeof(g.name) || name[0] == '/' || strstr(name, ".."))
		return -EINVAL;
	strcpy(g.name, name);
	if (host->v2.top[0])
		r = path_join(g.v2, host->v2.top, name);
	if (r == 0)
		r = plan_v1(host, &g);
	if (r == 0)
		*ret = g;
	return r;
}

int fvm_cgroup_named(const char *name, struct fvm_cgroups *ret)
{
	struct fvm_cgroup_host host;
	int r = fvm_cgroup_host(&host);
	return r < 0 ? r : fvm_cgroup_named_on(&host, name, ret);
}
