#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/dir.h"
#include "fvm/bind.h"
#include "fvm/disk.h"
#include "fvm/native.h"

#define ENTRY "at-"

void fvm_native_free(struct fvm_native *n)
{
	free(n->path);
	*n = (struct fvm_native){ 0 };
}

void fvm_natives_free(struct fvm_natives *n)
{
	for (size_t i = 0; i < n->count; i++)
		fvm_native_free(&n->items[i]);
	free(n->items);
	*n = (struct fvm_natives){ 0 };
}

/* ---- one ---- */

/* What container engines write there has a meaning for them alone, and is full of other overlays'
 * marks; so have those of ordinary users below a home. */
static bool is_engines(const char *path)
{
	static const char *const places[] = { "/var/lib/docker", "/var/lib/containers",
					      "/var/lib/containerd", "/var/lib/buildkit" };
	static const char *const in_homes[] = { "/.local/share/containers", "/.local/share/docker",
						"/.local/share/buildkit" };
	for (size_t i = 0; i < FVM_COUNT(places); i++) {
		if (fvm_path_below(path, places[i]))
			return true;
	}
	for (size_t i = 0; i < FVM_COUNT(in_homes); i++) {
		const char *at = strstr(path, in_homes[i]);
		if (at && strchr("/", at[strlen(in_homes[i])]))
			return true;
	}
	return false;
}

static int check_place(const char *path, struct fvm_error *err)
{
	static const char *const fresh[] = { "/proc", "/sys", "/dev", "/run" };
	static const char *const whole[] = { "/", "/bin", "/etc", "/lib", "/sbin", "/usr", "/var" };
	char key[256];
	for (size_t i = 0; i < FVM_COUNT(fresh); i++) {
		if (fvm_path_below(path, fresh[i]))
			return fvm_error_say(err, EINVAL,
					     "make '%.80s' native: %s is the VM's own already",
					     path, fresh[i]);
	}
	for (size_t i = 0; i < FVM_COUNT(whole); i++) {
		if (strcmp(path, whole[i]) == 0) {
			fvm_error_hint(err, "name the directory that a program needs it for, as "
					    "in /var/lib/docker");
			return fvm_error_say(err, EINVAL,
					     "make '%s' native: that is much of the system", path);
		}
	}
	if (fvm_mount_key(path, key, sizeof(key) - sizeof(ENTRY)) < 0)
		return fvm_error_set(err, ENAMETOOLONG, "make '%.80s' native", path);
	return 0;
}

int fvm_native_parse(const char *text, struct fvm_native *ret, struct fvm_error *err)
{
	scoped_free char *path = malloc(strlen(text) + 1);
	if (!path)
		return fvm_error_set(err, ENOMEM, "remember it");
	const char *rest = fvm_path_take(text, path);
	if (rest && strcmp(rest, "empty") != 0) {
		fvm_error_hint(err, "as in /var/lib/docker or /srv/db:empty; a ':' in a path is "
				    "written '\\:'");
		return fvm_error_say(err, EINVAL, "'%.80s' is not of the form DIR[:empty]", text);
	}
	fvm_path_cut_slash(path);
	int r = fvm_path_check(path, err);
	if (r == 0)
		r = check_place(path, err);
	if (r < 0)
		return r;
	ret->empty = rest || is_engines(path);
	ret->path = fvm_take_ptr(&path);
	return 0;
}

/* ---- all of a configuration ---- */

static int compare_natives(const void *a, const void *b)
{
	return strcmp(((const struct fvm_native *)a)->path, ((const struct fvm_native *)b)->path);
}

/* The same one by two policies, or by one and the command line, is no contradiction. */
static int add(struct fvm_natives *all, struct fvm_native *n, struct fvm_error *err)
{
	for (size_t i = 0; i < all->count; i++) {
		struct fvm_native *o = &all->items[i];
		if (strcmp(o->path, n->path) == 0) {
			o->empty |= n->empty;
			return 0;
		}
		if (fvm_path_below(o->path, n->path) || fvm_path_below(n->path, o->path))
			return fvm_error_say(err, EINVAL,
					     "make '%.100s' and '%.100s' native: one lies in the "
					     "other",
					     o->path, n->path);
	}
	struct fvm_native *more = realloc(all->items, (all->count + 1) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "remember it");
	all->items = more;
	more[all->count++] = *n;
	*n = (struct fvm_native){ 0 };
	return 0;
}

