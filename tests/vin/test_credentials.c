/* Who a thread is, what filters it has, and its keys. */
#include "twins.h"

#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stddef.h>

/* ---- ids: calls of the kernel, which are of one thread only ---- */

static const gid_t many_groups[] = { 5, 6, 1234, 77777 };

static void ids_set_up(int thread)
{
	unsigned int t = (unsigned int)thread * 10;
	CHECK(syscall(SYS_setgroups, thread == 2 ? 0 : FVM_COUNT(many_groups), many_groups) == 0);
	CHECK(syscall(SYS_setresgid, 2001 + t, 2002 + t, 2003 + t) == 0);
	if (thread == 1)
		syscall(SYS_setfsgid, 2001 + t);
	CHECK(syscall(SYS_setresuid, 1001 + t, 1002 + t, 1003 + t) == 0);
	if (thread == 1)
		syscall(SYS_setfsuid, 1003 + t);
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
}

static void ids_verify(int thread)
{
	unsigned int t = (unsigned int)thread * 10;
	uid_t u[3];
	gid_t g[3], groups[10];
	CHECK(getresuid(&u[0], &u[1], &u[2]) == 0);
	CHECK(u[0] == 1001 + t && u[1] == 1002 + t && u[2] == 1003 + t);
	CHECK(getresgid(&g[0], &g[1], &g[2]) == 0);
	CHECK(g[0] == 2001 + t && g[1] == 2002 + t && g[2] == 2003 + t);
	CHECK(syscall(SYS_setfsuid, -1) == (thread == 1 ? 1003 : 1002) + (long)t);
	CHECK(syscall(SYS_setfsgid, -1) == (thread == 1 ? 2001 : 2002) + (long)t);
	int n = getgroups(10, groups);
	CHECK(n == (thread == 2 ? 0 : 4));
	CHECK(n == 0 || memcmp(groups, many_groups, sizeof(many_groups)) == 0);
	CHECK(setuid(0) < 0);
	int sig = 0;
	CHECK(prctl(PR_GET_PDEATHSIG, &sig) == 0 && sig == SIGKILL);
}

static const struct twins ids_twins = { "all ids and groups of each thread", ids_set_up, ids_verify,
					2, true };

/* ---- capabilities ---- */

struct caps {
	struct __user_cap_header_struct head;
	struct __user_cap_data_struct sets[2];
};

static struct caps caps_now(void)
{
	struct caps c = { .head = { .version = 0x20080522 } };
	CHECK(syscall(SYS_capget, &c.head, c.sets) == 0);
	return c;
}

#define BIT(cap) (1U << (cap))
#define BITS	 (SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP | SECBIT_KEEP_CAPS | SECBIT_NOROOT_LOCKED)

static void caps_set_up(int thread)
{
	struct caps c = caps_now();
	/* inheritable, though it is out of bounds afterwards */
	c.sets[0].inheritable = BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_KILL) | BIT(CAP_CHOWN);
	CHECK(syscall(SYS_capset, &c.head, c.sets) == 0);
	CHECK(prctl(PR_CAPBSET_DROP, CAP_SYS_MODULE, 0, 0, 0) == 0);
	if (thread == 1)
		CHECK(prctl(PR_CAPBSET_DROP, CAP_CHOWN, 0, 0, 0) == 0);
	CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0) == 0);
	CHECK(prctl(PR_SET_SECUREBITS, thread == 1 ? BITS | SECBIT_NO_CAP_AMBIENT_RAISE : BITS) ==
	      0);
	c.sets[0].permitted = BIT(CAP_KILL) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SETPCAP);
	c.sets[0].effective = thread == 1 ? 0 : BIT(CAP_KILL);
	c.sets[1].permitted = c.sets[1].effective = BIT(CAP_BLOCK_SUSPEND - 32);
	CHECK(syscall(SYS_capset, &c.head, c.sets) == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	if (thread == 1)
		CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
}

static void caps_verify(int thread)
{
	struct caps c = caps_now();
	CHECK(c.sets[0].inheritable ==
	      (BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_KILL) | BIT(CAP_CHOWN)));
	CHECK(c.sets[0].permitted ==
	      (BIT(CAP_KILL) | BIT(CAP_NET_BIND_SERVICE) | BIT(CAP_SETPCAP)));
	CHECK(c.sets[0].effective == (thread == 1 ? 0 : BIT(CAP_KILL)));
	CHECK(c.sets[1].permitted == BIT(CAP_BLOCK_SUSPEND - 32));
	CHECK(c.sets[1].effective == BIT(CAP_BLOCK_SUSPEND - 32));
	for (int cap = 0; cap < 64; cap++)
		CHECK(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, cap, 0, 0) ==
			      (cap == CAP_KILL) ||
		      cap > CAP_LAST_CAP);
	CHECK(prctl(PR_CAPBSET_READ, CAP_SYS_MODULE, 0, 0, 0) == 0);
	CHECK(prctl(PR_CAPBSET_READ, CAP_CHOWN, 0, 0, 0) == (thread != 1));
	CHECK(prctl(PR_CAPBSET_READ, CAP_NET_RAW, 0, 0, 0) == 1);
	CHECK(prctl(PR_GET_SECUREBITS) ==
	      (thread == 1 ? BITS | SECBIT_NO_CAP_AMBIENT_RAISE : BITS));
	CHECK(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == (thread == 1));
}

