/* Making, limiting, joining and removing a VM's cgroups. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fvm/cgroup.h"

#define CPU_PERIOD_US	   100000
#define MEMORY_MIN	   (4U << 20) /* namespaces and mounts of a VM are charged to it too */
#define PIDS_MIN	   4	      /* PID 1, its maker, a command, and one it starts */
#define VM_DESCENDANTS_MAX 4096	      /* cgroups of a VM's own: each costs the host's memory */
#define PATIENCE_MS	   200	      /* for who was killed to be reaped */
#define VM_DEPTH_MAX	   32
#define BELOW		   "vm"

static const char *const v2_names[FVM_CG_COUNT] = {
	[FVM_CG_MEMORY] = "memory",
	[FVM_CG_CPU] = "cpu",
	[FVM_CG_PIDS] = "pids",
	[FVM_CG_IO] = "io",
};

static void pause_us(long us)
{
	nanosleep(&(struct timespec){ .tv_nsec = us * 1000 }, NULL);
}

static int write_at(const char *dir, const char *file, const char *text)
{
	scoped_fd fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fvm_write_file(fd, file, text);
}

/* The directory @up levels above @dir. */
static void parent(char to[FVM_CGROUP_PATH], const char *dir, int up)
{
	strcpy(to, dir);
	for (; up > 0; up--)
		*strrchr(to, '/') = '\0';
}

/* ---- removing ---- */

static int rmdir_below(int dir);

/* Cgroups have only files that go with them, so directories are all there is to remove. */
static int rmdir_tree(int at, const char *name)
{
	if (unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT)
		return 0;
	int r = -errno;
	int dir = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0)
		return errno == ENOENT ? 0 : r;
	r = rmdir_below(dir); /* closes it */
	if (r < 0)
		return r;
	return unlinkat(at, name, AT_REMOVEDIR) == 0 || errno == ENOENT ? 0 : -errno;
}

static int rmdir_below(int dir)
{
	int r = 0;
	scoped_dir d = fvm_dir_take(dir);
	if (!d)
		return -errno;
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));) {
		if (e->d_type == DT_DIR)
			r = rmdir_tree(dirfd(d), e->d_name);
	}
	return r;
}

/* A process that was killed stays a member until it is reaped: not much later. Who is not about to
 * die by then was forgotten, or came from elsewhere: the VM is no more. */
static int remove_by(const struct fvm_cgroups *g, const char *path, int64_t deadline_ms)
{
	int64_t patient_ms = fvm_clock_ms() + PATIENCE_MS;
	for (;;) {
		int r = rmdir_tree(AT_FDCWD, path);
		if (r == 0 || (r != -EBUSY && r != -ENOTEMPTY))
			return r;
		int64_t now = fvm_clock_ms();
		if (now >= deadline_ms)
			return -EBUSY;
		if (now >= patient_ms) {
			(void)fvm_cgroup_kill(g);
			patient_ms = deadline_ms;
		}
		pause_us(300);
	}
}

int fvm_cgroup_remove(const struct fvm_cgroups *g, unsigned int timeout_ms)
{
	char up[FVM_CGROUP_PATH];
	int64_t deadline = fvm_clock_ms() + timeout_ms;
	int result = 0;
	for (int i = -1; i < FVM_CG_COUNT; i++) {
		const char *path = i < 0 ? g->v2 : g->v1[i];
		if (!path[0])
			continue;
		int r = remove_by(g, path, deadline);
		if (r < 0)
			result = r;
		parent(up, path, 1); /* ".../fvm", if nobody else is in it */
		(void)rmdir(up);
	}
	return result;
}

/* ---- making ---- */

/*
 * The VM's directory, empty. A left-over of a crash is taken away first, since its accounts are
 * not ours; -ENOTEMPTY comes from no cgroup file system, only from a test's drawing of one.
 */
static int place_make(const char *path)
{
	char up[FVM_CGROUP_PATH];
	parent(up, path, 1);
	for (int tries = 0; tries < 1000; tries++) {
		if (mkdir(up, 0755) < 0 && errno != EEXIST)
			return -errno;
		if (mkdir(path, 0755) == 0)
			return 0;
		if (errno == ENOENT) /* somebody's last VM ended in between, and took it away */
			continue;
		if (errno != EEXIST)
			return -errno;
		int r = rmdir_tree(AT_FDCWD, path);
		if (r < 0)
			return r == -ENOTEMPTY ? 0 : r;
	}
	return -EBUSY;
}

