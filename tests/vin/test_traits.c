/* What a thread and a process have beside signals, timers and credentials; payloads that lie. */
#include "twins.h"

#include <asm/ldt.h>
#include <asm/prctl.h>
#include <linux/ioprio.h>
#include <linux/membarrier.h>
#include <sys/io.h>
#include <sys/ipc.h>
#include <sys/personality.h>
#include <sys/resource.h>
#include <sys/sem.h>
#include <sys/stat.h>

/* ---- scheduling ---- */

struct attr {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t util_min, util_max;
};

static struct attr attr_now(void)
{
	struct attr a = { 0 };
	CHECK(syscall(SYS_sched_getattr, 0, &a, sizeof(a), 0) == 0);
	return a;
}

static int set_attr(struct attr a)
{
	a.size = sizeof(a);
	return (int)syscall(SYS_sched_setattr, 0, &a, 0);
}

/* The tests' own, which an ordinary user can only raise */
static int nice_here;

static int nicer(int by)
{
	return nice_here + by < 19 ? nice_here + by : 19;
}

/* 0 is left as it is, 1 is nicer, 2 works in batches, 3 only when nobody else does */
static void sched_set_up(int thread)
{
	cpu_set_t cpus;
	CPU_ZERO(&cpus);
	CPU_SET(1, &cpus);
	if (thread == 1) {
		CHECK(setpriority(PRIO_PROCESS, 0, nicer(7)) == 0);
		CHECK(sched_setaffinity(0, sizeof(cpus), &cpus) == 0 || errno == EINVAL);
		CHECK(prctl(PR_SET_TIMERSLACK, 123456) == 0);
	}
	if (thread == 2) {
		CHECK(set_attr((struct attr){ .policy = SCHED_BATCH, .nice = nicer(3) }) == 0);
		CHECK(syscall(SYS_ioprio_set, 1, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6)) == 0);
	}
	if (thread == 3) {
		CHECK(set_attr((struct attr){
			      .policy = SCHED_IDLE, .flags = 1, .nice = nice_here }) == 0);
		CHECK(syscall(SYS_ioprio_set, 1, 0, IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0)) == 0);
	}
	if (thread == 4) {
		/* slice of one's own, from Linux 6.12 on */
		CHECK(set_attr((struct attr){
			      .policy = SCHED_OTHER, .nice = nice_here, .runtime = 5000000 }) == 0);
		/* nodes, where the kernel has them */
		unsigned long nodes = 1;
		CHECK(syscall(SYS_set_mempolicy, 2, &nodes, 64) == 0 || errno == ENOSYS);
	}
	cpu_set_t now;
	CHECK(sched_getaffinity(0, sizeof(now), &now) == 0);
	facts[thread] = CPU_COUNT(&now);
	facts[10 + thread] = (int64_t)attr_now().runtime;
	int mode = -1;
	syscall(SYS_get_mempolicy, &mode, NULL, 0, 0, 0);
	facts[20 + thread] = mode;
}

static void sched_verify(int thread)
{
	static const int nices[] = { 0, 7, 3, 0, 0 };
	static const uint32_t policies[] = { SCHED_OTHER, SCHED_OTHER, SCHED_BATCH, SCHED_IDLE,
					     SCHED_OTHER };
	struct attr a = attr_now();
	cpu_set_t now;
	int mode = -1;
	CHECK(getpriority(PRIO_PROCESS, 0) == nicer(nices[thread]));
	CHECK(a.policy == policies[thread]);
	CHECK(a.flags == (thread == 3 ? 1 : 0));
	CHECK((int64_t)a.runtime == facts[10 + thread]);
	CHECK(prctl(PR_GET_TIMERSLACK) == (thread == 1 ? 123456 : 50000));
	CHECK(sched_getaffinity(0, sizeof(now), &now) == 0 && CPU_COUNT(&now) == facts[thread]);
	long io = syscall(SYS_ioprio_get, 1, 0);
	CHECK(thread != 2 || io == IOPRIO_PRIO_VALUE(IOPRIO_CLASS_BE, 6));
	CHECK(thread != 3 || io == IOPRIO_PRIO_VALUE(IOPRIO_CLASS_IDLE, 0));
	syscall(SYS_get_mempolicy, &mode, NULL, 0, 0, 0);
	CHECK(mode == facts[20 + thread]);
}

static const struct twins sched_twins = { "each thread's scheduling", sched_set_up, sched_verify, 4,
					  false };

