/*
 * fvm/cgroup - limits, accounts, freezing and killing of a VM's processes
 *
 * Theory of operation
 *   Each hierarchy found in /proc/self/mountinfo is used for what it has: v2 where it carries the
 *   controller, v1 otherwise; freeze and kill by v2 wherever it is mounted, by v1's freezer else.
 *   A VM's cgroup is ROOT/fvm/ID in each hierarchy used (root), or OWN/fvm-ID below the caller's
 *   own cgroup where that was delegated to him (rootless). fvm_cgroup_plan() decides and says what
 *   can not be had; _make() makes; joining differs by version because writing cgroup.procs takes
 *   10 ms: v2 by CLONE_INTO_CGROUP of the builder, v1 by writing "0" to tasks in the builder.
 *   Empty cgroups are removed by _remove(), which waits shortly for the last process to be reaped.
 */
#ifndef FVM_CGROUP_H
#define FVM_CGROUP_H

#include "fvm/config.h"

struct fvm_cgroup_stats {
	uint64_t memory_bytes, memory_peak_bytes, memory_limit_bytes;
	uint64_t cpu_ns;
	uint64_t pids, pids_limit;
	uint64_t io_read_bytes, io_write_bytes;
	bool has_memory, has_cpu, has_pids, has_io;
};

/* What was decided for one VM; all paths absolute; empty strings where unused. */
struct fvm_cgroups {
	char v2[256];	      /* directory in the v2 hierarchy */
	char memory[256];     /* v1 directories; several may be the same co-mounted one */
	char cpu[256];
	char cpuacct[256];
	char pids[256];
	char freezer[256];
	char blkio[256];
	bool v2_memory, v2_cpu, v2_pids, v2_io; /* controller is on in v2 */
};

/** fvm_cgroup_plan() - where the cgroups of VM @id lie; touches nothing
 *  @rootless: only below what was delegated to the caller. Return: 0 (possibly with nothing) */
int fvm_cgroup_plan(const char *id, bool rootless, struct fvm_cgroups *ret, struct fvm_error *err);

/** fvm_cgroup_make() - make the directories and set @config's limits; a limit that can't be had is
 *  an error that names controller and reason (-EOPNOTSUPP). Nothing is left on failure. */
int fvm_cgroup_make(const struct fvm_cgroups *g, const struct fvm_config *config,
		    struct fvm_error *err);

/** fvm_cgroup_open_v2() - O_PATH-free directory descriptor for CLONE_INTO_CGROUP, or -ENOENT */
int fvm_cgroup_open_v2(const struct fvm_cgroups *g);

/** fvm_cgroup_join_v1() - put the calling task (tid) into the v1 cgroups. Async-signal-safe. */
int fvm_cgroup_join_v1(const struct fvm_cgroups *g);

/** fvm_cgroup_freeze() - @freeze or thaw; waits until it is so (at most @timeout_ms).
 *  Return: 0, -ENODEV (no freezer here: caller uses signals), -ETIMEDOUT */
int fvm_cgroup_freeze(const struct fvm_cgroups *g, bool freeze, unsigned int timeout_ms);
bool fvm_cgroup_frozen(const struct fvm_cgroups *g);

/** fvm_cgroup_kill() - SIGKILL to all in it. Return: 0 or -ENODEV */
int fvm_cgroup_kill(const struct fvm_cgroups *g);

int fvm_cgroup_stats(const struct fvm_cgroups *g, struct fvm_cgroup_stats *ret);

/** fvm_cgroup_pids() - pids (caller's namespace) in the VM, from whichever hierarchy. free() *ret */
int fvm_cgroup_pids(const struct fvm_cgroups *g, pid_t **ret, size_t *ret_count);

/** fvm_cgroup_remove() - remove empty cgroups, waiting up to @timeout_ms for that. 0 or -EBUSY */
int fvm_cgroup_remove(const struct fvm_cgroups *g, unsigned int timeout_ms);

#endif
