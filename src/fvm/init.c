/*
 * PID 1: sets itself apart from who started it, starts the first command, then waits in one loop.
 *
 * What VM root can do to it: nothing by signal (only those from outside count), by ptrace, /proc or
 * memory (not dumpable, and its memory belongs to the starter's user namespace). What is left is
 * taking away memory, processes and descriptors, and each of those ends in a refusal to one client.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/prove.h"
#include "fvm/init_priv.h"
#include "fvm/seccomp.h"

#define FIRST_ENDED_GRACE_MS 2000
#define SIGNALLED_GRACE_MS   10000
#define FLUSH_MS	     5000 /* for clients to take the last output */
#define REAP_BATCH	     256
#define SETTLE_MS	     1000
#define STACK_DROPPED	     (64UL << 10) /* less than each stack has */
#define STACK_NEAR	     4096UL	  /* of ours: what the calls below need */
#define STACK_MAX	     (64UL << 20) /* two addresses further apart are of two stacks */

/* Where the kernel put our arguments: what ps shows, and what a VM shall not read. */
static struct {
	char *start, *end, *env_end;
	uintptr_t vector; /* where argv begins: the stack's frames are below */
} arguments;

__attribute__((constructor)) static void arguments_find(int argc, char **argv)
{
	if (argc < 1)
		return;
	arguments.vector = (uintptr_t)argv;
	arguments.start = argv[0];
	arguments.end = argv[argc - 1] + strlen(argv[argc - 1]);
	for (char **e = environ; e && *e; e++)
		arguments.env_end = *e + strlen(*e);
}

int source_watch(struct init *init, struct source *s, uint32_t events)
{
	struct epoll_event event = { .events = events, .data.ptr = s };
	if (s->fd < 0 || s->events == events)
		return 0;
	/* a hang-up is reported also with no events asked for: then it must be out of the set */
	int op = !s->events ? EPOLL_CTL_ADD : !events ? EPOLL_CTL_DEL : EPOLL_CTL_MOD;
	if (epoll_ctl(init->epoll, op, s->fd, &event) < 0)
		return -errno;
	s->events = events;
	return 0;
}

void source_close(struct init *init, struct source *s)
{
	if (s->fd < 0)
		return;
	source_watch(init, s, 0);
	close(s->fd);
	s->fd = -1;
	if (init->control_off) {
		init->control_off = false;
		source_watch(init, &init->control, EPOLLIN);
	}
}

/* ---- becoming PID 1 ---- */

static void set_name(void)
{
	static const char name[] = "fvm-init";
	prctl(PR_SET_NAME, name);
	if (!arguments.start)
		return;
	size_t room = (size_t)(arguments.end - arguments.start);
	/* the starter's environment follows: his, not the VM's */
	if (arguments.env_end > arguments.end)
		memset(arguments.end, 0, (size_t)(arguments.env_end - arguments.end));
	clearenv();
	memset(arguments.start, 0, room);
	memcpy(arguments.start, name, room < sizeof(name) ? room : sizeof(name));
}

static void reset_signals(void)
{
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	for (int sig = 1; sig < NSIG; sig++)
		(void)signal(sig, SIG_DFL);
}

/* 0 to 2 stay free for what becomes of them; a failing dup leaves -1, which is "none". */
static void own_fd(int *fd)
{
	if (*fd >= 0)
		*fd = fcntl(*fd, F_DUPFD_CLOEXEC, 3);
}

static void close_others(int *const *keep, size_t count)
{
	int sorted[24];
	unsigned int from = 0;
	for (size_t i = 0; i < count; i++) {
		size_t at = i;
		for (; at > 0 && sorted[at - 1] > *keep[i]; at--)
			sorted[at] = sorted[at - 1];
		sorted[at] = *keep[i];
	}
	for (size_t i = 0; i < count; i++) {
		if (sorted[i] < 0)
			continue;
		if ((unsigned int)sorted[i] > from)
			fvm_close_range(from, (unsigned int)sorted[i] - 1);
		from = (unsigned int)sorted[i] + 1;
	}
	fvm_close_range(from, ~0U);
}

static void take_descriptors(struct init *init, struct fvm_command *first)
{
	struct fvm_init_args *a = &init->args;
	if (!a->bait)
		a->prove = -1;
	if (!a->watchdog.seconds)
		a->watchdog_file = -1;
	if (!a->enter)
		a->enter_fd = -1;
	int *const keep[] = { &a->control,    &a->alive,      &a->keep,	     &a->guard,
			      &a->net,	      &a->names,      &a->hide,	     &a->log,
			      &a->status,     &a->report,     &a->prove,     &a->client,
			      &a->enter_fd,   &a->supervisor, &a->ended,     &a->watchdog_file,
			      &first->fds[0], &first->fds[1], &first->fds[2] };
	for (size_t i = 0; i < FVM_COUNT(keep); i++)
		own_fd(keep[i]);
	close_others(keep, FVM_COUNT(keep));
}

