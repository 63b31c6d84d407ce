#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/bind.h"
#include "fvm/hide.h"
#include "fvm/plan.h"

void fvm_bind_free(struct fvm_bind *b)
{
	free(b->source);
	free(b->target);
	*b = (struct fvm_bind){ 0 };
}

void fvm_binds_free(struct fvm_binds *b)
{
	for (size_t i = 0; i < b->count; i++)
		fvm_bind_free(&b->items[i]);
	free(b->items);
	*b = (struct fvm_binds){ 0 };
}

int fvm_path_check(const char *path, struct fvm_error *err)
{
	if (path[0] != '/')
		return fvm_error_set(err, EINVAL, "'%.80s' is not an absolute path", path);
	for (const char *p = path; *p;) {
		size_t n = strcspn(++p, "/");
		if ((n == 0 && *p) || (n == 1 && p[0] == '.') ||
		    (n == 2 && p[0] == '.' && p[1] == '.'))
			return fvm_error_set(err, EINVAL, "'%.80s' has '//', '.' or '..' in it",
					     path);
		p += n;
	}
	return 0;
}

const char *fvm_path_take(const char *text, char *to)
{
	while (*text && *text != ':') {
		if (*text == '\\' && (text[1] == ':' || text[1] == '\\'))
			text++;
		*to++ = *text++;
	}
	*to = '\0';
	return *text ? text + 1 : NULL;
}

void fvm_path_cut_slash(char *path)
{
	size_t n = strlen(path);
	if (n > 1 && path[n - 1] == '/')
		path[n - 1] = '\0';
}

/* ---- one bind ---- */

static int parse_parts(const char *text, char *parts[3], struct fvm_bind *b, struct fvm_error *err)
{
	const char *rest = text;
	size_t n = 0;
	while (rest && n < 3)
		rest = fvm_path_take(rest, parts[n++]);
	b->read_only = n > 1 && strcmp(parts[n - 1], "ro") == 0;
	size_t paths = n - b->read_only;
	if (rest || paths > 2) {
		fvm_error_set(err, EINVAL, "'%.80s' is not of the form S[:D][:ro]", text);
		fvm_error_hint(err, "as in /srv/data:/data:ro; a ':' in a path is written '\\:'");
		return -EINVAL;
	}
	int r = fvm_path_check(parts[0], err);
	if (r == 0 && paths == 2)
		r = fvm_path_check(parts[1], err);
	if (r < 0)
		return r;
	fvm_path_cut_slash(parts[0]);
	fvm_path_cut_slash(parts[1]);
	b->source = strdup(parts[0]);
	b->target = strdup(parts[paths == 2 ? 1 : 0]);
	return b->source && b->target ? 0 : fvm_error_set(err, ENOMEM, "remember it");
}

int fvm_bind_parse(const char *text, struct fvm_bind *ret, struct fvm_error *err)
{
	size_t room = strlen(text) + 1;
	scoped_free char *space = calloc(3, room);
	scoped_bind b = { 0 };
	if (!space)
		return fvm_error_set(err, ENOMEM, "remember it");
	char *parts[3] = { space, space + room, space + 2 * room };
	int r = parse_parts(text, parts, &b, err);
	if (r < 0)
		return r;
	*ret = b;
	b = (struct fvm_bind){ 0 };
	return 0;
}

/* ---- all of a configuration ---- */

static int refuse(struct fvm_error *err, const struct fvm_bind *b, const char *why)
{
	return fvm_error_set(err, EINVAL, "share '%.120s': %s", b->source ? b->source : b->target,
			     why);
}

/* What is made anew in a VM, and what would be all of the host. */
static int check_one(const struct fvm_bind *b, const char *store, struct fvm_error *err)
{
	assert(b->target);
	static const char *const kernels[] = { "/proc", "/sys" };
	static const char *const whole[] = { "/", "/dev", "/etc", "/run", "/usr", "/var" };
	for (size_t i = 0; i < FVM_COUNT(kernels); i++) {
		if (fvm_path_below(b->target, kernels[i]) ||
		    (b->source && fvm_path_below(b->source, kernels[i])))
			return refuse(err, b, "the kernel's file systems are the VM's own");
	}
	if (!b->source)
		return strcmp(b->target, "/") == 0 ? refuse(err, b, "name the directories") : 0;
	for (size_t i = 0; i < FVM_COUNT(whole); i++) {
		if (strcmp(b->target, whole[i]) == 0)
			return refuse(err, b, "it would cover what the VM needs at its target");
		if (!b->read_only && strcmp(b->source, whole[i]) == 0)
			return refuse(err, b, "that would undo the VM's confinement");
	}
	if (fvm_path_below(b->source, "/dev"))
		return refuse(err, b, "devices are permitted with --device");
	if (fvm_path_below(b->source, store) || fvm_path_below(store, b->source))
		return refuse(err, b, "it holds VMs, or lies in one");
	return 0;
}

