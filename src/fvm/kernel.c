#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/wait.h>

#include "fvm/kernel.h"
#include "fvm/netlink.h"
#include "fvm/nft.h"
#include "fvm/sys.h"

#define KILLABLE_RECV	 (1UL << 5)
#define NOTIF_SET_FLAGS	 _IOW('!', 4, uint64_t)
#define FSCONFIG_FD	 5
#define PROBE_TIMEOUT_MS 5000

/* ---- text ---- */

static long read_number(const char *path, long missing)
{
	scoped_free char *text = NULL;
	return fvm_read_file(AT_FDCWD, path, 64, &text, NULL) < 0 ? missing : atol(text);
}

/* ---- what we are ---- */

static bool has_admin(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	return syscall(SYS_capget, &head, data) == 0 && (data[0].effective & (1U << CAP_SYS_ADMIN));
}

static void probe_place(struct fvm_kernel *k)
{
	static const struct {
		const char *file, *name;
	} marks[] = {
		{ "/.dockerenv", "docker" },
		{ "/run/.containerenv", "podman" },
		{ "/run/systemd/container", "a container" },
	};
	unsigned long inside, outside, count;
	scoped_free char *map = NULL;
	bool first = fvm_read_file(AT_FDCWD, "/proc/self/uid_map", 65536, &map, NULL) == 0 &&
		     sscanf(map, "%lu %lu %lu", &inside, &outside, &count) == 3 && inside == 0 &&
		     outside == 0 && count == 4294967295UL;
	k->full_root = geteuid() == 0 && has_admin() && first;
	for (size_t i = 0; i < FVM_COUNT(marks) && !k->inside[0]; i++) {
		if (access(marks[i].file, F_OK) == 0)
			snprintf(k->inside, sizeof(k->inside), "%s", marks[i].name);
	}
	if (getenv("FVM_VM") && !first)
		snprintf(k->inside, sizeof(k->inside), "fvm");
	k->container = k->inside[0] || !first;
}

void fvm_kernel_rules(struct fvm_kernel *k)
{
	probe_place(k);
	k->max_user_namespaces = read_number("/proc/sys/user/max_user_namespaces", -1);
	k->apparmor_restricts =
		read_number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns", 0) == 1;
	k->debian_restricts = read_number("/proc/sys/kernel/unprivileged_userns_clone", 1) == 0;
	k->selinux = access("/sys/fs/selinux/enforce", F_OK) == 0;
}

/* ---- what is tried in a child: its namespaces end with it ---- */

/* Run @fn in a child; its result comes through shared memory as it may be no exit status. */
static fvm_tried try_in_child(int (*fn)(const char *arg), const char *arg)
{
	int *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
			   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (result == MAP_FAILED)
		return errno;
	*result = EIO;
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		(void)alarm(PROBE_TIMEOUT_MS / 1000);
		*result = -fn(arg);
		_exit(0);
	}
	int status, r = pid < 0 ? errno : 0;
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	if (r == 0)
		r = *result;
	munmap(result, sizeof(*result));
	return r;
}

/* A user namespace with one uid, as everybody may make it. Root tries it as nobody would. */
static int enter_userns(int more)
{
	char map[64];
	unsigned int uid = geteuid(), gid = getegid();
	if (unshare(CLONE_NEWUSER | more) < 0)
		return -errno;
	(void)fvm_write_file(AT_FDCWD, "/proc/self/setgroups", "deny");
	snprintf(map, sizeof(map), "0 %u 1", uid);
	int r = fvm_write_file(AT_FDCWD, "/proc/self/uid_map", map);
	snprintf(map, sizeof(map), "0 %u 1", gid);
	return r < 0 ? r : fvm_write_file(AT_FDCWD, "/proc/self/gid_map", map);
}

