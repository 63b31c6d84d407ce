/* What a process is, as setsid(2), setpgid(2), wait(2), prctl(2), getpriority(2), sched(7),
 * getrlimit(2), personality(2), umask(2), chdir(2), capabilities(7), seccomp(2), keyctl(2),
 * get_robust_list(2), arch_prctl(2), proc(5) and pty(7) have it. */
#include <asm/prctl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <termios.h>

#include "small.h"

static int fd = -1, other = -1, ends[2], back[2], number;
static pid_t child, was[4];
static siginfo_t info;
static const char *mapped;

/* A child that answers each byte with what @answer finds, and ends with the pipe. */
static void ask_child(int (*answer)(void))
{
	char c;
	while (read(ends[0], &c, 1) == 1) {
		const int found = answer();
		if (write(back[1], &found, sizeof(found)) != sizeof(found))
			break;
	}
	_exit(0);
}

static bool asks(void)
{
	CHECK(pipe(ends) == 0 && pipe(back) == 0);
	child = fork();
	if (child == 0)
		close(ends[1]);
	return child == 0;
}

static int answered(void)
{
	int found = -1;
	CHECK(write(ends[1], "?", 1) == 1 && read(back[0], &found, sizeof(found)) == sizeof(found));
	return found;
}

/* ---- setsid(2), setpgid(2), wait(2) ---- */

static void ids_make(void)
{
	was[0] = getpid();
	was[1] = getppid();
	was[2] = getpgrp();
	was[3] = getsid(0);
}

static void ids_check(void)
{
	CHECK(getpid() == was[0] && getppid() == was[1] && getpgrp() == was[2]);
	CHECK(getsid(0) == was[3] && was[3] == getpid() && setsid() < 0 && errno == EPERM);
	CHECK(syscall(SYS_gettid) == was[0]);
}

static int child_ids(void)
{
	return getpgrp() == getpid() && getsid(0) == was[0] && getppid() == was[0];
}

static void group_make(void)
{
	was[0] = getpid();
	if (asks()) {
		(void)setpgid(0, 0);
		ask_child(child_ids);
	}
	(void)setpgid(child, child);
}

static void group_check(void)
{
	CHECK(answered() == 1 && getpgid(child) == child && getsid(child) == getsid(0));
	CHECK(killpg(child, 0) == 0);
}

static int leader_ids(void)
{
	return getsid(0) == getpid() && getpgrp() == getpid() && getppid() == was[0];
}

static void session_make(void)
{
	was[0] = getpid();
	if (asks()) {
		(void)setsid();
		ask_child(leader_ids);
	}
	CHECK(answered() == 1);
}

static void session_check(void)
{
	CHECK(answered() == 1 && getsid(child) == child);
	CHECK(setpgid(child, getpgrp()) < 0 && errno == EPERM);
}