/* Nothing may ever be opened as 0, 1 or 2: an epoll set there can be neither read nor written. */
static void fill_stdio(const struct init *init)
{
	for (int fd = 0; fd < 3; fd++)
		(void)dup3(init->epoll, fd, O_CLOEXEC);
}

/*
 * Where the host's core_pattern is a pipe, a crash in the VM would start a program of the host's,
 * as its root, on what the VM's program chose to hold; and leave that on the host. The kernel takes
 * a limit of 1 as "to no pipe", and nobody in the VM can raise it. (Files named by a pattern lie in
 * the VM.)
 */
static void keep_dumps(void)
{
	static const struct rlimit to_no_pipe = { 1, 1 };
	char first;
	scoped_fd pattern = open("/proc/sys/kernel/core_pattern", O_RDONLY | O_CLOEXEC);
	if (pattern >= 0 && read(pattern, &first, 1) == 1 && first == '|')
		(void)setrlimit(RLIMIT_CORE, &to_no_pipe);
}

static int install_filter(const struct fvm_filter *filter, struct fvm_error *err)
{
	if (!filter)
		return 0;
	if (filter->notify)
		return fvm_error_set(err, EINVAL, "install a filter whose listener nobody has");
	int r = fvm_filter_install(filter, NULL);
	return r < 0 ? fvm_error_set(err, -r, "install the system call filter") : 0;
}

static _Noreturn void give_up(const struct init *init, const struct fvm_error *err)
{
	if (init->args.report >= 0)
		(void)!write(init->args.report, err, sizeof(*err));
	if (init->args.client >= 0)
		(void)fvm_msg_send(init->args.client, FVM_MSG_ERROR, err, sizeof(*err));
	_exit(126);
}

static void start_first(struct init *init, const struct fvm_command *command)
{
	struct fvm_error err = { 0 };
	if (watchdog_start(init, command, &err) < 0)
		give_up(init, &err);
	if (session_start(init, command, init->args.report, &init->first, &err) < 0)
		give_up(init, &err);
	init->args.report = -1; /* taken over */
	watchdog_started(init);
	for (int i = 0; i < 3 && !watchdog_keeps(init); i++) {
		if (command->fds[i] >= 0)
			close(command->fds[i]);
	}
}

/* ---- the end ---- */

static int count_text(char text[32], int status)
{
	return WIFSIGNALED(status) ? snprintf(text, 32, "signal %d\n", WTERMSIG(status))
				   : snprintf(text, 32, "exit %d\n", WEXITSTATUS(status));
}

static _Noreturn void end(const struct init *init)
{
	char text[32];
	int n = count_text(text, init->status);
	if (init->args.status >= 0) {
		(void)!ftruncate(init->args.status, 0);
		(void)!pwrite(init->args.status, text, (size_t)n, 0);
	}
	const int status = WIFSIGNALED(init->status) ? 128 + WTERMSIG(init->status)
						     : WEXITSTATUS(init->status);
	if (init->args.ended >= 0)
		(void)!write(init->args.ended, &status, sizeof(status));
	_exit(status);
}

void init_shutdown(struct init *init, unsigned int grace_ms)
{
	int64_t deadline = fvm_clock_ms() + grace_ms;
	if (!init->ending || deadline < init->deadline_ms)
		init->deadline_ms = deadline;
	init->ending = true;
	watchdog_give_up(init);
	kill(-1, SIGTERM);
	kill(-1, SIGCONT); /* a stopped process would not hear of it */
	/* interactive shells ignore SIGTERM, and go when their terminal does */
	for (const struct session *s = init->sessions; s; s = s->next) {
		if (s->terminal && !s->ended)
			kill(s->pid, SIGHUP);
	}
}

static bool unsent(struct init *init)
{
	(void)clients_overdue(init);
	for (const struct client *c = init->clients; c; c = c->next) {
		if (!c->dead && c->session && c->attached)
			return true;
	}
	return false;
}