int fvm_natives_list(const struct fvm_config *config, const struct fvm_hide *hide,
		     struct fvm_natives *ret, struct fvm_error *err)
{
	scoped_natives all = { 0 };
	for (size_t i = 0; i < config->native.count; i++) {
		scoped_native n = { 0 };
		int r = fvm_native_parse(config->native.items[i], &n, err);
		if (r == 0 && fvm_hide_has(hide, n.path))
			r = fvm_error_say(err, EINVAL,
					  "make '%.100s' native: it is hidden from the VM", n.path);
		if (r == 0)
			r = add(&all, &n, err);
		if (r < 0)
			return r;
	}
	if (all.count)
		qsort(all.items, all.count, sizeof(*all.items), compare_natives);
	*ret = all;
	all = (struct fvm_natives){ 0 };
	return 0;
}

/* ---- what is there ---- */

static int add_path(struct fvm_strv *to, const char *path)
{
	return fvm_strv_has(to, path) ? 0 : fvm_strv_add(to, path);
}

/* Of a workspace's or layer's directory. */
static int add_found(int parent, struct fvm_strv *to)
{
	scoped_fd fs = fvm_disk_open(parent);
	scoped_dir d = fs < 0 ? NULL : fvm_dir_open(fs, FVM_NATIVE_DIR);
	int r = 0;
	for (struct dirent *e; d && r == 0 && (e = fvm_dir_next(d));) {
		const char *name = e->d_name;
		char path[PATH_MAX];
		if (strncmp(name, ENTRY, strlen(ENTRY)) == 0 &&
		    fvm_mount_point(name + strlen(ENTRY), path, sizeof(path)) == 0)
			r = add_path(to, path);
	}
	return r;
}

int fvm_natives_find(const struct fvm_vm *vm, struct fvm_strv *ret)
{
	const struct fvm_config *c = vm->effective ? vm->effective : &vm->config;
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->native.count; i++) {
		scoped_native n = { 0 };
		if (fvm_native_parse(c->native.items[i], &n, NULL) == 0)
			r = add_path(ret, n.path);
	}
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (r == 0 && workspace >= 0)
		r = add_found(workspace, ret);
	for (size_t i = 0; r == 0 && i < vm->config.layers.count; i++) {
		char path[80];
		snprintf(path, sizeof(path), "layers/%.60s", vm->config.layers.items[i]);
		scoped_fd layer = fvm_open_nofollow(vm->store->dir, path, O_RDONLY | O_DIRECTORY);
		r = layer < 0 ? 0 : add_found(layer, ret);
	}
	fvm_strv_sort(ret);
	return r;
}

const char *fvm_natives_above(const struct fvm_strv *paths, const char *path)
{
	fvm_strv_each(paths, i) {
		if (fvm_path_below(path, paths->items[i]))
			return paths->items[i];
	}
	return NULL;
}

bool fvm_natives_used(const struct fvm_vm *vm)
{
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	scoped_fd fs = workspace < 0 ? workspace : fvm_disk_open(workspace);
	scoped_dir d = fs < 0 ? NULL : fvm_dir_open(fs, FVM_NATIVE_DIR);
	bool used = false;
	for (struct dirent *e; d && !used && (e = fvm_dir_next(d));) {
		if (strncmp(e->d_name, ENTRY, strlen(ENTRY)) != 0)
			continue;
		scoped_dir in = fvm_dir_open(dirfd(d), e->d_name);
		/* EACCES: the VM gave it to one of its services */
		used = in ? fvm_dir_next(in) != NULL : errno == EACCES;
	}
	return used;
}

int fvm_natives_refuse(const struct fvm_strv *natives, const char *const *paths,
		       struct fvm_error *err)
{
	for (size_t i = 0; paths && paths[i]; i++) {
		const char *native = fvm_natives_above(natives, paths[i]);
		if (!native)
			continue;
		fvm_error_hint(err, "to have files of it outside: fvm cp VM:PATH PATH");
		return fvm_error_say(err, EINVAL,
				     "'%.100s' is in the native directory %.100s, which is "
				     "compared with nothing",
				     paths[i], native);
	}
	return 0;
}