static bool is_on(const char *dir, const char *controller)
{
	char path[FVM_CGROUP_PATH + 32];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "%s/cgroup.subtree_control", dir);
	if (fvm_read_file(AT_FDCWD, path, 4096, &text, NULL) < 0)
		return false;
	for (char *save, *w = strtok_r(text, " \n", &save); w; w = strtok_r(NULL, " \n", &save)) {
		if (strcmp(w, controller) == 0)
			return true;
	}
	return false;
}

static int turn_on(const char *dir, const char *controller)
{
	char text[32];
	if (is_on(dir, controller))
		return 0;
	snprintf(text, sizeof(text), "+%s", controller);
	return write_at(dir, "cgroup.subtree_control", text);
}

/* No internal processes: what sits in @x itself moves to a leaf. They may fork meanwhile. */
static int move_to_leaf(const char *x)
{
	char procs[FVM_CGROUP_PATH + 32], leaf[FVM_CGROUP_PATH + 32];
	snprintf(procs, sizeof(procs), "%s/cgroup.procs", x);
	snprintf(leaf, sizeof(leaf), "%s/fvm-leaf", x);
	if (mkdir(leaf, 0755) < 0 && errno != EEXIST)
		return -errno;
	for (int round = 0; round < 100; round++) {
		scoped_free char *text = NULL;
		int r = fvm_read_file(AT_FDCWD, procs, 16 << 20, &text, NULL);
		if (r < 0)
			return r;
		if (!text[0])
			return 0;
		for (char *save, *w = strtok_r(text, "\n", &save); w;
		     w = strtok_r(NULL, "\n", &save)) {
			r = write_at(leaf, "cgroup.procs", w);
			if (r < 0 && r != -ESRCH)
				return r;
		}
	}
	return -EBUSY;
}

/* @needed: worth moving processes for. Two of us may do this at once; both then find it on. */
static int controller_on(const struct fvm_cgroups *g, enum fvm_controller c, bool needed)
{
	char x[FVM_CGROUP_PATH], ours[FVM_CGROUP_PATH];
	parent(x, g->v2, 2);
	parent(ours, g->v2, 1);
	int r = turn_on(x, v2_names[c]);
	if (r == -EBUSY && needed) {
		r = move_to_leaf(x);
		if (r == 0)
			r = turn_on(x, v2_names[c]);
	}
	return r == 0 ? turn_on(ours, v2_names[c]) : r;
}

struct limit {
	uint64_t memory_bytes;
	uint32_t cpu_percent, pids;
};

static bool wanted(const struct fvm_config *config, enum fvm_controller c)
{
	return (c == FVM_CG_MEMORY && config->memory_bytes) ||
	       (c == FVM_CG_CPU && config->cpu_percent) || (c == FVM_CG_PIDS && config->pids);
}

/*
 * Which controllers are worth a cgroup though there is no limit: for the accounts, and to pause. A
 * VM that is thrown away has none of its own in v1's hierarchies, where each is another directory
 * to make and take away; fvm stats then counts its processes. Memory is never worth it: the kernel
 * keeps lists in such a cgroup for every file system that is mounted, which is 110 kB for each of a
 * thousand VMs.
 */
static bool accounts(const struct fvm_cgroups *g, const struct fvm_config *config,
		     enum fvm_controller c)
{
	if (config->throw_away && g->v2[0] && !g->v2_has[c])
		return false;
	return c == FVM_CG_PIDS || c == FVM_CG_FREEZER || (c == FVM_CG_CPUACCT && !g->v2[0]);
}

static int below_make(const char *path)
{
	scoped_fd dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return dir < 0 || mkdirat(dir, BELOW, 0755) < 0 ? -errno : 0;
}

static int make_v2(struct fvm_cgroups *g, const struct fvm_config *config, int why[FVM_CG_COUNT])
{
	int r = place_make(g->v2);
	if (r == 0 && g->below)
		r = below_make(g->v2);
	if (r < 0)
		g->v2[0] = '\0';
	for (int i = 0; i < FVM_CG_COUNT; i++) {
		bool limit = wanted(config, i);
		if (!g->v2_has[i])
			continue;
		g->v2_has[i] = false;
		if (r < 0 || !(limit || accounts(g, config, i))) {
			why[i] = r;
			continue;
		}
		why[i] = controller_on(g, i, limit);
		g->v2_has[i] = why[i] == 0;
	}
	return r;
}

/* A co-mounted hierarchy has one directory for several controllers. */
static bool made_before(const struct fvm_cgroups *g, int at)
{
	for (int i = 0; i < at; i++) {
		if (strcmp(g->v1[i], g->v1[at]) == 0)
			return true;
	}
	return false;
}

