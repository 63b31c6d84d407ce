/* Finding a VM's processes, and what /proc tells of each. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "fvm/procs.h"
#include "fvm/sys.h"

#define COMMAND_MAX 4096 /* bytes of a command line that anybody wants to see */

void fvm_procs_free(struct fvm_procs *p)
{
	for (size_t i = 0; i < p->count; i++)
		free(p->items[i].command);
	free(p->items);
	*p = (struct fvm_procs){ 0 };
}

/* "PID (NAME) STATE PPID ...": the name may hold anything, also ") R 1", so its end is the last. */
int fvm_proc_parse(const char *stat, long tick_hz, long page, struct fvm_proc *ret)
{
	struct fvm_proc p = { 0 };
	const char *open = strchr(stat, '('), *close = strrchr(stat, ')');
	unsigned long user = 0, system = 0;
	long resident = 0;
	if (!open || !close || close < open)
		return -EBADMSG;
	size_t len = (size_t)(close - open - 1);
	if (len >= sizeof(p.name))
		len = sizeof(p.name) - 1;
	memcpy(p.name, open + 1, len);
	p.pid = (pid_t)strtol(stat, NULL, 10);
	int n = sscanf(close + 1,
		       " %c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %u %*d "
		       "%" SCNu64 " %*u %ld",
		       &p.state, &p.parent, &user, &system, &p.threads, &p.start, &resident);
	if (n != 7 || p.pid <= 0)
		return -EBADMSG;
	p.cpu_ns = (user + system) * (1000000000ULL / (unsigned long)tick_hz);
	p.memory_bytes = resident > 0 ? (uint64_t)resident * (unsigned long)page : 0;
	*ret = p;
	return 0;
}

/* One for each pid namespace that it is in, from ours on. Return: how many; @ret: that of the one
 * at
 * @depth, or of the last */
static size_t numbers_of(const char *status, size_t depth, pid_t *ret)
{
	size_t count = 0;
	const char *at = strstr(status, "\nNSpid:");
	for (at = at ? at + strlen("\nNSpid:") : ""; *at == '\t';) {
		char *end;
		const pid_t number = (pid_t)strtol(at + 1, &end, 10);
		at = end;
		if (count++ < depth || depth == 0)
			*ret = number;
	}
	return count;
}

/* Its effective uid is the second. @depth: of the namespace that its number is asked of; 0: its own
 */
static void status_read(int dir, size_t depth, struct fvm_proc *p)
{
	scoped_free char *text = NULL;
	p->uid = (uid_t)-1;
	if (fvm_read_file(dir, "status", 65536, &text, NULL) < 0)
		return;
	const char *uid = strstr(text, "\nUid:");
	if (uid)
		(void)sscanf(uid, "\nUid: %*u %u", &p->uid);
	if (numbers_of(text, depth, &p->vm_pid) < depth)
		p->vm_pid = 0;
}

static int proc_read(pid_t pid, size_t depth, struct fvm_proc *ret)
{
	char path[32];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d", (int)pid);
	scoped_fd dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || fvm_read_file(dir, "stat", 4096, &text, NULL) < 0)
		return -ESRCH;
	int r = fvm_proc_parse(text, sysconf(_SC_CLK_TCK), sysconf(_SC_PAGESIZE), ret);
	if (r == 0)
		status_read(dir, depth, ret);
	return r;
}

int fvm_proc_read(pid_t pid, struct fvm_proc *ret)
{
	return proc_read(pid, 0, ret);
}

/* How deep the VM's own pid namespace lies; 0: it has ended. */
static size_t depth_of(pid_t init)
{
	char path[32];
	pid_t ignored;
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)init);
	if (fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) < 0)
		return 0;
	return numbers_of(text, 0, &ignored);
}

static int procs_add(struct fvm_procs *p, size_t *cap, const struct fvm_proc *one)
{
	if (p->count == *cap) {
		size_t more = *cap ? *cap * 2 : 64;
		struct fvm_proc *items = realloc(p->items, more * sizeof(*items));
		if (!items)
			return -ENOMEM;
		p->items = items;
		*cap = more;
	}
	p->items[p->count++] = *one;
	return 0;
}

static int by_pid(const void *a, const void *b)
{
	const struct fvm_proc *x = a, *y = b;
	return (x->pid > y->pid) - (x->pid < y->pid);
}

/* Helpers of a start are in its cgroups, too: they have no number in the VM. */
static int list_cgroup(const struct fvm_cgroups *g, size_t depth, struct fvm_procs *p)
{
	scoped_free pid_t *pids = NULL;
	size_t count = 0, cap = 0;
	int r = fvm_cgroup_pids(g, &pids, &count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		struct fvm_proc one;
		if (proc_read(pids[i], depth, &one) == 0 && one.vm_pid > 0)
			r = procs_add(p, &cap, &one);
	}
	return r;
}

static const struct fvm_proc *find(const struct fvm_procs *p, pid_t pid)
{
	struct fvm_proc key = { .pid = pid };
	return bsearch(&key, p->items, p->count, sizeof(*p->items), by_pid);
}

