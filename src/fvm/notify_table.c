/*
 * Which call is handled how. The filter (seccomp.def) decides which of them arrive here at all.
 */
#include <linux/audit.h>
#include <stddef.h>
#include <sys/syscall.h>

#include "fvm/notify.h"

#define NO -1

static const struct notify_entry entries[] = {
#ifdef SYS_open
	{ SYS_open, on_open, { NO, 0, 1, BY_FOLLOWING } },
	{ SYS_creat, on_open, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_link, on_adopt, { NO, 0, NO, BY_NAME } },
	{ SYS_rename, on_rename, { NO, 0, NO, BY_NAME } },
	{ SYS_chmod, on_chmod, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_chown, on_chown, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_lchown, on_chown, { NO, 0, NO, BY_NAME } },
	{ SYS_utime, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_utimes, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_stat, on_stat, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_lstat, on_stat, { NO, 0, NO, BY_NAME } },
	{ SYS_futimesat, on_adopt, { 0, 1, NO, BY_FOLLOWING } },
	{ SYS_access, on_access, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_mknod, on_mknod, { NO, 0, NO, BY_NAME } },
	{ SYS_renameat, on_rename, { 0, 1, NO, BY_NAME } },
#endif
	{ SYS_newfstatat, on_stat, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ SYS_statx, on_statx, { 0, 1, 2, BY_NOFOLLOW_FLAG } },
	{ SYS_openat, on_open, { 0, 1, 2, BY_FOLLOWING } },
	{ SYS_openat2, on_openat2, { 0, 1, NO, BY_FOLLOWING } },
	{ SYS_truncate, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_linkat, on_adopt, { 0, 1, 4, BY_FOLLOW_FLAG } },
	{ SYS_renameat2, on_renameat2, { 0, 1, NO, BY_NAME } },
	{ SYS_fchmodat, on_chmod, { 0, 1, NO, BY_FOLLOWING } },
	{ 452 /* fchmodat2 */, on_chmod, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ SYS_fchownat, on_chown, { 0, 1, 4, BY_NOFOLLOW_FLAG } },
	{ SYS_fchown, on_chown, { 0, NO, NO, BY_NAME } },
	{ SYS_utimensat, on_adopt, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ SYS_setxattr, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_lsetxattr, on_adopt, { NO, 0, NO, BY_NAME } },
	{ SYS_removexattr, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ SYS_lremovexattr, on_adopt, { NO, 0, NO, BY_NAME } },
	{ 463 /* setxattrat */, on_adopt, { 0, 1, 2, BY_NOFOLLOW_FLAG } },
	{ 466 /* removexattrat */, on_adopt, { 0, 1, 2, BY_NOFOLLOW_FLAG } },
	{ SYS_faccessat, on_access, { 0, 1, NO, BY_FOLLOWING } },
	{ SYS_faccessat2, on_access, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ SYS_mknodat, on_mknod, { 0, 1, NO, BY_NAME } },

	{ SYS_setuid, on_set_uid, { .how = FVM_SET } },
	{ SYS_setreuid, on_set_uid, { .how = FVM_SETRE } },
	{ SYS_setresuid, on_set_uid, { .how = FVM_SETRES } },
	{ SYS_setfsuid, on_set_uid, { .how = FVM_SETFS } },
	{ SYS_setgid, on_set_gid, { .how = FVM_SET } },
	{ SYS_setregid, on_set_gid, { .how = FVM_SETRE } },
	{ SYS_setresgid, on_set_gid, { .how = FVM_SETRES } },
	{ SYS_setfsgid, on_set_gid, { .how = FVM_SETFS } },
	{ SYS_setgroups, on_setgroups, { 0 } },
	{ SYS_getuid, on_get_uid, { .how = FVM_ID_REAL } },
	{ SYS_geteuid, on_get_uid, { .how = FVM_ID_EFFECTIVE } },
	{ SYS_getgid, on_get_gid, { .how = FVM_ID_REAL } },
	{ SYS_getegid, on_get_gid, { .how = FVM_ID_EFFECTIVE } },
	{ SYS_getresuid, on_getres_uid, { 0 } },
	{ SYS_getresgid, on_getres_gid, { 0 } },

	{ SYS_socket, on_socket, { 0 } },
};

#define LAST_CALL 511

const struct notify_entry *notify_find(uint32_t arch, int nr)
{
	/* an index made at first use: the table is written in the order of meaning */
	static unsigned char index[LAST_CALL + 1];
	if (!index[SYS_openat]) {
		for (size_t i = 0; i < FVM_COUNT(entries); i++)
			index[entries[i].nr] = (unsigned char)(i + 1);
	}
#if defined(__x86_64__)
	if (arch == AUDIT_ARCH_I386)
		return notify_find_i386(nr);
#endif
	(void)arch;
	return nr >= 0 && nr <= LAST_CALL && index[nr] ? &entries[index[nr] - 1] : NULL;
}