/* What not each machine allows: facts say what came of it. */
static void real_time_set_up(int thread)
{
	if (thread == 0)
		facts[0] = setpriority(PRIO_PROCESS, 0, -5) == 0 ? -5 : nice_here;
	if (thread == 1)
		set_attr((struct attr){ .policy = SCHED_FIFO, .priority = 11, .flags = 1 });
	if (thread == 2)
		set_attr((struct attr){ .policy = SCHED_RR, .priority = 3 });
	if (thread == 3)
		set_attr((struct attr){ .policy = 6,
					.runtime = 1000000,
					.deadline = 50000000,
					.period = 100000000 });
	struct attr a = attr_now();
	facts[10 + thread] = a.policy;
	facts[20 + thread] = a.priority;
	facts[30 + thread] = (int64_t)a.deadline;
	facts[40 + thread] = (int64_t)a.flags;
}

static void real_time_verify(int thread)
{
	struct attr a = attr_now();
	if (thread == 0)
		CHECK(getpriority(PRIO_PROCESS, 0) == facts[0]);
	CHECK(a.policy == facts[10 + thread] && a.priority == facts[20 + thread]);
	CHECK((int64_t)a.deadline == facts[30 + thread] && (int64_t)a.flags == facts[40 + thread]);
}

static const struct twins real_time_twins = { "real time and deadlines", real_time_set_up,
					      real_time_verify, 3, true };

/* ---- attributes ---- */

static void attributes_set_up(int thread)
{
	char name[16] = "odd \n)(\xff 0";
	name[10] = (char)('0' + thread);
	CHECK(prctl(PR_SET_NAME, name) == 0);
	if (thread == 1) {
		CHECK(personality(ADDR_NO_RANDOMIZE | UNAME26) >= 0);
		CHECK(prctl(PR_SET_TSC, PR_TSC_SIGSEGV) == 0);
		CHECK(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0) == 0);
		prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0);
		facts[1] = syscall(SYS_arch_prctl, 0x1012, 0) == 0;
	}
	facts[10 + thread] = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);
	facts[0] = prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0) == 0;
}

static void attributes_verify(int thread)
{
	char name[16] = { 0 };
	int tsc = 0;
	CHECK(prctl(PR_GET_NAME, name) == 0);
	CHECK(strncmp(name, "odd \n)(\xff ", 9) == 0 && name[10] == '0' + thread);
	CHECK(personality(0xffffffff) == (thread == 1 ? ADDR_NO_RANDOMIZE | UNAME26 : 0));
	CHECK(prctl(PR_GET_TSC, &tsc) == 0);
	CHECK(tsc == (thread == 1 ? PR_TSC_SIGSEGV : PR_TSC_ENABLE));
	CHECK(prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) ==
	      (thread == 1 ? PR_MCE_KILL_EARLY : PR_MCE_KILL_DEFAULT));
	CHECK(prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0) == facts[10 + thread]);
	if (facts[1])
		CHECK(syscall(SYS_arch_prctl, 0x1011) == (thread != 1));
	if (facts[0])
		CHECK(prctl(PR_GET_IO_FLUSHER, 0, 0, 0, 0) == 1);
	/* a sanitizer looks at the clock when a thread ends */
	prctl(PR_SET_TSC, PR_TSC_ENABLE);
	syscall(SYS_arch_prctl, 0x1012, 1);
}

static const struct twins attributes_twins = { "attributes of threads", attributes_set_up,
					       attributes_verify, 2, false };

/* ---- of the process ---- */

static void process_set_up(int thread)
{
	(void)thread;
	CHECK(prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0);
	CHECK(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0) == 0);
	prctl(67, 1, 0, 0, 0); /* PR_SET_MEMORY_MERGE, from 6.4 on */
	facts[0] = prctl(68, 0, 0, 0, 0);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGUSR2) == 0);
	CHECK(fvm_write_file(AT_FDCWD, "/proc/self/oom_score_adj", "500") == 0);
	CHECK(fvm_write_file(AT_FDCWD, "/proc/self/coredump_filter", "0x7a") == 0);
	umask(0137);
	CHECK(chdir("/usr/share") == 0);
}

static void process_verify(int thread)
{
	(void)thread;
	int value = 0;
	char cwd[100] = { 0 };
	CHECK(prctl(PR_GET_CHILD_SUBREAPER, &value) == 0 && value == 1);
	CHECK(prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) == 1);
	CHECK(prctl(68, 0, 0, 0, 0) == facts[0]);
	CHECK(prctl(PR_GET_PDEATHSIG, &value) == 0 && value == SIGUSR2);
	CHECK(umask(0) == 0137);
	CHECK(getcwd(cwd, sizeof(cwd)) && strcmp(cwd, "/usr/share") == 0);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
}