static bool descends(const struct fvm_procs *all, const struct fvm_proc *p, pid_t init)
{
	/* parents can change while we read: a loop must still end */
	for (int depth = 0; p && depth < 4096; depth++) {
		if (p->pid == init)
			return true;
		p = find(all, p->parent);
	}
	return false;
}

static int list_all(size_t depth, struct fvm_procs *p)
{
	size_t cap = 0;
	int r = 0;
	DIR *d = opendir("/proc");
	if (!d)
		return -errno;
	for (struct dirent *e; r == 0 && (e = readdir(d));) {
		struct fvm_proc one;
		int pid = atoi(e->d_name);
		if (pid > 0 && proc_read(pid, depth, &one) == 0)
			r = procs_add(p, &cap, &one);
	}
	closedir(d);
	if (r == 0 && p->count)
		qsort(p->items, p->count, sizeof(*p->items), by_pid);
	return r;
}

static int list_descent(pid_t init, size_t depth, struct fvm_procs *p)
{
	scoped_procs all = { 0 };
	size_t cap = 0;
	int r = list_all(depth, &all);
	for (size_t i = 0; r == 0 && i < all.count; i++) {
		if (descends(&all, &all.items[i], init))
			r = procs_add(p, &cap, &all.items[i]);
	}
	return r;
}

int fvm_procs_list(const struct fvm_cgroups *g, pid_t init, struct fvm_procs *ret)
{
	struct fvm_procs p = { 0 };
	const size_t depth = depth_of(init);
	int r = g ? list_cgroup(g, depth, &p) : -ENODEV;
	if (r == -ENODEV)
		r = list_descent(init, depth, &p);
	if (r < 0) {
		fvm_procs_free(&p);
		return r;
	}
	if (p.count)
		qsort(p.items, p.count, sizeof(*p.items), by_pid);
	*ret = p;
	return 0;
}

int fvm_proc_signal(const struct fvm_proc *p, int signal)
{
	struct fvm_proc now;
	scoped_fd fd = sys_pidfd_open(p->pid, 0);
	if (fd < 0)
		return fd;
	if (fvm_proc_read(p->pid, &now) < 0 || now.start != p->start)
		return -ESRCH;
	return sys_pidfd_send_signal(fd, signal);
}

/* ---- command lines ---- */

struct line { /* what the reading child sends, in one atomic write */
	uint32_t index, len;
	char text[COMMAND_MAX - 8];
};

_Static_assert(sizeof(struct line) <= COMMAND_MAX, "a write to a pipe up to PIPE_BUF is atomic");

static _Noreturn void lines_send(const struct fvm_procs *p, size_t from, int to)
{
	for (size_t i = from; i < p->count; i++) {
		char path[40];
		struct line l = { .index = (uint32_t)i };
		snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)p->items[i].pid);
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		ssize_t n = fd < 0 ? 0 : read(fd, l.text, sizeof(l.text));
		if (fd >= 0)
			close(fd);
		while (n > 0 && l.text[n - 1] == '\0')
			n--;
		l.len = n > 0 ? (uint32_t)n : 0;
		if (write(to, &l, offsetof(struct line, text) + l.len) < 0)
			break;
	}
	_exit(0);
}

static void line_take(struct fvm_procs *p, struct line *l)
{
	if (l->index >= p->count || l->len == 0 || l->len > sizeof(l->text))
		return;
	for (uint32_t i = 0; i < l->len; i++) {
		if (l->text[i] == '\0')
			l->text[i] = ' ';
	}
	free(p->items[l->index].command);
	p->items[l->index].command = strndup(l->text, l->len);
}

/* Return: how many were read, counted from @from; fewer than there are when one held us up. */
static size_t lines_receive(struct fvm_procs *p, size_t from, int fd, int timeout_ms)
{
	size_t done = 0;
	struct line l;
	while (from + done < p->count) {
		struct pollfd poll_fd = { .fd = fd, .events = POLLIN };
		if (poll(&poll_fd, 1, timeout_ms) <= 0)
			break;
		size_t head = offsetof(struct line, text);
		if (fvm_read_full(fd, &l, head) != (ssize_t)head || l.len > sizeof(l.text) ||
		    fvm_read_full(fd, l.text, l.len) != (ssize_t)l.len)
			break;
		line_take(p, &l);
		done++;
	}
	return done;
}

void fvm_procs_commands(struct fvm_procs *p, unsigned int timeout_ms)
{
	/* each process that holds us up costs a quarter of the time, and only its own line */
	size_t from = 0;
	for (int tries = 0; tries < 4 && from < p->count; tries++) {
		int pipe_fds[2];
		if (pipe2(pipe_fds, O_CLOEXEC) < 0)
			return;
		pid_t child = fork();
		if (child == 0)
			lines_send(p, from, pipe_fds[1]);
		close(pipe_fds[1]);
		if (child > 0) {
			from += lines_receive(p, from, pipe_fds[0], (int)(timeout_ms / 4)) + 1;
			kill(child, SIGKILL);
			waitpid(child, NULL, 0);
		}
		close(pipe_fds[0]);
		if (child < 0)
			return;
	}
}