static void orphaned_group_make(void)
{
	int line[2];
	CHECK(pipe(line) == 0 && prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
	pid_t leader = fork();
	if (leader == 0) {
		(void)setpgid(0, 0);
		pid_t member = fork();
		if (member == 0) {
			for (;;)
				pause();
		}
		CHECK(write(line[1], &member, sizeof(member)) == sizeof(member));
		_exit(0);
	}
	CHECK(read(line[0], &child, sizeof(child)) == sizeof(child));
	CHECK(waitpid(leader, NULL, 0) == leader && close(line[0]) == 0 && close(line[1]) == 0);
	was[0] = leader;
}

static void orphaned_group_check(void)
{
	CHECK(getpgid(child) == was[0] && killpg(was[0], 0) == 0 && kill(was[0], 0) < 0);
	CHECK(errno == ESRCH && waitpid(child, NULL, WNOHANG) == 0);
}

static void zombie_make(void)
{
	child = fork();
	if (child == 0)
		_exit(42);
	CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
}

static void zombie_check(void)
{
	int status = 0;
	struct rusage use;
	CHECK(kill(child, 0) == 0 && wait4(child, &status, 0, &use) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
	zombie_make();
}

static void killed_make(void)
{
	child = fork();
	if (child == 0) {
		for (;;)
			pause();
	}
	CHECK(kill(child, SIGKILL) == 0);
	CHECK(waitid(P_PID, (id_t)child, &info, WEXITED | WNOWAIT) == 0);
}

static void killed_check(void)
{
	int status = 0;
	CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
	CHECK(WTERMSIG(status) == SIGKILL);
	killed_make();
}

static volatile sig_atomic_t signals;

static void count_signal(int sig)
{
	(void)sig;
	signals = signals + 1;
}

/* Its parent is told once, and sent one signal. */
static void stop_make(void)
{
	const struct sigaction count = { .sa_handler = count_signal };
	CHECK(sigaction(SIGCHLD, &count, NULL) == 0);
	child = fork();
	while (child == 0)
		CHECK(raise(SIGSTOP) == 0);
	int status = 0, got;
	do
		got = waitpid(child, &status, WUNTRACED);
	while (got < 0 && errno == EINTR);
	CHECK(got == child && WIFSTOPPED(status));
	for (int i = 0; i < 30000 && signals == 0; i++)
		small_nap(1);
	CHECK(signals == 1);
}

static void stop_check(void)
{
	int status = 0;
	small_nap(1);
	CHECK(waitpid(child, &status, WUNTRACED | WCONTINUED | WNOHANG) == 0 && signals == 1);
}

/* One that nobody has waited for yet. */
static void untold_stop_make(void)
{
	child = fork();
	while (child == 0)
		CHECK(raise(SIGSTOP) == 0);
	CHECK(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT) == 0);
}

static void untold_stop_check(void)
{
	CHECK(waitid(P_PID, (id_t)child, &info, WSTOPPED | WNOWAIT) == 0);
	CHECK(info.si_pid == child && info.si_status == SIGSTOP);
}

static void subreaper_make(void)
{
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
}

static void subreaper_check(void)
{
	int is = 0, status;
	CHECK(prctl(PR_GET_CHILD_SUBREAPER, &is) == 0 && is == 1);
	pid_t pid = fork();
	if (pid == 0) {
		if (fork() == 0)
			_exit(5);
		_exit(4);
	}
	CHECK(waitpid(pid, &status, 0) == pid && WEXITSTATUS(status) == 4);
	CHECK(waitpid(-1, &status, 0) > 0 && WEXITSTATUS(status) == 5);
}

static int seven(void)
{
	return 7;
}

static void *goes_on_answering(void *arg)
{
	(void)arg;
	ask_child(seven);
	return NULL;
}

static void dead_leader_make(void)
{
	const int thread = (int)syscall(SYS_pidfd_open, getpid(), O_EXCL /* PIDFD_THREAD */);
	if (thread < 0 && errno == EINVAL)
		small_skip("this kernel gives files of first threads only");
	CHECK(thread >= 0 && close(thread) == 0);
	if (asks()) {
		pthread_t t;
		CHECK(pthread_create(&t, NULL, goes_on_answering, NULL) == 0);
		(void)syscall(SYS_exit, 3);
	}
	char state = 0, text[256];
	for (int i = 0; i < 30000 && state != 'Z'; i++) {
		FILE *f = fopen("/proc/thread-self/children", "re");
		int outer = 0;
		CHECK(f && fscanf(f, "%d", &outer) == 1 && fclose(f) == 0);
		snprintf(text, sizeof(text), "/proc/%d/stat", outer);
		f = fopen(text, "re");
		CHECK(f && fgets(text, sizeof(text), f) && fclose(f) == 0);
		state = strrchr(text, ')')[2];
		small_nap(1);
	}
	CHECK(state == 'Z');
}

static void dead_leader_check(void)
{
	int status;
	CHECK(waitpid(child, &status, WNOHANG) == 0 && kill(child, 0) == 0);
	CHECK(answered() == 7);
}

/* ---- prctl(2) ---- */

static void name_make(void)
{
	CHECK(prctl(PR_SET_NAME, "a (small) name") == 0);
}

static void name_check(void)
{
	char text[16] = "";
	CHECK(prctl(PR_GET_NAME, text) == 0 && strcmp(text, "a (small) name") == 0);
	CHECK(strcmp(small_proc("comm", ""), "a (small) name") == 0);
}

static void pdeathsig_make(void)
{
	CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
}

static void pdeathsig_check(void)
{
	int sig = 0;
	CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == SIGUSR2);
}

