#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <jansson.h>

#include "fvm/cgroup.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/net.h"
#include "fvm/prune.h"
#include "fvm/slot.h"
#include "fvm/state.h"
#include "fvm/sys.h"

#define LAG_MS 2000 /* for who inherited the alive lock to let go of it, under load */

void fvm_running_free(struct fvm_running *r)
{
	fvm_strv_free(&r->keys);
	fvm_strv_free(&r->policies);
	for (size_t i = 0; i < r->left_out_count; i++) {
		free(r->left_out[i].path);
		free(r->left_out[i].why);
	}
	free(r->left_out);
	*r = (struct fvm_running){ 0 };
}

/* Field 22 of /proc/PID/stat; the command's name in field 2 may hold anything. */
uint64_t fvm_process_start(pid_t pid)
{
	char path[64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/stat", (int)pid);
	if (fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
		return 0;
	char *p = strrchr(text, ')');
	for (int field = 2; p && field < 22; field++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

static json_t *print_lists(const struct fvm_running *r)
{
	json_t *keys = json_array(), *out = json_array(), *policies = json_array();
	fvm_strv_each(&r->keys, i)
		json_array_append_new(keys, json_string(r->keys.items[i]));
	for (size_t i = 0; i < r->left_out_count; i++)
		json_array_append_new(out, json_pack("{s:s, s:s}", "path", r->left_out[i].path,
						     "why", r->left_out[i].why));
	fvm_strv_each(&r->policies, i)
		json_array_append_new(policies, json_string(r->policies.items[i]));
	return json_pack("{s:o, s:o, s:o}", "keys", keys, "left_out", out, "policies", policies);
}

int fvm_running_save(const struct fvm_vm *vm, const struct fvm_running *r, struct fvm_error *err)
{
	json_t *root =
		json_pack("{s:i, s:i, s:I, s:i, s:i, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:o}",
			  "format", FVM_FORMAT, "init_pid", (int)r->init_pid, "init_start",
			  (json_int_t)r->init_start, "helper_pid", (int)r->helper_pid, "net_pid",
			  (int)r->net_pid, "started_ns", (json_int_t)r->started_ns, "slot",
			  (json_int_t)r->slot, "uid_base", (json_int_t)r->uid_base, "address4",
			  r->address4, "address6", r->address6, "cgroup", r->cgroup, "interface",
			  r->interface, "mounts", print_lists(r));
	scoped_free char *text = root ? json_dumps(root, JSON_COMPACT) : NULL;
	json_decref(root);
	if (!text)
		return fvm_error_set(err, ENOMEM, "print state.json");
	scoped_fd dir = fvm_vm_run_dir(vm, true);
	int w = dir < 0 ? dir : fvm_write_file_atomic(dir, "state.json", text, strlen(text), false);
	return w < 0 ? fvm_error_set(err, -w, "write the state of VM '%s'", vm->config.name) : 0;
}

static int parse_lists(const json_t *mounts, struct fvm_running *r)
{
	size_t i;
	const json_t *item;
	json_array_foreach(json_object_get(mounts, "keys"), i, item) {
		if (json_is_string(item) && fvm_strv_add(&r->keys, json_string_value(item)) < 0)
			return -ENOMEM;
	}
	json_array_foreach(json_object_get(mounts, "policies"), i, item) {
		if (json_is_string(item) && fvm_strv_add(&r->policies, json_string_value(item)) < 0)
			return -ENOMEM;
	}
	const json_t *out = json_object_get(mounts, "left_out");
	r->left_out = calloc(json_array_size(out) + 1, sizeof(*r->left_out));
	if (!r->left_out)
		return -ENOMEM;
	json_array_foreach(out, i, item) {
		const char *path = NULL, *why = NULL;
		if (json_unpack((json_t *)(uintptr_t)item, "{s:s, s:s}", "path", &path, "why",
				&why) < 0)
			continue;
		struct fvm_left_out *at = &r->left_out[r->left_out_count++];
		at->path = strdup(path);
		at->why = strdup(why);
		if (!at->path || !at->why)
			return -ENOMEM;
	}
	return 0;
}

/* A pid that wraps around would be another's. */
static bool in_range(json_int_t n, json_int_t most)
{
	return n >= 0 && n <= most;
}

int fvm_running_parse(const char *text, size_t len, struct fvm_running *ret)
{
	scoped_running r = { 0 };
	json_t *root = json_loadb(text, len, 0, NULL);
	json_int_t init, start, helper, net, started, slot, base;
	const char *a4, *a6, *cgroup, *interface;
	json_t *mounts;
	int e = json_unpack(root, "{s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:s, s:s, s:s, s:o}",
			    "init_pid", &init, "init_start", &start, "helper_pid", &helper,
			    "net_pid", &net, "started_ns", &started, "slot", &slot, "uid_base",
			    &base, "address4", &a4, "address6", &a6, "cgroup", &cgroup, "interface",
			    &interface, "mounts", &mounts);
	if (e < 0 || !in_range(init, INT_MAX) || !in_range(helper, INT_MAX) ||
	    !in_range(net, INT_MAX) || !in_range(slot, UINT32_MAX) || !in_range(base, UINT32_MAX)) {
		json_decref(root);
		return -EBADMSG;
	}
	r.init_pid = (pid_t)init;
	r.init_start = (uint64_t)start;
	r.helper_pid = (pid_t)helper;
	r.net_pid = (pid_t)net;
	r.started_ns = started;
	r.slot = (uint32_t)slot;
	r.uid_base = (uint32_t)base;
	snprintf(r.address4, sizeof(r.address4), "%s", a4);
	snprintf(r.address6, sizeof(r.address6), "%s", a6);
	snprintf(r.cgroup, sizeof(r.cgroup), "%s", cgroup);
	snprintf(r.interface, sizeof(r.interface), "%s", interface);
	e = parse_lists(mounts, &r);
	json_decref(root);
	if (e < 0)
		return e;
	*ret = r;
	r = (struct fvm_running){ 0 };
	return 0;
}

static int load_from(int run_dir, struct fvm_running *ret)
{
	scoped_free char *text = NULL;
	size_t len = 0;
	int r = fvm_read_file(run_dir, "state.json", 1 << 20, &text, &len);
	return r < 0 ? r : fvm_running_parse(text, len, ret);
}

bool fvm_vm_has_ended(const struct fvm_vm *vm)
{
	scoped_fd dir = fvm_vm_run_dir(vm, false);
	for (int ms = 0; fvm_lock_alive(vm->dir); ms++) {
		scoped_running r = { 0 };
		if (ms == LAG_MS || (dir >= 0 && load_from(dir, &r) == 0 &&
				     fvm_process_start(r.init_pid) == r.init_start))
			return false;
		fvm_sleep_ms(1);
	}
	return true;
}

int fvm_running_load(const struct fvm_vm *vm, struct fvm_running *ret, struct fvm_error *err)
{
	scoped_fd dir = fvm_vm_run_dir(vm, false);
	if (dir == -EPERM)
		return fvm_error_say(err, EPERM, "VM '%s' is another user's to run",
				     vm->config.name);
	if (dir < 0 || !fvm_lock_alive(vm->dir)) {
		fvm_error_set(err, ESRCH, "VM '%s' is not running", vm->config.name);
		fvm_error_hint(err, "fvm start %s", vm->config.name);
		return -ESRCH;
	}
	int r = load_from(dir, ret);
	return r < 0 ? fvm_error_set(err, -r, "read the state of VM '%s'", vm->config.name) : 0;
}

int fvm_running_pidfd(const struct fvm_running *r)
{
	scoped_fd pidfd = sys_pidfd_open(r->init_pid, 0);
	if (pidfd < 0)
		return pidfd;
	/* after the open: a pid that was given away in between has another start time */
	if (fvm_process_start(r->init_pid) != r->init_start)
		return -ESRCH;
	return fvm_fd_take(&pidfd);
}

bool fvm_running_helper_gone(int run_dir, int timeout_ms)
{
	scoped_running r = { 0 };
	if (run_dir < 0 || load_from(run_dir, &r) < 0)
		return false;
	if (r.helper_pid <= 0)
		return true;
	scoped_fd helper = sys_pidfd_open(r.helper_pid, 0);
	struct pollfd p = { .fd = helper, .events = POLLIN };
	return helper == -ESRCH || (helper >= 0 && poll(&p, 1, timeout_ms) > 0);
}

static void tidy_from(const struct fvm_store *store, int dir, const char *vm_id)
{
	scoped_running r = { 0 };
	struct fvm_cgroups cgroups = { 0 };
	bool has_state = load_from(dir, &r) == 0;
	/* by its name: a user's own place may be another now than when he started it */
	int found = r.cgroup[0] ? fvm_cgroup_named(r.cgroup, &cgroups)
				: fvm_cgroup_plan(vm_id, store->rootless, &cgroups, NULL);
	if (found == 0)
		(void)fvm_cgroup_remove(&cgroups, 2000);
	if (has_state && !store->rootless)
		fvm_slot_drop(r.slot); /* who gets it knows what to do with a link that is left */
	if (has_state && r.interface[0])
		fvm_net_detach_slot(r.slot, vm_id);
}

/* All in @dir but @name. */
static void remove_others(int dir, const char *name)
{
	scoped_dir d = fvm_dir_open(dir, ".");
	for (struct dirent *e; d && (e = readdir(d));) {
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
		    strcmp(e->d_name, name) != 0)
			(void)fvm_remove_tree(dir, e->d_name);
	}
}

void fvm_tidy_stopped(const struct fvm_vm *vm)
{
	scoped_fd dir = fvm_vm_run_dir(vm, false);
	if (dir < 0 || fvm_lock_alive(vm->dir))
		return;
	tidy_from(vm->store, dir, vm->config.id);
	if (faccessat(dir, FVM_UNFINISHED, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		/* a start may be tried again: whoever is killed then is to be found */
		remove_others(dir, FVM_UNFINISHED);
		return;
	}
	char path[FVM_NAME_MAX + 8];
	snprintf(path, sizeof(path), "vms/%s", vm->config.name);
	(void)fvm_remove_tree(vm->store->run, path);
}

int fvm_tidy_later(const struct fvm_vm *vm)
{
	char from[FVM_NAME_MAX + 8], to[48];
	snprintf(from, sizeof(from), "vms/%s", vm->config.name);
	snprintf(to, sizeof(to), "ended/%s", vm->config.id);
	scoped_fd dir = fvm_vm_run_dir(vm, false);
	if (dir < 0)
		return -1;
	(void)flock(dir, LOCK_EX | LOCK_NB);
	if (renameat(vm->store->run, from, vm->store->run, to) < 0 && errno == ENOENT) {
		(void)mkdirat(vm->store->run, "ended", 0700);
		(void)renameat(vm->store->run, from, vm->store->run, to);
	}
	return fvm_fd_take(&dir);
}

void fvm_tidy_again(const struct fvm_vm *vm)
{
	char path[48];
	snprintf(path, sizeof(path), "ended/%s", vm->config.id);
	(void)mkdirat(vm->store->run, "ended", 0700);
	(void)mkdirat(vm->store->run, path, 0700);
}

void fvm_tidy_ended_dir(const struct fvm_store *store, const char *vm_id, int held)
{
	char path[48];
	if (snprintf(path, sizeof(path), "ended/%s", vm_id) >= (int)sizeof(path))
		return;
	scoped_fd dir = -1;
	if (held < 0) {
		dir = openat(store->run, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
		if (dir < 0 || flock(dir, LOCK_EX | LOCK_NB) < 0)
			return; /* somebody is at it */
	}
	if (!fvm_is_callers(held < 0 ? dir : held, NULL))
		return; /* names what is to be ended: its owner's business */
	tidy_from(store, held < 0 ? dir : held, vm_id);
	(void)fvm_remove_tree(store->run, path);
}
