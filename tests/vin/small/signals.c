/* Signals, as sigaction(2), sigprocmask(2), sigpending(2), sigqueue(3), sigaltstack(2) and
 * sigwaitinfo(2) have them; and the calls that a stop may interrupt, by the two lists of signal(7):
 * what waited still waits, and comes to the end that it would have come to. */
#include <linux/futex.h>
#include <pthread.h>
#include <sys/epoll.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "small.h"

static int ends[2], fd = -1, other = -1;
static volatile int caught, caught_code, caught_value;
static siginfo_t info;

static sigset_t set_of(int sig)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, sig);
	return set;
}

static void block(int sig)
{
	const sigset_t set = set_of(sig);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
}

static bool comes(int sig)
{
	const struct timespec limit = { 30, 0 };
	const sigset_t set = set_of(sig);
	return sigtimedwait(&set, &info, &limit) == sig;
}

static bool is_pending(int sig)
{
	sigset_t set;
	CHECK(sigpending(&set) == 0);
	return sigismember(&set, sig) == 1;
}

static void on_signal(int sig, siginfo_t *i, void *context)
{
	(void)context;
	caught = sig;
	caught_code = i->si_code;
	caught_value = i->si_value.sival_int;
}

static void handle(int sig, int flags)
{
	struct sigaction a = { .sa_sigaction = on_signal, .sa_flags = flags | SA_SIGINFO };
	CHECK(sigaction(sig, &a, NULL) == 0);
}

/* ---- actions and masks ---- */

static void actions_make(void)
{
	struct sigaction a = { .sa_sigaction = on_signal, .sa_flags = SA_SIGINFO | SA_NODEFER };
	sigaddset(&a.sa_mask, SIGUSR2);
	sigaddset(&a.sa_mask, SIGRTMAX);
	CHECK(sigaction(SIGUSR1, &a, NULL) == 0 && signal(SIGHUP, SIG_IGN) == SIG_DFL);
}

static void actions_check(void)
{
	struct sigaction a;
	CHECK(sigaction(SIGUSR1, NULL, &a) == 0 && a.sa_sigaction == on_signal);
	CHECK((a.sa_flags & (SA_SIGINFO | SA_NODEFER | SA_RESTART)) == (SA_SIGINFO | SA_NODEFER));
	CHECK(sigismember(&a.sa_mask, SIGUSR2) && sigismember(&a.sa_mask, SIGRTMAX));
	CHECK(!sigismember(&a.sa_mask, SIGINT));
	CHECK(sigaction(SIGHUP, NULL, &a) == 0 && a.sa_handler == SIG_IGN && raise(SIGHUP) == 0);
	CHECK(sigaction(SIGTERM, NULL, &a) == 0 && a.sa_handler == SIG_DFL);
	CHECK(raise(SIGUSR1) == 0 && caught == SIGUSR1);
	caught = 0;
}

static void resethand_make(void)
{
	handle(SIGUSR1, (int)SA_RESETHAND);
}

static void resethand_check(void)
{
	struct sigaction a;
	CHECK(raise(SIGUSR1) == 0 && caught == SIGUSR1);
	CHECK(sigaction(SIGUSR1, NULL, &a) == 0 && a.sa_handler == SIG_DFL);
	caught = 0;
	resethand_make();
}

static void mask_make(void)
{
	block(SIGUSR1);
	block(SIGRTMIN + 7);
}

static void mask_check(void)
{
	sigset_t set;
	CHECK(sigprocmask(SIG_BLOCK, NULL, &set) == 0);
	for (int sig = 1; sig < SIGRTMIN; sig++)
		CHECK(sigismember(&set, sig) == (sig == SIGUSR1));
	for (int sig = SIGRTMIN; sig <= SIGRTMAX; sig++)
		CHECK(sigismember(&set, sig) == (sig == SIGRTMIN + 7));
}

static volatile int thread_turn, thread_answer;

static void *with_own_mask(void *arg)
{
	sigset_t set = set_of(SIGUSR2);
	(void)arg;
	pthread_sigmask(SIG_SETMASK, &set, NULL);
	for (int seen = 0;;) {
		small_await(&thread_turn, seen + 1);
		pthread_sigmask(SIG_SETMASK, NULL, &set);
		seen++;
		thread_answer =
			sigismember(&set, SIGUSR2) && !sigismember(&set, SIGUSR1) ? seen : -1;
		while (thread_turn == seen)
			small_nap(1);
	}
	return NULL;
}