static void prctl_make(void)
{
	CHECK(prctl(PR_SET_TIMERSLACK, 123456) == 0 && prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

static void prctl_check(void)
{
	CHECK(prctl(PR_GET_TIMERSLACK) == 123456 && prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 && prctl(PR_GET_DUMPABLE) == 1);
	CHECK(atoi(small_proc("status", "NoNewPrivs:")) == 1);
}

static void dumpable_make(void)
{
	CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
}

static void dumpable_check(void)
{
	CHECK(prctl(PR_GET_DUMPABLE) == 0);
}

static void tsc_make(void)
{
	CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
}

static void tsc_check(void)
{
	int how = 0;
	CHECK(prctl(PR_GET_TSC, &how) == 0 && how == PR_TSC_SIGSEGV);
}

/* ---- getpriority(2), sched(7), getrlimit(2), personality(2) ---- */

static int niceness; /* who runs us may be nice already, and the way back is not everybody's */

static void nice_make(void)
{
	niceness = getpriority(PRIO_PROCESS, 0) < 7 ? 7 : 19;
	CHECK(setpriority(PRIO_PROCESS, 0, niceness) == 0);
}

static void nice_check(void)
{
	errno = 0;
	CHECK(getpriority(PRIO_PROCESS, 0) == niceness && errno == 0);
}

static void batch_make(void)
{
	struct sched_param p = { 0 };
	CHECK(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &p) == 0);
}

static void batch_check(void)
{
	CHECK(sched_getscheduler(0) == (SCHED_BATCH | SCHED_RESET_ON_FORK));
}

static void idle_make(void)
{
	struct sched_param p = { 0 };
	CHECK(sched_setscheduler(0, SCHED_IDLE, &p) == 0);
}

static void idle_check(void)
{
	CHECK(sched_getscheduler(0) == SCHED_IDLE);
}

static void fifo_make(void)
{
	struct sched_param p = { .sched_priority = 3 };
	if (sched_setscheduler(0, SCHED_FIFO, &p) < 0)
		small_skip("there is no real time here");
}

static void fifo_check(void)
{
	struct sched_param p = { 0 };
	CHECK(sched_getscheduler(0) == SCHED_FIFO && sched_getparam(0, &p) == 0);
	CHECK(p.sched_priority == 3);
}

static cpu_set_t one_cpu;

static void affinity_make(void)
{
	cpu_set_t all;
	CHECK(sched_getaffinity(0, sizeof(all), &all) == 0);
	CPU_ZERO(&one_cpu);
	for (int i = 0; i < CPU_SETSIZE; i++) {
		if (CPU_ISSET(i, &all) && CPU_COUNT(&one_cpu) == 0)
			CPU_SET(i, &one_cpu);
	}
	CHECK(sched_setaffinity(0, sizeof(one_cpu), &one_cpu) == 0);
}

static void affinity_check(void)
{
	cpu_set_t now;
	CHECK(sched_getaffinity(0, sizeof(now), &now) == 0 && CPU_EQUAL(&now, &one_cpu));
}

static void limits_make(void)
{
	const struct rlimit files = { 333, 444 }, core = { 0, 1000 }, stack = { 3 << 20, 5 << 20 };
	CHECK(setrlimit(RLIMIT_NOFILE, &files) == 0 && setrlimit(RLIMIT_STACK, &stack) == 0);
	CHECK(setrlimit(RLIMIT_CORE, &core) == 0);
}

static void limits_check(void)
{
	struct rlimit l;
	CHECK(getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur == 333 && l.rlim_max == 444);
	CHECK(dup2(0, 333) < 0 && errno == EBADF && dup2(0, 332) == 332 && close(332) == 0);
	CHECK(getrlimit(RLIMIT_CORE, &l) == 0 && l.rlim_cur == 0 && l.rlim_max == 1000);
	CHECK(getrlimit(RLIMIT_STACK, &l) == 0 && l.rlim_cur == 3 << 20 && l.rlim_max == 5 << 20);
}

static void oom_make(void)
{
	fd = open("/proc/self/oom_score_adj", O_WRONLY);
	CHECK(fd >= 0 && write(fd, "321", 3) == 3 && close(fd) == 0);
}

static void oom_check(void)
{
	CHECK(strcmp(small_proc("oom_score_adj", ""), "321") == 0);
}

static void coredump_filter_make(void)
{
	fd = open("/proc/self/coredump_filter", O_WRONLY);
	CHECK(fd >= 0 && write(fd, "0x7", 3) == 3 && close(fd) == 0);
}

static void coredump_filter_check(void)
{
	CHECK(strtol(small_proc("coredump_filter", ""), NULL, 16) == 7);
}

static void personality_make(void)
{
	CHECK(personality(ADDR_NO_RANDOMIZE | UNAME26) >= 0);
}

static void personality_check(void)
{
	CHECK(personality(0xffffffff) == (ADDR_NO_RANDOMIZE | UNAME26));
}

/* ---- umask(2), chdir(2) ---- */

static void umask_make(void)
{
	umask(027);
}

static void umask_check(void)
{
	CHECK(umask(027) == 027);
}

static void cwd_make(void)
{
	CHECK(mkdir("below", 0755) == 0 && chdir("below") == 0);
}

static void cwd_check(void)
{
	char text[256];
	struct stat a, b;
	CHECK(getcwd(text, sizeof(text)) && strcmp(strrchr(text, '/'), "/below") == 0);
	CHECK(stat(".", &a) == 0 && stat("../below", &b) == 0 && a.st_ino == b.st_ino);
}

/* What it has mapped, libraries too, is where its names lead to from outside only. */
static void chroot_make(void)
{
	struct stat st;
	fd = small_file("mapped", "text", O_RDWR);
	mapped = mmap(NULL, PAGE, PROT_READ, MAP_SHARED, fd, 0);
	CHECK(mapped != MAP_FAILED && close(fd) == 0);
	CHECK(stat("/usr/share", &st) == 0 && chroot("/usr/share") == 0);
	was[0] = (int)st.st_ino;
}

static void chroot_check(void)
{
	struct stat root, here;
	CHECK(stat("/", &root) == 0 && (int)root.st_ino == was[0]);
	CHECK(stat("/..", &here) == 0 && here.st_ino == root.st_ino);
	CHECK(strcmp(mapped, "text") == 0 && access("mapped", R_OK) == 0);
}

/* ---- capabilities(7), seccomp(2), credentials(7), keyctl(2) ---- */

static void caps_make(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = {
		{ 1U << CAP_KILL, (1U << CAP_KILL) | (1U << CAP_CHOWN), 1U << CAP_CHOWN }
	};
	CHECK(prctl(PR_CAPBSET_DROP, CAP_MKNOD) == 0);
	CHECK(syscall(SYS_capset, &head, caps) == 0);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_CHOWN, 0, 0) == 0);
}

