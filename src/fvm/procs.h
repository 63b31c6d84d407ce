/*
 * fvm/procs - the processes of a running VM, seen from the host
 *
 * Theory of operation
 *   Who belongs to a VM is told by its cgroup and by having a number in its pid namespace, or else
 *   by descent from its PID 1: nobody leaves a pid namespace, and orphans fall to its PID 1. All
 *   else is read from /proc on the host's side; the VM's own view of itself is never asked.
 *   Everything a hostile VM can choose is suspect: names hold any bytes, and reading a command line
 *   touches the memory of the process, which a page fault handler inside the VM can hold up for
 *   ever (userfaultfd, FUSE). So a child process reads the command lines, and is given up on.
 */
#ifndef FVM_PROCS_H
#define FVM_PROCS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fvm/cgroup.h"

struct fvm_proc {
	pid_t pid, parent; /* in the caller's pid namespace */
	pid_t vm_pid;	   /* in the VM's, or its own: fvm_proc_read(); 0 if not known */
	uid_t uid;	   /* the host's; fvm_users_inside() translates */
	char state;	   /* R S D T t Z I, see proc(5) */
	unsigned int threads;
	uint64_t start;	       /* clock ticks since boot: tells a pid's next owner apart */
	uint64_t cpu_ns;       /* user and system */
	uint64_t memory_bytes; /* resident */
	char name[64];	       /* comm: any bytes but NUL */
	char *command;	       /* arguments joined by spaces, or NULL: not asked, or not told */
};

struct fvm_procs {
	struct fvm_proc *items; /* ordered by pid */
	size_t count;
};

void fvm_procs_free(struct fvm_procs *p);
#define scoped_procs __attribute__((cleanup(fvm_procs_free))) struct fvm_procs

/** fvm_proc_read() - one process, without its command. Return: 0, or -ESRCH when it is gone */
int fvm_proc_read(pid_t pid, struct fvm_proc *ret);

/** fvm_proc_parse() - fill what /proc/PID/stat tells. @tick_hz, @page: units. 0 or -EBADMSG */
int fvm_proc_parse(const char *stat, long tick_hz, long page, struct fvm_proc *ret);

/**
 * fvm_procs_list() - all processes of a VM
 * @g:    its cgroups; NULL, or none that exist: by descent
 * @init: its PID 1
 */
int fvm_procs_list(const struct fvm_cgroups *g, pid_t init, struct fvm_procs *ret);

/** fvm_procs_commands() - fill in the command lines; takes at most about @timeout_ms */
void fvm_procs_commands(struct fvm_procs *p, unsigned int timeout_ms);

/** fvm_proc_signal() - send @signal to this very process, not to a later owner of its pid
 *  Return: 0, or -ESRCH, -EPERM */
int fvm_proc_signal(const struct fvm_proc *p, int signal);

/* ---- users as the VM names them ---- */

struct fvm_vm;
struct fvm_users; /* uid map and user names of one VM */

/** fvm_users_open() - read the uid map of @init and its /etc/passwd, or where its root can't be seen
 *  (an ordinary user's VM) that of @vm, unless NULL; never NULL unless out of memory */
struct fvm_users *fvm_users_open(pid_t init, const struct fvm_vm *vm);
/** fvm_users_of() - the same from texts, each of malloc() or NULL, which it takes over, also when it
 *  returns NULL (out of memory) */
struct fvm_users *fvm_users_of(char *map, char *passwd);
void fvm_users_free(struct fvm_users *u);
/** fvm_vm_read_etc() - text of /etc/NAME as the VM has it, running or not: of the topmost layer that
 *  has it, or the host's; "" if it is in none. The caller frees it. NULL: out of memory */
char *fvm_vm_read_etc(const struct fvm_vm *vm, const char *name);
/** fvm_users_inside() - the VM's uid for a uid of the host; (uid_t)-1: none */
uid_t fvm_users_inside(const struct fvm_users *u, uid_t host);
/** fvm_users_name() - @name, filled with what the VM calls its uid @uid; NULL: has no name */
const char *fvm_users_name(const struct fvm_users *u, uid_t uid, char name[64]);

#endif
