/*
 * fvm/cgroup - limits, accounts, freezing and killing of a VM's processes
 *
 * Theory of operation
 *   Each hierarchy found in /proc/self/mountinfo is used for what it has: v2 where it carries the
 *   controller, v1 otherwise; freeze and kill by v2 wherever it is mounted, by v1's freezer else.
 *
 *     root      TOP/fvm/ID in each hierarchy used; TOP: where it is mounted
 *     rootless  X/fvm/ID in v2 only; X is what the caller may write: the parent of his own cgroup
 *               (app.slice on a systemd desktop: beside him, so nobody has to move), or his own
 *
 *   VM root is a user's own, and so are the files of his cgroups, those with limits too. What keeps
 *   him from them is "nsdelegate", a mount option: the cgroup that his namespace begins with is not
 *   his then. Where v2 is mounted without, he begins one level below, in X/fvm/ID/vm, which has no
 *   controllers: what has the limits, and is frozen by a pause, is above all that he can see.
 *
 *   ".../fvm" never holds a process, so that controllers can be on below it (v2's rule of no
 *   internal processes), and being on there, nobody can turn them off in X. If X itself holds
 *   processes and a limit is asked for, these move to the leaf X/fvm-leaf. Controllers are turned
 *   on lazily: pids for the accounts, memory and cpu only with their limit.
 *
 *   fvm_cgroup_plan() decides and touches nothing; _make() makes; joining differs by version
 *   because writing cgroup.procs takes 10 ms: v2 by CLONE_INTO_CGROUP of the builder, v1 by
 *   writing "0" to tasks in the builder. The name is kept with the running VM (state.h), from
 *   which _named() finds everything again for other commands, wherever they themselves sit.
 *   Two starts meet in ".../fvm": whoever ends last removes it, perhaps between the two mkdir() of
 *   somebody else, who then begins again. Controllers are turned on after the second mkdir().
 *   Limits: v1 is not delegated to ordinary users.  Sources: cgroups(7), kernel's cgroup-v2.rst.
 */
#ifndef FVM_CGROUP_H
#define FVM_CGROUP_H

#include "fvm/config.h"

#define FVM_CGROUP_PATH 384

enum fvm_controller {
	FVM_CG_MEMORY,
	FVM_CG_CPU,
	FVM_CG_CPUACCT, /* v1 only: v2 accounts CPU time without a controller */
	FVM_CG_PIDS,
	FVM_CG_FREEZER, /* v1 only: part of v2 */
	FVM_CG_IO,	/* "blkio" in v1 */
	FVM_CG_COUNT,
};

/* One hierarchy as this process sees it; empty strings: not mounted, not inside it. */
struct fvm_cgroup_tree {
	char top[FVM_CGROUP_PATH]; /* where it is mounted */
	char own[FVM_CGROUP_PATH]; /* directory of the caller's own cgroup */
	bool nsdelegate;	   /* v2: the first cgroup of a namespace can't be written in it */
};

/* What this host has. */
struct fvm_cgroup_host {
	struct fvm_cgroup_tree v2;
	struct fvm_cgroup_tree v1[FVM_CG_COUNT];
};

struct fvm_cgroup_stats {
	uint64_t memory_bytes, memory_peak_bytes;
	uint64_t memory_limit_bytes; /* 0: none; likewise pids_limit */
	uint64_t memory_cache_bytes; /* part of memory_bytes that is taken back when needed */
	uint64_t cpu_ns;
	uint64_t pids, pids_limit;
	uint64_t io_read_bytes, io_write_bytes;
	bool has_memory, has_cpu, has_pids, has_io;
};

/* What was decided for one VM; all paths absolute; empty strings where unused. */
struct fvm_cgroups {
	char name[FVM_CGROUP_PATH]; /* "fvm/ID": path below each TOP; "" if there is none */
	char v2[FVM_CGROUP_PATH];   /* directory in the v2 hierarchy */
	char v1[FVM_CG_COUNT][FVM_CGROUP_PATH]; /* several may be the same co-mounted one */
	bool v2_has[FVM_CG_COUNT]; /* controller can be had in v2 (after _make(): is on) */
	bool rootless;
	bool below; /* its processes begin in v2's "vm" below it */
};

/**
 * fvm_cgroup_find() - which hierarchies there are
 * @mountinfo: text of /proc/self/mountinfo
 * @own:       text of /proc/self/cgroup
 */