static const struct twins caps_twins = { "five sets of capabilities, securebits, no_new_privs",
					 caps_set_up, caps_verify, 1, false };

/* Ids without root's power, power without root's id. */
static void powers_set_up(int thread)
{
	(void)thread;
	CHECK(prctl(PR_SET_KEEPCAPS, 1) == 0);
	CHECK(setresuid(1500, 1501, 1502) == 0);
	struct caps c = caps_now();
	c.sets[0].effective = c.sets[0].permitted;
	CHECK(syscall(SYS_capset, &c.head, c.sets) == 0);
	CHECK(prctl(PR_SET_DUMPABLE, 1) == 0);
	CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
	facts[0] = c.sets[0].permitted;
}

static void powers_verify(int thread)
{
	(void)thread;
	struct caps c = caps_now();
	CHECK(getuid() == 1500 && geteuid() == 1501);
	CHECK(c.sets[0].effective == facts[0] && c.sets[0].permitted == facts[0]);
	CHECK(prctl(PR_GET_KEEPCAPS) == 1);
	CHECK(setresuid(0, 0, 0) == 0);
}

static const struct twins powers_twins = { "capabilities of somebody who is not root",
					   powers_set_up, powers_verify, 0, true };

/* ---- filters ---- */

static int put_on(unsigned int number, unsigned int answer, unsigned int flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, answer),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = { FVM_COUNT(code), code };
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &prog);
}

static void filters_set_up(int thread)
{
	/* of calls that are needed to set somebody up */
	CHECK(put_on(SYS_rt_sigaction, SECCOMP_RET_ERRNO | 71, 0) == 0);
	CHECK(put_on(SYS_prctl, SECCOMP_RET_ERRNO | 72, SECCOMP_FILTER_FLAG_LOG) == 0);
	if (thread == 1)
		CHECK(put_on(SYS_getpgid, SECCOMP_RET_ERRNO | 73, 0) == 0);
	/* the newest one that has a word counts, and the strictest */
	CHECK(put_on(SYS_rt_sigaction, SECCOMP_RET_ERRNO | 74, 0) == 0);
}

static void filters_verify(int thread)
{
	errno = 0;
	CHECK(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 8) < 0 && errno == 74);
	CHECK(syscall(SYS_prctl, PR_GET_NAME, NULL) < 0 && errno == 72);
	long r = syscall(SYS_getpgid, -1);
	CHECK(r < 0 && errno == (thread == 1 ? 73 : ESRCH));
}

static const struct twins filters_twins = { "filters of each thread, newest first", filters_set_up,
					    filters_verify, 1, true };