static void caps_check(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];
	CHECK(syscall(SYS_capget, &head, caps) == 0 && caps[0].effective == 1U << CAP_KILL);
	CHECK(caps[0].permitted == ((1U << CAP_KILL) | (1U << CAP_CHOWN)) && !caps[1].permitted);
	CHECK(caps[0].inheritable == 1U << CAP_CHOWN && prctl(PR_CAPBSET_READ, CAP_MKNOD) == 0);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_CHOWN, 0, 0) == 1);
	CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN) == 1);
}

static void securebits_make(void)
{
	CHECK(prctl(PR_SET_SECUREBITS, SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP_LOCKED) == 0);
}

static void securebits_check(void)
{
	CHECK(prctl(PR_GET_SECUREBITS) == (SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP_LOCKED));
}

static void credentials_make(void)
{
	const gid_t groups[] = { 7, 1234, 70000 };
	CHECK(setgroups(3, groups) == 0 && setresgid(1001, 1002, 1003) == 0);
	CHECK(setresuid(2001, 2002, 0) == 0);
}

static void credentials_check(void)
{
	gid_t groups[4];
	uid_t r, e, s;
	CHECK(getresuid(&r, &e, &s) == 0 && r == 2001 && e == 2002 && s == 0);
	CHECK(getresgid(&r, &e, &s) == 0 && r == 1001 && e == 1002 && s == 1003);
	CHECK(getgroups(4, groups) == 3 && groups[0] == 7 && groups[1] == 1234 &&
	      groups[2] == 70000);
}

static void filter_make(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getpriority, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	const struct sock_fprog program = { COUNT(code), code };
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) == 0);
}

static void filter_check(void)
{
	CHECK(prctl(PR_GET_SECCOMP) == 2 && syscall(SYS_getpriority, PRIO_PROCESS, 0) < 0);
	CHECK(errno == 77);
}

static void keys_make(void)
{
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "small") < 0)
		small_skip("this kernel, or who runs it, has no keyrings");
	number =
		(int)syscall(SYS_add_key, "user", "name", "payload", 7UL, KEY_SPEC_PROCESS_KEYRING);
	CHECK(number > 0);
}

static void keys_check(void)
{
	char text[16] = "";
	number = (int)syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "name",
			      0);
	CHECK(number > 0 && syscall(SYS_keyctl, KEYCTL_READ, number, text, sizeof(text)) == 7);
	CHECK(memcmp(text, "payload", 7) == 0);
}