void fvm_cgroup_find(const char *mountinfo, const char *own, struct fvm_cgroup_host *ret);

/** fvm_cgroup_host() - fvm_cgroup_find() for this process, without what is mounted over */
int fvm_cgroup_host(struct fvm_cgroup_host *ret);

/** fvm_cgroup_plan_on() - fvm_cgroup_plan() for a host that is known, or made up in a test */
int fvm_cgroup_plan_on(const struct fvm_cgroup_host *host, const char *id, bool rootless,
		       struct fvm_cgroups *ret);

/** fvm_cgroup_plan() - where the cgroups of VM @id are to lie; touches nothing
 *  @rootless: only below what was delegated to the caller. Return: 0 (possibly with nothing) */
int fvm_cgroup_plan(const char *id, bool rootless, struct fvm_cgroups *ret, struct fvm_error *err);

/** fvm_cgroup_named_on() - fvm_cgroup_named() on a host that is known: for many VMs at once */
int fvm_cgroup_named_on(const struct fvm_cgroup_host *host, const char *name,
			struct fvm_cgroups *ret);

/** fvm_cgroup_named() - the cgroups of a VM that was started, by the plan's name
 *  Return: 0 (possibly with nothing: @name is "" or what was there is gone) */
int fvm_cgroup_named(const char *name, struct fvm_cgroups *ret);

/** fvm_cgroup_make() - make the directories and set @config's limits; a limit that can't be had is
 *  an error that names controller and reason (-EOPNOTSUPP), one that no VM can start in is
 *  -EINVAL. Nothing is left on failure.
 *  @g: paths that are not used for this VM become empty */
int fvm_cgroup_make(struct fvm_cgroups *g, const struct fvm_config *config, struct fvm_error *err);

/** fvm_cgroup_delegate() - let @uid (the VM's root) make cgroups of his own below the VM's in v2,
 *  as systemd needs; the VM's own limits stay ours. Return: 0, -ENODEV (no v2), ... */
int fvm_cgroup_delegate(const struct fvm_cgroups *g, uid_t uid, gid_t gid);

/** fvm_cgroup_open_v2() - O_PATH-free directory descriptor for CLONE_INTO_CGROUP, or -ENOENT */
int fvm_cgroup_open_v2(const struct fvm_cgroups *g);

/** fvm_cgroup_join_v1() - put the calling task (tid) into the v1 cgroups. Async-signal-safe. */
int fvm_cgroup_join_v1(const struct fvm_cgroups *g);

/** fvm_cgroup_freeze() - @freeze or thaw; waits until it is so (at most @timeout_ms), and thaws
 *  again what could not be frozen in time.
 *  Return: 0, -ENODEV (no freezer here: caller uses signals), -ETIMEDOUT */
int fvm_cgroup_freeze(const struct fvm_cgroups *g, bool freeze, unsigned int timeout_ms);

/** fvm_cgroup_kill() - SIGKILL to all in it, frozen or not. Return: 0 or -ENODEV */
int fvm_cgroup_kill(const struct fvm_cgroups *g);

/** fvm_cgroup_stats() - what is used now; a has_ flag is false for what nobody accounts here
 *  Return: 0, or -ENODEV when there is nothing at all */
int fvm_cgroup_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *ret);

/** fvm_cgroup_pids() - pids (caller's namespace) in the VM, from whichever hierarchy. free() *ret
 *  Return: 0, -ENODEV, -ENOMEM */
int fvm_cgroup_pids(const struct fvm_cgroups *g, pid_t **ret, size_t *ret_count);

/** fvm_cgroup_remove() - remove empty cgroups, and those a VM made below its own, waiting up to
 *  @timeout_ms for its last process to be reaped, and killing what is not about to end.
 *  Return: 0 or -EBUSY */
int fvm_cgroup_remove(const struct fvm_cgroups *g, unsigned int timeout_ms);

/**
 * fvm_signal_pause() - stop (or continue) all processes of a VM by signals
 * The way for a host without freezer. The VM's programs can tell: a parent sees its children stop.
 * @init:    PID 1 of the VM; all that descends from it is meant
 * @run_dir: directory for a list of those that were stopped before, which are to stay so
 * Repeats until no process is found that still runs. Return: 0, -ETIMEDOUT (all go on), -ESRCH
 */
int fvm_signal_pause(pid_t init, int run_dir, bool pause, unsigned int timeout_ms);

#endif