/* Security modules and sysctls let root pass; what an ordinary user gets is asked as one. */
static int become_ordinary(void)
{
	if (geteuid() != 0)
		return 0;
	if (syscall(SYS_setgroups, 0, NULL) < 0 ||
	    syscall(SYS_setresgid, 65534, 65534, 65534) < 0 ||
	    syscall(SYS_setresuid, 65534, 65534, 65534) < 0)
		return -errno;
	/* a change of ids makes /proc/self root's */
	return prctl(PR_SET_DUMPABLE, 1) < 0 ? -errno : 0;
}

static int try_userns(const char *unused)
{
	(void)unused;
	int r = become_ordinary();
	return r < 0 ? r : enter_userns(0);
}

static int try_userns_mount(const char *unused)
{
	(void)unused;
	int r = become_ordinary();
	if (r == 0)
		r = enter_userns(CLONE_NEWNS);
	if (r == 0 && mount("fvm", "/tmp", "tmpfs", 0, NULL) < 0)
		r = -errno;
	return r;
}

static int try_netns(const char *unused)
{
	(void)unused;
	int r = become_ordinary();
	return r < 0 ? r : enter_userns(CLONE_NEWNET);
}

static int private_mounts(void)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	return 0;
}

/* Three directories of @dir that are gone again once they are mounted. */
static int mount_overlay(const char *dir, const char *more)
{
	static const char *const parts[] = { "lower", "upper", "work" };
	char top[400], options[1400];
	int r = 0;
	snprintf(top, sizeof(top), "%.300s/doctor-XXXXXX", dir);
	if (!mkdtemp(top))
		return -errno;
	scoped_fd fd = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < FVM_COUNT(parts); i++)
		(void)mkdirat(fd, parts[i], 0700);
	snprintf(options, sizeof(options), "lowerdir=%s/lower,upperdir=%s/upper,workdir=%s/work%s",
		 top, top, top, more);
	if (mount("overlay", top, "overlay", 0, options) < 0 || umount2(top, MNT_DETACH) < 0)
		r = -errno;
	scoped_fd store = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	(void)fvm_remove_tree(store, strrchr(top, '/') + 1);
	return r;
}

static int try_overlay(const char *store)
{
	int r = private_mounts();
	return r < 0 ? r : mount_overlay(store, "");
}

static int try_overlay_userns(const char *store)
{
	int r = enter_userns(CLONE_NEWNS);
	return r < 0 ? r : mount_overlay(store, ",userxattr");
}

fvm_tried fvm_try_overlay(const char *dir)
{
	return try_in_child(has_admin() ? try_overlay : try_overlay_userns, dir);
}

static int try_overlay_fds(const char *unused)
{
	(void)unused;
	scoped_fd fs = fvm_nerr(syscall(SYS_fsopen, "overlay", 1 /* FSOPEN_CLOEXEC */));
	scoped_fd dir = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fs < 0 || dir < 0)
		return fs < 0 ? fs : -errno;
	return fvm_nerr(syscall(SYS_fsconfig, fs, FSCONFIG_FD, "lowerdir+", NULL, dir));
}

static _Noreturn int pause_in_userns(void *unused)
{
	(void)unused;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;)
		pause();
}

int fvm_userns_make(int proc, const char *uids, const char *gids)
{
	char stack[16384] __attribute__((aligned(16))), path[40];
	int status;
	/* it does nothing with our memory, and a copy costs more than all the rest */
	pid_t pid = clone(pause_in_userns, stack + sizeof(stack),
			  CLONE_NEWUSER | CLONE_VM | SIGCHLD, NULL);
	if (pid < 0)
		return -errno;
	snprintf(path, sizeof(path), "%d/uid_map", (int)pid);
	int r = fvm_write_file(proc, path, uids);
	snprintf(path, sizeof(path), "%d/gid_map", (int)pid);
	if (r == 0)
		r = fvm_write_file(proc, path, gids);
	snprintf(path, sizeof(path), "%d/ns/user", (int)pid);
	int fd = r < 0 ? r : fvm_nerr(openat(proc, path, O_RDONLY | O_CLOEXEC));
	kill(pid, SIGKILL);
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return fd;
}

