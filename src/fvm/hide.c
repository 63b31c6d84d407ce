#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fvm/hide.h"

void fvm_hide_free(struct fvm_hide *hide)
{
	for (size_t i = 0; i < hide->count; i++)
		free(hide->items[i].path);
	free(hide->items);
	*hide = (struct fvm_hide){ 0 };
}

size_t fvm_plan_find(const struct fvm_plan *plan, const char *path, bool strictly)
{
	/* sorted by path: the last that is above is the nearest */
	for (size_t i = plan->count; i-- > 1;) {
		if (fvm_path_below(path, plan->mounts[i].path) &&
		    !(strictly && strcmp(path, plan->mounts[i].path) == 0))
			return i;
	}
	return 0;
}

/* ---- the plan ---- */

/* So that a directory comes right before what is below it: '/' sorts before any other byte. */
static int compare_paths(const void *a, const void *b)
{
	const unsigned char *p = *(const unsigned char *const *)a;
	const unsigned char *q = *(const unsigned char *const *)b;
	while (*p && *p == *q) {
		p++;
		q++;
	}
	int c = *p == '/' ? 1 : *p, d = *q == '/' ? 1 : *q;
	return c - d;
}

static int keep(struct fvm_hide *hide, const struct fvm_plan *plan, char **paths, size_t count)
{
	hide->items = calloc(count + 1, sizeof(*hide->items));
	if (!hide->items)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		const struct fvm_hidden *last = hide->count ? &hide->items[hide->count - 1] : NULL;
		if (strcmp(paths[i], "/") == 0 || (last && fvm_path_below(paths[i], last->path)))
			continue;
		size_t mount = fvm_plan_find(plan, paths[i], true);
		if (plan->mounts[mount].class == FVM_MOUNT_FRESH)
			continue; /* nothing of the host is there */
		char *path = strdup(paths[i]);
		if (!path)
			return -ENOMEM;
		hide->items[hide->count++] = (struct fvm_hidden){ path, mount };
	}
	return 0;
}

static bool is_shown(const struct fvm_strv *show, const char *path)
{
	fvm_strv_each(show, i) {
		if (fvm_path_below(path, show->items[i]) || fvm_path_below(show->items[i], path))
			return true;
	}
	return false;
}

static bool is_shared(const struct fvm_config *c, const char *secret)
{
	size_t n = strlen(secret);
	fvm_strv_each(&c->direct, i) {
		if (strcmp(c->direct.items[i], secret) == 0)
			return true;
	}
	fvm_strv_each(&c->binds, i) {
		const char *source = c->binds.items[i];
		if (strncmp(source, secret, n) == 0 && (!source[n] || source[n] == ':'))
			return true;
	}
	return false;
}

static int add_secrets(const struct fvm_config *c, const struct fvm_plan *plan,
		       struct fvm_strv *all)
{
	scoped_strv secrets = { 0 };
	if (c->secrets || (c->net == FVM_NET_NONE && !c->no_secrets))
		return 0;
	int r = fvm_secrets_list(plan, &secrets);
	for (size_t i = 0; r == 0 && i < secrets.count; i++) {
		/* a secret that is shared by its own name is meant to be there */
		if (!is_shown(&c->show, secrets.items[i]) && !is_shared(c, secrets.items[i]))
			r = fvm_strv_add(all, secrets.items[i]);
	}
	return r;
}

int fvm_hide_plan(const struct fvm_config *config, const char *store, const struct fvm_plan *plan,
		  struct fvm_hide *ret, struct fvm_error *err)
{
	scoped_strv all = { 0 };
	scoped_hide hide = { 0 };
	int r = fvm_strv_add(&all, store);
	if (r == 0)
		r = add_secrets(config, plan, &all);
	for (size_t i = 0; r == 0 && i < config->hide.count; i++)
		r = fvm_hide_resolve(plan, config->hide.items[i], false, &all);
	if (r == 0) {
		qsort(all.items, all.count, sizeof(*all.items), compare_paths);
		r = keep(&hide, plan, all.items, all.count);
	}
	if (r < 0)
		return fvm_error_set(err, -r, "list what is hidden");
	*ret = hide;
	hide = (struct fvm_hide){ 0 };
	return 0;
}

