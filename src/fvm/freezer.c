/* Stopping a whole VM at once: by v2, by v1's freezer, or by signals; and ending it. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/cgroup.h"
#include "fvm/procs.h"

#define STOPPED_BEFORE "stopped-before" /* file in the VM's run directory */

static void wait_ms(int ms)
{
	(void)poll(NULL, 0, ms);
}

static int dir_open(const char *path)
{
	int fd = path[0] ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	return fd < 0 ? -ENODEV : fd;
}

/* ---- v2 ---- */

static bool v2_is(int events, bool frozen)
{
	char text[256];
	ssize_t n = pread(events, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return false;
	text[n] = '\0';
	return strstr(text, frozen ? "frozen 1" : "frozen 0") != NULL;
}

static int v2_freeze(int dir, bool freeze, unsigned int timeout_ms)
{
	int64_t deadline = fvm_clock_ms() + timeout_ms;
	scoped_fd events = openat(dir, "cgroup.events", O_RDONLY | O_CLOEXEC);
	int r = fvm_write_file(dir, "cgroup.freeze", freeze ? "1" : "0");
	if (r < 0 || events < 0)
		return r == -ENOENT || events < 0 ? -ENODEV : r;
	while (!v2_is(events, freeze)) {
		int64_t left = deadline - fvm_clock_ms();
		if (left <= 0)
			return -ETIMEDOUT;
		/* the file "changes" when the state does; a short sleep if that is missed */
		struct pollfd p = { .fd = events, .events = POLLPRI };
		(void)poll(&p, 1, left > 20 ? 20 : (int)left);
	}
	return 0;
}

/* ---- v1 ---- */

static bool v1_is(int dir, const char *state)
{
	scoped_free char *text = NULL;
	return fvm_read_file(dir, "freezer.state", 64, &text, NULL) == 0 &&
	       strncmp(text, state, strlen(state)) == 0;
}

/* A task born or stopped by a tracer meanwhile leaves it FREEZING: writing again goes on. */
static int v1_freeze(int dir, bool freeze, unsigned int timeout_ms)
{
	const char *state = freeze ? "FROZEN" : "THAWED";
	int64_t deadline = fvm_clock_ms() + timeout_ms;
	for (;;) {
		int r = fvm_write_file(dir, "freezer.state", state);
		if (r < 0)
			return r == -ENOENT ? -ENODEV : r;
		if (v1_is(dir, state))
			return 0;
		if (fvm_clock_ms() >= deadline)
			return -ETIMEDOUT;
		wait_ms(1);
	}
}

/* ---- whichever there is ---- */

static int freeze_by(const struct fvm_cgroups *g, bool freeze, unsigned int timeout_ms)
{
	scoped_fd v2 = dir_open(g->v2);
	if (v2 >= 0)
		return v2_freeze(v2, freeze, timeout_ms);
	scoped_fd v1 = dir_open(g->v1[FVM_CG_FREEZER]);
	return v1 < 0 ? -ENODEV : v1_freeze(v1, freeze, timeout_ms);
}

int fvm_cgroup_freeze(const struct fvm_cgroups *g, bool freeze, unsigned int timeout_ms)
{
	int r = freeze_by(g, freeze, timeout_ms);
	if (r == -ETIMEDOUT && freeze)
		(void)freeze_by(g, false, 0);
	return r;
}

/* v1 has no kill of its own: hold them so that nobody forks away, and let them die by thawing. */
static int v1_kill(const struct fvm_cgroups *g, int dir)
{
	for (int round = 0; round < 100; round++) {
		scoped_free pid_t *pids = NULL;
		size_t count = 0;
		(void)v1_freeze(dir, true, 50);
		int r = fvm_cgroup_pids(g, &pids, &count);
		for (size_t i = 0; r == 0 && i < count; i++) {
			struct fvm_proc p;
			if (fvm_proc_read(pids[i], &p) == 0)
				(void)fvm_proc_signal(&p, SIGKILL);
		}
		(void)v1_freeze(dir, false, 50);
		if (r < 0 || count == 0)
			return r;
		wait_ms(1);
	}
	return 0;
}

int fvm_cgroup_kill(const struct fvm_cgroups *g)
{
	scoped_fd v2 = dir_open(g->v2);
	if (v2 >= 0) {
		int r = fvm_write_file(v2, "cgroup.kill", "1");
		return r == -ENOENT ? -ENODEV : r;
	}
	scoped_fd v1 = dir_open(g->v1[FVM_CG_FREEZER]);
	return v1 < 0 ? -ENODEV : v1_kill(g, v1);
}

/* ---- signals ---- */

static bool listed(const char *list, const struct fvm_proc *p)
{
	char line[48];
	snprintf(line, sizeof(line), "\n%d %" PRIu64 "\n", (int)p->pid, p->start);
	return strstr(list, line) != NULL;
}

/* "PID START" of each that is stopped already, e.g. by ^Z: these are not to be continued by us. */
static int stopped_before(pid_t init, int run_dir)
{
	scoped_procs procs = { 0 };
	scoped_buf list = { 0 };
	int r = fvm_procs_list(NULL, init, &procs);
	fvm_buf_puts(&list, "\n");
	for (size_t i = 0; r == 0 && i < procs.count; i++) {
		if (procs.items[i].state == 'T')
			fvm_buf_printf(&list, "%d %" PRIu64 "\n", (int)procs.items[i].pid,
				       procs.items[i].start);
	}
	if (r < 0 || list.failed)
		return r < 0 ? r : -ENOMEM;
	return fvm_write_file_atomic(run_dir, STOPPED_BEFORE, list.data, list.len, false);
}

static bool stop_pending(const struct fvm_proc *p)
{
	char path[40];
	scoped_free char *text = NULL;
	unsigned long long pending = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)p->pid);
	if (fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
		return true;
	const char *at = strstr(text, "\nShdPnd:");
	return at && sscanf(at, "\nShdPnd: %llx", &pending) == 1 &&
	       pending & (1ULL << (SIGSTOP - 1));
}