static int add(struct fvm_binds *all, struct fvm_bind *b, struct fvm_error *err)
{
	assert(b->target);
	for (size_t i = 0; i < all->count; i++) {
		struct fvm_bind *o = &all->items[i];
		if (strcmp(o->target, b->target) != 0)
			continue;
		/* read-only wins over the same path written through: two policies may differ */
		if (o->source && b->source && strcmp(o->source, b->source) != 0)
			return fvm_error_set(err, EINVAL, "share '%.80s' and '%.80s' at '%.80s'",
					     o->source, b->source, b->target);
		if (!o->source)
			o->source = fvm_take_ptr(&b->source);
		o->read_only |= b->read_only;
		return 0;
	}
	struct fvm_bind *more = realloc(all->items, (all->count + 1) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "remember it");
	all->items = more;
	more[all->count++] = *b;
	*b = (struct fvm_bind){ 0 };
	return 0;
}

static int add_checked(struct fvm_binds *all, struct fvm_bind *b, const char *store,
		       struct fvm_error *err)
{
	int r = check_one(b, store, err);
	return r < 0 ? r : add(all, b, err);
}

static int add_path(struct fvm_binds *all, const char *path, bool through, const char *store,
		    struct fvm_error *err)
{
	scoped_bind b = { .read_only = !through };
	int r = fvm_path_check(path, err);
	if (r < 0)
		return r;
	b.target = strdup(path);
	b.source = through ? strdup(path) : NULL;
	if (!b.target || (through && !b.source))
		return fvm_error_set(err, ENOMEM, "remember it");
	fvm_path_cut_slash(b.target);
	if (through)
		fvm_path_cut_slash(b.source);
	return add_checked(all, &b, store, err);
}

static int compare_targets(const void *a, const void *b)
{
	return strcmp(((const struct fvm_bind *)a)->target, ((const struct fvm_bind *)b)->target);
}

static int collect(const struct fvm_config *c, const char *store, struct fvm_binds *all,
		   struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->binds.count; i++) {
		scoped_bind b = { 0 };
		r = fvm_bind_parse(c->binds.items[i], &b, err);
		if (r == 0)
			r = add_checked(all, &b, store, err);
	}
	for (size_t i = 0; r == 0 && i < c->direct.count; i++)
		r = add_path(all, c->direct.items[i], true, store, err);
	for (size_t i = 0; r == 0 && i < c->read_only.count; i++)
		r = add_path(all, c->read_only.items[i], false, store, err);
	return r;
}

int fvm_binds_list(const struct fvm_config *config, const char *store, struct fvm_binds *ret,
		   struct fvm_error *err)
{
	scoped_binds all = { 0 };
	int r = collect(config, store, &all, err);
	if (r < 0)
		return r;
	if (all.count)
		qsort(all.items, all.count, sizeof(*all.items), compare_targets);
	*ret = all;
	all = (struct fvm_binds){ 0 };
	return 0;
}

static int check_hidden(const struct fvm_bind *b, const char *source, const struct fvm_hide *hide,
			struct fvm_error *err)
{
	for (size_t j = 0; j < hide->count; j++) {
		const char *hidden = hide->items[j].path;
		if (!fvm_path_below(hidden, source) || strcmp(hidden, source) == 0)
			continue; /* a part of a secret, by name, is meant */
		fvm_error_set(err, EINVAL, "share '%.100s': '%.100s' is hidden from the VM",
			      b->source, hidden);
		fvm_error_hint(err, "share a directory below it, or give --secrets");
		return -EINVAL;
	}
	return 0;
}

int fvm_binds_check(const struct fvm_binds *binds, const struct fvm_hide *hide,
		    struct fvm_error *err)
{
	char real[PATH_MAX];
	int r = 0;
	for (size_t i = 0; r == 0 && i < binds->count; i++) {
		const struct fvm_bind *b = &binds->items[i];
		if (b->source)
			r = check_hidden(b, realpath(b->source, real) ? real : b->source, hide,
					 err);
	}
	return r;
}

int fvm_bind_check_real(const struct fvm_bind *b, const char *real, const char *store,
			const struct fvm_hide *hide, struct fvm_error *err)
{
	struct fvm_bind led = *b;
	if (strcmp(real, b->source) == 0)
		return 0;
	led.source = (char *)(uintptr_t)real; /* only read */
	int r = check_one(&led, store, err);
	if (r < 0)
		fvm_error_hint(err, "'%.100s' leads there by a symlink", b->source);
	return r < 0 ? r : check_hidden(b, real, hide, err);
}
