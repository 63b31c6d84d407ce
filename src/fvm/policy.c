/* Where policies lie, which of them apply, and what holds in the end. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/bind.h"
#include "fvm/hide.h"
#include "fvm/policy.h"
#include "fvm/store.h"

#define POLICY_LIMIT 65536
#define SUFFIX	     ".policy"

#ifndef FVM_DATADIR
#define FVM_DATADIR "/usr/local/share/fvm"
#endif

/* ---- directories ---- */

struct place {
	char path[PATH_MAX];
	enum fvm_policy_origin origin;
};

struct places {
	struct place items[10];
	size_t count;
};

static void add_place(struct places *p, enum fvm_policy_origin origin, const char *dir, size_t n,
		      const char *below)
{
	if (n == 0 || p->count == FVM_COUNT(p->items))
		return;
	struct place *at = &p->items[p->count];
	at->origin = origin;
	if (snprintf(at->path, sizeof(at->path), "%.*s%s", (int)n, dir, below) <
	    (int)sizeof(at->path))
		p->count++;
}

static void find_places(struct places *p)
{
	const char *config = getenv("XDG_CONFIG_HOME"), *home = getenv("HOME");
	const char *more = getenv("FVM_POLICY_PATH");
	p->count = 0;
	if (config && config[0] == '/')
		add_place(p, FVM_POLICY_USER, config, strlen(config), "/fvm/policy.d");
	else if (home && home[0] == '/')
		add_place(p, FVM_POLICY_USER, home, strlen(home), "/.config/fvm/policy.d");
	add_place(p, FVM_POLICY_SYSTEM, "/etc/fvm/policy.d", strlen("/etc/fvm/policy.d"), "");
	if (!more)
		more = FVM_DATADIR "/policy.d";
	for (size_t n; *more; more += n + (more[n] == ':')) {
		n = strcspn(more, ":");
		add_place(p, FVM_POLICY_SHIPPED, more, n, "");
	}
}

/* A policy decides what root's VMs may do: with sudo and somebody's $HOME it has to be root's. */
static int check_owner(int fd, const struct place *place)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	if (place && place->origin == FVM_POLICY_USER && st.st_uid != geteuid())
		return -EPERM;
	return place && (st.st_mode & S_IWOTH) ? -EPERM : 0;
}

static int load_file(const char *path, const struct place *place, struct fvm_policy *ret,
		     struct fvm_error *err)
{
	scoped_free char *text = NULL;
	char link[64];
	size_t len;
	scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0)
		return fvm_error_set(err, errno, "read policy %s", path);
	int r = check_owner(fd, place);
	if (r < 0) {
		fvm_error_set(err, -r, "trust policy %s", path);
		fvm_error_hint(err, "it must be a file, yours, and not writable by all");
		return r;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	r = fvm_read_file(AT_FDCWD, link, POLICY_LIMIT, &text, &len);
	if (r < 0)
		return fvm_error_set(err, -r, "read policy %s", path);
	r = fvm_policy_parse(text, len, ret, err);
	if (r < 0)
		return fvm_error_wrap(err, r, "policy %s", path);
	const char *name = strrchr(path, '/');
	name = name ? name + 1 : path;
	size_t n = strlen(name), cut = strlen(SUFFIX);
	ret->origin = place ? place->origin : FVM_POLICY_NAMED;
	ret->path = strdup(path);
	ret->name = n > cut && strcmp(name + n - cut, SUFFIX) == 0 ? strndup(name, n - cut)
								   : strdup(name);
	return ret->path && ret->name ? 0 : fvm_error_set(err, ENOMEM, "remember it");
}

/* ---- all of them ---- */

struct policies {
	struct fvm_policy *items;
	size_t count;
};

static void policies_free(struct policies *p)
{
	for (size_t i = 0; i < p->count; i++)
		fvm_policy_free(&p->items[i]);
	free(p->items);
}

