/*
 * Calls about ids where only one is mapped. See ids.h for the rules, nest.h for what makes them
 * true, liars.h for what can't be.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/liars.h"
#include "fvm/nest.h"
#include "fvm/notify.h"

/* A namespace would show them every peer of a socket as their own user (SO_PEERCRED), and they
 * would refuse root; when lied to they see root as root. */
static const char *const never_nested[] = { "dbus-daemon", "dbus-broker", "mariadbd", "mysqld" };

/* What the kernel holds for the task. Return: false when it is none of our namespaces */
static bool kernel_ids(const struct call *c, struct nest_ids *ret)
{
	char path[32];
	struct stat st;
	*ret = (struct nest_ids){ 0, 0 };
	snprintf(path, sizeof(path), "%u/ns/user", c->req->pid);
	/* not to be looked at: a child of PID 1 before its exec, in the VM's own */
	if (stat(path, &st) < 0 || st.st_ino == c->sup->userns)
		return true;
	return nest_known(c->sup, st.st_ino, ret);
}

static bool is_never_nested(const struct call *c)
{
	char path[32], exe[PATH_MAX];
	snprintf(path, sizeof(path), "%u/exe", c->req->pid);
	ssize_t n = readlink(path, exe, sizeof(exe) - 1);
	if (n <= 0)
		return false;
	exe[n] = '\0';
	const char *slash = strrchr(exe, '/');
	for (size_t i = 0; slash && i < FVM_COUNT(never_nested); i++) {
		if (strcmp(slash + 1, never_nested[i]) == 0)
			return true;
	}
	return false;
}

static char *status_of(const struct call *c)
{
	char path[32], *text = NULL;
	snprintf(path, sizeof(path), "%u/status", c->req->pid);
	return fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0 ? NULL : text;
}

static bool has_threads(const struct call *c)
{
	scoped_free char *text = status_of(c);
	const char *line = text ? strstr(text, "\nThreads:") : NULL;
	return !line || strtol(line + 9, NULL, 10) != 1;
}

/* In a namespace of ours, with capabilities kept: then it may still choose its groups. */
static bool has_setgid(const struct call *c)
{
	scoped_free char *text = status_of(c);
	const char *line = text ? strstr(text, "\nCapEff:") : NULL;
	return line && (strtoull(line + 8, NULL, 16) & (1U << 6 /* CAP_SETGID */));
}

/* ---- what a task believes ---- */

static bool has_ranges(const struct call *c)
{
	return c->sup->ids->count > 0;
}

/* An id that the kernel can give: with ranges all but the user's own, which are VM root's. */
static bool is_real(const struct call *c, uint32_t id, bool group)
{
	uint32_t own = group ? c->sup->ids->gid : c->sup->ids->uid;
	return id == UINT32_MAX || (id <= c->sup->ids->count && id != own);
}

static void read_ids(const char *line, uint32_t *ret)
{
	if (line)
		(void)sscanf(line, "%*s %u %u %u %u", &ret[0], &ret[1], &ret[2], &ret[3]);
}

/* Where the kernel may hold any ids: what it holds, as the supervisor's namespace numbers them. */
static void held_ids(const struct call *c, struct fvm_ids *ret)
{
	scoped_free char *text = status_of(c);
	fvm_ids_init(ret, UINT32_MAX, UINT32_MAX);
	if (!text)
		return;
	read_ids(strstr(text, "\nUid:"), ret->uid);
	read_ids(strstr(text, "\nGid:"), ret->gid);
}

static bool beliefs(const struct call *c, struct nest_ids *kernel, struct fvm_ids *ret)
{
	struct fvm_ids lie;
	if (!kernel_ids(c, kernel))
		return false;
	fvm_ids_init(ret, kernel->uid, kernel->gid);
	if (has_ranges(c) && kernel->uid == 0) {
		held_ids(c, ret);
		kernel->uid = ret->uid[FVM_ID_EFFECTIVE];
		kernel->gid = ret->gid[FVM_ID_EFFECTIVE];
	}
	if (liars_find(c, &lie))
		*ret = lie;
	return true;
}

/* With ranges, what the kernel can do is the kernel's, unless the task was lied to before. */
static bool is_kernels(const struct call *c, bool group, enum fvm_id_call how, const uint32_t *a)
{
	static const int count[] = {
		[FVM_SET] = 1, [FVM_SETRE] = 2, [FVM_SETRES] = 3, [FVM_SETFS] = 1
	};
	struct nest_ids kernel;
	struct fvm_ids ids;
	if (!has_ranges(c))
		return false;
	if (!kernel_ids(c, &kernel) || kernel.uid != 0)
		return true;
	for (int i = 0; i < 3 && i < count[how]; i++) {
		if (!is_real(c, a[i], group))
			return false;
	}
	return !liars_find(c, &ids);
}

uint32_t notify_kernel_uid(const struct call *c)
{
	struct fvm_ids ids;
	held_ids(c, &ids);
	return ids.uid[FVM_ID_EFFECTIVE];
}