static void make_v1(struct fvm_cgroups *g, const struct fvm_config *config, int why[FVM_CG_COUNT])
{
	for (int i = 0; i < FVM_CG_COUNT; i++) {
		if (!g->v1[i][0] || made_before(g, i))
			continue;
		int r = wanted(config, i) || accounts(g, config, i) ? place_make(g->v1[i]) : 0;
		if (r < 0)
			why[i] = r;
		if (r < 0 || !(wanted(config, i) || accounts(g, config, i)))
			g->v1[i][0] = '\0';
	}
}

/* ---- limits ---- */

/* The part of /proc/cgroups that says why a controller is nowhere. */
static const char *controller_fix(const char *controller, bool rootless)
{
	scoped_free char *text = NULL;
	char line[32];
	snprintf(line, sizeof(line), "\n%s\t", controller);
	if (rootless)
		return "start it where cgroups are delegated to you: systemd-run --user --scope "
		       "-p Delegate=yes fvm ...";
	if (fvm_read_file(AT_FDCWD, "/proc/cgroups", 65536, &text, NULL) < 0 || !strstr(text, line))
		return "this kernel is built without it; start the VM without the limit";
	int hierarchy = 0, cgroups = 0, enabled = 0;
	if (sscanf(strstr(text, line) + strlen(line), "%d %d %d", &hierarchy, &cgroups, &enabled) ==
		    3 &&
	    !enabled)
		return "it is off: boot the kernel with cgroup_enable=memory (or the like)";
	return "mount the hierarchy: mount -t cgroup2 cgroup2 /sys/fs/cgroup, or v1's by its name";
}

static int refuse(const struct fvm_cgroups *g, enum fvm_controller c, const char *what, int why,
		  struct fvm_error *err)
{
	static const char *const names[FVM_CG_COUNT] = {
		[FVM_CG_MEMORY] = "memory", [FVM_CG_CPU] = "cpu", [FVM_CG_PIDS] = "pids"
	};
	if (why == 0) {
		fvm_error_hint(err, "%s", controller_fix(names[c], g->rootless));
		return fvm_error_set(err, EOPNOTSUPP,
				     "%s: no cgroup hierarchy %s has the %s controller", what,
				     g->rootless ? "that is yours" : "of this host", names[c]);
	}
	if (why == -EBUSY)
		fvm_error_hint(err, "its cgroup has processes of its own that can't be moved; "
				    "start fvm from another cgroup");
	else if (why == -EROFS || why == -EACCES)
		fvm_error_hint(err, "cgroups can't be written here (inside a container?): mount "
				    "them read-write, or start the VM without the limit");
	return fvm_error_set(err, EOPNOTSUPP, "%s: use the %s controller: %s", what, names[c],
			     strerror(-why));
}

/* Where a limit of @c is written; NULL with the reason in @err. */
static const char *limit_dir(const struct fvm_cgroups *g, enum fvm_controller c)
{
	if (g->v2_has[c])
		return g->v2;
	return g->v1[c][0] ? g->v1[c] : NULL;
}

static int limit_memory(const struct fvm_cgroups *g, const char *dir, uint64_t bytes)
{
	char text[32];
	snprintf(text, sizeof(text), "%" PRIu64, bytes);
	if (g->v2_has[FVM_CG_MEMORY]) {
		int r = write_at(dir, "memory.max", text);
		/* else the rest of the host's swap would be the limit; absent without swap */
		(void)write_at(dir, "memory.swap.max", "0");
		return r;
	}
	int r = write_at(dir, "memory.limit_in_bytes", text);
	(void)write_at(dir, "memory.memsw.limit_in_bytes", text);
	return r;
}

static int limit_cpu(const struct fvm_cgroups *g, const char *dir, uint32_t percent)
{
	char text[48];
	uint64_t quota = (uint64_t)percent * (CPU_PERIOD_US / 100);
	if (g->v2_has[FVM_CG_CPU]) {
		snprintf(text, sizeof(text), "%" PRIu64 " %d", quota, CPU_PERIOD_US);
		return write_at(dir, "cpu.max", text);
	}
	snprintf(text, sizeof(text), "%d", CPU_PERIOD_US);
	int r = write_at(dir, "cpu.cfs_period_us", text);
	snprintf(text, sizeof(text), "%" PRIu64, quota);
	return r < 0 ? r : write_at(dir, "cpu.cfs_quota_us", text);
}

static int limit_pids(const char *dir, uint32_t pids)
{
	char text[16];
	snprintf(text, sizeof(text), "%u", pids);
	return write_at(dir, "pids.max", text);
}