/* ---- threads and registers ---- */

static __thread int own = 1;
static volatile int thread_turn, thread_answer;

static void *with_tls(void *arg)
{
	own = 1000 + *(int *)arg;
	for (int seen = 0;; seen++) {
		while (thread_turn == seen)
			small_nap(1);
		thread_answer = own == 1000 + *(int *)arg ? seen + 1 : -1;
	}
	return NULL;
}

static void tls_make(void)
{
	number = 5;
	small_thread(with_tls, &number);
}

static void tls_check(void)
{
	thread_turn++;
	small_await(&thread_answer, thread_turn);
	CHECK(own == thread_turn);
	own++;
}

static unsigned long gs;

static void arch_make(void)
{
	CHECK(syscall(SYS_arch_prctl, ARCH_SET_GS, 0x123456789000UL) == 0);
	CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &gs) == 0);
}

static void arch_check(void)
{
	unsigned long now = 0;
	CHECK(syscall(SYS_arch_prctl, ARCH_GET_GS, &now) == 0 && now == 0x123456789000UL);
	CHECK(syscall(SYS_arch_prctl, ARCH_GET_FS, &now) == 0 && now == gs);
}

static volatile int vectors_go, vectors_bad, vectors_rounds;

/* Spins on live registers, in user mode only. */
static void *with_vectors(void *arg)
{
	(void)arg;
	const uint64_t a = 0x0123456789abcdefULL;
	uint64_t x, y;
	uint16_t control = 0x0f7f, found = 0;
	__asm__ volatile("fldcw %0" : : "m"(control));
	for (;;) {
		__asm__ volatile("movq %2, %%xmm7\n"
				 "movq %2, %%mm3\n"
				 "mov $2000000, %%rcx\n"
				 "1: dec %%rcx\n"
				 "jnz 1b\n"
				 "movq %%xmm7, %0\n"
				 "movq %%mm3, %1\n"
				 "emms\n"
				 : "=r"(x), "=r"(y)
				 : "r"(a)
				 : "rcx", "xmm7", "mm3");
		__asm__ volatile("fnstcw %0" : "=m"(found));
		vectors_bad |= x != a || y != a || found != control;
		vectors_rounds++;
		while (!vectors_go)
			small_nap(1);
	}
	return NULL;
}

static void vectors_make(void)
{
	vectors_go = 1;
	small_thread(with_vectors, NULL);
}

static void vectors_check(void)
{
	const int before = vectors_rounds;
	for (int i = 0; i < 30000 && vectors_rounds < before + 2; i++)
		small_nap(1);
	CHECK(!vectors_bad && vectors_rounds >= before + 2);
}

static pthread_mutex_t *robust;

static void robust_begin(void)
{
	pthread_mutexattr_t a;
	robust = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(robust != MAP_FAILED && pthread_mutexattr_init(&a) == 0);
	CHECK(pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST) == 0);
	CHECK(pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED) == 0);
	CHECK(pthread_mutex_init(robust, &a) == 0);
}

static int robust_child(void)
{
	return pthread_mutex_lock(robust);
}

static void robust_make(void)
{
	robust_begin();
	if (asks())
		ask_child(robust_child);
	CHECK(answered() == 0);
}

static void robust_check(void)
{
	CHECK(pthread_mutex_trylock(robust) == EBUSY && kill(child, SIGKILL) == 0);
	CHECK(waitpid(child, NULL, 0) == child && pthread_mutex_lock(robust) == EOWNERDEAD);
	CHECK(pthread_mutex_consistent(robust) == 0 && pthread_mutex_unlock(robust) == 0);
	CHECK(!close(ends[0]) && !close(ends[1]) && !close(back[0]) && !close(back[1]));
	if (asks())
		ask_child(robust_child);
	CHECK(answered() == 0);
}

static void proc_texts_make(void)
{
	CHECK(setenv("NEVER_SEEN", "1", 1) == 0);
}

static void proc_texts_check(void)
{
	char text[256] = "";
	fd = open("/proc/self/cmdline", O_RDONLY);
	const ssize_t len = read(fd, text, sizeof(text) - 1);
	CHECK(len > 16 && strcmp(text, "small") == 0 && strcmp(text + 6, "processes") == 0);
	CHECK(close(fd) == 0 && readlink("/proc/self/exe", text, sizeof(text) - 1) > 6);
	CHECK(strstr(text, "/small") && getenv("NEVER_SEEN"));
	fd = open("/proc/self/auxv", O_RDONLY);
	CHECK(read(fd, text, 16) == 16 && close(fd) == 0);
}