static bool has_name(const struct policies *p, const char *file)
{
	for (size_t i = 0; i < p->count; i++) {
		size_t n = strlen(p->items[i].name);
		if (strncmp(p->items[i].name, file, n) == 0 && strcmp(file + n, SUFFIX) == 0)
			return true;
	}
	return false;
}

static int add_file(struct policies *all, const struct place *place, const char *file,
		    struct fvm_error *err)
{
	char path[PATH_MAX];
	if (has_name(all, file) ||
	    snprintf(path, sizeof(path), "%s/%s", place->path, file) >= (int)sizeof(path))
		return 0;
	struct fvm_policy *more = realloc(all->items, (all->count + 1) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "read policy %s", path);
	all->items = more;
	more[all->count] = (struct fvm_policy){ 0 };
	int r = load_file(path, place, &more[all->count], err);
	if (r < 0)
		fvm_policy_free(&more[all->count]);
	else
		all->count++;
	return r;
}

static int is_policy(const struct dirent *e)
{
	size_t n = strlen(e->d_name), cut = strlen(SUFFIX);
	return e->d_name[0] != '.' && n > cut && strcmp(e->d_name + n - cut, SUFFIX) == 0;
}

/* @strict: a file with an error is an error, as it might be what was to protect this program */
static int add_place_files(struct policies *all, const struct place *place, bool strict,
			   struct fvm_error *err)
{
	struct dirent **entries = NULL;
	int n = scandir(place->path, &entries, is_policy, alphasort), r = 0;
	for (int i = 0; i < n; i++) {
		struct fvm_error ignored = { 0 };
		if (r == 0 || !strict)
			r = add_file(all, place, entries[i]->d_name, strict ? err : &ignored);
		free(entries[i]);
	}
	free(entries);
	return strict ? r : 0;
}

static int add_all(struct policies *all, bool strict, struct fvm_error *err)
{
	struct places places;
	int r = 0;
	find_places(&places);
	for (size_t i = 0; r == 0 && i < places.count; i++)
		r = add_place_files(all, &places.items[i], strict, err);
	return r;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(((const struct fvm_policy *)a)->name, ((const struct fvm_policy *)b)->name);
}

/* All that can be named, sorted by name; those with errors are left out. */
static int list_all(struct fvm_policy **ret, size_t *ret_count)
{
	struct policies all = { 0 };
	struct fvm_error ignored = { 0 };
	int r = add_all(&all, false, &ignored);
	if (r == -ENOMEM) {
		policies_free(&all);
		return r;
	}
	if (all.count)
		qsort(all.items, all.count, sizeof(*all.items), compare_names);
	*ret = all.items;
	*ret_count = all.count;
	return 0;
}

/* ---- one by name ---- */

static int no_such(const char *name, struct fvm_error *err)
{
	struct fvm_policy *all = NULL;
	size_t count = 0, n = 0;
	char names[128] = "";
	(void)list_all(&all, &count);
	for (size_t i = 0; i < count; i++) {
		if (n + strlen(all[i].name) + 3 < sizeof(names))
			n += (size_t)snprintf(names + n, sizeof(names) - n, "%s%s", n ? ", " : "",
					      all[i].name);
		fvm_policy_free(&all[i]);
	}
	free(all);
	fvm_error_say(err, ENOENT, "there is no policy '%.60s'", name);
	if (access(name, F_OK) == 0)
		fvm_error_hint(err, "for the file of that name here: ./%.60s", name);
	else
		fvm_error_hint(err, "there are: %s",
			       n ? names : "none; they go into ~/.config/fvm/policy.d");
	return -ENOENT;
}

int fvm_policy_load(const char *name, struct fvm_policy *ret, struct fvm_error *err)
{
	struct places places;
	char path[PATH_MAX];
	if (strchr(name, '/'))
		return load_file(name, NULL, ret, err);
	find_places(&places);
	for (size_t i = 0; i < places.count; i++) {
		const struct place *p = &places.items[i];
		if (snprintf(path, sizeof(path), "%s/%s%s", p->path, name, SUFFIX) >=
			    (int)sizeof(path) ||
		    access(path, F_OK) < 0)
			continue;
		return load_file(path, p, ret, err);
	}
	return no_such(name, err);
}

