#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/adopt.h"
#include "fvm/disk.h"
#include "fvm/helper.h"
#include "fvm/owners.h"
#include "fvm/subids.h"
#include "fvm/sys.h"

/* Credentials are the process', and so is who tells of the world outside them. */
static int outside = -1;

/* ---- the process that stays outside ---- */

struct answer {
	int result; /* 0 or -errno */
	uid_t uid;
	gid_t gid;
};

static void answer(int sock, int dir, const char *name)
{
	struct stat st;
	struct answer a = { 0 };
	if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH) < 0)
		a.result = -errno;
	else
		a = (struct answer){ .uid = st.st_uid, .gid = st.st_gid };
	(void)!send(sock, &a, sizeof(a), MSG_NOSIGNAL);
}

static _Noreturn void stay_outside(int sock)
{
	char name[PATH_MAX];
	sigset_t all;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL); /* the terminal's are for the command */
	(void)!chdir("/");
	fvm_helper_close(&sock, 1);
	prctl(PR_SET_NAME, "fvm-ids");
	for (;;) {
		int dir = -1;
		size_t n = 0;
		ssize_t len = fvm_recv_fds(sock, name, sizeof(name) - 1, &dir, 1, &n);
		if (len <= 0)
			_exit(0);
		name[len - 1] = '\0'; /* is sent with it */
		answer(sock, dir, name);
		fvm_fd_closep(&dir);
	}
}

static int leave_one_outside(struct fvm_error *err)
{
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return fvm_error_set(err, errno, "make a socket");
	/* by two forks: nobody waits for it */
	const struct clone_args args = { .exit_signal = SIGCHLD };
	int pid = sys_clone3(&args);
	if (pid == 0) {
		if (fork() == 0)
			stay_outside(ends[1]);
		_exit(0);
	}
	close(ends[1]);
	if (pid < 0) {
		close(ends[0]);
		return fvm_error_set(err, -pid, "start a process");
	}
	(void)waitpid(pid, NULL, 0);
	outside = ends[0];
	return 0;
}

void fvm_subids_stat(int dir, const char *name, struct stat *st)
{
	struct answer a;
	if (outside < 0 || (st->st_uid != FVM_NOBODY && st->st_gid != FVM_NOBODY))
		return;
	if (fvm_send_fds(outside, name, strlen(name) + 1, &dir, 1) < 0 ||
	    recv(outside, &a, sizeof(a), 0) != sizeof(a) || a.result < 0)
		return;
	st->st_uid = a.uid;
	st->st_gid = a.gid;
}

int fvm_subids_fstat(int fd, struct stat *ret)
{
	int r = fstat(fd, ret);
	if (r == 0)
		fvm_subids_stat(fd, "", ret);
	return r;
}

/* ---- entering ---- */

static bool has_map(int parent)
{
	char text[256];
	scoped_fd fs = fvm_disk_open(parent);
	scoped_fd fd = fs < 0 ? -1 : fvm_open_nofollow(fs, FVM_OWNERS_FILE, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : fvm_read_full(fd, text, sizeof(text) - 1);
	text[n > 0 ? n : 0] = '\0';
	return strstr(text, "map u 1 ") != NULL;
}

/* Whether a layer of the VM may hold files of subordinate ids. */
static bool is_needed(const struct fvm_vm *vm)
{
	if (!vm->config.rootless)
		return false;
	scoped_fd workspace = fvm_open_nofollow(vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (workspace >= 0 && has_map(workspace))
		return true;
	fvm_strv_each(&vm->config.layers, i) {
		char path[80];
		snprintf(path, sizeof(path), "layers/%s", vm->config.layers.items[i]);
		scoped_fd layer = fvm_open_nofollow(vm->store->dir, path, O_RDONLY | O_DIRECTORY);
		if (layer >= 0 && has_map(layer))
			return true;
	}
	return false;
}

static int enter(struct fvm_user_ids *ids, struct fvm_error *err)
{
	uint32_t wanted = ids->count;
	int r = leave_one_outside(err);
	if (r < 0)
		return r;
	ids->same = true;
	r = fvm_user_ids_enter(ids, err);
	if (r == 0 && ids->count != wanted)
		log_warn("newuidmap refuses: files of the VM's services can't be seen");
	return r;
}

int fvm_subids_enter_any(struct fvm_user_ids *ret, struct fvm_error *err)
{
	struct fvm_user_ids ids = { 0 };
	int r = 0;
	if (geteuid() != 0) {
		fvm_user_ids_find(&ids);
		if (ids.count && outside < 0)
			r = enter(&ids, err);
	}
	if (r == 0 && ret)
		*ret = ids;
	return r;
}

int fvm_subids_enter(const struct fvm_vm *vm, struct fvm_error *err)
{
	struct fvm_user_ids ids;
	if (geteuid() == 0 || !is_needed(vm))
		return 0;
	int r = fvm_subids_enter_any(&ids, err);
	if (r == 0 && ids.count == 0 && outside < 0)
		log_warn("files of the VM's services can't be seen: newuidmap or your range in "
			 "/etc/subuid is gone");
	return r;
}

/* ---- in a child ---- */

struct outcome {
	int result;
	struct fvm_error err;
};

static int enter_alone(struct fvm_error *err)
{
	struct fvm_user_ids ids = { 0 };
	if (geteuid() == 0)
		return 0;
	fvm_user_ids_find(&ids);
	return enter(&ids, err);
}

static int call(int (*fn)(void *arg, struct fvm_error *err), void *arg, bool always,
		struct fvm_error *err)
{
	struct outcome o = { 0 };
	int ends[2];
	if (outside >= 0)
		return fn(arg, err);
	if (pipe2(ends, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	pid_t pid = fork();
	if (pid == 0) {
		o.result = always ? enter_alone(&o.err) : fvm_subids_enter_any(NULL, &o.err);
		if (o.result == 0)
			o.result = fn(arg, &o.err);
		(void)!write(ends[1], &o, sizeof(o));
		_exit(0);
	}
	close(ends[1]);
	ssize_t n = pid < 0 ? 0 : fvm_read_full(ends[0], &o, sizeof(o));
	close(ends[0]);
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	if (n != sizeof(o))
		return fvm_error_set(err, EIO, "work with the VM's ids");
	if (o.result < 0 && err)
		*err = o.err;
	return o.result;
}

int fvm_subids_call(int (*fn)(void *arg, struct fvm_error *err), void *arg, struct fvm_error *err)
{
	return call(fn, arg, false, err);
}

int fvm_subids_call_always(int (*fn)(void *arg, struct fvm_error *err), void *arg,
			   struct fvm_error *err)
{
	return call(fn, arg, true, err);
}

struct removal {
	int dir;
	const char *name;
};

static int remove_it(void *arg, struct fvm_error *err)
{
	const struct removal *r = arg;
	(void)err;
	return fvm_remove_tree(r->dir, r->name);
}

int fvm_subids_remove_tree(int dir, const char *name)
{
	return fvm_subids_remove_tree_told(dir, name, NULL, NULL);
}

int fvm_subids_remove_tree_told(int dir, const char *name, fvm_remove_fn fn, void *arg)
{
	struct removal removal = { dir, name };
	struct fvm_user_ids ids;
	int r = fvm_remove_tree_told(dir, name, fn, arg);
	if ((r != -EACCES && r != -EPERM) || geteuid() == 0 || outside >= 0)
		return r;
	fvm_user_ids_find(&ids);
	return ids.count ? fvm_subids_call(remove_it, &removal, NULL) : r;
}
