#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/securebits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/pidfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/apart.h"
#include "fvm/handles.h"
#include "fvm/rebind.h"
#include "vin/fdinfo.h"
#include "vin/rebind.h"
#include "vin/status.h"

#define STOP_MS 5000
#define OPEN_MS 5000
/* of the old one, for the new one */
#define KEPT_FLAGS (O_APPEND | O_NONBLOCK | O_DIRECT | O_NOATIME)

struct job {
	const struct fvm_vm *vm;
	const struct fvm_rebind *what;
	struct fvm_procs procs;
	pid_t init;
	const struct fvm_proc *proc;
	int pidfd, old, fresh;
	struct vin_fdinfo info;
	bool polled; /* an epoll watches it */
	struct vin_end *ends;
	size_t count;
};

static void job_free(struct job *j)
{
	fvm_procs_free(&j->procs);
	fvm_fd_closep(&j->pidfd);
	fvm_fd_closep(&j->old);
	fvm_fd_closep(&j->fresh);
	vin_fdinfo_free(&j->info);
	free(j->ends);
}
#define scoped_job __attribute__((cleanup(job_free))) struct job

/* ---- what is there ---- */

static int pull(const struct job *j, pid_t pid, int number, int *ret_pidfd, struct fvm_error *err)
{
	const struct fvm_proc *p = fvm_vm_process(j->vm, &j->procs, pid, err);
	if (!p)
		return -ESRCH;
	if (p->pid == j->init)
		return fvm_error_say(err, EPERM, "process 1 is fvm's own");
	scoped_fd pidfd = pidfd_open(p->pid, 0);
	int fd = pidfd < 0 ? -1 : pidfd_getfd(pidfd, number, 0);
	if (fd < 0 && errno == EBADF) {
		fvm_error_hint(err, "fvm handles %s %d shows those there are", j->vm->config.name,
			       pid);
		return fvm_error_say(err, EBADF, "process %d has no descriptor %d", pid, number);
	}
	if (fd < 0)
		return fvm_error_set(err, errno, "look at descriptor %d of process %d", number,
				     pid);
	if (ret_pidfd)
		*ret_pidfd = fvm_fd_take(&pidfd);
	return fd;
}

static int note_polled(void *arg, int epoll, const struct vin_epoll_item *item)
{
	struct job *j = arg;
	(void)epoll, (void)item;
	j->polled = true;
	return 0;
}

static int look(struct job *j, struct fvm_error *err)
{
	const struct fvm_rebind *w = j->what;
	char path[64], link[64];
	int r = fvm_vm_processes(j->vm, &j->procs, &j->init, err);
	if (r < 0)
		return r;
	j->old = pull(j, w->pid, w->number, &j->pidfd, err);
	if (j->old < 0)
		return j->old;
	j->proc = fvm_vm_process(j->vm, &j->procs, w->pid, err);
	r = vin_fdinfo_read(j->proc->pid, w->number, &j->info, err);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", j->old);
	ssize_t n = readlink(path, link, sizeof(link) - 1);
	link[n < 0 ? 0 : n] = '\0';
	if (link[0] != '/' && strncmp(link, "pipe:", 5) != 0 && strncmp(link, "socket:", 7) != 0)
		return fvm_error_say(
			err, EOPNOTSUPP,
			"descriptor %d of process %d is '%s', which nothing can stand for",
			w->number, w->pid, link);
	/* then the new one must be of a sort that can be waited for; who runs may end meanwhile */
	(void)vin_polled_each(j->proc->pid, w->number, note_polled, j, NULL);
	return 0;
}

/* ---- the target ---- */

/* "PID:FD" */
static bool parse_pair(const char *text, pid_t *ret_pid, int *ret_number)
{
	char *end;
	if (!isdigit((unsigned char)text[0]))
		return false;
	long pid = strtol(text, &end, 10);
	if (*end != ':' || !isdigit((unsigned char)end[1]))
		return false;
	long number = strtol(end + 1, &end, 10);
	if (*end || pid > INT32_MAX || number > INT32_MAX)
		return false;
	*ret_pid = (pid_t)pid;
	*ret_number = (int)number;
	return true;
}

/* Who enters a user namespace has all capabilities in it, and keeps them when his ids change. */
static int take_capabilities(const struct vin_status *s)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { 0 };
	for (int i = 0; i < 2; i++)
		data[i].effective = data[i].permitted = (uint32_t)(s->effective >> 32 * i);
	return syscall(SYS_capset, &head, data) < 0 ? -errno : 0;
}

/* @root: whether the host's asks; an ordinary user has the groups that his programs have */
static int take_ids(const struct vin_status *s, bool root)
{
	umask(s->umask);
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 ||
	    (setgroups(s->group_count, s->groups) < 0 && root) ||
	    setresgid(s->gid.fs, s->gid.fs, s->gid.fs) < 0 ||
	    setresuid(s->uid.fs, s->uid.fs, s->uid.fs) < 0)
		return -errno;
	return take_capabilities(s);
}

