/*
 * src/fvm/seccomp.def in its compiled form: each line is tried by a small BPF machine of our own
 * on every variant, and some of them by the kernel in a child.
 */
#include <errno.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <linux/audit.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>

#include "fvm/seccomp.h"
#include "tests/box.h"

#if defined(__x86_64__)

#define NATIVE	AUDIT_ARCH_X86_64
#define I386	AUDIT_ARCH_I386
#define ALLOW	SECCOMP_RET_ALLOW
#define NOTIFY	SECCOMP_RET_USER_NOTIF
#define WITH(e) (SECCOMP_RET_ERRNO | (e))

static uint32_t load(const struct seccomp_data *d, uint32_t offset)
{
	uint32_t value;
	assert_true(offset % 4 == 0 && offset + 4 <= sizeof(*d));
	memcpy(&value, (const char *)d + offset, sizeof(value));
	return value;
}

static uint32_t run(const struct fvm_filter *f, const struct seccomp_data *d)
{
	uint32_t a = 0;
	for (size_t pc = 0; pc < f->len; pc++) {
		const struct sock_filter *c = &f->code[pc];
		switch (c->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			a = load(d, c->k);
			break;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= c->k;
			break;
		case BPF_JMP | BPF_JA:
			pc += c->k;
			break;
		case BPF_JMP | BPF_JEQ | BPF_K:
			pc += a == c->k ? c->jt : c->jf;
			break;
		case BPF_JMP | BPF_JGE | BPF_K:
			pc += a >= c->k ? c->jt : c->jf;
			break;
		case BPF_RET | BPF_K:
			return c->k;
		default:
			fail_msg("unexpected instruction %#x", c->code);
		}
	}
	fail_msg("ran off the end");
	return 0;
}

static uint32_t ask(unsigned int flags, uint32_t arch, int nr, uint64_t a0, uint64_t a1,
		    uint64_t a2)
{
	struct seccomp_data d = { .nr = nr, .arch = arch, .args = { a0, a1, a2 } };
	return run(fvm_filter_get(flags), &d);
}

static void every_variant_refuses_what_reaches_the_machine(void **state)
{
	static const struct {
		int nr, error;
	} refused[] = {
		{ SYS_keyctl, ENOSYS },
		{ SYS_add_key, ENOSYS },
		{ SYS_request_key, ENOSYS },
		{ SYS_bpf, EPERM },
		{ SYS_perf_event_open, EPERM },
		{ SYS_kexec_load, EPERM },
		{ SYS_finit_module, EPERM },
		{ SYS_reboot, EPERM },
		{ SYS_swapon, EPERM },
		{ SYS_acct, EPERM },
		{ SYS_syslog, EPERM },
		{ SYS_clock_settime, EPERM },
		{ SYS_settimeofday, EPERM },
		{ SYS_open_by_handle_at, EPERM },
		{ SYS_iopl, EPERM },
		{ SYS_quotactl, EPERM },
	};
	(void)state;
	for (unsigned int flags = 0; flags < FVM_FILTER_VARIANTS; flags++) {
		for (size_t i = 0; i < FVM_COUNT(refused); i++)
			assert_int_equal(ask(flags, NATIVE, refused[i].nr, 0, 0, 0),
					 WITH((uint32_t)refused[i].error));
		assert_int_equal(ask(flags, I386, 288 /* keyctl */, 0, 0, 0), WITH(ENOSYS));
		assert_int_equal(ask(flags, I386, 404 /* clock_settime64 */, 0, 0, 0), WITH(EPERM));
		assert_int_equal(ask(flags, I386, 25 /* stime */, 0, 0, 0), WITH(EPERM));
	}
}

static void io_uring_is_there_only_when_asked_for(void **state)
{
	(void)state;
	for (int nr = 425; nr <= 427; nr++) {
		assert_int_equal(ask(0, NATIVE, nr, 0, 0, 0), WITH(ENOSYS));
		assert_int_equal(ask(0, I386, nr, 0, 0, 0), WITH(ENOSYS));
		assert_int_equal(ask(FVM_FILTER_IO_URING, NATIVE, nr, 0, 0, 0), ALLOW);
	}
}