static void end_if_over(struct init *init)
{
	if (!init->ending)
		return;
	int64_t late = fvm_clock_ms() - init->deadline_ms;
	bool alone = waitid(P_ALL, 0, &(siginfo_t){ 0 }, WEXITED | WNOHANG | WNOWAIT) < 0;
	if (!alone && late < 0)
		return;
	/* all have ended, or will with us: their last words first */
	if (unsent(init) && alone && late < FLUSH_MS)
		return;
	if (init->first && init->args.until_first_ends)
		init->status = SIGKILL;
	end(init);
}

static void first_ended(struct init *init, int status)
{
	init->first = NULL;
	if (!init->args.until_first_ends)
		return;
	init->status = status;
	if (!init->ending)
		init_shutdown(init, FIRST_ENDED_GRACE_MS);
}

/* Return: whether there may be more: a fork bomb that dies must not keep us from all else */
static bool reap(struct init *init)
{
	for (int i = 0; i < REAP_BATCH; i++) {
		int status;
		pid_t pid = waitpid(-1, &status, WNOHANG);
		if (pid <= 0)
			return false;
		struct session *s = session_by_pid(init, pid);
		if (!s)
			continue;
		bool first = s == init->first;
		if (watchdog_ended(init, s, status))
			continue;
		session_ended(init, s, status);
		if (first)
			first_ended(init, status);
	}
	return true;
}

/* ---- the loop ---- */

static void forward(struct init *init, int sig)
{
	/* what the kernel tells, and what ends a pause by signals: nobody's wish */
	if (sig == SIGCHLD || sig == SIGCONT)
		return;
	if (init->first)
		watchdog_signal(init, init->first, sig);
	else if (sig == SIGTERM || sig == SIGINT || sig == SIGPWR)
		init_shutdown(init, SIGNALLED_GRACE_MS);
}

static void signals_ready(struct init *init, struct source *source, uint32_t events)
{
	(void)events;
	struct signalfd_siginfo info;
	for (int i = 0; i < 64; i++) {
		if (read(source->fd, &info, sizeof(info)) != sizeof(info))
			return;
		/* only a sender outside our pid namespace has pid 0, and SI_USER can't be forged */
		if (info.ssi_code != SI_USER || info.ssi_pid != 0)
			continue;
		/* so does one whose details the kernel had no memory for, from whomever; but root
		 * of the host has no id here, except in his own rootless VM */
		if (info.ssi_uid == 0 && init->args.guard < 0)
			continue;
		if (info.ssi_signo == FVM_NAMES_SIGNAL)
			renew_names(init);
		else
			forward(init, (int)info.ssi_signo);
	}
}

/* Without its supervisor every call that it is asked about would fail: better an end. */
static void guard_gone(struct init *init, struct source *source, uint32_t events)
{
	(void)events;
	source_close(init, source);
	dprintf(init->args.log, "fvm: the VM's supervisor is gone, and so the VM ends\n");
	init->status = SIGKILL;
	end(init);
}

static void sweep(struct init *init)
{
	for (struct client **at = &init->clients; *at;) {
		struct client *c = *at;
		if (!c->dead) {
			at = &c->next;
			continue;
		}
		*at = c->next;
		free(c);
	}
	for (struct session **at = &init->sessions; *at;) {
		struct session *s = *at;
		if (!s->dead) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		session_free(init, s);
	}
	init->many_dead = false;
}

/* Give back what @bytes of a stack below the page of @address hold: frames that are over. */
static void drop_below(uintptr_t address, size_t bytes)
{
	const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
	uintptr_t end = address & ~(page - 1);
	if (end > bytes)
		(void)madvise((void *)(end - bytes), bytes, MADV_DONTNEED);
}

/*
 * PID 1 is a copy of its starter and has that one's heap and stack, of which it needs next to
 * nothing. Of a thousand idle VMs each page counts, and a start can't wait for it: so this is done
 * when nothing has happened for a while.
 * PID 1 lives on the builder's stack (spawn.c). The one that its starter got from the kernel, or
 * a rootless VM's from the supervisor, it never returns to: below the arguments, which are what ps
 * shows, it holds nothing. Not inlined, as its frame has to lie below the state of the loop.
 */
static __attribute__((noinline)) void settle(struct init *init)
{
	uintptr_t here = (uintptr_t)__builtin_frame_address(0);
	init->settled = true;
	(void)malloc_trim(0);
	drop_below(here - STACK_NEAR, STACK_DROPPED);
	if (arguments.vector && (here > arguments.vector || arguments.vector - here > STACK_MAX))
		drop_below(arguments.vector, STACK_DROPPED);
}