int fvm_try_userns(void)
{
	static const char some[] = "0 100000 65536";
	scoped_fd proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return proc < 0 ? -errno : fvm_userns_make(proc, some, some);
}

int fvm_try_idmap(int userns, const char *path)
{
	scoped_fd tree = sys_open_tree(AT_FDCWD, path,
				       OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_NO_AUTOMOUNT);
	if (tree < 0)
		return tree;
	const struct sys_mount_attr attr = {
		.attr_set = MOUNT_ATTR_IDMAP,
		.userns_fd = (uint64_t)userns,
	};
	return sys_mount_setattr(tree, "", AT_EMPTY_PATH, &attr);
}

static int try_idmap(const char *path)
{
	scoped_fd userns = fvm_try_userns();
	return userns < 0 ? userns : fvm_try_idmap(userns, path);
}

/* ---- network ---- */

static int enter_netns(void)
{
	if (has_admin())
		return unshare(CLONE_NEWNET) < 0 ? -errno : 0;
	return enter_userns(CLONE_NEWNET);
}

static int try_veth(const char *unused)
{
	const struct fvm_veth veth = {
		.name = "a",
		.peer = "b",
		.mac = { 2, 0, 0, 0, 0, 1 },
		.peer_mac = { 2, 0, 0, 0, 0, 2 },
		.netns = -1,
		.pid = getpid(),
	};
	scoped_nl_batch batch = { 0 };
	(void)unused;
	int r = enter_netns();
	if (r < 0)
		return r;
	scoped_fd sock = fvm_nl_open(NETLINK_ROUTE);
	if (sock < 0)
		return sock;
	fvm_nl_veth(&batch, &veth);
	return fvm_nl_run(sock, &batch, NULL);
}

static int try_nft(const char *unused)
{
	scoped_nl_batch batch = { 0 };
	(void)unused;
	int r = enter_netns();
	if (r < 0)
		return r;
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	if (sock < 0)
		return sock;
	/* NFT_MSG_GETGEN: the number of the rule set's generation; fails without nf_tables */
	uint8_t *head = fvm_nl_begin(&batch, (10 << 8) | 16, NLM_F_REQUEST | NLM_F_ACK, 4);
	head[0] = 0; /* any family, version 0 */
	fvm_nl_end(&batch);
	return fvm_nl_run(sock, &batch, NULL);
}

static int try_table(uint32_t connections)
{
	const struct fvm_net_range range = { .base4 = { 10, 213 }, .base6 = { 0xfd } };
	const struct fvm_nft_table table = { &range, true, connections };
	scoped_nl_batch batch = { 0 };
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	if (sock < 0)
		return sock;
	fvm_nft_begin(&batch, 0);
	fvm_nft_table_add(&batch, &table);
	return fvm_nft_run(sock, &batch, NULL);
}

/* Only what nothing but the counts is the cause of. The table goes with its socket. */
static int try_counts(const char *unused)
{
	(void)unused;
	int r = enter_netns();
	if (r < 0 || try_table(0) < 0)
		return r;
	return enter_netns() < 0 ? 0 : try_table(1);
}

static fvm_tried try_open(const char *path, int flags)
{
	scoped_fd fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? errno : 0;
}

/* ---- seccomp ---- */

static fvm_tried probe_flags(unsigned long flags)
{
	/* a NULL program: EFAULT once the flags are known */
	(void)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, NULL);
	return errno == EFAULT ? 0 : errno;
}

static int try_sync(const char *unused)
{
	struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	const struct sock_fprog program = { 1, &allow };
	uint64_t flags = 1; /* SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP */
	(void)unused;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	scoped_fd fd = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
				    SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
	if (fd < 0)
		return -errno;
	return ioctl(fd, NOTIF_SET_FLAGS, flags) < 0 ? -errno : 0;
}