/* ---- pty(7), termios(3), tty_ioctl(4) ---- */

static char slave_name[64];

static void open_pty(void)
{
	fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_NONBLOCK);
	int unlock = 0;
	if (fd < 0 || ioctl(fd, TIOCSPTLCK, &unlock) < 0)
		small_skip("there are no pseudoterminals here");
	CHECK(ioctl(fd, TIOCGPTN, &number) == 0);
	snprintf(slave_name, sizeof(slave_name), "/dev/pts/%d", number);
	other = open(slave_name, O_RDWR | O_NOCTTY);
	if (other < 0)
		small_skip("the world's pseudoterminals are not to be opened");
}

static bool hears(int from, const char *text)
{
	char got[64];
	const size_t len = strlen(text);
	for (size_t at = 0; at < len;) {
		struct pollfd p = { .fd = from, .events = POLLIN };
		if (poll(&p, 1, 30000) != 1)
			return false;
		const ssize_t n = read(from, got + at, len - at);
		if (n <= 0)
			return false;
		at += (size_t)n;
	}
	return memcmp(got, text, len) == 0;
}

static void pty_make(void)
{
	open_pty();
}

static void pty_check(void)
{
	CHECK(write(fd, "line\n", 5) == 5 && hears(fd, "line\r\n") && hears(other, "line\n"));
	CHECK(write(other, "out\n", 4) == 4 && hears(fd, "out\r\n"));
}

static void unread_pty_make(void)
{
	struct termios t;
	open_pty();
	CHECK(tcgetattr(other, &t) == 0);
	t.c_lflag &= ~(tcflag_t)ECHO;
	CHECK(tcsetattr(other, TCSANOW, &t) == 0);
	CHECK(write(fd, "one\ntwo\004\004ty", 11) == 11 && write(other, "out\n", 4) == 4);
}

static void unread_pty_check(void)
{
	char rest[16];
	CHECK(hears(fd, "out\r\n") && small_readable(other));
	CHECK(read(other, rest, sizeof(rest)) == 4 && memcmp(rest, "one\n", 4) == 0);
	CHECK(read(other, rest, sizeof(rest)) == 3 && memcmp(rest, "two", 3) == 0);
	CHECK(read(other, rest, sizeof(rest)) == 0 && !small_readable(other));
	CHECK(write(fd, "ped\n", 4) == 4 && hears(other, "typed\n"));
	CHECK(write(fd, "one\ntwo\004\004ty", 11) == 11 && write(other, "out\n", 4) == 4);
}

static void termios_make(void)
{
	struct termios t;
	open_pty();
	CHECK(tcgetattr(other, &t) == 0);
	cfmakeraw(&t);
	t.c_cc[VMIN] = 3;
	t.c_cc[VINTR] = 7;
	CHECK(cfsetspeed(&t, B9600) == 0 && tcsetattr(other, TCSANOW, &t) == 0);
	const struct winsize w = { 24, 80, 640, 480 };
	CHECK(ioctl(fd, TIOCSWINSZ, &w) == 0);
}

static void termios_check(void)
{
	struct termios t;
	struct winsize w;
	CHECK(tcgetattr(other, &t) == 0 && !(t.c_lflag & (ICANON | ECHO | ISIG)));
	CHECK(t.c_cc[VMIN] == 3 && t.c_cc[VINTR] == 7 && cfgetospeed(&t) == B9600);
	CHECK(ioctl(other, TIOCGWINSZ, &w) == 0 && w.ws_row == 24 && w.ws_col == 80);
	CHECK(w.ws_xpixel == 640 && w.ws_ypixel == 480);
	CHECK(write(fd, "abc", 3) == 3 && hears(other, "abc"));
}

static void controlling_make(void)
{
	open_pty();
	CHECK(ioctl(other, TIOCSCTTY, 0) == 0);
}

static void controlling_check(void)
{
	sigset_t set;
	const struct timespec limit = { 30, 0 };
	CHECK(tcgetsid(other) == getpid() && tcgetpgrp(other) == getpgrp());
	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && write(fd, "\003", 1) == 1);
	CHECK(sigtimedwait(&set, &info, &limit) == SIGINT && info.si_code == SI_KERNEL);
	const int tty = open("/dev/tty", O_RDWR);
	CHECK(tty >= 0 && close(tty) == 0);
	char rest[16];
	CHECK(read(fd, rest, sizeof(rest)) > 0); /* ^C */
}

