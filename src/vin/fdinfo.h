/*
 * vin/fdinfo - what /proc/PID/fdinfo tells of a descriptor
 *
 * Theory of operation
 *   One line a fact: those that every descriptor has (position, flags), those of its kind, and a
 *   line for each lock, epoll target and inotify watch. Lines that we do not know come with newer
 *   kernels and are left out; a line that we know and that is not as it should be refuses all.
 *   Facts that an older kernel does not write keep what vin_fdinfo_parse() begins with.
 * Sources: proc_pid_fdinfo(5), the kernel's filesystems/proc.
 */
#ifndef VIN_FDINFO_H
#define VIN_FDINFO_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/common.h"

enum vin_lock_kind { VIN_LOCK_POSIX, VIN_LOCK_OFD, VIN_LOCK_FLOCK, VIN_LOCK_LEASE };

struct vin_lock {
	enum vin_lock_kind kind;
	bool write;
	bool breaking;	/* a lease that somebody waits for */
	int64_t start;	/* bytes of the file, the last one included; end < 0: no end */
	int64_t end;
};

/* What an epoll watches. */
struct vin_epoll_item {
	int fd; /* its number at the time of epoll_ctl(2) */
	uint32_t events;
	uint64_t data;
	uint64_t ino;
	dev_t dev;
};

#define VIN_HANDLE_MAX 128 /* bytes of a file handle, as name_to_handle_at(2) has it */

/* Values stand in images. */
enum vin_mark_kind { VIN_MARK_INOTIFY, VIN_MARK_INODE, VIN_MARK_MOUNT, VIN_MARK_FILESYSTEM };

/* What an inotify or a fanotify watches. */
struct vin_mark {
	enum vin_mark_kind kind;
	int wd;	   /* of an inotify */
	int mnt_id; /* VIN_MARK_MOUNT */
	uint64_t ino;
	dev_t dev; /* of the file system: what stat(2) says may be another */
	uint64_t mask, ignored, flags;
	int handle_type;
	size_t handle_len; /* 0: not told */
	unsigned char handle[VIN_HANDLE_MAX];
};

struct vin_fdinfo {
	int64_t pos;
	unsigned int flags; /* as of open(2), with O_CLOEXEC of the descriptor */
	int mnt_id;	    /* 0: not told */
	uint64_t eventfd_count;
	int eventfd_semaphore; /* -1: not told */
	bool is_eventfd, is_timerfd, is_signalfd;
	int clock;
	uint64_t ticks;
	int settime_flags;
	uint64_t sigmask;
	struct vin_lock *locks;
	size_t lock_count;
	struct vin_epoll_item *items;
	size_t item_count;
	struct vin_mark *marks;
	size_t mark_count;
	bool is_fanotify;
	uint64_t fanotify_flags, fanotify_event_flags; /* as of fanotify_init(2) */
	bool is_pidfd;
	pid_t pid;	 /* of a pidfd, as who reads counts; -1: gone, 0: not to be seen from here */
	pid_t inner_pid; /* as its own namespace counts */
};

void vin_fdinfo_free(struct vin_fdinfo *i);
#define scoped_fdinfo __attribute__((cleanup(vin_fdinfo_free))) struct vin_fdinfo

/** vin_fdinfo_parse() - the text of an fdinfo. Return: 0, -EBADMSG (that is none), or -ENOMEM */
int vin_fdinfo_parse(const char *text, struct vin_fdinfo *ret);

/** vin_fdinfo_read() - of a process's descriptor. Return: as vin_fdinfo_parse(), -ENOENT (it has no
 *  such descriptor), or another negative errno */
int vin_fdinfo_read(pid_t pid, int fd, struct vin_fdinfo *ret, struct fvm_error *err);

#endif