/*
 * One pass. Return: how many may still run. A parent waiting in vfork() for a child that is stopped
 * never gets to stop: that the signal is waiting for it is as good.
 */
static int stop_round(pid_t init)
{
	scoped_procs procs = { 0 };
	int running = 0;
	int r = fvm_procs_list(NULL, init, &procs);
	if (r < 0 || procs.count == 0)
		return r < 0 ? r : -ESRCH;
	for (size_t i = 0; i < procs.count; i++) {
		const struct fvm_proc *p = &procs.items[i];
		if (strchr("TtZX", p->state) || (p->state == 'D' && stop_pending(p)))
			continue;
		r = fvm_proc_signal(p, SIGSTOP);
		if (r < 0 && r != -ESRCH)
			return r;
		running++;
	}
	return running;
}

static int continue_all(pid_t init, int run_dir)
{
	scoped_procs procs = { 0 };
	scoped_free char *list = NULL;
	int r = fvm_procs_list(NULL, init, &procs);
	if (r < 0 || procs.count == 0)
		return r < 0 ? r : -ESRCH;
	if (fvm_read_file(run_dir, STOPPED_BEFORE, 16 << 20, &list, NULL) < 0)
		list = NULL;
	for (size_t i = 0; i < procs.count; i++) {
		if (!list || !listed(list, &procs.items[i]))
			(void)fvm_proc_signal(&procs.items[i], SIGCONT);
	}
	(void)unlinkat(run_dir, STOPPED_BEFORE, 0);
	return 0;
}

int fvm_signal_pause(pid_t init, int run_dir, bool pause, unsigned int timeout_ms)
{
	if (!pause)
		return continue_all(init, run_dir);
	int64_t deadline = fvm_clock_ms() + timeout_ms;
	int r = stopped_before(init, run_dir);
	if (r < 0)
		return r;
	while ((r = stop_round(init)) > 0 && fvm_clock_ms() < deadline)
		wait_ms(1);
	if (r == 0)
		return 0;
	(void)continue_all(init, run_dir);
	return r < 0 ? r : -ETIMEDOUT;
}