/* ---- what applies ---- */

/* The file that a shell would run. */
static bool find_program(const char *program, char ret[PATH_MAX])
{
	const char *path = getenv("PATH");
	char at[PATH_MAX];
	if (strchr(program, '/'))
		return realpath(program, ret) != NULL;
	for (size_t n; path && *path; path += n + (path[n] == ':')) {
		n = strcspn(path, ":");
		if (n &&
		    snprintf(at, sizeof(at), "%.*s/%s", (int)n, path, program) < (int)sizeof(at) &&
		    access(at, X_OK) == 0)
			return realpath(at, ret) != NULL;
	}
	return false;
}

bool fvm_policy_matches(const struct fvm_policy *p, const char *program)
{
	char path[PATH_MAX];
	const char *slash = strrchr(program, '/');
	fvm_strv_each(&p->programs, i) {
		const char *pattern = p->programs.items[i];
		if (!strchr(pattern, '/')) {
			if (fnmatch(pattern, slash ? slash + 1 : program, 0) == 0)
				return true;
		} else if (find_program(program, path) &&
			   fnmatch(pattern, path, FNM_PATHNAME) == 0) {
			return true;
		}
	}
	return false;
}

struct applied {
	struct fvm_config *config;
	uint32_t taken;
	struct fvm_strv *used;
};

static int apply_one(struct applied *a, const struct fvm_policy *p, struct fvm_error *err)
{
	int r = fvm_policy_merge(p, a->config, &a->taken);
	if (r == 0 && a->used && !fvm_strv_has(a->used, p->name))
		r = fvm_strv_add(a->used, p->name);
	return r < 0 ? fvm_error_set(err, -r, "apply policy '%s'", p->name) : 0;
}

static int apply_named(struct applied *a, const struct fvm_strv *names, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = names->count; r == 0 && i-- > 0;) {
		scoped_policy p = { 0 };
		r = fvm_policy_load(names->items[i], &p, err);
		if (r == 0)
			r = apply_one(a, &p, err);
	}
	return r;
}

static int apply_matching(struct applied *a, const char *program, struct fvm_error *err)
{
	struct policies all = { 0 };
	int r = add_all(&all, true, err);
	/* in order of their places, which is that of strength */
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		if (fvm_policy_matches(&all.items[i], program))
			r = apply_one(a, &all.items[i], err);
	}
	policies_free(&all);
	return r;
}

/* ---- "~/" and "-" ---- */