/* From here on we are as the program is: its root, directory, ids and capabilities. */
static int become(const struct job *j)
{
	scoped_status s = { 0 };
	char path[40];
	const bool is_root = geteuid() == 0;
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d", j->proc->pid);
	scoped_fd dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	scoped_fd root = openat(dir, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd cwd = openat(dir, "cwd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || root < 0 || cwd < 0 || setns(j->pidfd, CLONE_NEWUSER) < 0)
		return -errno;
	/* ids are told as who opens it counts them */
	int r = fvm_read_file(dir, "status", 1 << 16, &text, NULL);
	if (r == 0)
		r = vin_status_parse(text, &s);
	if (r == 0 && (fchdir(root) < 0 || chroot(".") < 0 || fchdir(cwd) < 0))
		r = -errno;
	return r < 0 ? r : take_ids(&s, is_root);
}

static int connect_to(const struct job *j, const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	int type = SOCK_STREAM;
	socklen_t len = sizeof(type);
	(void)getsockopt(j->old, SOL_SOCKET, SO_TYPE, &type, &len);
	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fvm_nerr(fd);
}

static int open_path(const struct job *j)
{
	const int way = (int)j->info.flags & O_ACCMODE;
	struct stat st;
	int fd = open(j->what->target,
		      way | ((int)j->info.flags & O_APPEND) | (way == O_RDONLY ? 0 : O_CREAT) |
			      O_NONBLOCK | O_NOCTTY | O_CLOEXEC,
		      0666);
	if (fd < 0 && errno == ENXIO && stat(j->what->target, &st) == 0 && S_ISSOCK(st.st_mode))
		fd = connect_to(j, j->what->target);
	else if (fd < 0)
		return -errno;
	if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		(void)lseek(fd, j->info.pos < st.st_size ? j->info.pos : st.st_size, SEEK_SET);
	const int flags = fd < 0 ? -1 : fcntl(fd, F_GETFL);
	if (fd >= 0 &&
	    fcntl(fd, F_SETFL, (flags & ~KEPT_FLAGS) | ((int)j->info.flags & KEPT_FLAGS)) < 0)
		(void)fcntl(fd, F_SETFL, flags & ~O_NONBLOCK);
	return fd;
}

/* What the new one can't be, that the old one was. */
static int judge(const struct job *j, int fd)
{
	struct epoll_event event = { .events = EPOLLIN };
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	if (S_ISDIR(st.st_mode))
		return -EISDIR;
	const int had = (int)j->info.flags & O_ACCMODE, has = fcntl(fd, F_GETFL) & O_ACCMODE;
	if ((had == O_RDONLY && has == O_WRONLY) || (had == O_WRONLY && has == O_RDONLY))
		return -EBADE;
	scoped_fd epoll = epoll_create1(EPOLL_CLOEXEC);
	if (j->polled && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0 && errno == EPERM)
		return -EBADR;
	return 0;
}

static _Noreturn void be_opener(struct job *j, int sock)
{
	(void)setsid(); /* /dev/tty is nobody's */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	int r = 0, fd = j->fresh;
	if (fd < 0)
		r = become(j);
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL); /* forgotten whenever ids change */
	if (r == 0 && fd < 0)
		r = fd = open_path(j);
	if (r >= 0)
		r = judge(j, fd);
	(void)fvm_send_fds(sock, &r, sizeof(r), &fd, r >= 0);
	_exit(0);
}

static int explain(const struct job *j, int r, struct fvm_error *err)
{
	const char *target = j->what->target;
	const int number = j->what->number;
	if (r == -EBADE)
		return fvm_error_say(err, EINVAL,
				     "descriptor %d is %s, and '%.200s' is for the other way only",
				     number,
				     ((int)j->info.flags & O_ACCMODE) == O_RDONLY ? "read from"
										  : "written to",
				     target);
	if (r == -EBADR)
		return fvm_error_say(
			err, EINVAL,
			"process %d waits for descriptor %d by epoll, which can't be done "
			"with '%.200s'",
			j->what->pid, number, target);
	if (r == -EISDIR)
		return fvm_error_say(err, EISDIR, "'%.200s' is a directory", target);
	return fvm_error_set(err, -r, "open '%.200s' in the VM", target);
}

/* It may hang in a file system that the VM itself serves, and is left to that. */
static int open_target(struct job *j, struct fvm_error *err)
{
	int ends[2], r = -EPIPE, fd = -1;
	size_t fds = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return fvm_error_set(err, errno, "make a socket");
	pid_t child = fork();
	if (child == 0)
		be_opener(j, ends[1]);
	close(ends[1]);
	struct pollfd p = { .fd = ends[0], .events = POLLIN };
	if (child > 0 && poll(&p, 1, OPEN_MS) == 1)
		(void)fvm_recv_fds(ends[0], &r, sizeof(r), &fd, 1, &fds);
	else if (child > 0)
		r = -ETIMEDOUT;
	close(ends[0]);
	if (child > 0) {
		kill(child, SIGKILL);
		(void)waitpid(child, NULL, r == -ETIMEDOUT ? WNOHANG : 0);
	}
	if (r < 0 || fds == 0)
		return explain(j, r < 0 ? r : -EPIPE, err);
	fvm_fd_closep(&j->fresh);
	j->fresh = fd;
	return 0;
}

static int find_target(struct job *j, struct fvm_error *err)
{
	pid_t pid;
	int number;
	if (parse_pair(j->what->target, &pid, &number)) {
		j->fresh = pull(j, pid, number, NULL, err);
		if (j->fresh < 0)
			return j->fresh;
	}
	return open_target(j, err);
}

/* ---- the change ---- */

static int add_end(struct job *j, pid_t pid, int number)
{
	struct vin_end *more = realloc(j->ends, fvm_room(j->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	j->ends = more;
	j->ends[j->count++] = (struct vin_end){ pid, number };
	return 0;
}

static int find_ends(struct job *j, pid_t pid)
{
	char path[40];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));) {
		if (vin_leads_to(pid, atoi(e->d_name), j->old))
			r = add_end(j, pid, atoi(e->d_name));
	}
	return r;
}

