#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/skeleton_priv.h"

#define RECORD_BYTES 11 /* without the path */

/* What can be read depends on the groups, too. */
void skel_header(const struct fvm_strv *tops, struct fvm_buf *list)
{
	gid_t groups[NGROUPS_MAX];
	int n = getgroups(NGROUPS_MAX, groups);
	fvm_buf_printf(list, "fvm-skeleton 3 uid %u gid %u groups", geteuid(), getegid());
	for (int i = 0; i < n; i++)
		fvm_buf_printf(list, " %u", groups[i]);
	for (size_t i = 0; tops && i < tops->count; i++)
		fvm_buf_printf(list, " %s", tops->items[i]);
	fvm_buf_puts(list, "\n");
}

void skel_add(struct fvm_buf *list, enum skel_kind kind, int64_t ctime_ns, const char *path)
{
	char head[RECORD_BYTES] = { (char)kind };
	uint16_t len = (uint16_t)strlen(path);
	memcpy(head + 1, &len, sizeof(len));
	memcpy(head + 3, &ctime_ns, sizeof(ctime_ns));
	fvm_buf_add(list, head, sizeof(head));
	fvm_buf_add(list, path, len);
}

void skel_set_value(char *record, int64_t value)
{
	memcpy(record + 3, &value, sizeof(value));
}

bool skel_next(const char **at, const char *end, struct skel_record *ret)
{
	uint16_t len;
	if (end - *at < RECORD_BYTES)
		return false;
	ret->kind = (enum skel_kind)(*at)[0];
	memcpy(&len, *at + 1, sizeof(len));
	memcpy(&ret->ctime_ns, *at + 3, sizeof(ret->ctime_ns));
	ret->path = *at + RECORD_BYTES;
	ret->len = len;
	if (end - ret->path < len || len == 0 || len >= PATH_MAX || ret->path[0] != '/')
		return false;
	*at = ret->path + len;
	return true;
}

int skel_outs(const struct fvm_plan *plan, bool by_root, struct fvm_strv *ret)
{
	for (size_t i = 0; i < plan->count; i++) {
		const struct fvm_mount *m = &plan->mounts[i];
		bool local = !m->network &&
			     (m->class == FVM_MOUNT_OVERLAY || m->class == FVM_MOUNT_READ_ONLY);
		bool in = by_root ? local && m->unmapped : local;
		if (!in && (by_root ? i > 0 : fvm_skeleton_has(m->path)) &&
		    fvm_strv_add(ret, m->path) < 0)
			return -ENOMEM;
	}
	return 0;
}

static bool is_fresh(const char *name)
{
	static const char *const fresh[] = { ".", "..", "proc", "sys", "dev", "run" };
	for (size_t i = 0; i < FVM_COUNT(fresh); i++) {
		if (strcmp(name, fresh[i]) == 0)
			return true;
	}
	return false;
}

/* A mount on one of them is its own top, or is out. */
static int add_root_dirs(const struct fvm_plan *plan, struct fvm_strv *ret)
{
	scoped_strv mounts = { 0 };
	DIR *d = opendir("/");
	int r = d ? 0 : -errno;
	for (size_t i = 0; r == 0 && i < plan->count; i++)
		r = fvm_strv_add(&mounts, plan->mounts[i].path);
	for (struct dirent *e; r == 0 && (e = readdir(d));) {
		char path[NAME_MAX + 2];
		snprintf(path, sizeof(path), "/%s", e->d_name);
		if (!is_fresh(e->d_name) && (e->d_type == DT_DIR || e->d_type == DT_UNKNOWN) &&
		    !fvm_strv_has(&mounts, path))
			r = fvm_strv_add(ret, path);
	}
	if (d)
		closedir(d);
	return r;
}

/* What lies below another top is reached from there. */
static void drop_nested(struct fvm_strv *tops)
{
	size_t kept = 0;
	for (size_t i = 0; i < tops->count; i++) {
		bool nested = false;
		for (size_t j = 0; j < kept && !nested; j++)
			nested = fvm_path_below(tops->items[i], tops->items[j]);
		if (nested)
			free(tops->items[i]);
		else
			tops->items[kept++] = tops->items[i];
	}
	tops->count = kept;
}

int skel_tops(const struct fvm_plan *plan, struct fvm_strv *ret)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < plan->count; i++) {
		const struct fvm_mount *m = &plan->mounts[i];
		if (!m->unmapped || m->network || m->class != FVM_MOUNT_OVERLAY)
			continue;
		r = m->path[1] ? fvm_strv_add(ret, m->path) : add_root_dirs(plan, ret);
	}
	fvm_strv_sort(ret);
	drop_nested(ret);
	return r;
}

bool skel_fresh(const struct skel_record *record, const struct fvm_strv *outs)
{
	char path[PATH_MAX];
	struct stat st;
	memcpy(path, record->path, record->len);
	path[record->len] = '\0';
	fvm_strv_each(outs, i) {
		if (fvm_path_below(path, outs->items[i]))
			return record->kind == SKEL_MOUNT && strcmp(path, outs->items[i]) == 0;
	}
	if (record->kind == SKEL_OWNED_DIR || record->kind == SKEL_OWNED_FILE ||
	    record->kind == SKEL_LEFT_OUT)
		return true; /* known by the ctime of its directory */
	if (record->kind == SKEL_MOUNT ||
	    fstatat(AT_FDCWD, path, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0)
		return false;
	return skel_ctime(&st) == record->ctime_ns;
}

bool fvm_skeleton_owned(const char **at, const char *end, struct fvm_skeleton_owned *ret)
{
	struct skel_record record;
	if (!skel_next(at, end, &record))
		return false;
	ret->dir = record.kind == SKEL_OWNED_DIR;
	ret->uid = (uint32_t)((uint64_t)record.ctime_ns >> 32);
	ret->gid = (uint32_t)record.ctime_ns;
	ret->path = record.path;
	ret->len = record.len;
	return true;
}