static void sockets_of_confined_families_only(void **state)
{
	(void)state;
	for (uint64_t family = 0; family < 300; family++) {
		bool good = family == AF_UNIX || family == AF_INET || family == AF_INET6 ||
			    family == AF_NETLINK || family == AF_PACKET;
		uint32_t want = good ? ALLOW : WITH(EAFNOSUPPORT);
		assert_int_equal(ask(0, NATIVE, SYS_socket, family, SOCK_STREAM, 0), want);
		assert_int_equal(ask(0, I386, 359, family, SOCK_STREAM, 0), want);
	}
}

static void rubbish_above_32_bits_changes_nothing(void **state)
{
	const uint64_t rubbish = 0xdead00000000ULL;
	(void)state;
	assert_int_equal(ask(0, NATIVE, SYS_socket, rubbish | AF_VSOCK, 1, 0), WITH(EAFNOSUPPORT));
	assert_int_equal(ask(0, NATIVE, SYS_socket, rubbish | AF_INET, 1, 0), ALLOW);
	assert_int_equal(ask(0, NATIVE, SYS_ioctl, 0, rubbish | TIOCSTI, 0), WITH(EPERM));
	assert_int_equal(ask(0, NATIVE, SYS_ioctl, 0, rubbish | TIOCLINUX, 0), WITH(EPERM));
	assert_int_equal(ask(0, NATIVE, SYS_ioctl, 0, TIOCGWINSZ, 0), ALLOW);
}

static void netlink_without_a_namespace_does_not_exist(void **state)
{
	(void)state;
	for (uint64_t protocol = 0; protocol < 24; protocol++) {
		uint32_t got = ask(0, NATIVE, SYS_socket, AF_NETLINK, SOCK_RAW, protocol);
		bool good = protocol == NETLINK_ROUTE || protocol == NETLINK_USERSOCK ||
			    protocol == NETLINK_SOCK_DIAG || protocol == NETLINK_XFRM ||
			    protocol == NETLINK_FIB_LOOKUP || protocol == NETLINK_NETFILTER ||
			    protocol == NETLINK_KOBJECT_UEVENT || protocol == NETLINK_GENERIC;
		assert_int_equal(got, good ? ALLOW : WITH(EPROTONOSUPPORT));
	}
	assert_int_equal(ask(0, NATIVE, SYS_socket, AF_INET, SOCK_RAW, NETLINK_AUDIT), ALLOW);
}

static void socketcall_makes_no_socket_unless_permitted(void **state)
{
	(void)state;
	assert_int_equal(ask(0, I386, 102, 1, 0, 0), WITH(EAFNOSUPPORT));
	assert_int_equal(ask(0, I386, 102, 3 /* connect */, 0, 0), ALLOW);
	assert_int_equal(ask(FVM_FILTER_I386_SOCKETS, I386, 102, 1, 0, 0), ALLOW);
}

static void x32_and_strange_architectures_do_not_exist(void **state)
{
	(void)state;
	assert_int_equal(ask(0, NATIVE, 0x40000000, 0, 0, 0), WITH(ENOSYS));
	assert_int_equal(ask(0, NATIVE, 0x40000000 | SYS_getpid, 0, 0, 0), WITH(ENOSYS));
	assert_int_equal(ask(0, AUDIT_ARCH_AARCH64, SYS_getpid, 0, 0, 0), WITH(ENOSYS));
}

static void userfaultfd_only_for_user_mode(void **state)
{
	(void)state;
	assert_int_equal(ask(0, NATIVE, SYS_userfaultfd, O_CLOEXEC, 0, 0), WITH(EPERM));
	assert_int_equal(ask(0, NATIVE, SYS_userfaultfd, O_CLOEXEC | 1, 0, 0), ALLOW);
}