static void thread_mask_make(void)
{
	block(SIGUSR1);
	small_thread(with_own_mask, NULL);
}

static void thread_mask_check(void)
{
	sigset_t set;
	thread_turn++;
	small_await(&thread_answer, thread_turn);
	CHECK(pthread_sigmask(SIG_SETMASK, NULL, &set) == 0 && !sigismember(&set, SIGUSR2));
}

/* ---- pending ---- */

static void pending_make(void)
{
	block(SIGUSR1);
	CHECK(kill(getpid(), SIGUSR1) == 0 && kill(getpid(), SIGUSR1) == 0);
}

static void pending_check(void)
{
	CHECK(is_pending(SIGUSR1) && !is_pending(SIGUSR2) && comes(SIGUSR1));
	CHECK(info.si_code == SI_USER && info.si_pid == getpid() && info.si_uid == getuid());
	CHECK(!is_pending(SIGUSR1)); /* a standard signal is queued once */
	pending_make();
}

static void queued_make(void)
{
	block(SIGRTMIN + 1);
	block(SIGRTMIN + 2);
	for (int i = 0; i < 5; i++)
		CHECK(sigqueue(getpid(), SIGRTMIN + 2, (union sigval){ .sival_int = 10 + i }) == 0);
	CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){ .sival_ptr = &info }) == 0);
}

static void queued_check(void)
{
	CHECK(comes(SIGRTMIN + 1) && info.si_value.sival_ptr == &info && info.si_code == SI_QUEUE);
	for (int i = 0; i < 5; i++)
		CHECK(comes(SIGRTMIN + 2) && info.si_value.sival_int == 10 + i);
	CHECK(!is_pending(SIGRTMIN + 2));
	queued_make();
}

static void thread_pending_make(void)
{
	block(SIGUSR1);
	CHECK(syscall(SYS_tgkill, getpid(), (pid_t)syscall(SYS_gettid), SIGUSR1) == 0);
}

static void thread_pending_check(void)
{
	CHECK(is_pending(SIGUSR1) && comes(SIGUSR1) && info.si_pid == getpid());
	thread_pending_make();
}

static void ignored_child_make(void)
{
	struct sigaction a = { .sa_handler = SIG_DFL, .sa_flags = SA_NOCLDWAIT };
	CHECK(sigaction(SIGCHLD, &a, NULL) == 0);
}

static void ignored_child_check(void)
{
	pid_t pid = fork();
	if (pid == 0)
		_exit(0);
	CHECK(waitpid(pid, NULL, 0) < 0 && errno == ECHILD);
}

static void child_pending_make(void)
{
	block(SIGCHLD);
	pid_t pid = fork();
	if (pid == 0)
		_exit(9);
	while (!is_pending(SIGCHLD))
		small_nap(1);
}

static void child_pending_check(void)
{
	CHECK(comes(SIGCHLD) && info.si_code == CLD_EXITED && info.si_status == 9);
	CHECK(waitpid(info.si_pid, NULL, 0) == info.si_pid);
	child_pending_make();
}

/* ---- sigaltstack(2) ---- */

static char alternate[65536];
static volatile int on_it;

static void look_where(int sig)
{
	stack_t s;
	(void)sig;
	on_it = sigaltstack(NULL, &s) == 0 && (s.ss_flags & SS_ONSTACK) && (char *)&s > alternate &&
		(char *)&s < alternate + sizeof(alternate);
}

static void altstack_make(void)
{
	const stack_t s = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	struct sigaction a = { .sa_handler = look_where, .sa_flags = SA_ONSTACK };
	CHECK(sigaltstack(&s, NULL) == 0 && sigaction(SIGUSR1, &a, NULL) == 0);
}

static void altstack_check(void)
{
	stack_t s;
	CHECK(sigaltstack(NULL, &s) == 0 && s.ss_sp == alternate && s.ss_size == sizeof(alternate));
	CHECK(s.ss_flags == 0 && raise(SIGUSR1) == 0 && on_it);
	on_it = 0;
}

/* A handler that does not return until it is told to: it is captured inside. */
static volatile int inside, leave;

static void stay_inside(int sig)
{
	(void)sig;
	inside = 1;
	while (!leave)
		small_nap(1);
	inside = 0;
}