static int next_timeout(struct init *init, bool more_to_reap)
{
	int wait = init->settled ? -1 : SETTLE_MS, tick = watchdog_tick(init);
	if (tick >= 0 && (wait < 0 || tick < wait))
		wait = tick;
	if (more_to_reap)
		return 0;
	if (clients_overdue(init) && (wait < 0 || wait > 500))
		wait = 500;
	if (!init->ending)
		return wait;
	int64_t left = init->deadline_ms - fvm_clock_ms();
	if (left <= 0 || left > 100)
		left = 100; /* children may end without our being their parent's heir */
	return wait < 0 || left < wait ? (int)left : wait;
}

static _Noreturn void loop(struct init *init)
{
	struct epoll_event events[16];
	for (;;) {
		bool more = reap(init);
		end_if_over(init);
		if (init->many_dead)
			sweep(init);
		int n = epoll_wait(init->epoll, events, FVM_COUNT(events),
				   next_timeout(init, more));
		if (n == 0 && !init->settled && !init->ending)
			settle(init);
		for (int i = 0; i < n; i++) {
			struct source *s = events[i].data.ptr;
			if (s->fd >= 0)
				s->ready(init, s, events[i].events);
		}
	}
}

static int set_up(struct init *init, struct fvm_error *err)
{
	sigset_t all;
	sigfillset(&all);
	init->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (init->epoll < 0)
		return fvm_error_set(err, errno, "make PID 1's epoll set");
	init->epoll = fcntl(init->epoll, F_DUPFD_CLOEXEC, 3);
	fill_stdio(init);
	init->signals.fd = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	init->signals.ready = signals_ready;
	if (init->signals.fd < 0 || source_watch(init, &init->signals, EPOLLIN) < 0)
		return fvm_error_set(err, errno, "watch signals in PID 1");
	init->guard.fd = init->args.guard;
	init->guard.ready = guard_gone;
	if (init->guard.fd > 0 && source_watch(init, &init->guard, EPOLLHUP) < 0)
		return fvm_error_set(err, errno, "watch the supervisor");
	if (serve_start(init) < 0)
		return fvm_error_set(err, errno, "listen to the control socket");
	return install_filter(init->args.filter, err);
}

static int show_root(const struct init *init, struct fvm_error *err)
{
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return fvm_error_set(err, errno, "open the VM's /");
	int r = fvm_send_fds(init->args.supervisor, "r", 1, &root, 1);
	return r < 0 ? fvm_error_set(err, -r, "reach the supervisor") : 0;
}

/* From here on / is the VM's, and nobody may look at us any more. */
static int enter_world(struct init *init, struct fvm_error *err)
{
	int r = init->args.enter ? init->args.enter(init->args.enter_fd, err) : 0;
	fvm_fd_closep(&init->args.enter_fd);
	if (r < 0)
		return r;
	prctl(PR_SET_DUMPABLE, 0);
	(void)!chdir("/");
	if (init->args.supervisor >= 0)
		r = show_root(init, err);
	if (r < 0)
		return r;
	init->pts = open("/dev/pts", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (init->args.bait)
		r = fvm_prove_inside(init->args.bait, init->args.prove, err);
	fvm_fd_closep(&init->args.prove);
	return r;
}

_Noreturn void fvm_init_main(const struct fvm_init_args *args)
{
	struct init init = { .args = *args };
	struct fvm_command first = { .fds = { -1, -1, -1 } };
	struct fvm_error err = { 0 };
	if (args->first)
		first = *args->first;
	if (init.args.guard == 0)
		init.args.guard = -1;
	if (init.args.supervisor == 0)
		init.args.supervisor = -1;
	if (init.args.net == 0)
		init.args.net = -1;
	if (init.args.ended == 0)
		init.args.ended = -1;
	if (init.args.names == 0)
		init.args.names = -1;
	if (args->resolv)
		snprintf(init.resolv, sizeof(init.resolv), "%s", args->resolv);
	/* a user's builder has no right to enter the namespaces of who is not dumpable */
	if (!args->enter || init.args.supervisor < 0)
		prctl(PR_SET_DUMPABLE, 0);
	reset_signals();
	setsid();
	take_descriptors(&init, &first);
	set_name();
	fvm_raise_descriptors(&init.nofile);
	keep_dumps();
	umask(022);
	if (set_up(&init, &err) < 0 || enter_world(&init, &err) < 0)
		give_up(&init, &err);
	if (args->first)
		start_first(&init, &first);
	if (init.args.report >= 0)
		close(init.args.report);
	if (init.args.client >= 0)
		client_first(&init, init.args.client);
	loop(&init);
}