static const struct twins process_twins = { "attributes of the process", process_set_up,
					    process_verify, 0, false };

/* ---- segments and barriers ---- */

/* By the gate of 32-bit programs, which has no other way; -ENOSYS where the kernel has none. */
static long old_call(long nr, void *low)
{
	long r;
	__asm__ volatile("int $0x80"
			 : "=a"(r)
			 : "a"(nr), "b"(low)
			 : "memory", "r8", "r9", "r10", "r11");
	return r;
}

static void segments_set_up(int thread)
{
	struct user_desc d = { .entry_number = 700,
			       .base_addr = 0x12345000,
			       .limit = 0xfffff,
			       .seg_32bit = 1,
			       .limit_in_pages = 1,
			       .useable = 1 };
	if (thread == 0)
		facts[0] = syscall(SYS_modify_ldt, 0x11, &d, sizeof(d)) == 0;
	struct user_desc *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	CHECK(own != MAP_FAILED);
	*own = d;
	own->entry_number = 12 + (unsigned int)thread;
	own->base_addr = 0x1000 * (unsigned int)(thread + 1);
	facts[1 + thread] = old_call(243, own) == 0; /* set_thread_area */
}

static void segments_verify(int thread)
{
	static uint64_t table[8192];
	struct user_desc *own = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				     MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	CHECK(own != MAP_FAILED);
	if (thread == 0 && facts[0]) {
		CHECK(syscall(SYS_modify_ldt, 0, table, sizeof(table)) > 0);
		/* base, limit in pages, 32 bit, data, writable, ring 3 */
		CHECK((table[700] & ~(1ULL << 40)) == 0x12dff2345000ffffULL);
		CHECK(table[699] == 0 && table[0] == 0);
	}
	for (unsigned int i = 0; i < 3; i++) {
		own->entry_number = 12 + i;
		if (!facts[1 + thread] || old_call(244, own) < 0) /* get_thread_area */
			continue;
		CHECK(own->base_addr == (i == (unsigned int)thread ? 0x1000 * (i + 1) : 0));
	}
}

static const struct twins segments_twins = { "segments", segments_set_up, segments_verify, 2,
					     false };

static long barrier(int what)
{
	return syscall(SYS_membarrier, what, 0, 0);
}

static void barriers_set_up(int thread)
{
	(void)thread;
	facts[0] = barrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED) == 0;
	facts[1] = barrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED) == 0;
	facts[2] = barrier(1 << 9);
	facts[3] = prctl(65, 1, 0, 0, 0) == 0; /* PR_SET_MDWE, from 6.3 on */
}

static void barriers_verify(int thread)
{
	(void)thread;
	CHECK(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED) == 0 || !facts[0]);
	CHECK(barrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE) < 0 && errno == EPERM);
	CHECK(barrier(1 << 9) == facts[2]);
	void *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(page != MAP_FAILED);
	CHECK((mprotect(page, 4096, PROT_READ | PROT_EXEC) < 0) == facts[3]);
}

static const struct twins barriers_twins = { "barriers, and memory that may not be run",
					     barriers_set_up, barriers_verify, 1, false };

static void use_ports(int thread)
{
	(void)thread;
	facts[0] = ioperm(0x80, 1, 1) == 0;
}

/* An ordinary user can't stop such a one, unless it was begun in his user namespace. */
static void closed_set_up(int thread)
{
	(void)thread;
	CHECK(prctl(PR_SET_DUMPABLE, 0) == 0);
	facts[0] = prctl(PR_GET_DUMPABLE);
}

static void closed_verify(int thread)
{
	(void)thread;
	CHECK(prctl(PR_GET_DUMPABLE) == 0);
}

static const struct twins closed_twins = { "one that can't be looked into", closed_set_up,
					   closed_verify, 1, true };

/* A jail whose prisoner stands outside. */
static void root_set_up(int thread)
{
	(void)thread;
	struct stat st;
	CHECK(stat("/usr/share", &st) == 0);
	facts[0] = (int64_t)st.st_ino;
	CHECK(stat("/etc", &st) == 0);
	facts[1] = (int64_t)st.st_ino;
	CHECK(chdir("/etc") == 0);
	CHECK(chroot("/usr/share") == 0);
}

static void root_verify(int thread)
{
	(void)thread;
	struct stat st;
	CHECK(stat("/", &st) == 0 && (int64_t)st.st_ino == facts[0]);
	CHECK(stat(".", &st) == 0 && (int64_t)st.st_ino == facts[1]);
}

static const struct twins root_twins = { "a root directory, and a current one outside of it",
					 root_set_up, root_verify, 0, false };