static void *raise_there(void *arg)
{
	(void)arg;
	const stack_t s = { .ss_sp = alternate, .ss_size = sizeof(alternate) };
	for (;;) {
		sigaltstack(&s, NULL);
		pthread_kill(pthread_self(), SIGUSR1);
		while (leave)
			small_nap(1);
	}
	return NULL;
}

static void in_handler_make(void)
{
	struct sigaction a = { .sa_handler = stay_inside, .sa_flags = SA_ONSTACK };
	CHECK(sigaction(SIGUSR1, &a, NULL) == 0);
	small_thread(raise_there, NULL);
	small_await(&inside, 1);
}

static void in_handler_check(void)
{
	CHECK(inside == 1);
	leave = 1;
	small_await(&inside, 0);
	leave = 0;
	small_await(&inside, 1);
}

/* ---- calls that wait ---- */

static volatile int ended; /* how many calls */
static volatile long result;
static volatile int result_errno;
static long (*the_call)(void);

static volatile int go;

static void *call_when_told(void *arg)
{
	(void)arg;
	for (int done = 0;; done++) {
		while (go == done)
			small_nap(1);
		errno = 0;
		const long r = the_call();
		result_errno = errno;
		result = r;
		ended = done + 1;
	}
	return NULL;
}

static void call_begins(void)
{
	go++;
	small_asleep();
}

static void call_made(long (*call)(void))
{
	the_call = call;
	small_thread(call_when_told, NULL);
	call_begins();
}

static bool still_waits(void)
{
	small_asleep();
	return ended == go - 1;
}

static bool came_to(long r)
{
	small_await(&ended, go);
	return result == r;
}

static long call_read(void)
{
	char c;
	return read(ends[0], &c, 1);
}

static void read_make(void)
{
	CHECK(pipe(ends) == 0);
	call_made(call_read);
}

static void read_check(void)
{
	CHECK(still_waits() && write(ends[1], "x", 1) == 1 && came_to(1));
	call_begins();
}

static char much[65536];

static long call_write(void)
{
	return write(ends[1], much, sizeof(much));
}

static void write_make(void)
{
	CHECK(pipe(ends) == 0 && write(ends[1], much, sizeof(much)) == 65536);
	call_made(call_write);
}

static void write_check(void)
{
	CHECK(still_waits());
	for (size_t n = 0; n < sizeof(much);) {
		const ssize_t got = read(ends[0], much, sizeof(much) - n);
		CHECK(got > 0);
		n += (size_t)got;
	}
	CHECK(came_to(65536));
	call_begins();
}

static long call_open(void)
{
	return open("fifo", O_RDONLY);
}

static void open_make(void)
{
	CHECK(mkfifo("fifo", 0600) == 0);
	call_made(call_open);
}

static void open_check(void)
{
	CHECK(still_waits());
	fd = open("fifo", O_WRONLY);
	CHECK(fd >= 0);
	small_await(&ended, go);
	CHECK(result >= 0 && close((int)result) == 0 && close(fd) == 0);
	call_begins();
}

static long call_poll(void)
{
	struct pollfd p = { .fd = ends[0], .events = POLLIN };
	return poll(&p, 1, -1);
}

static void poll_make(void)
{
	CHECK(pipe(ends) == 0);
	call_made(call_poll);
}

static void waits_for_byte_check(void)
{
	char c;
	CHECK(still_waits() && write(ends[1], "x", 1) == 1 && came_to(1));
	CHECK(read(ends[0], &c, 1) == 1);
	call_begins();
}

static long call_poll_time(void)
{
	return poll(NULL, 0, 100);
}

static void poll_time_make(void)
{
	call_made(call_poll_time);
}

static void poll_time_check(void)
{
	CHECK(came_to(0) && result_errno == 0);
	call_begins();
}

static long call_select(void)
{
	fd_set set;
	FD_ZERO(&set);
	FD_SET(ends[0], &set);
	return select(ends[0] + 1, &set, NULL, NULL, NULL);
}

static void select_make(void)
{
	CHECK(pipe(ends) == 0);
	call_made(call_select);
}

static long call_epoll_wait(void)
{
	struct epoll_event e;
	return epoll_wait(fd, &e, 1, -1);
}

static void epoll_wait_make(void)
{
	struct epoll_event e = { .events = EPOLLIN };
	fd = epoll_create1(0);
	CHECK(pipe(ends) == 0 && epoll_ctl(fd, EPOLL_CTL_ADD, ends[0], &e) == 0);
	call_made(call_epoll_wait);
}