static int limit_one(const struct fvm_cgroups *g, const struct fvm_config *config,
		     enum fvm_controller c, int why, struct fvm_error *err)
{
	char what[48];
	if (c == FVM_CG_MEMORY)
		snprintf(what, sizeof(what), "limit memory to %" PRIu64 " bytes",
			 config->memory_bytes);
	else if (c == FVM_CG_CPU)
		snprintf(what, sizeof(what), "limit CPU time to %u %%", config->cpu_percent);
	else
		snprintf(what, sizeof(what), "limit processes to %u", config->pids);

	const char *dir = limit_dir(g, c);
	if (!dir)
		return refuse(g, c, what, why, err);
	int r = c == FVM_CG_MEMORY ? limit_memory(g, dir, config->memory_bytes)
		: c == FVM_CG_CPU  ? limit_cpu(g, dir, config->cpu_percent)
				   : limit_pids(dir, config->pids);
	if (r == -ENOENT)
		fvm_error_hint(err, "this kernel has the controller, but not this limit%s",
			       c == FVM_CG_CPU ? " (CONFIG_CFS_BANDWIDTH)" : "");
	else if (r < 0)
		fvm_error_hint(err, "the kernel refused the value for %s", dir);
	return r < 0 ? fvm_error_set(err, r == -ENOENT ? EOPNOTSUPP : -r, "%s", what) : 0;
}

/* With less, the start itself fails half-way: the kernel's reasons would explain nothing. */
static int check_sense(const struct fvm_config *config, struct fvm_error *err)
{
	if (config->memory_bytes && config->memory_bytes < MEMORY_MIN) {
		fvm_error_hint(err, "at least %uM", MEMORY_MIN >> 20);
		return fvm_error_set(err, EINVAL, "limit memory to %" PRIu64 " bytes",
				     config->memory_bytes);
	}
	if (config->pids && config->pids < PIDS_MIN) {
		fvm_error_hint(err, "at least %d", PIDS_MIN);
		return fvm_error_set(err, EINVAL, "limit processes to %u", config->pids);
	}
	return 0;
}

int fvm_cgroup_make(struct fvm_cgroups *g, const struct fvm_config *config, struct fvm_error *err)
{
	static const enum fvm_controller limits[] = { FVM_CG_MEMORY, FVM_CG_CPU, FVM_CG_PIDS };
	int why[FVM_CG_COUNT] = { 0 };
	struct fvm_cgroups planned = *g;
	int sense = check_sense(config, err);
	if (sense < 0)
		return sense;
	if (g->v2[0])
		(void)make_v2(g, config, why);
	make_v1(g, config, why);
	for (size_t i = 0; i < FVM_COUNT(limits); i++) {
		enum fvm_controller c = limits[i];
		int r = wanted(config, c) ? limit_one(g, config, c, why[c], err) : 0;
		if (r < 0) {
			(void)fvm_cgroup_remove(&planned, 0);
			return r;
		}
	}
	return 0;
}

int fvm_cgroup_delegate(const struct fvm_cgroups *g, uid_t uid, gid_t gid)
{
	static const char *const files[] = { ".", "cgroup.procs", "cgroup.subtree_control",
					     "cgroup.threads" };
	char text[16];
	if (!g->v2[0])
		return -ENODEV;
	scoped_fd dir = open(g->v2, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return -errno;
	snprintf(text, sizeof(text), "%d", VM_DESCENDANTS_MAX);
	(void)fvm_write_file(dir, "cgroup.max.descendants", text);
	snprintf(text, sizeof(text), "%d", VM_DEPTH_MAX);
	(void)fvm_write_file(dir, "cgroup.max.depth", text);
	for (size_t i = 0; i < FVM_COUNT(files); i++) {
		if (fchownat(dir, files[i], uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
			return -errno;
	}
	return 0;
}

/* ---- joining ---- */

int fvm_cgroup_open_v2(const struct fvm_cgroups *g)
{
	if (!g->v2[0])
		return -ENOENT;
	int fd = open(g->v2, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && g->below) {
		scoped_fd above = fd;
		fd = openat(above, BELOW, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	}
	return fd < 0 ? -errno : fd;
}

int fvm_cgroup_join_v1(const struct fvm_cgroups *g)
{
	for (int i = 0; i < FVM_CG_COUNT; i++) {
		char path[FVM_CGROUP_PATH + 8];
		if (!g->v1[i][0] || made_before(g, i))
			continue;
		stpcpy(stpcpy(path, g->v1[i]), "/tasks");
		scoped_fd fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd < 0 || write(fd, "0", 1) != 1)
			return -errno;
	}
	return 0;
}