bool fvm_hide_has(const struct fvm_hide *hide, const char *path)
{
	for (size_t i = 0; i < hide->count; i++) {
		if (fvm_path_below(path, hide->items[i].path))
			return true;
	}
	return false;
}

bool fvm_hide_in(const struct fvm_hide *hide, size_t mount)
{
	for (size_t i = 0; i < hide->count; i++) {
		if (hide->items[i].mount == mount)
			return true;
	}
	return false;
}

/* ---- the layer ---- */

/*
 * The directories from the layer's root down to where we are, each open in base and layer. Paths
 * come sorted, so most share all but the last with the one before. A directory gets its attributes
 * when it is left, as what is made in it changes its times.
 */
struct walk {
	int scratch;		  /* where the whiteout is that all others are links of */
	struct fvm_hide_key *key; /* nothing is made, only noted; NULL: made */
	size_t mount;
	const struct fvm_idmap *map;
	char path[PATH_MAX]; /* of the deepest one, below the mount; "" at its root */
	struct {
		int base, layer;
		size_t len; /* of its path */
	} stack[64];
	size_t depth;
};

/* Access control lists; the clone's are the VM's ids already. Labels of security modules stay. */
static void copy_acls(int base, int layer)
{
	char names[1024], value[4096], link[64] = "";
	ssize_t len = flistxattr(base, names, sizeof(names));
	if (len < 0 && errno == EBADF) { /* it may only be looked at */
		snprintf(link, sizeof(link), "/proc/self/fd/%d", base);
		len = listxattr(link, names, sizeof(names));
	}
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(names + at) + 1) {
		if (strncmp(names + at, "system.posix_acl_", 17) != 0)
			continue;
		ssize_t n = link[0] ? getxattr(link, names + at, value, sizeof(value))
				    : fgetxattr(base, names + at, value, sizeof(value));
		if (n > 0)
			(void)fsetxattr(layer, names + at, value, (size_t)n, 0);
	}
}

static int copy_attributes(const struct fvm_idmap *map, int base, int layer)
{
	struct stat st;
	if (fstat(base, &st) < 0)
		return -errno;
	uid_t uid = map ? fvm_idmap_uid(map, st.st_uid) : st.st_uid;
	gid_t gid = map ? fvm_idmap_gid(map, st.st_gid) : st.st_gid;
	if (fchown(layer, uid, gid) < 0 || fchmod(layer, st.st_mode & 07777) < 0)
		return -errno;
	if (!map) /* else their ids are not the VM's */
		copy_acls(base, layer);
	const struct timespec times[2] = { st.st_atim, st.st_mtim };
	return futimens(layer, times) < 0 ? -errno : 0;
}

static int leave(struct walk *w)
{
	w->depth--;
	int base = w->stack[w->depth].base, layer = w->stack[w->depth].layer;
	int r = w->key ? 0 : copy_attributes(w->map, base, layer);
	close(base);
	fvm_fd_closep(&layer);
	w->path[w->depth ? w->stack[w->depth - 1].len : 0] = '\0';
	return r;
}

static int push(struct walk *w, int base, int layer, size_t len)
{
	if (base < 0 || (layer < 0 && !w->key) || w->depth == FVM_COUNT(w->stack)) {
		int r = w->depth == FVM_COUNT(w->stack) ? -ENAMETOOLONG : -errno;
		fvm_fd_closep(&base);
		fvm_fd_closep(&layer);
		return r;
	}
	w->stack[w->depth].base = base;
	w->stack[w->depth].layer = layer;
	w->stack[w->depth++].len = len;
	return 0;
}

