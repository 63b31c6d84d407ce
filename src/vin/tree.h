/*
 * vin/tree - all processes and threads below some, stopped together
 *
 * Theory of operation
 *   Threads are seized and asked to stop first, and waited for afterwards, so that they stop at
 *   the same time. A thread that ran while we looked may have made others: the lists in /proc are
 *   read again until they name nobody new. When all are stopped nobody makes anybody, and what we
 *   have is all there is. Processes come in the order parent before child.
 *
 *   Zombies are processes without threads: they can't be stopped and do nothing. A leader that
 *   ended before its threads did is a zombie among them: its process has threads, and
 *   leader_gone is set.
 *
 *   Whatever goes wrong, those that were stopped are let go as they were.
 * Limits: a process that another one traces (a debugger's) can't be ours too: -EBUSY names both.
 * One that waits for its vfork child, or sleeps without a chance to be woken, stops only after
 * that: -ETIMEDOUT. Such a thread stays ours until this process ends, which should be soon, or it
 * will stand still when it gets there. Sources: ptrace(2), proc(5).
 */
#ifndef VIN_TREE_H
#define VIN_TREE_H

#include "vin/task.h"

struct vin_proc {
	pid_t pid, parent;
	bool zombie;
	bool leader_gone;
	struct vin_thread *threads; /* the leader first, when it lives */
	size_t thread_count;
};

struct vin_tree { /* starts as { 0 } */
	struct vin_proc *procs;
	size_t count;
};

/**
 * vin_tree_seize() - stop @roots and all their descendants
 * @timeout_ms: longest wait for all of them together
 * Return: 0, -ESRCH (a root is not there), -EBUSY (traced by another), -ETIMEDOUT (one does not
 *         stop), or another negative errno; nobody is stopped then
 */
int vin_tree_seize(const pid_t *roots, size_t root_count, unsigned int timeout_ms,
		   struct vin_tree *ret, struct fvm_error *err);

/**
 * vin_tree_seize_below() - stop all descendants of @init, but not itself
 * For the PID 1 of a VM, whom orphans go to. It must not make processes meanwhile.
 * Return: as vin_tree_seize()
 */
int vin_tree_seize_below(pid_t init, unsigned int timeout_ms, struct vin_tree *ret,
			 struct fvm_error *err);

/** vin_tree_release() - let all go as they were, and forget them. Whoever died meanwhile is left
 * out */
void vin_tree_release(struct vin_tree *tree);

/** vin_each_child() - call @fn for each child that a thread has made, until it returns other than 0
 *  Return: what @fn returned, 0 also when the thread is gone, or another negative errno */
int vin_each_child(pid_t pid, pid_t tid, int (*fn)(void *arg, pid_t child), void *arg);

/** vin_tree_traced() - say that process @pid has a tracer already, and who that is. Return: -EBUSY */
int vin_tree_traced(pid_t pid, pid_t tracer, struct fvm_error *err);

/** vin_tree_find() - the process @pid, or NULL */
struct vin_proc *vin_tree_find(const struct vin_tree *tree, pid_t pid);

#endif
