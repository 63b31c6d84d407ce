/*
 * vin/status - what /proc tells of a thread: stat and status
 *
 * Theory of operation
 *   Both files are read as texts and taken apart by their own parser each. The name of a command
 * may hold any byte but NUL, brackets and newlines too: of stat, the last closing bracket ends it.
 *   Numbers of processes come twice, as this process sees them and as the innermost namespace of
 *   the thread does; replay needs the latter. Fields that an older kernel does not write keep their
 *   zero. Sources: proc(5), capabilities(7).
 */
#ifndef VIN_STATUS_H
#define VIN_STATUS_H

#include <stdint.h>
#include <sys/sysmacros.h>
#include <sys/types.h>

#include "common/common.h"

#define VIN_NAMESPACES_MAX 32

/* Of /proc/PID/stat, in the kernel's order from the third field on. */
struct vin_stat {
	char comm[64];
	char state; /* R S D Z T t X I */
	pid_t parent, group, session;
	int terminal; /* vin_device_of() it; 0: none */
	pid_t foreground;
	uint64_t flags; /* PF_* */
	long nice;
	long threads;
	uint64_t start_ticks; /* since boot */
	uint64_t code_start, code_end, stack_start;
	int exit_signal;
	int policy, priority; /* of the scheduler */
	uint64_t data_start, data_end, brk_start;
	uint64_t args_start, args_end, env_start, env_end;
	int exit_code; /* as of waitpid(2) */
};

struct vin_ids {
	uint32_t real, effective, saved, fs;
};

/* Of /proc/PID/status. */
struct vin_status {
	mode_t umask;
	struct vin_ids uid, gid;
	uint32_t *groups; /* supplementary */
	size_t group_count;
	pid_t tracer;
	/* in each namespace from ours to its own, the last one being the innermost */
	pid_t pids[VIN_NAMESPACES_MAX], process_groups[VIN_NAMESPACES_MAX],
		sessions[VIN_NAMESPACES_MAX], leaders[VIN_NAMESPACES_MAX];
	size_t depth; /* of namespaces */
	uint64_t pending, process_pending, blocked, ignored, caught;
	uint64_t inheritable, permitted, effective, bounding, ambient; /* capabilities */
	bool no_new_privs;
	int seccomp; /* 0: none, 1: strict, 2: filters */
	long filters;
};

void vin_status_free(struct vin_status *s);
#define scoped_status __attribute__((cleanup(vin_status_free))) struct vin_status

/** vin_stat_parse() - the text of stat, with or without its newline. Return: 0 or -EBADMSG */
int vin_stat_parse(const char *text, struct vin_stat *ret);

/** vin_status_parse() - the text of status. Return: 0, -EBADMSG or -ENOMEM */
int vin_status_parse(const char *text, struct vin_status *ret);

/** vin_stat_read() - of a thread of a process. Return: 0, -ESRCH, or another negative errno */
int vin_stat_read(pid_t pid, pid_t tid, struct vin_stat *ret, struct fvm_error *err);

/** vin_status_read() - of a thread of a process. Return: as vin_stat_read() */
int vin_status_read(pid_t pid, pid_t tid, struct vin_status *ret, struct fvm_error *err);

/** vin_living_thread() - by which /proc shows the memory and files of @pid: another one if its first
 *  thread has ended before it. Return: number, that of @pid if there is none */
pid_t vin_living_thread(pid_t pid);

/** vin_device_of() - a device as stat and TIOCGDEV write it: minor's low byte, 12 bits of major, the
 *  rest of minor */
static inline dev_t vin_device_of(unsigned int written)
{
	return makedev(written >> 8 & 0xfff, (written & 0xff) | (written >> 12 & 0xfff00));
}

/** vin_inner_number() - of a process or thread, as its own pid namespace counts; 0: it is gone */
pid_t vin_inner_number(pid_t task);

/** vin_numbers_open() - the pid namespace of a task, to ask for many. Return: descriptor, or < 0, which
 *  is good for vin_number_in(), too */
int vin_numbers_open(pid_t task);

/** vin_number_in() - as vin_inner_number(), of a task that is in the innermost namespace @space */
pid_t vin_number_in(int space, pid_t task);

/** vin_task_of() - the reverse: which thread of @pid has @number there. Return: or -ESRCH, or another
 *  negative errno: the kernel can't tell (before Linux 6.11) */
pid_t vin_task_of(int space, pid_t pid, pid_t number);

#endif