static volatile uint32_t word;

static long call_futex(void)
{
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, word, NULL, NULL, 0);
}

static void futex_make(void)
{
	call_made(call_futex);
}

static void futex_check(void)
{
	CHECK(still_waits());
	/* between two attempts it may not be there for a moment */
	while (syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0) == 0)
		small_nap(1);
	CHECK(came_to(0));
	call_begins();
}

static long call_futex_time(void)
{
	const struct timespec t = { 0, 100000000 };
	return syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, word, &t, NULL, 0);
}

static void futex_time_make(void)
{
	call_made(call_futex_time);
}

static void futex_time_check(void)
{
	CHECK(came_to(-1) && result_errno == ETIMEDOUT);
	call_begins();
}

static pid_t child;

static long call_wait(void)
{
	int status = 0;
	const long r = waitpid(child, &status, 0);
	return r == child && WIFSIGNALED(status) ? WTERMSIG(status) : -1;
}

static void new_child(void)
{
	child = fork();
	if (child == 0) {
		for (;;)
			pause();
	}
}

static void wait_make(void)
{
	new_child();
	call_made(call_wait);
}

static void wait_check(void)
{
	CHECK(still_waits() && kill(child, SIGKILL) == 0 && came_to(SIGKILL));
	new_child();
	call_begins();
}

static struct sockaddr_un name = { .sun_family = AF_UNIX, .sun_path = "socket" };

static long call_accept(void)
{
	return accept(other, NULL, NULL);
}

static void accept_make(void)
{
	other = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(bind(other, (struct sockaddr *)&name, sizeof(name)) == 0 && listen(other, 1) == 0);
	call_made(call_accept);
}

static void accept_check(void)
{
	CHECK(still_waits());
	fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&name, sizeof(name)) == 0);
	small_await(&ended, go);
	CHECK(result >= 0 && close((int)result) == 0 && close(fd) == 0);
	call_begins();
}

static long call_recv(void)
{
	char c;
	return recv(ends[0], &c, 1, 0);
}

static void recv_make(void)
{
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
	call_made(call_recv);
}

static long call_flock(void)
{
	const long r = flock(other, LOCK_EX);
	return r == 0 ? flock(other, LOCK_UN) : r;
}

static void flock_make(void)
{
	fd = small_file("locked", "", O_RDWR);
	other = open("locked", O_RDWR);
	CHECK(other >= 0 && flock(fd, LOCK_EX) == 0);
	call_made(call_flock);
}

static void flock_check(void)
{
	CHECK(still_waits() && flock(fd, LOCK_UN) == 0 && came_to(0) && flock(fd, LOCK_EX) == 0);
	call_begins();
}

static long call_sigwait(void)
{
	siginfo_t i;
	const sigset_t set = set_of(SIGRTMIN + 6);
	const long r = sigwaitinfo(&set, &i);
	return r > 0 ? i.si_value.sival_int : r;
}

static void sigwait_make(void)
{
	block(SIGRTMIN + 6);
	call_made(call_sigwait);
}

static void sigwait_check(void)
{
	CHECK(still_waits());
	CHECK(sigqueue(getpid(), SIGRTMIN + 6, (union sigval){ .sival_int = 66 }) == 0);
	CHECK(came_to(66));
	call_begins();
}

static long call_sigsuspend(void)
{
	sigset_t none;
	sigemptyset(&none);
	return sigsuspend(&none);
}

static void sigsuspend_make(void)
{
	handle(SIGRTMIN + 8, 0);
	block(SIGRTMIN + 8);
	call_made(call_sigsuspend);
}

static void sigsuspend_check(void)
{
	CHECK(still_waits() && kill(getpid(), SIGRTMIN + 8) == 0 && came_to(-1));
	CHECK(result_errno == EINTR && caught == SIGRTMIN + 8 && caught_code == SI_USER);
	caught = 0;
	call_begins();
}

static int queue;

static long call_msgrcv(void)
{
	struct {
		long type;
		char text[8];
	} m;
	return msgrcv(queue, &m, sizeof(m.text), 0, 0);
}

static void msgrcv_make(void)
{
	queue = msgget(IPC_PRIVATE, 0600);
	CHECK(queue >= 0);
	call_made(call_msgrcv);
}

