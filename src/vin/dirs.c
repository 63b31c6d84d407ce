/*
 * Current directory, root directory and umask, which threads share. Names, not descriptors: where
 * the program is restored its files are, at the same names of its mounts. It goes there by itself.
 * One that was deleted is among its open files (vin/files), and was entered before.
 */
#include <errno.h>
#include <linux/kcmp.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/files.h"
#include "vin/traits.h"

static const char *title(const char *name)
{
	return name[0] == 'c' ? "current directory" : "root directory";
}

/* " (deleted)" behind the name says it, unless that is how it is called. */
static bool is_deleted(const char *proc, const char *path)
{
	static const char mark[] = " (deleted)";
	char again[PATH_MAX + 40];
	struct stat st, named;
	size_t len = strlen(path);
	if (stat(proc, &st) < 0)
		return false;
	if (len < sizeof(mark) || strcmp(path + len + 1 - sizeof(mark), mark) != 0)
		return st.st_nlink == 0;
	snprintf(again, sizeof(again), "%s/../%s", proc, strrchr(path, '/') + 1);
	return stat(again, &named) < 0 || named.st_ino != st.st_ino || named.st_dev != st.st_dev;
}

static int read_link(pid_t pid, const char *name, char ret[PATH_MAX], struct fvm_error *err)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	ssize_t n = readlink(path, ret, PATH_MAX - 1);
	if (n < 0)
		return fvm_error_set(err, errno == ENOENT ? ESRCH : errno, "read %s", path);
	ret[n] = '\0';
	if (n >= PATH_MAX - 1 || ret[0] != '/')
		return fvm_error_say(err, ENOTSUP, "the %s of process %d is not among its mounts",
				     title(name), pid);
	if (name[0] == 'r' && is_deleted(path, ret))
		return fvm_error_say(err, ENOTSUP, "the %s of process %d was deleted", title(name),
				     pid);
	return 0;
}

bool vin_dir_nameless(pid_t pid)
{
	char path[40], name[PATH_MAX];
	snprintf(path, sizeof(path), "/proc/%d/cwd", pid);
	return read_link(pid, "cwd", name, NULL) == 0 && is_deleted(path, name);
}

static int check_shared(pid_t pid, pid_t tid, struct fvm_error *err)
{
	if (pid == tid || syscall(SYS_kcmp, pid, tid, KCMP_FS, 0, 0) <= 0)
		return 0;
	return fvm_error_say(err, ENOTSUP,
			     "thread %d of process %d has a current directory of its own", tid,
			     pid);
}

static int check(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	(void)filters;
	char path[PATH_MAX];
	int r = pid == tid ? read_link(pid, "cwd", path, err) : 0;
	if (r == 0 && pid == tid)
		r = read_link(pid, "root", path, err);
	return r < 0 ? r : check_shared(pid, tid, err);
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)told;
	char cwd[PATH_MAX], root[PATH_MAX];
	/* of a first thread that has ended /proc has none */
	int r = read_link(s->t->tid, "cwd", cwd, err);
	if (r == 0)
		r = read_link(s->t->tid, "root", root, err);
	if (r < 0)
		return r;
	if (vin_dir_nameless(s->t->tid))
		cwd[0] = '\0';
	vin_put_string(to, cwd);
	vin_put_string(to, root);
	vin_put_u64(to, s->status.umask);
	return 0;
}

static int get_path(struct vin_payload *from, char ret[PATH_MAX])
{
	size_t len;
	const char *path = vin_get_blob(from, &len);
	if (!path || len >= PATH_MAX || (len && path[0] != '/') || memchr(path, '\0', len))
		return -EBADMSG;
	memcpy(ret, path, len);
	ret[len] = '\0';
	return 0;
}

static void enter(struct vin_steps *s, const char *name, uint64_t number, const char *path)
{
	uint64_t at = vin_steps_data(s, path, strlen(path) + 1);
	VIN_STEP(s, name, number, at);
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	(void)err;
	char cwd[PATH_MAX], root[PATH_MAX], now[PATH_MAX];
	int r = get_path(from, cwd);
	if (r == 0)
		r = get_path(from, root);
	uint64_t umask = vin_get_u64(from);
	if (r < 0 || !*root || umask > 0777)
		return -EBADMSG;
	/* the current directory first: it may be outside of the root */
	if (*cwd &&
	    (!s->post || read_link(s->t->pid, "cwd", now, NULL) < 0 || strcmp(now, cwd) != 0))
		enter(s, "chdir", SYS_chdir, cwd);
	if (!s->post || read_link(s->t->pid, "root", now, NULL) < 0 || strcmp(now, root) != 0)
		enter(s, "chroot", SYS_chroot, root);
	VIN_STEP(s, "umask", SYS_umask, umask);
	return 0;
}

const struct vin_trait vin_dirs = {
	.name = "directories", .check = check, .put = put, .replay = replay
};