const struct small_case process_cases[] = {
	{ "getpid(2), getppid(2), getpgrp(2), getsid(2): they stay", ids_make, ids_check },
	{ "setpgid(2): a child in a group of its own", group_make, group_check },
	{ "setsid(2): a child in a session of its own", session_make, session_check },
	{ "setpgid(2): a group whose leader is gone", orphaned_group_make, orphaned_group_check },
	{ "wait(2): a zombie with its exit status", zombie_make, zombie_check },
	{ "wait(2): a zombie that was killed", killed_make, killed_check },
	{ "wait(2): a stop that was waited for, and no signal more", stop_make, stop_check },
	{ "wait(2): a stop that was not waited for", untold_stop_make, untold_stop_check },
	{ "prctl(2): PR_SET_CHILD_SUBREAPER: orphans come", subreaper_make, subreaper_check },
	{ "pthread_exit(3): a process whose first thread has ended goes on", dead_leader_make,
	  dead_leader_check },
	{ "prctl(2): PR_SET_NAME", name_make, name_check },
	{ "prctl(2): PR_SET_PDEATHSIG", pdeathsig_make, pdeathsig_check },
	{ "prctl(2): PR_SET_TIMERSLACK, PR_SET_THP_DISABLE, PR_SET_NO_NEW_PRIVS", prctl_make,
	  prctl_check },
	{ "prctl(2): PR_SET_DUMPABLE: 0", dumpable_make, dumpable_check, SMALL_ROOT },
	{ "prctl(2): PR_SET_TSC", tsc_make, tsc_check },
	{ "setpriority(2): the nice value", nice_make, nice_check },
	{ "sched(7): SCHED_BATCH with SCHED_RESET_ON_FORK", batch_make, batch_check },
	{ "sched(7): SCHED_IDLE", idle_make, idle_check },
	{ "sched(7): SCHED_FIFO and its priority", fifo_make, fifo_check, SMALL_ROOT },
	{ "sched_setaffinity(2): one CPU", affinity_make, affinity_check },
	{ "getrlimit(2): soft and hard limits, and what they forbid", limits_make, limits_check },
	{ "proc(5): /proc/self/oom_score_adj", oom_make, oom_check },
	{ "core(5): /proc/self/coredump_filter", coredump_filter_make, coredump_filter_check },
	{ "personality(2): ADDR_NO_RANDOMIZE and UNAME26", personality_make, personality_check },
	{ "umask(2): the mask", umask_make, umask_check },
	{ "chdir(2): the working directory", cwd_make, cwd_check },
	{ "chroot(2): the root directory, with files mapped from outside of it", chroot_make,
	  chroot_check, SMALL_ROOT },
	{ "capabilities(7): all five sets", caps_make, caps_check, SMALL_ROOT },
	{ "capabilities(7): securebits", securebits_make, securebits_check, SMALL_ROOT },
	{ "credentials(7): real, effective and saved ids, supplementary groups", credentials_make,
	  credentials_check, SMALL_ROOT },
	{ "seccomp(2): a filter goes on filtering", filter_make, filter_check, SMALL_ROOT },
	{ "keyctl(2): a key in the process keyring", keys_make, keys_check },
	{ "ld.so(8): thread-local storage of two threads", tls_make, tls_check },
	{ "arch_prctl(2): FS and GS", arch_make, arch_check },
	{ "sigreturn(2): x87, MMX and SSE registers of a thread that computes", vectors_make,
	  vectors_check },
	{ "get_robust_list(2): the mutex of one who dies is handed on: EOWNERDEAD", robust_make,
	  robust_check },
	{ "proc(5): cmdline, exe and auxv", proc_texts_make, proc_texts_check },
	{ "pty(7): a line that is typed, its echo, and what is written to it", pty_make,
	  pty_check },
	{ "pty(7): lines that are not read yet, one that is not typed yet, and output",
	  unread_pty_make, unread_pty_check },
	{ "termios(3): modes, characters and speed; window size", termios_make, termios_check },
	{ "tty_ioctl(4): the controlling terminal: its groups, ^C", controlling_make,
	  controlling_check },
	{ NULL },
};