static int find_all_ends(struct job *j, const struct vin_tree *tree, struct fvm_error *err)
{
	int r = 0;
	if (!j->what->all)
		r = add_end(j, j->proc->pid, j->what->number);
	for (size_t i = 0; r == 0 && j->what->all && i < tree->count; i++) {
		if (!tree->procs[i].zombie)
			r = find_ends(j, tree->procs[i].pid);
	}
	if (r == 0 && j->count == 0)
		return fvm_error_say(err, ESTALE, "descriptor %d was closed meanwhile",
				     j->what->number);
	return r < 0 ? fvm_error_set(err, -r, "list the VM's descriptors") : 0;
}

/* Numbers are used again: whether it is he whom we looked at. */
static int still_he(const struct job *j, struct fvm_error *err)
{
	struct fvm_proc now;
	if (fvm_proc_read(j->proc->pid, &now) < 0 || now.start != j->proc->start ||
	    now.state == 'Z')
		return fvm_error_say(err, ESRCH, "process %d has ended", j->what->pid);
	return 0;
}

static int change(struct job *j, struct fvm_rebound *ret, struct fvm_error *err)
{
	struct vin_tree tree = { 0 };
	const int64_t since = fvm_clock_ns();
	int r = j->what->all ? vin_tree_seize_below(j->init, STOP_MS, &tree, err)
			     : vin_tree_seize(&j->proc->pid, 1, STOP_MS, &tree, err);
	if (r < 0)
		return r;
	r = still_he(j, err);
	if (r == 0)
		r = find_all_ends(j, &tree, err);
	if (r == 0)
		r = vin_rebind(&tree, j->ends, j->count, j->old, j->fresh, err);
	vin_tree_release(&tree);
	if (r == -ESTALE) /* in the VM's numbers */
		fvm_error_say(err, ESTALE, "descriptor %d of process %d was changed meanwhile",
			      j->what->number, j->what->pid);
	*ret = (struct fvm_rebound){ .descriptors = j->count, .still_ns = fvm_clock_ns() - since };
	for (size_t i = 0; i < j->count; i++)
		ret->processes += i == 0 || j->ends[i].pid != j->ends[i - 1].pid;
	return r;
}

/* Who is killed while a program makes a call for him harms it: so nobody reaches this process. */
static _Noreturn void be_tracer(struct job *j, const struct fvm_apart *a)
{
	struct fvm_rebound told = { 0 };
	struct fvm_error why = { 0 };
	struct vin_watch watch;
	(void)setsid();
	vin_watch_begin(&watch);
	int r = change(j, &told, &why);
	fvm_apart_tell(a, r, &why, &told, sizeof(told));
}

static int change_apart(struct job *j, struct fvm_rebound *ret, struct fvm_error *err)
{
	struct fvm_apart a;
	int r = fvm_apart_begin(&a, err);
	if (r < 0)
		return r;
	if (a.pid == 0)
		be_tracer(j, &a);
	return fvm_apart_end(&a, ret, sizeof(*ret), err);
}

int fvm_rebind(const struct fvm_vm *vm, const struct fvm_rebind *what, struct fvm_rebound *ret,
	       struct fvm_error *err)
{
	scoped_job j = { .vm = vm, .what = what, .pidfd = -1, .old = -1, .fresh = -1 };
	if (fvm_vm_state(vm) == FVM_PAUSED) {
		fvm_error_hint(err, "fvm resume %s", vm->config.name);
		return fvm_error_say(err, EBUSY, "VM '%s' is paused", vm->config.name);
	}
	int r = look(&j, err);
	if (r == 0)
		r = find_target(&j, err);
	return r < 0 ? r : change_apart(&j, ret, err);
}
