/*
 * The calls of 32-bit programs on a 64-bit machine: other numbers, and 16-bit ids in the oldest.
 */
#if defined(__x86_64__)
#include <asm/unistd_32.h>
#include <stddef.h>

#include "fvm/notify.h"

#define NO -1

static const struct notify_entry entries[] = {
	{ __NR_open, on_open, { NO, 0, 1, BY_FOLLOWING } },
	{ __NR_creat, on_open, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_link, on_adopt, { NO, 0, NO, BY_NAME } },
	{ __NR_rename, on_rename, { NO, 0, NO, BY_NAME } },
	{ __NR_chmod, on_chmod, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_chown32, on_chown, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_lchown32, on_chown, { NO, 0, NO, BY_NAME } },
	{ __NR_fchown32, on_chown, { 0, NO, NO, BY_NAME } },
	{ __NR_utime, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_utimes, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_futimesat, on_adopt, { 0, 1, NO, BY_FOLLOWING } },
	{ __NR_access, on_access, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_mknod, on_mknod, { NO, 0, NO, BY_NAME } },
	{ __NR_renameat, on_rename, { 0, 1, NO, BY_NAME } },
	{ __NR_openat, on_open, { 0, 1, 2, BY_FOLLOWING } },
	{ __NR_openat2, on_openat2, { 0, 1, NO, BY_FOLLOWING } },
	{ __NR_truncate, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_truncate64, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_linkat, on_adopt, { 0, 1, 4, BY_FOLLOW_FLAG } },
	{ __NR_renameat2, on_renameat2, { 0, 1, NO, BY_NAME } },
	{ __NR_fchmodat, on_chmod, { 0, 1, NO, BY_FOLLOWING } },
	{ 452 /* fchmodat2 */, on_chmod, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ __NR_fchownat, on_chown, { 0, 1, 4, BY_NOFOLLOW_FLAG } },
	{ __NR_utimensat, on_adopt, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ __NR_utimensat_time64, on_adopt, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ __NR_setxattr, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_lsetxattr, on_adopt, { NO, 0, NO, BY_NAME } },
	{ __NR_removexattr, on_adopt, { NO, 0, NO, BY_FOLLOWING } },
	{ __NR_lremovexattr, on_adopt, { NO, 0, NO, BY_NAME } },
	{ 463 /* setxattrat */, on_adopt, { 0, 1, 2, BY_NOFOLLOW_FLAG } },
	{ 466 /* removexattrat */, on_adopt, { 0, 1, 2, BY_NOFOLLOW_FLAG } },
	{ __NR_faccessat, on_access, { 0, 1, NO, BY_FOLLOWING } },
	{ __NR_faccessat2, on_access, { 0, 1, 3, BY_NOFOLLOW_FLAG } },
	{ __NR_mknodat, on_mknod, { 0, 1, NO, BY_NAME } },
	{ __NR_statx, on_statx, { 0, 1, 2, BY_NOFOLLOW_FLAG } },
	{ __NR_setuid32, on_set_uid, { .how = FVM_SET } },
	{ __NR_setreuid32, on_set_uid, { .how = FVM_SETRE } },
	{ __NR_setresuid32, on_set_uid, { .how = FVM_SETRES } },
	{ __NR_setfsuid32, on_set_uid, { .how = FVM_SETFS } },
	{ __NR_setgid32, on_set_gid, { .how = FVM_SET } },
	{ __NR_setregid32, on_set_gid, { .how = FVM_SETRE } },
	{ __NR_setresgid32, on_set_gid, { .how = FVM_SETRES } },
	{ __NR_setfsgid32, on_set_gid, { .how = FVM_SETFS } },
	{ __NR_setgroups32, on_setgroups, { 0 } },
	{ __NR_getuid32, on_get_uid, { .how = FVM_ID_REAL } },
	{ __NR_geteuid32, on_get_uid, { .how = FVM_ID_EFFECTIVE } },
	{ __NR_getgid32, on_get_gid, { .how = FVM_ID_REAL } },
	{ __NR_getegid32, on_get_gid, { .how = FVM_ID_EFFECTIVE } },
	{ __NR_getresuid32, on_getres_uid, { 0 } },
	{ __NR_getresgid32, on_getres_gid, { 0 } },
	{ __NR_socket, on_socket, { 0 } },
	{ __NR_socketcall, on_socket, { 0 } },
};

/* 32-bit programs are few: no index. */
const struct notify_entry *notify_find_i386(int nr)
{
	for (size_t i = 0; i < FVM_COUNT(entries); i++) {
		if (entries[i].nr == nr)
			return &entries[i];
	}
	return NULL;
}
#endif
