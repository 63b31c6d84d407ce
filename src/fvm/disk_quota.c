/* Project quotas of ext4 and xfs, by descriptor. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/dqblk_xfs.h>
#include <linux/fs.h>
#include <linux/quota.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fvm/disk_internal.h"

#define PROJECT_FIRST 0x40000000U /* ours: far from the small numbers people choose */
#define PROJECT_MASK  0x3fffffffU
#define TRIES	      64

static int quota_call(int fd, unsigned int command, uint32_t project, void *data)
{
	return fvm_nerr(syscall(SYS_quotactl_fd, fd, QCMD(command, PRJQUOTA), project, data));
}

bool disk_quota_possible(int fd)
{
	struct fs_quota_statv state = { .qs_version = FS_QSTATV_VERSION1 };
	return quota_call(fd, Q_XGETQSTATV, 0, &state) == 0 && (state.qs_flags & FS_QUOTA_PDQ_ENFD);
}

/* Return: 0 with the project that @fs hands on to all made in it; -ENODATA: none of ours */
static int project_get(int fs, uint32_t *ret)
{
	struct fsxattr attr;
	if (ioctl(fs, FS_IOC_FSGETXATTR, &attr) < 0 || !(attr.fsx_xflags & FS_XFLAG_PROJINHERIT) ||
	    attr.fsx_projid < PROJECT_FIRST)
		return -ENODATA;
	*ret = attr.fsx_projid;
	return 0;
}

/* A number that nobody has: two VMs must not share a limit. */
static int project_choose(int fs, const char *id, uint32_t *ret)
{
	char head[9];
	snprintf(head, sizeof(head), "%.8s", id);
	uint32_t hash = (uint32_t)strtoul(head, NULL, 16);
	for (uint32_t i = 0; i < TRIES; i++) {
		struct if_dqblk block = { 0 };
		uint32_t project = PROJECT_FIRST | ((hash + i) & PROJECT_MASK);
		int r = quota_call(fs, Q_GETQUOTA, project, &block);
		if (r == -ENOENT || (r == 0 && !block.dqb_curspace && !block.dqb_curinodes &&
				     !block.dqb_bhardlimit)) {
			*ret = project;
			return 0;
		}
		if (r < 0)
			return r;
	}
	return -EBUSY;
}

static int limit_set(int fs, uint32_t project, uint64_t bytes)
{
	struct if_dqblk block = {
		.dqb_bhardlimit = (bytes + 1023) / 1024,
		.dqb_valid = QIF_BLIMITS,
	};
	return quota_call(fs, Q_SETQUOTA, project, &block);
}

int disk_quota_set(int fs, const char *id, uint64_t bytes)
{
	struct fsxattr attr;
	uint32_t project = 0;
	if (project_get(fs, &project) == 0)
		return limit_set(fs, project, bytes);
	int r = project_choose(fs, id, &project);
	if (r == 0)
		r = limit_set(fs, project, bytes);
	if (r < 0)
		return r;
	if (ioctl(fs, FS_IOC_FSGETXATTR, &attr) == 0) {
		attr.fsx_xflags |= FS_XFLAG_PROJINHERIT;
		attr.fsx_projid = project;
		if (ioctl(fs, FS_IOC_FSSETXATTR, &attr) == 0)
			return 0;
	}
	r = -errno;
	(void)limit_set(fs, project, 0);
	return r;
}

int disk_quota_get(int fs, uint64_t *ret_bytes, uint64_t *ret_limit)
{
	struct if_dqblk block = { 0 };
	uint32_t project;
	int r = project_get(fs, &project);
	if (r == 0)
		r = quota_call(fs, Q_GETQUOTA, project, &block);
	if (r < 0)
		return -ENODATA;
	*ret_bytes = block.dqb_curspace;
	*ret_limit = block.dqb_bhardlimit * 1024;
	return 0;
}

void disk_quota_clear(int fs)
{
	uint32_t project;
	if (project_get(fs, &project) == 0)
		(void)limit_set(fs, project, 0);
}
