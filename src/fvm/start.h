/*
 * fvm/start - from a stopped VM to a running one
 *
 * Theory of operation (privileged; fvm/root_user.h has the other way)
 *   The starter holds the VM's command lock and takes in turn: the alive lock, a slot, cgroups,
 *   addresses. Each is undone backwards if a later step fails. Then the builder (build.h) makes
 *   PID 1 and its world. PID 1 lives on by itself: the starter may end, be killed, or stay as the
 *   first session's client.
 */
#ifndef FVM_START_H
#define FVM_START_H

#include <pthread.h>
#include <semaphore.h>

#include "fvm/init.h"
#include "fvm/layer_copy.h"
#include "fvm/skeleton.h"
#include "fvm/state.h"

struct fvm_start_options {
	const struct fvm_command *first; /* NULL: boot only */
	bool until_first_ends;		 /* the VM ends with its first command */
	bool prove;			 /* the self-test of fvm/prove.h comes first */
	bool throw_away;		 /* nothing of it needs to reach the disk */
	bool trace;			 /* see fvm/trace.h */
	struct fvm_watchdog watchdog;	 /* of the first command; seconds 0: none */
	bool watchdog_goes_on;		 /* see fvm_watchdog_open() */
	const struct fvm_skeleton_progress *progress; /* of a rootless user's first start; or NULL */
	struct fvm_ahead *ahead;	 /* of fvm_ahead_begin(), or NULL */
	struct fvm_lookout *lookout;	 /* of fvm_lookout_begin(), or NULL */
	const struct fvm_copy_progress *copying; /* of native directories; or NULL */
	const struct fvm_net_wish *wish; /* programs will come that had a network; or NULL */
	uid_t user_uid;			 /* whose /run/user/UID is made */
	gid_t user_gid;
};

struct fvm_started {
	pid_t init;  /* our child */
	int pidfd;
	int report;  /* read end: see fvm_init_args.report */
	int ended;   /* read end: see fvm_init_args.ended */
	int prove;   /* read end: struct fvm_proof each; -1: none */
	struct fvm_bait *bait;
	int client;  /* socket of the first session when it has a terminal, else -1 */
	int world;   /* the builder's mount namespace, of which PID 1 takes a copy: the kernel takes
		      * it apart when nobody has it any more, which is not to be PID 1 */
};
/* Nothing to close yet. */
#define FVM_STARTED_NONE                                                                           \
	((struct fvm_started){                                                                     \
		.pidfd = -1, .report = -1, .ended = -1, .prove = -1, .client = -1, .world = -1 })

void fvm_started_close(struct fvm_started *s);

/**
 * fvm_vm_start() - start the VM, open FVM_LOCK
 * On success PID 1 is our child and has been let go. On failure nothing is left.
 * Return: 0, -EBUSY (it runs already), or another negative errno
 */
int fvm_vm_start(struct fvm_vm *vm, const struct fvm_start_options *options,
		 struct fvm_started *ret, struct fvm_error *err);

/**
 * fvm_ahead_begin() - a rootless VM will be started soon: make what does not depend on which
 * Nothing lasting; of a user with ranges of ids two programs are at work in the background.
 * Return: for fvm_start_options and to be freed; NULL: none, which is no harm
 */
struct fvm_ahead *fvm_ahead_begin(void);
/** fvm_ahead_free() - also when no start came. @a: may be NULL */
void fvm_ahead_free(struct fvm_ahead *a);

/**
 * fvm_lookout_begin() - root will soon start a VM that hides what @config says: look up the host's
 * mounts and secrets in the background
 * @store, @config: stay where they are until fvm_lookout_free(); of the latter nothing may change
 *                  that hides or shows, nor how it has a network
 * Return: for fvm_start_options and to be freed; NULL: none, which is no harm
 */
struct fvm_lookout *fvm_lookout_begin(const struct fvm_store *store,
				      const struct fvm_config *config);
/** fvm_lookout_free() - also when no start came. @l: may be NULL */
void fvm_lookout_free(struct fvm_lookout *l);

/** fvm_start_proof() - wait for the next row of the self-test
 *  Return: 1, 0 when there are no more, or -EBADE when the host's bait was touched */
struct fvm_proof;
int fvm_start_proof(struct fvm_started *s, struct fvm_proof *ret);

/** fvm_start_wait_exec() - wait until the first command was executed. Return: 0, or its error:
 *  -ENOENT (127), -EACCES or -ENOEXEC (126), others 125 */
int fvm_start_wait_exec(struct fvm_started *s, struct fvm_error *err);

/**
 * fvm_spawn_shared() - run @fn in a child that shares our memory and suspends us until it ends
 * @cgroup: descriptor of the v2 cgroup to be born in, or -1
 * Return: exit status of the child, or negative errno. The child must not return into our frames,
 * free what we hold, or leave locks taken.
 */
int fvm_spawn_shared(int (*fn)(void *arg), void *arg, int cgroup);

/** fvm_thread_start() - a small thread without signals, to be joined; also of fvm_spawn_shared()'s
 *  child. Return: 0 or negative errno */
int fvm_thread_start(pthread_t *ret, void *(*fn)(void *arg), void *arg);

/*
 * The kernel puts a new task behind who makes it, and one that is woken where it last ran. In a
 * virtual machine it takes processors that wait for work for busy ones: such a task begins when
 * we sleep, or milliseconds later, beside a processor that has nothing to do.
 */

/** fvm_task_push() - let a process that we have just made begin on another processor. Nothing
 *  happens if we may not run on all of them. It must start no other before this returns */
void fvm_task_push(pid_t task);

/** fvm_task_wake() - post @sem for a thread of ours that sleeps on it, and let it go on on another
 *  processor, as above */
void fvm_task_wake(pid_t task, sem_t *sem);

/** fvm_thread_start_apart() - a thread that begins on another processor */
int fvm_thread_start_apart(pthread_t *ret, void *(*fn)(void *arg), void *arg);

#endif