/* ---- limits ---- */

#if defined(__SANITIZE_ADDRESS__)
#define SANITIZED 1
#else
#define SANITIZED 0
#endif

static void limits_set_up(int thread)
{
	(void)thread;
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit now, want;
		CHECK(getrlimit(i, &now) == 0);
		want.rlim_max = now.rlim_max < 1000000000 ? now.rlim_max : 1000000000 + (rlim_t)i;
		want.rlim_cur = want.rlim_max / 2;
		/* a sanitizer needs terabytes of addresses */
		if ((i == RLIMIT_AS || i == RLIMIT_DATA) && SANITIZED)
			want = now;
		CHECK(setrlimit(i, &want) == 0);
		facts[2 * i] = (int64_t)want.rlim_cur;
		facts[2 * i + 1] = (int64_t)want.rlim_max;
	}
	facts[63] = 0;
}

static void limits_verify(int thread)
{
	(void)thread;
	for (int i = 0; i < RLIM_NLIMITS; i++) {
		struct rlimit now;
		CHECK(getrlimit(i, &now) == 0);
		CHECK((int64_t)now.rlim_cur == facts[2 * i]);
		CHECK((int64_t)now.rlim_max == facts[2 * i + 1]);
	}
}

static const struct twins limits_twins = { "all limits", limits_set_up, limits_verify, 0, false };

/* ---- what can't be had is said before anybody is stopped ---- */

static void (*nature)(void);

static void be_of_nature(int thread)
{
	(void)thread;
	nature();
}

static void nothing(int thread)
{
	(void)thread;
}

static void refused_for(void (*fn)(void), const char *why)
{
	static struct twins t = { "", be_of_nature, nothing, 0, false };
	char name[40];
	nature = fn;
	twins = &t;
	pid_t pid = twin(true);
	err = (struct fvm_error){ 0 };
	int r = vin_traits_check(pid, 0, &err);
	if (r != -ENOTSUP)
		print_error("nothing about: %s\n", why);
	assert_int_equal(r, -ENOTSUP);
	snprintf(name, sizeof(name), "process %d", pid);
	assert_non_null(strstr(err.text, name));
	assert_non_null(strstr(err.text, why));
	end_both(NULL);
}