bool notify_is_root(const struct call *c)
{
	struct nest_ids kernel;
	struct fvm_ids ids;
	if (!beliefs(c, &kernel, &ids) || kernel.uid != 0)
		return false;
	return ids.uid[FVM_ID_EFFECTIVE] == 0;
}

static enum verdict remember(struct call *c, const struct fvm_ids *ids, int64_t result)
{
	int r = liars_set(c, ids);
	return answer(c, r < 0 ? -EAGAIN : result);
}

static enum verdict nest_or_lie(struct call *c, const struct nest_ids *kernel,
				const struct fvm_ids *ids, int64_t result)
{
	const struct nest_ids to = { ids->uid[FVM_ID_REAL], ids->gid[FVM_ID_EFFECTIVE] };
	if (is_never_nested(c) || has_threads(c))
		return remember(c, ids, result);
	int r = nest_enter(c, kernel, &to);
	if (r == 0) {
		liars_forget(c);
		return ANSWERED;
	}
	if (r != -ECANCELED)
		return remember(c, ids, result);
	(void)liars_set(c, ids);
	return ANSWERED;
}

static enum verdict apply(struct call *c, bool group, enum fvm_id_call how)
{
	struct nest_ids kernel;
	struct fvm_ids ids, before;
	const uint32_t a[3] = { (uint32_t)c->args[0], (uint32_t)c->args[1], (uint32_t)c->args[2] };
	if (is_kernels(c, group, how, a) || !beliefs(c, &kernel, &ids))
		return GO_ON;
	before = ids;
	int64_t result = fvm_ids_set(&ids, group, how, a);
	if (result == -EPERM && group && kernel.uid != 0 && has_setgid(c)) {
		fvm_ids_init(&ids, kernel.uid, a[0]);
		const struct nest_ids to = { kernel.uid, a[0] };
		return nest_enter(c, &kernel, &to) == 0 ? ANSWERED : answer(c, -EPERM);
	}
	if (result < 0 || memcmp(&ids, &before, sizeof(ids)) == 0)
		return answer(c, result);
	switch (fvm_ids_outcome(&ids, kernel.uid, kernel.gid)) {
	case FVM_IDS_TRUE:
		liars_forget(c);
		return answer(c, result);
	case FVM_IDS_NEST:
		if (kernel.uid == 0 && how != FVM_SETFS)
			return nest_or_lie(c, &kernel, &ids, result);
		return remember(c, &ids, result);
	default:
		return remember(c, &ids, result);
	}
}

enum verdict on_set_uid(struct call *c, const struct file_call *f)
{
	return apply(c, false, (enum fvm_id_call)f->how);
}

enum verdict on_set_gid(struct call *c, const struct file_call *f)
{
	return apply(c, true, (enum fvm_id_call)f->how);
}

static bool groups_are_real(const struct call *c)
{
	uint32_t groups[NGROUPS_MAX / 64];
	size_t n = c->args[0] < FVM_COUNT(groups) ? (size_t)c->args[0] : FVM_COUNT(groups);
	if (n && notify_read(c, c->args[1], groups, n * sizeof(groups[0])) < 0)
		return true;
	for (size_t i = 0; i < n; i++) {
		if (!is_real(c, groups[i], true))
			return false;
	}
	return true;
}

/* With one id the kernel denies it for good; groups are only believed. */
enum verdict on_setgroups(struct call *c, const struct file_call *f)
{
	struct nest_ids kernel;
	struct fvm_ids ids;
	(void)f;
	if ((has_ranges(c) && groups_are_real(c)) || !beliefs(c, &kernel, &ids))
		return GO_ON;
	bool may = ids.uid[FVM_ID_EFFECTIVE] == 0 || (kernel.uid != 0 && has_setgid(c));
	return answer(c, may ? 0 : -EPERM);
}

/* ---- asking ---- */

enum verdict on_get_uid(struct call *c, const struct file_call *f)
{
	struct fvm_ids ids;
	return liars_find(c, &ids) ? answer(c, ids.uid[f->how]) : GO_ON;
}

enum verdict on_get_gid(struct call *c, const struct file_call *f)
{
	struct fvm_ids ids;
	return liars_find(c, &ids) ? answer(c, ids.gid[f->how]) : GO_ON;
}

static enum verdict give_three(struct call *c, const uint32_t *of)
{
	for (int i = 0; i < 3; i++) {
		if (notify_give(c, c->args[i], &of[i], sizeof(of[i])) < 0)
			return answer(c, -EFAULT);
	}
	return answer(c, 0);
}

enum verdict on_getres_uid(struct call *c, const struct file_call *f)
{
	struct fvm_ids ids;
	(void)f;
	return liars_find(c, &ids) ? give_three(c, ids.uid) : GO_ON;
}

enum verdict on_getres_gid(struct call *c, const struct file_call *f)
{
	struct fvm_ids ids;
	(void)f;
	return liars_find(c, &ids) ? give_three(c, ids.gid) : GO_ON;
}