static bool is_there(const char *path)
{
	char first[PATH_MAX];
	snprintf(first, sizeof(first), "%.*s", (int)strcspn(path, ":"), path);
	return faccessat(AT_FDCWD, first, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int expand_into(struct fvm_strv *to, const char *value, const struct fvm_strv *homes)
{
	bool optional = value[0] == '-';
	value += optional;
	if (value[0] != '~')
		return optional && !is_there(value) ? 0 : fvm_strv_add(to, value);
	int r = 0;
	for (size_t i = 0; r == 0 && i < homes->count; i++) {
		r = fvm_strv_addf(to, "%s%s", homes->items[i], value + 1);
		if (r == 0 && optional && !is_there(to->items[to->count - 1])) {
			free(to->items[--to->count]);
			to->items[to->count] = NULL;
		}
	}
	return r;
}

static int expand(struct fvm_strv *list, const struct fvm_strv *homes)
{
	struct fvm_strv out = { 0 };
	int r = 0;
	for (size_t i = 0; r == 0 && i < list->count; i++)
		r = expand_into(&out, list->items[i], homes);
	fvm_strv_free(list);
	*list = out;
	return r;
}

static bool has_tilde(const struct fvm_config *c)
{
	const struct fvm_strv *const lists[] = { &c->hide,  &c->show,	&c->direct, &c->read_only,
						 &c->binds, &c->native, &c->devices };
	for (size_t i = 0; i < FVM_COUNT(lists); i++) {
		fvm_strv_each(lists[i], j) {
			const char *value = lists[i]->items[j];
			if (value[0] == '~' || value[0] == '-')
				return true;
		}
	}
	return false;
}

static int expand_all(struct fvm_config *c)
{
	scoped_plan plan = { 0 };
	scoped_strv homes = { 0 }, own = { 0 };
	const char *home = getenv("HOME");
	if (!has_tilde(c))
		return 0;
	int r = fvm_plan_make(&plan, NULL);
	if (r == 0)
		r = fvm_homes_list(&plan, true, &homes);
	if (r == 0 && home)
		r = fvm_strv_add(&own, home);
	struct fvm_strv *const every[] = { &c->hide, &c->show };
	struct fvm_strv *const callers[] = { &c->direct, &c->read_only, &c->binds, &c->native,
					     &c->devices };
	for (size_t i = 0; r == 0 && i < FVM_COUNT(every); i++)
		r = expand(every[i], &homes);
	for (size_t i = 0; r == 0 && i < FVM_COUNT(callers); i++)
		r = expand(callers[i], &own);
	return r;
}

/* ---- who may change it ---- */

static bool is_written_through(const struct fvm_strv *binds, const char *path)
{
	fvm_strv_each(binds, i) {
		char real[PATH_MAX];
		scoped_bind bind = { 0 };
		if (fvm_bind_parse(binds->items[i], &bind, NULL) < 0 || bind.read_only)
			continue;
		if (fvm_path_below(path, bind.source) ||
		    (realpath(bind.source, real) && fvm_path_below(path, real)))
			return true;
	}
	return false;
}

/* Where the VM's programs may write a policy they would say themselves what they may, from the next
 * start on. */
static int check_named(const struct fvm_config *c, struct fvm_error *err)
{
	fvm_strv_each(&c->policies, i) {
		const char *path = c->policies.items[i];
		char real[PATH_MAX];
		const struct fvm_strv *const shared[] = { &c->binds, &c->direct };
		if (!strchr(path, '/') || !realpath(path, real))
			continue;
		for (size_t j = 0; j < FVM_COUNT(shared); j++) {
			/* also a symlink to it that can be replaced */
			bool named = !strstr(path, "/../") && is_written_through(shared[j], path);
			if (!named && !is_written_through(shared[j], real))
				continue;
			fvm_error_say(err, EPERM, "policy %s lies where the VM may write", path);
			fvm_error_hint(err, "copy it to ~/.config/fvm/policy.d and give its name");
			return -EPERM;
		}
	}
	return 0;
}

int fvm_policy_apply(const struct fvm_config *config, const char *program, struct fvm_config *ret,
		     struct fvm_strv *ret_used, struct fvm_error *err)
{
	scoped_config c = { 0 };
	if (fvm_config_copy(&c, config) < 0)
		return fvm_error_set(err, ENOMEM, "copy the configuration");
	struct applied a = { &c, fvm_policy_given(config), ret_used };
	int r = apply_named(&a, &config->policies, err);
	if (r == 0 && program && *program)
		r = apply_matching(&a, program, err);
	if (r < 0)
		return r;
	/* what the command line asks for is never left out */
	if (config->memory_bytes || config->cpu_percent || config->pids)
		c.soft_limits = false;
	r = expand_all(&c);
	if (r < 0)
		return fvm_error_set(err, -r, "find the homes that a policy is about");
	r = check_named(&c, err);
	if (r < 0)
		return r;
	*ret = c;
	c = (struct fvm_config){ 0 };
	return 0;
}

int fvm_vm_policies(struct fvm_vm *vm, const char *program, struct fvm_error *err)
{
	if (vm->effective)
		return 0;
	struct fvm_config *c = calloc(1, sizeof(*c));
	if (!c)
		return fvm_error_set(err, ENOMEM, "apply policies");
	int r = fvm_policy_apply(&vm->config, program, c, &vm->used, err);
	if (r < 0)
		free(c);
	else
		vm->effective = c;
	return r;
}