static void limits_of_pid_one_are_not_set(void **state)
{
	(void)state;
	assert_int_equal(ask(0, NATIVE, SYS_prlimit64, 1, 7, 0x7fff00000000), WITH(EPERM));
	assert_int_equal(ask(0, NATIVE, SYS_prlimit64, 1, 7, 0), ALLOW);
	assert_int_equal(ask(0, NATIVE, SYS_prlimit64, 0, 7, 1), ALLOW);
}

static void supervisor_is_asked_about_opening_to_write(void **state)
{
	static const struct {
		int flags;
		uint32_t want;
	} opens[] = {
		{ O_RDONLY, ALLOW },
		{ O_WRONLY, NOTIFY },
		{ O_RDWR | O_CLOEXEC, NOTIFY },
		{ O_RDONLY | O_TRUNC, NOTIFY },
		{ O_WRONLY | O_CREAT, NOTIFY },
		{ O_WRONLY | O_EXCL, NOTIFY },
		{ O_WRONLY | O_CREAT | O_EXCL, ALLOW },
		{ O_RDWR | O_CREAT | O_EXCL | O_TRUNC, ALLOW },
		{ O_RDWR | O_TMPFILE, ALLOW },
		{ O_PATH | O_RDWR, ALLOW },
		{ O_RDONLY | O_DIRECTORY, ALLOW },
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(opens); i++) {
		uint64_t how = (uint64_t)opens[i].flags;
		assert_int_equal(ask(FVM_FILTER_ROOTLESS, NATIVE, SYS_openat, 0, 0, how),
				 opens[i].want);
		assert_int_equal(ask(FVM_FILTER_ROOTLESS, NATIVE, SYS_open, 0, how, 0),
				 opens[i].want);
		assert_int_equal(ask(FVM_FILTER_ROOTLESS, I386, 5, 0, how, 0), opens[i].want);
		assert_int_equal(ask(0, NATIVE, SYS_openat, 0, 0, how), ALLOW);
	}
}

static void supervisor_is_asked_about_owners_that_are_not_there(void **state)
{
	const unsigned int rootless = FVM_FILTER_ROOTLESS;
	(void)state;
	assert_int_equal(ask(rootless, NATIVE, SYS_fchown, 3, 0, 0), ALLOW);
	assert_int_equal(ask(rootless, NATIVE, SYS_fchown, 3, (uint32_t)-1, 0), ALLOW);
	assert_int_equal(ask(rootless, NATIVE, SYS_fchown, 3, (uint64_t)-1, 0), ALLOW);
	assert_int_equal(ask(rootless, NATIVE, SYS_fchown, 3, 0, 33), NOTIFY);
	assert_int_equal(ask(rootless, NATIVE, SYS_fchown, 3, 33, (uint32_t)-1), NOTIFY);
	assert_int_equal(ask(rootless, NATIVE, SYS_utimensat, 3, 0, 0), ALLOW);
	assert_int_equal(ask(rootless, NATIVE, SYS_utimensat, 3, 1ULL << 40, 0), NOTIFY);
	assert_int_equal(ask(rootless, NATIVE, SYS_setresuid, 1, 1, 1), ALLOW);
	assert_int_equal(ask(rootless | FVM_FILTER_ONE_UID, NATIVE, SYS_setresuid, 1, 1, 1),
			 NOTIFY);
	assert_int_equal(ask(FVM_FILTER_ONE_UID, NATIVE, SYS_setresuid, 1, 1, 1), ALLOW);
	const unsigned int owners = rootless | FVM_FILTER_ONE_UID | FVM_FILTER_OWNERS;
	assert_int_equal(ask(owners, NATIVE, SYS_statx, 0, 1, 0), NOTIFY);
	assert_int_equal(ask(owners, NATIVE, SYS_statx, 0, 1, AT_EMPTY_PATH), ALLOW);
	assert_int_equal(ask(owners, NATIVE, SYS_fstat, 0, 1, 0), ALLOW);
	assert_int_equal(ask(rootless | FVM_FILTER_ONE_UID, NATIVE, SYS_lstat, 1, 1, 0), ALLOW);
	assert_int_equal(ask(rootless | FVM_FILTER_OWNERS, NATIVE, SYS_lstat, 1, 1, 0), ALLOW);
}