static void msgrcv_check(void)
{
	const struct {
		long type;
		char text[8];
	} m = { 1, "hello" };
	CHECK(still_waits() && msgsnd(queue, &m, 5, 0) == 0 && came_to(5));
	call_begins();
}

static long call_semop(void)
{
	struct sembuf take = { 0, -1, 0 };
	return semop(queue, &take, 1);
}

static void semop_make(void)
{
	queue = semget(IPC_PRIVATE, 1, 0600);
	CHECK(queue >= 0);
	call_made(call_semop);
}

static void semop_check(void)
{
	struct sembuf give = { 0, 1, 0 };
	CHECK(still_waits() && semop(queue, &give, 1) == 0 && came_to(0));
	call_begins();
}

static long call_pause(void)
{
	return pause();
}

static void pause_make(void)
{
	handle(SIGRTMIN + 9, SA_RESTART);
	block(SIGRTMIN + 9);
	call_made(call_pause);
}

static void pause_check(void)
{
	CHECK(still_waits());
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static long call_mutex(void)
{
	const long r = pthread_mutex_lock(&mutex);
	return r == 0 ? pthread_mutex_unlock(&mutex) : r;
}

static void mutex_make(void)
{
	CHECK(pthread_mutex_lock(&mutex) == 0);
	call_made(call_mutex);
}

static void mutex_check(void)
{
	CHECK(still_waits() && pthread_mutex_unlock(&mutex) == 0 && came_to(0));
	CHECK(pthread_mutex_lock(&mutex) == 0);
	call_begins();
}

const struct small_case signal_cases[] = {
	{ "sigaction(2): handler, mask, flags, SIG_IGN and SIG_DFL", actions_make, actions_check },
	{ "sigaction(2): SA_RESETHAND", resethand_make, resethand_check },
	{ "sigprocmask(2): the mask, and no other signal in it", mask_make, mask_check },
	{ "pthread_sigmask(3): each thread has its own", thread_mask_make, thread_mask_check },
	{ "sigpending(2): a standard signal pends once, with its sender", pending_make,
	  pending_check },
	{ "sigqueue(3): real-time signals: all of them, in their order, with their values",
	  queued_make, queued_check },
	{ "tgkill(2): a signal that pends for the thread", thread_pending_make,
	  thread_pending_check },
	{ "sigaction(2): SA_NOCLDWAIT: no zombies", ignored_child_make, ignored_child_check },
	{ "sigaction(2): a pending SIGCHLD, and its zombie", child_pending_make,
	  child_pending_check },
	{ "sigaltstack(2): the stack, and a handler on it", altstack_make, altstack_check },
	{ "sigaction(2): captured in a handler on the alternate stack, it returns", in_handler_make,
	  in_handler_check },
	{ "signal(7): read(2) of a pipe waits on", read_make, read_check },
	{ "signal(7): write(2) to a full pipe waits on", write_make, write_check },
	{ "signal(7): open(2) of a FIFO waits on", open_make, open_check },
	{ "signal(7): poll(2) without a time waits on", poll_make, waits_for_byte_check },
	{ "signal(7): poll(2) with a time ends with 0", poll_time_make, poll_time_check },
	{ "signal(7): select(2) waits on", select_make, waits_for_byte_check },
	{ "signal(7): epoll_wait(2) waits on", epoll_wait_make, waits_for_byte_check },
	{ "signal(7): FUTEX_WAIT without a time waits on", futex_make, futex_check },
	{ "signal(7): FUTEX_WAIT with a time ends with ETIMEDOUT", futex_time_make,
	  futex_time_check },
	{ "signal(7): waitpid(2) waits on", wait_make, wait_check },
	{ "signal(7): accept(2) waits on", accept_make, accept_check },
	{ "signal(7): recv(2) of a socket waits on", recv_make, read_check },
	{ "signal(7): flock(2) waits on", flock_make, flock_check },
	{ "signal(7): sigwaitinfo(2) waits on", sigwait_make, sigwait_check },
	{ "signal(7): sigsuspend(2) waits on, under its mask", sigsuspend_make, sigsuspend_check },
	{ "signal(7): msgrcv(2) waits on", msgrcv_make, msgrcv_check },
	{ "signal(7): semop(2) waits on", semop_make, semop_check },
	{ "signal(7): pause(2) waits on", pause_make, pause_check },
	{ "pthread_mutex_lock(3): who waits for a mutex gets it", mutex_make, mutex_check },
	{ NULL },
};