static void probe_seccomp(struct fvm_kernel *k)
{
	k->seccomp = probe_flags(0);
	k->seccomp_notify = probe_flags(SECCOMP_FILTER_FLAG_NEW_LISTENER);
	k->seccomp_killable = probe_flags(SECCOMP_FILTER_FLAG_NEW_LISTENER | KILLABLE_RECV);
	k->seccomp_sync = k->seccomp_notify ? k->seccomp_notify : try_in_child(try_sync, NULL);
}

/* ---- calls ---- */

/* Each with arguments that do nothing: who knows the call finds fault with them. */
static const struct probed {
	const char *name;
	long number, args[5];
	bool needed;
} probed_calls[] = {
	{ "openat2", SYS_openat2, { -1, 0, 0, 0 }, true },
	{ "pidfd_open", SYS_pidfd_open, { 0, 0 }, true },
	{ "open_tree", SYS_open_tree, { -1, 0, -1 }, true },
	{ "move_mount", SYS_move_mount, { -1, 0, -1, 0, -1 }, true },
	{ "mount_setattr", SYS_mount_setattr, { -1, 0, -1, 0, 0 }, true },
	{ "pivot_root", SYS_pivot_root, { 0, 0 }, true },
	{ "setns", SYS_setns, { -1, 0 }, true },
	{ "unshare", SYS_unshare, { 1 }, true },
	{ "pidfd_getfd", SYS_pidfd_getfd, { -1, -1, 0 }, false }, /* nat of root */
	{ "clone3", SYS_clone3, { 0, 0 }, false },
	{ "close_range", SYS_close_range, { 1, 0, 0 }, false },
	{ "pidfd_send_signal", SYS_pidfd_send_signal, { -1, 0, 0, 0 }, false },
	{ "process_vm_readv", SYS_process_vm_readv, { 0, 0, 0, 0, 0 }, false },
};

static void probe_calls(struct fvm_kernel *k)
{
	for (size_t i = 0; i < FVM_COUNT(probed_calls); i++) {
		const struct probed *p = &probed_calls[i];
		const long *a = p->args;
		if (syscall(p->number, a[0], a[1], a[2], a[3], a[4], 0L) >= 0)
			continue;
		/* EPERM may be what anybody without privileges is told */
		if (errno != ENOSYS)
			continue;
		if (!p->needed && !k->slower_call)
			k->slower_call = p->name;
		if (!p->needed || k->missing_call)
			continue;
		k->missing_call = p->name;
		k->missing = errno;
	}
	k->landlock_abi = fvm_landlock_abi();
}

void fvm_kernel_probe(const char *store, struct fvm_kernel *ret)
{
	struct utsname name;
	*ret = (struct fvm_kernel){ 0 };
	if (uname(&name) == 0)
		snprintf(ret->release, sizeof(ret->release), "%s", name.release);
	fvm_kernel_rules(ret);
	probe_calls(ret);
	probe_seccomp(ret);
	ret->userns = try_in_child(try_userns, NULL);
	ret->userns_mount = try_in_child(try_userns_mount, NULL);
	ret->netns = try_in_child(try_netns, NULL);
	ret->overlay = ret->full_root ? try_in_child(try_overlay, store) : EPERM;
	ret->overlay_userns = try_in_child(try_overlay_userns, store);
	ret->overlay_fds = ret->full_root ? try_in_child(try_overlay_fds, NULL) : EPERM;
	ret->idmap = ret->full_root ? try_in_child(try_idmap, "/") : EPERM;
	ret->idmap_store = ret->full_root ? try_in_child(try_idmap, store) : EPERM;
	ret->veth = try_in_child(try_veth, NULL);
	ret->nft = try_in_child(try_nft, NULL);
	ret->counts = ret->nft ? 0 : try_in_child(try_counts, NULL);
	ret->tun = try_open("/dev/net/tun", O_RDWR);
	ret->fuse = try_open("/dev/fuse", O_RDWR);
	ret->kvm = try_open("/dev/kvm", O_RDWR);
}