static void limit_memory(void)
{
	struct rlimit limit = { 0, RLIM_INFINITY };
	unsigned long pages = 0;
	FILE *f = fopen("/proc/self/statm", "r");
	CHECK(f && fscanf(f, "%lu", &pages) == 1);
	fclose(f);
	limit.rlim_cur = (pages + 20) * 4096;
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void limit_data(void)
{
	struct rlimit limit = { 4096, RLIM_INFINITY };
	CHECK(setrlimit(RLIMIT_DATA, &limit) == 0);
}

static void odd_name(void)
{
	char path[] = "/tmp/vinsig-odd (deleted)";
	(void)mkdir(path, 0777);
	CHECK(chdir(path) == 0);
}

static void *part_ways(void *arg)
{
	CHECK(unshare(CLONE_FS) == 0 && chdir("/usr") == 0);
	*(volatile int *)arg = 1;
	while (!board->end)
		nap(10);
	return NULL;
}

static void own_directory(void)
{
	static volatile int gone;
	pthread_t t;
	pthread_create(&t, NULL, part_ways, (void *)(uintptr_t)&gone);
	while (!gone)
		nap(1);
}

static void what_cant_be_had_is_said_before(void **state)
{
	(void)state;
	refused_for(own_directory, "a current directory of its own");
	if (!SANITIZED) {
		refused_for(limit_memory, "(RLIMIT_AS)");
		refused_for(limit_data, "(RLIMIT_DATA)");
	}
	/* but not for its name */
	struct twins t = { "", be_of_nature, nothing, 0, false };
	nature = odd_name;
	twins = &t;
	OK(vin_traits_check(twin(true), 0, &err));
	rmdir("/tmp/vinsig-odd (deleted)");
}

static volatile char selector; /* 0: calls are the kernel's */

static void handle_calls(int thread)
{
	(void)thread;
	CHECK(prctl(59, 1, 0, 0, &selector) == 0); /* PR_SET_SYSCALL_USER_DISPATCH, _ON */
}

/* Found at the stop: it is told, and the program goes on. Return: whether it was found */
static bool refused_at_the_stop(const struct twins *t, const char *word)
{
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	scoped_buf payload = { 0 };
	twins = t;
	pid_t pid = twin(true);
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	struct vin_thread *t0 = tree.procs[0].threads;
	OK(vin_post_open(&post, t0, &err));
	int r = vin_traits_capture(&post, t0, 1, 0, NULL, &payload, &err);
	OK(vin_post_close(&post, t0, NULL));
	vin_tree_release(&tree);
	board->end = 1;
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	pair[0] = 0;
	assert_int_equal(status, 0);
	if (r == 0)
		return false;
	assert_int_equal(r, -ENOTSUP);
	assert_non_null(strstr(err.text, word));
	return true;
}

/* Before Linux 6.4 nobody is shown that. */
static void one_that_handles_its_calls_is_refused_and_goes_on(void **state)
{
	(void)state;
	static const struct twins t = { "", handle_calls, nothing, 0, false };
	(void)refused_at_the_stop(&t, "handled by itself");
}

static void one_that_uses_ports_is_refused_and_goes_on(void **state)
{
	(void)state;
	static const struct twins t = { "", use_ports, nothing, 0, true };
	if (geteuid() != 0)
		skip();
	memset((void *)(uintptr_t)facts, 0, 4096);
	const bool found = refused_at_the_stop(&t, "ports of the machine");
	if (!facts[0])
		print_message("this machine lets nobody use its ports\n");
	assert_true(found == (facts[0] != 0));
}

/* ---- payloads ---- */

static void some_set_up(int thread)
{
	signal(SIGUSR1, SIG_IGN);
	(void)thread;
}

/* Each byte cut off, each changed: refused or not, nobody falls over. */
static void damaged_payloads_are_refused_before_anything_is_done(void **state)
{
	(void)state;
	static const struct twins t = { "", some_set_up, nothing, 1, false };
	scoped_buf payload = { 0 };
	uint64_t masks[THREADS_MAX];
	twins = &t;
	capture_a(twin(true), &payload, masks);
	assert_int_equal(vin_traits_replay(NULL, NULL, 0, NULL, payload.data, payload.len, NULL),
			 0);
	for (size_t len = 0; len < payload.len; len++)
		assert_int_equal(vin_traits_replay(NULL, NULL, 0, NULL, payload.data, len, NULL),
				 -EBADMSG);
	for (size_t i = 0; i < payload.len; i++) {
		payload.data[i] = (char)(payload.data[i] ^ 0x81);
		(void)vin_traits_replay(NULL, NULL, 0, NULL, payload.data, payload.len, NULL);
		payload.data[i] = (char)(payload.data[i] ^ 0x81);
	}
}

/* Root restores; what is restored, in a user namespace, may do no more for that. */
static void a_payload_gives_nobody_more_than_he_had(void **state)
{
	(void)state;
	static const struct twins t = { "", nothing, nothing, 0, true };
	scoped_buf payload = { 0 };
	uint64_t masks[THREADS_MAX];
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	twins = &t;
	if (geteuid() != 0)
		skip();
	capture_a(twin(true), &payload, masks);
	pid_t pid = twin(false);
	write_text(pid, "oom_score_adj", "300");
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	OK(vin_post_open(&post, tree.procs[0].threads, &err));
	struct vin_call unshare = { SYS_unshare, { CLONE_NEWUSER } };
	OK(vin_call(&post, tree.procs[0].threads, "unshare", &unshare, NULL, &err));
	write_text(pid, "uid_map", "0 0 1");
	write_text(pid, "gid_map", "0 0 1");
	assert_int_equal(vin_traits_replay(&post, tree.procs[0].threads, 1, NULL, payload.data,
					   payload.len, &err),
			 -EPERM);
	assert_non_null(strstr(err.text, "may not lower its oom_score_adj from 300 to 0"));
	vin_tree_release(&tree);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TWINS(&sched_twins),
		TWINS(&real_time_twins),
		TWINS(&attributes_twins),
		TWINS(&process_twins),
		TWINS(&segments_twins),
		TWINS(&barriers_twins),
		TWINS(&closed_twins),
		TWINS(&root_twins),
		TWINS(&limits_twins),
		cmocka_unit_test_teardown(what_cant_be_had_is_said_before, end_both),
		cmocka_unit_test_teardown(one_that_handles_its_calls_is_refused_and_goes_on,
					  end_both),
		cmocka_unit_test_teardown(one_that_uses_ports_is_refused_and_goes_on, end_both),
		cmocka_unit_test_teardown(damaged_payloads_are_refused_before_anything_is_done,
					  end_both),
		cmocka_unit_test_teardown(a_payload_gives_nobody_more_than_he_had, end_both),
	};
	nice_here = getpriority(PRIO_PROCESS, 0);
	return as_root_and_user(cmocka_run_group_tests(tests, twins_setup, twins_teardown));
}