static void supervisor_is_asked_about_sockets_while_the_network_is_late(void **state)
{
	const unsigned int late = FVM_FILTER_ROOTLESS | FVM_FILTER_LATE_NET;
	(void)state;
	assert_int_equal(ask(late, NATIVE, SYS_socket, AF_INET, 1, 0), NOTIFY);
	assert_int_equal(ask(late, NATIVE, SYS_socket, AF_INET6, 2, 0), NOTIFY);
	assert_int_equal(ask(late, NATIVE, SYS_socket, AF_NETLINK, 3, NETLINK_ROUTE), NOTIFY);
	assert_int_equal(ask(late, NATIVE, SYS_socket, AF_UNIX, 1, 0), ALLOW);
	assert_int_equal(ask(late, NATIVE, SYS_socket, AF_VSOCK, 1, 0), WITH(EAFNOSUPPORT));
	assert_int_equal(ask(late, I386, 359, AF_INET, 1, 0), NOTIFY);
	assert_int_equal(ask(late, I386, 102, 1, 0, 0), WITH(EAFNOSUPPORT));
	assert_int_equal(ask(late | FVM_FILTER_I386_SOCKETS, I386, 102, 1, 0, 0), NOTIFY);
	assert_int_equal(ask(FVM_FILTER_LATE_NET, NATIVE, SYS_socket, AF_INET, 1, 0), ALLOW);
}

/* ---- the kernel's word on it ---- */

static int filtered(void)
{
	if (unshare(CLONE_NEWUSER) < 0)
		return 77;
	if (fvm_filter_install(fvm_filter_get(0), NULL) < 0)
		return 1;
	if (syscall(SYS_keyctl, 0, 0, 0, 0, 0) != -1 || errno != ENOSYS)
		return 2;
	if (socket(AF_VSOCK, SOCK_STREAM, 0) != -1 || errno != EAFNOSUPPORT)
		return 3;
	if (socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT) != -1 || errno != EPROTONOSUPPORT)
		return 4;
	long r;
	unsigned long args[3] = { AF_VSOCK, SOCK_STREAM, 0 };
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(102), "b"(1), "c"(args) : "memory");
	if ((int)r != -EAFNOSUPPORT && (int)r != -ENOSYS)
		return 5;
	if (syscall(0x40000000 | SYS_getpid) != -1 || errno != ENOSYS)
		return 6;
	return close(socket(AF_INET, SOCK_DGRAM, 0)) == 0 ? 0 : 7;
}

static void kernel_agrees(void **state)
{
	int status;
	(void)state;
	pid_t pid = fork();
	if (pid == 0)
		_exit(filtered());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == 77)
		skip(); /* needs: user namespaces */
	assert_int_equal(WEXITSTATUS(status), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_variant_refuses_what_reaches_the_machine),
		cmocka_unit_test(io_uring_is_there_only_when_asked_for),
		cmocka_unit_test(sockets_of_confined_families_only),
		cmocka_unit_test(rubbish_above_32_bits_changes_nothing),
		cmocka_unit_test(netlink_without_a_namespace_does_not_exist),
		cmocka_unit_test(socketcall_makes_no_socket_unless_permitted),
		cmocka_unit_test(x32_and_strange_architectures_do_not_exist),
		cmocka_unit_test(userfaultfd_only_for_user_mode),
		cmocka_unit_test(limits_of_pid_one_are_not_set),
		cmocka_unit_test(supervisor_is_asked_about_opening_to_write),
		cmocka_unit_test(supervisor_is_asked_about_owners_that_are_not_there),
		cmocka_unit_test(supervisor_is_asked_about_sockets_while_the_network_is_late),
		cmocka_unit_test(kernel_agrees),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}

#else
int main(void)
{
	return 77; /* the numbers above are x86's */
}
#endif
