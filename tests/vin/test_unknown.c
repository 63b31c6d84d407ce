/* One of each that can't be captured: it is opened, and refused by its name. What a machine does
 * not have, or an ordinary user may not, is left out with a word. */
#include "tests/vin/carry.h"

#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/landlock.h>
#include <linux/perf_event.h>
#include <linux/seccomp.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/socket.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif

static int fanotify_content(void)
{
	return fanotify_init(FAN_CLASS_CONTENT, 0);
}

static int faults(void)
{
	return (int)syscall(SYS_userfaultfd, O_CLOEXEC | 1 /* UFFD_USER_MODE_ONLY */);
}

static int ring(void)
{
	struct io_uring_params p = { 0 };
	return (int)syscall(SYS_io_uring_setup, 4, &p);
}

static int counter(void)
{
	struct perf_event_attr a = { .size = sizeof(a),
				     .type = PERF_TYPE_SOFTWARE,
				     .config = PERF_COUNT_SW_DUMMY,
				     .exclude_kernel = 1,
				     .exclude_hv = 1 };
	return (int)syscall(SYS_perf_event_open, &a, 0, -1, -1, 0);
}

static int map(void)
{
	union bpf_attr a = {
		.map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1
	};
	return (int)syscall(SYS_bpf, BPF_MAP_CREATE, &a, sizeof(a));
}

static int ruleset(void)
{
	struct landlock_ruleset_attr a = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
	return (int)syscall(SYS_landlock_create_ruleset, &a, sizeof(a), 0);
}

/* Of a filter that lets all calls pass. */
static int listener(void)
{
	struct {
		uint16_t code;
		uint8_t jt, jf;
		uint32_t k;
	} allow = { 6, 0, 0, SECCOMP_RET_ALLOW };
	struct {
		unsigned short len;
		void *filter;
	} program = { 1, &allow };
	prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
			    &program);
}

static int secret(void)
{
	return (int)syscall(SYS_memfd_secret, O_CLOEXEC);
}

static int huge(void)
{
	return memfd_create("huge", MFD_HUGETLB);
}

static int mount_to_be(void)
{
	return (int)syscall(SYS_fsopen, "tmpfs", 0);
}

static int nowhere(const char *path)
{
	return (int)syscall(SYS_open_tree, AT_FDCWD, path, 1 /* OPEN_TREE_CLONE */);
}

static int root_nowhere(void)
{
	return nowhere("/");
}

static int directory_nowhere(void)
{
	return nowhere(dir);
}

static int file_nowhere(void)
{
	int tree = nowhere("/");
	int fd = tree < 0 ? -1 : openat(tree, "etc/passwd", O_RDONLY);
	close(tree);
	return fd;
}

static int other_namespace(void)
{
	if (unshare(CLONE_NEWUTS) < 0)
		return -1;
	int fd = open("/proc/self/ns/uts", O_RDONLY);
	CHECK(unshare(CLONE_NEWUTS) == 0);
	return fd;
}

static int mounted_namespace(void)
{
	int made = open("uts", O_RDONLY | O_CREAT, 0600);
	close(made);
	if (unshare(CLONE_NEWUTS) < 0 || mount("/proc/self/ns/uts", "uts", NULL, MS_BIND, NULL) < 0)
		return -1;
	int fd = open("uts", O_RDONLY);
	umount2("uts", MNT_DETACH);
	CHECK(unshare(CLONE_NEWUTS) == 0);
	return fd;
}

static int crypto_socket(void)
{
	return socket(AF_ALG, SOCK_SEQPACKET, 0);
}

static int device(const char *path)
{
	return open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
}

static int notifying(void)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY);
	signal(SIGIO, SIG_IGN);
	CHECK(fd >= 0 && fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT) == 0);
	return fd;
}

static int fuse(void)
{
	return open("/dev/fuse", O_RDWR);
}

static int kvm(void)
{
	return device("/dev/kvm");
}

static int log_device(void)
{
	return device("/dev/kmsg");
}

static int console(void)
{
	return device("/dev/console");
}

static int machine_terminal(void)
{
	return device("/dev/tty1");
}

static int disk(void)
{
	return device("/dev/loop0");
}

static int loop_control(void)
{
	return device("/dev/loop-control");
}

static const struct {
	const char *name;
	int (*open)(void);
	const char *word; /* of the refusal */
} all[] = {
	{ "fanotify with permission events", fanotify_content, "fanotify" },
	{ "userfaultfd", faults, "userfaultfd" },
	{ "io_uring", ring, "io_uring" },
	{ "perf_event", counter, "perf_event" },
	{ "bpf", map, "bpf" },
	{ "a ruleset of Landlock", ruleset, "Landlock" },
	{ "a listener of seccomp", listener, "seccomp" },
	{ "secret memory", secret, "secret memory" },
	{ "a memfd with huge pages", huge, "huge pages" },
	{ "a mount that is about to be made", mount_to_be, "about to be made" },
	{ "the root of a mount that is nowhere", root_nowhere, "it is of a mount that is nowhere" },
	{ "a directory of such a mount", directory_nowhere, "its name does not lead to it" },
	{ "a file of such a mount", file_nowhere, "it is of a mount that is nowhere" },
	{ "a namespace", other_namespace, "namespace" },
	{ "a namespace that was mounted", mounted_namespace, "namespace" },
	{ "a socket", crypto_socket, "socket" },
	{ "a directory with dnotify", notifying, "dnotify" },
	{ "/dev/fuse", fuse, "fuse" },
	{ "/dev/kvm", kvm, "kvm" },
	{ "/dev/kmsg", log_device, "kernel's log" },
	{ "/dev/console", console, "console" },
	{ "/dev/tty1", machine_terminal, "terminal of the machine" },
	{ "a disk", disk, "disk" },
	{ "/dev/loop-control", loop_control, "device" },
};
static size_t at;

static void make(void)
{
	int fd = all[at].open();
	board->rounds = fd < 0 ? (uint64_t)errno : 0;
	CHECK(fd < 0 || dup2(fd, 9) == 9);
	for (int i = 3; i < 9; i++)
		close(i);
}

/* Return: whether it could be tried */
static bool try_one(void)
{
	carry_make = make;
	pid_t pid = victim(carry_victim, true);
	err = (struct fvm_error){ 0 };
	if (board->rounds) {
		print_message("%s: not tried: %s\n", all[at].name, strerror((int)board->rounds));
		victim_kill(NULL);
		return false;
	}
	int image = carry_capture(&pid, 1);
	victim_kill(NULL);
	if (image >= 0 || !strstr(err.text, all[at].word))
		print_error("%s: '%s' does not say '%s'\n", all[at].name, err.text, all[at].word);
	assert_int_equal(image, -1);
	assert_non_null(strstr(err.text, all[at].word));
	assert_non_null(strstr(err.text, "process"));
	assert_non_null(strstr(err.text, "descriptor 9"));
	return true;
}

static void each_is_refused_by_its_name(void **state)
{
	(void)state;
	size_t tried = 0;
	for (at = 0; at < FVM_COUNT(all); at++)
		tried += try_one();
	assert_true(tried >= 8);
}

static int run(void)
{
	const struct CMUnitTest tests[] = { CARRY(each_is_refused_by_its_name) };
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