/* All that copy_attributes() would copy: the time of change stands for access control lists. */
static void note_directory(const struct walk *w, int dir)
{
	struct stat st = { 0 };
	(void)fstat(dir, &st);
	fvm_buf_printf(&w->key->names, "%zu\t%s\n", w->mount, w->path);
	fvm_buf_printf(&w->key->stamps, "%zu\t%s\t%jx %ju %o %u %u %jd.%ld %jd.%ld\n", w->mount,
		       w->path, (uintmax_t)st.st_dev, (uintmax_t)st.st_ino, st.st_mode, st.st_uid,
		       st.st_gid, (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec,
		       (intmax_t)st.st_ctim.tv_sec, st.st_ctim.tv_nsec);
}

/* Down one directory, which must be one in the base. */
static int enter(struct walk *w, const char *name, size_t n)
{
	size_t len = w->stack[w->depth - 1].len;
	if (n > NAME_MAX || len + n + 2 > sizeof(w->path))
		return -ENAMETOOLONG;
	snprintf(w->path + len, sizeof(w->path) - len, "%s%.*s", len ? "/" : "", (int)n, name);
	const char *last = w->path + len + (len ? 1 : 0);
	const int above = w->stack[w->depth - 1].base;
	/* attributes are read by name where only the path may be had: the slower way */
	int base = w->key ? -EACCES : fvm_open_same_mount(above, last, O_RDONLY | O_DIRECTORY);
	if (base == -EACCES)
		base = fvm_open_same_mount(above, last, O_PATH | O_DIRECTORY);
	if (base < 0)
		errno = -base;
	int layer = -1;
	if (base >= 0 && w->key)
		note_directory(w, base);
	else if (base >= 0 && mkdirat(w->stack[w->depth - 1].layer, last, 0700) == 0)
		layer = openat(w->stack[w->depth - 1].layer, last,
			       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	int r = push(w, base, layer, len + (len ? 1 : 0) + n);
	if (r < 0)
		w->path[len] = '\0';
	return r;
}

static int whiteout(const struct walk *w, const char *name)
{
	if (w->key) {
		fvm_buf_printf(&w->key->names, "- %s\n", name);
		return 0;
	}
	int layer = w->stack[w->depth - 1].layer;
	if (linkat(w->scratch, "whiteout", layer, name, 0) == 0 || errno == EEXIST)
		return 0;
	if (errno != ENOENT)
		return -errno;
	if (mknodat(w->scratch, "whiteout", S_IFCHR | 0600, makedev(0, 0)) < 0)
		return -errno;
	return linkat(w->scratch, "whiteout", layer, name, 0) < 0 ? -errno : 0;
}

/* @path: below the mount, without leading slash */
static int hide_one(struct walk *w, const char *path)
{
	while (w->depth > 1) {
		size_t len = w->stack[w->depth - 1].len;
		if (strncmp(path, w->path, len) == 0 && path[len] == '/')
			break;
		int r = leave(w);
		if (r < 0)
			return r;
	}
	const char *rest = path + w->stack[w->depth - 1].len;
	rest += *rest == '/';
	for (const char *slash; (slash = strchr(rest, '/')); rest = slash + 1) {
		int r = enter(w, rest, (size_t)(slash - rest));
		/* not there, or no directory: then nothing to hide is there either */
		if (r == -ENOENT || r == -ENOTDIR || r == -ELOOP || r == -EXDEV)
			return 0;
		if (r < 0)
			return r;
	}
	return *rest ? whiteout(w, rest) : 0;
}

/* Everything of one mount. @base and @layer are closed. */
static int hide_mount(struct walk *w, const struct fvm_hide *hide, const struct fvm_plan *plan,
		      size_t mount, int base, int layer)
{
	size_t prefix = strlen(plan->mounts[mount].path);
	prefix += plan->mounts[mount].path[prefix - 1] != '/';
	w->mount = mount;
	if (w->key && base >= 0)
		note_directory(w, base);
	int r = push(w, base, layer, 0);
	for (size_t i = 0; r == 0 && i < hide->count; i++) {
		if (hide->items[i].mount == mount)
			r = hide_one(w, hide->items[i].path + prefix);
	}
	while (w->depth) {
		int s = leave(w);
		r = r < 0 ? r : s;
	}
	return r;
}

int fvm_hide_layer(const struct fvm_hide *hide, const struct fvm_plan *plan, size_t mount,
		   const struct fvm_idmap *map, int scratch, const char *base, const char *layer)
{
	struct walk w = { .scratch = scratch, .map = map };
	if (!fvm_hide_in(hide, mount))
		return 0;
	if (mkdirat(scratch, layer, 0700) < 0)
		return -errno;
	int r = hide_mount(&w, hide, plan, mount,
			   openat(scratch, base, O_PATH | O_DIRECTORY | O_CLOEXEC),
			   openat(scratch, layer, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	return r < 0 ? r : 1;
}

void fvm_hide_key_free(struct fvm_hide_key *key)
{
	fvm_buf_free(&key->names);
	fvm_buf_free(&key->stamps);
}

int fvm_hide_key(const struct fvm_hide *hide, const struct fvm_plan *plan, struct fvm_hide_key *ret)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < plan->count; i++) {
		struct walk w = { .scratch = -1, .key = ret };
		if (!fvm_hide_in(hide, i) || plan->mounts[i].network)
			continue;
		fvm_buf_printf(&ret->names, "mount %zu %s\n", i, plan->mounts[i].path);
		r = hide_mount(&w, hide, plan, i,
			       open(plan->mounts[i].path, O_PATH | O_DIRECTORY | O_CLOEXEC), -1);
	}
	return ret->names.failed || ret->stamps.failed ? -ENOMEM : r;
}

/* One directory, named by a line of stamps: number of the mount, path below it, and more. */
static int refresh_one(const struct fvm_plan *plan, int layers, const char *line)
{
	char *end, path[PATH_MAX], below[PATH_MAX + 32];
	size_t mount = strtoul(line, &end, 10), len = strcspn(end + 1, "\t");
	if (*end != '\t' || mount >= plan->count || len >= sizeof(path))
		return -EINVAL;
	memcpy(path, end + 1, len);
	path[len] = '\0';
	snprintf(below, sizeof(below), "%zu%s%s", mount, len ? "/" : "", path);
	scoped_fd top = open(plan->mounts[mount].path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd base =
		top < 0 ? -errno
			: fvm_open_same_mount(top, len ? path : ".", O_RDONLY | O_DIRECTORY);
	scoped_fd layer = fvm_open_nofollow(layers, below, O_RDONLY | O_DIRECTORY);
	if (base < 0 || layer < 0)
		return base < 0 ? base : layer;
	(void)fremovexattr(layer, "system.posix_acl_access");
	(void)fremovexattr(layer, "system.posix_acl_default");
	return copy_attributes(NULL, base, layer);
}

int fvm_hide_refresh(const struct fvm_plan *plan, int layers, const char *was, const char *is)
{
	int r = 0;
	while (*is && r == 0) {
		size_t n = strcspn(is, "\n") + 1, m = strcspn(was, "\n") + 1;
		if (!*was)
			return -EINVAL;
		if (n != m || memcmp(is, was, n) != 0)
			r = refresh_one(plan, layers, is);
		is += n;
		was += m;
	}
	return r;
}

int fvm_hide_layers(const struct fvm_hide *hide, const struct fvm_plan *plan, int dir)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < plan->count; i++) {
		struct walk w = { .scratch = dir };
		char name[24];
		if (!fvm_hide_in(hide, i) || plan->mounts[i].network)
			continue;
		snprintf(name, sizeof(name), "%zu", i);
		if (mkdirat(dir, name, 0700) < 0)
			return -errno;
		r = hide_mount(&w, hide, plan, i,
			       open(plan->mounts[i].path, O_PATH | O_DIRECTORY | O_CLOEXEC),
			       openat(dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
	}
	return r;
}