/* What no ordinary user is shown is said before; what has a listener can't be put on. */
static void filters_only(int thread)
{
	(void)thread;
	CHECK(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
	CHECK(put_on(SYS_getpriority, SECCOMP_RET_USER_NOTIF, 0) == 0);
}

static void nothing(int thread)
{
	(void)thread;
}

static void filters_that_cant_be_had_are_refused(void **state)
{
	(void)state;
	static const struct twins t = { "", filters_only, nothing, 0, false };
	scoped_buf payload = { 0 };
	uint64_t masks[THREADS_MAX];
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	twins = &t;
	pid_t pid = twin(true);
	err = (struct fvm_error){ 0 };
	if (geteuid() != 0) {
		assert_int_equal(vin_traits_check(pid, 0, &err), -ENOTSUP);
		assert_non_null(strstr(err.text, "seccomp filters"));
		return;
	}
	capture_a(pid, &payload, masks);
	pid = twin(false);
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	OK(vin_post_open(&post, tree.procs[0].threads, &err));
	assert_int_equal(vin_traits_replay(&post, tree.procs[0].threads, 1, NULL, payload.data,
					   payload.len, &err),
			 -ENOTSUP);
	assert_non_null(strstr(err.text, "has a listener"));
	vin_tree_release(&tree);
}

/* The VM's filters are there already, with their listener. */
static void filters_that_are_there_stay_alone(void **state)
{
	(void)state;
	static const struct twins a = { "", filters_only, nothing, 0, true };
	scoped_buf payload = { 0 };
	uint64_t masks[THREADS_MAX];
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	if (geteuid() != 0)
		skip();
	twins = &a;
	capture_a(twin(true), &payload, masks);
	/* another A: it has what the first has */
	pid_t pid = twin(true);
	OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
	OK(vin_post_open(&post, tree.procs[0].threads, &err));
	OK(vin_traits_replay(&post, tree.procs[0].threads, 1, NULL, payload.data, payload.len,
			     &err));
	OK(vin_post_close(&post, tree.procs[0].threads, &err));
	scoped_status status = { 0 };
	OK(vin_status_read(pid, pid, &status, &err));
	assert_int_equal(status.filters, 1);
	vin_tree_release(&tree);
}

/* ---- strict mode: looked at from outside, as it may look at nothing ---- */

static void a_strict_one_stays_strict(void **state)
{
	(void)state;
	static const struct twins t = { "", nothing, nothing, 0, true };
	scoped_buf payload = { 0 };
	struct vin_tree tree = { 0 };
	struct vin_post post = { 0 };
	struct vin_call strict = { SYS_seccomp, { SECCOMP_SET_MODE_STRICT } };
	if (geteuid() != 0)
		skip();
	twins = &t;
	for (int i = 0; i < 2; i++) {
		pid_t pid = twin(i == 0);
		OK(vin_tree_seize(&pid, 1, 30000, &tree, &err));
		struct vin_thread *t0 = tree.procs[0].threads;
		OK(vin_post_open(&post, t0, &err));
		if (i == 0)
			OK(vin_call(&post, t0, "seccomp", &strict, NULL, &err));
		OK(i == 0 ? vin_traits_capture(&post, t0, 1, 0, NULL, &payload, &err)
			  : vin_traits_replay(&post, t0, 1, NULL, payload.data, payload.len, &err));
		OK(vin_post_close(&post, t0, &err));
		scoped_status status = { 0 };
		OK(vin_status_read(pid, pid, &status, &err));
		assert_int_equal(status.seccomp, 1);
		vin_tree_release(&tree);
		/* it makes a call that it may not */
		int how;
		assert_int_equal(waitpid(pid, &how, 0), pid);
		pair[i] = 0;
		assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
	}
}

/* ---- keys ---- */

static void keys_set_up(int thread)
{
	char name[20];
	snprintf(name, sizeof(name), "of thread %d", thread);
	long key = syscall(SYS_add_key, "user", name, "own secret", 10, KEY_SPEC_THREAD_KEYRING);
	if (thread == 0)
		facts[0] = key > 0;
	CHECK(key > 0 || errno == ENOSYS || errno == EPERM);
	if (thread == 0 && key > 0) {
		key = syscall(SYS_add_key, "user", "of all", "\0common", 7,
			      KEY_SPEC_PROCESS_KEYRING);
		CHECK(key > 0 && syscall(SYS_keyctl, KEYCTL_SETPERM, key, 0x3f010000) == 0);
	}
}

static void keys_verify(int thread)
{
	char name[20], bytes[20], about[100];
	if (!facts[0])
		return;
	snprintf(name, sizeof(name), "of thread %d", thread);
	long key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_THREAD_KEYRING, "user", name, 0);
	CHECK(key > 0 && syscall(SYS_keyctl, KEYCTL_READ, key, bytes, sizeof(bytes)) == 10);
	CHECK(memcmp(bytes, "own secret", 10) == 0);
	CHECK(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_THREAD_KEYRING, "user", "of all", 0) < 0);
	/* threads that were there before it do not have it */
	if (thread != 0)
		return;
	key = syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_PROCESS_KEYRING, "user", "of all", 0);
	CHECK(key > 0 && syscall(SYS_keyctl, KEYCTL_READ, key, bytes, sizeof(bytes)) == 7);
	CHECK(memcmp(bytes, "\0common", 7) == 0);
	CHECK(syscall(SYS_keyctl, KEYCTL_DESCRIBE, key, about, sizeof(about)) > 0);
	CHECK(strstr(about, ";3f010000;"));
}

static const struct twins keys_twins = { "keys of threads and of the process", keys_set_up,
					 keys_verify, 1, false };

int main(void)
{
	const struct CMUnitTest tests[] = {
		TWINS(&ids_twins),
		TWINS(&caps_twins),
		TWINS(&powers_twins),
		TWINS(&filters_twins),
		cmocka_unit_test_teardown(filters_that_cant_be_had_are_refused, end_both),
		cmocka_unit_test_teardown(filters_that_are_there_stay_alone, end_both),
		cmocka_unit_test_teardown(a_strict_one_stays_strict, end_both),
		TWINS(&keys_twins),
	};
	return as_root_and_user(cmocka_run_group_tests(tests, twins_setup, twins_teardown));
}
