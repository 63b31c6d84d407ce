/* The two processes that hold userfaultfds until all has come. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/lazy_priv.h"

struct helper {
	struct vin_lazy_serving serving;
	int ends;	     /* pidfd of who has to end if it can't come */
	int self;	     /* pidfd of the helper */
	volatile bool *done; /* seen by both */
	bool entered;	     /* as options have it */
	pid_t second;
};

/* ---- what they give up ---- */

static void keep_one_right(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = { 0 };
	caps[0].effective = caps[0].permitted = 1U << CAP_KILL;
	(void)syscall(SYS_capset, &head, caps);
}

/* Namespaces that we made things in for the programs go when these go. */
static void leave(bool entered)
{
	if (entered)
		(void)unshare(CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS);
	keep_one_right();
}

static int by_number(const void *a, const void *b)
{
	const int *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

/* Whoever waits for the end of something of ours does not wait for these. */
static int close_others(int *kept, size_t count)
{
	unsigned int from = 3;
	const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	for (int i = 0; i < 3; i++) {
		if (null < 0 || dup2(null, i) < 0)
			return -errno;
	}
	qsort(kept, count, sizeof(*kept), by_number);
	for (size_t i = 0; i < count; i++) {
		const unsigned int fd = (unsigned int)kept[i];
		if (fd > from && close_range(from, fd - 1, 0) < 0)
			return -errno;
		from = fd >= from ? fd + 1 : from;
	}
	return close_range(from, ~0U, 0) < 0 ? -errno : 0;
}

/* ---- the second ---- */

/* While it holds them, who waits for a page waits; so it is there until nobody is. */
static _Noreturn void be_second(const struct helper *h)
{
	struct pollfd p = { .fd = h->self, .events = POLLIN };
	leave(h->entered);
	while (poll(&p, 1, -1) < 1)
		;
	if (!*h->done) {
		(void)pidfd_send_signal(h->ends, SIGKILL, NULL, 0);
		p.fd = h->ends;
		while (poll(&p, 1, -1) < 1)
			;
	}
	_exit(0);
}

static int make_second(struct helper *h)
{
	struct clone_args args = { .flags = CLONE_FILES, .exit_signal = SIGCHLD };
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid == 0)
		be_second(h);
	h->second = pid;
	return pid < 0 ? -errno : 0;
}

static void look_at_second(void *arg)
{
	struct helper *h = arg;
	if (h->second <= 0 || waitpid(h->second, NULL, WNOHANG) == h->second)
		(void)make_second(h);
}

/* ---- the helper ---- */

static int prepare(struct helper *h, const struct vin_lazy_options *o, int ready)
{
	scoped_free int *kept = calloc(3 * h->serving.count + 8, sizeof(*kept));
	size_t n = 0;
	if (!kept)
		return -ENOMEM;
	kept[n++] = h->ends;
	kept[n++] = ready;
	if (o->held >= 0)
		kept[n++] = o->held;
	if (o->after >= 0)
		kept[n++] = o->after;
	for (size_t i = 0; i < h->serving.count; i++) {
		kept[n++] = h->serving.spaces[i].uffd;
		if (h->serving.spaces[i].blocks)
			kept[n++] = h->serving.spaces[i].blocks->file;
		if (h->serving.spaces[i].from >= 0)
			kept[n++] = h->serving.spaces[i].from;
		if (h->serving.spaces[i].pagemap >= 0)
			kept[n++] = h->serving.spaces[i].pagemap;
	}
	int r = close_others(kept, n);
	h->self = r < 0 ? -1 : pidfd_open(getpid(), 0);
	h->done = mmap(NULL, sizeof(*h->done), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
		       -1, 0);
	if (r < 0 || h->self < 0 || h->done == MAP_FAILED || chdir("/") < 0)
		return r < 0 ? r : -errno;
	(void)setsid();
	(void)prctl(PR_SET_NAME, "fvm-pages");
	return make_second(h);
}

static _Noreturn void be_helper(struct helper *h, const struct vin_lazy_options *o, int ready)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	int r = prepare(h, o, ready);
	if (fvm_write_all(ready, &r, sizeof(r)) < 0 || r < 0)
		_exit(1);
	close(ready);
	leave(h->entered);
	r = vin_lazy_serve(&h->serving);
	*h->done = r == 0;
	_exit(r < 0);
}

/* A child's child: nobody of ours has to wait for it. */
static int make_helper(struct helper *h, const struct vin_lazy_options *o, int hear, int say)
{
	pid_t pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		close(hear);
		pid = fork();
		if (pid == 0)
			be_helper(h, o, say);
		_exit(pid < 0);
	}
	(void)waitpid(pid, NULL, 0);
	return 0;
}

int vin_lazy_help(const struct vin_lazy_space *spaces, size_t count, int ends,
		  const struct vin_lazy_options *options, struct fvm_error *err)
{
	int line[2], why = -EAGAIN;
	scoped_free struct vin_lazy_space *copy = malloc((fvm_room(count) + 1) * sizeof(*copy));
	if (!copy || pipe2(line, O_CLOEXEC) < 0)
		return fvm_error_set(err, copy ? errno : ENOMEM, "start a helper");
	memcpy(copy, spaces, count * sizeof(*copy));
	scoped_fd hear = line[0], say = line[1];
	struct helper h = { .serving = { .spaces = copy, .count = count, .after = options->after },
			    .ends = ends,
			    .self = -1,
			    .entered = options->entered };
	h.serving.each_round = look_at_second;
	h.serving.arg = &h;
	int r = make_helper(&h, options, hear, say);
	close(fvm_fd_take(&say));
	if (r == 0 && fvm_read_full(hear, &why, sizeof(why)) != sizeof(why))
		why = -EAGAIN;
	if (r == 0)
		r = why;
	return r < 0 ? fvm_error_set(err, -r, "start a helper") : 0;
}
