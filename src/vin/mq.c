/*
 * POSIX message queues of a namespace, by their file system. No call shows a message without taking
 * it: all are taken, and put back in the same order, which keeps the order of those of one
 * priority. Nobody else works meanwhile; a queue that somebody is to be notified of is left alone.
 */
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/ipc.h"

#define PRIORITY_MAX 32768U
#define SIZE_HARD    16777216 /* of a message, for whoever may go beyond the limits */
#define COUNT_HARD   65536

/* "QSIZE:3          NOTIFY:0     SIGNO:0     NOTIFY_PID:1234  " */
static long number_of(const char *text, const char *name)
{
	const char *at = strstr(text, name);
	return at ? strtol(at + strlen(name), NULL, 10) : 0;
}

int vin_mqueue_check(int fd, struct fvm_error *err)
{
	char text[128] = "";
	struct mq_attr attr;
	if (mq_getattr(fd, &attr) < 0 || pread(fd, text, sizeof(text) - 1, 0) < 0)
		return fvm_error_set(err, errno, "look at a message queue");
	const long pid = number_of(text, "NOTIFY_PID:");
	if (pid)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %ld waits to be notified of a message, and with what "
				     "nobody is shown",
				     pid);
	const unsigned long bytes = (unsigned long)number_of(text, "QSIZE:");
	if (bytes + (unsigned long)attr.mq_curmsgs * 16 > VIN_IPC_MESSAGES_MAX)
		return fvm_error_say(err, EOPNOTSUPP, "%lu bytes are queued in it", bytes);
	return 0;
}

/* A queue's messages, one after the other, each with its priority. */
struct kept {
	struct fvm_buf buf;
	uint64_t count;
	char *room;
	size_t size;
};

static int take_out(int fd, struct kept *k)
{
	const struct timespec past = { 0 };
	for (;; k->count++) {
		unsigned int priority;
		ssize_t n = mq_timedreceive(fd, k->room, k->size, &priority, &past);
		if (n < 0)
			return errno == ETIMEDOUT || errno == EAGAIN ? 0 : -errno;
		vin_put_u64(&k->buf, priority);
		vin_put_blob(&k->buf, k->room, (size_t)n);
	}
}

/* Return: 0, 1 at the end, -EBADMSG, or what sending came to */
static int send_next(int fd, struct vin_payload *p)
{
	const struct timespec past = { 0 };
	size_t len;
	if (p->at == p->end)
		return 1;
	const uint64_t priority = vin_get_u64(p);
	const void *text = vin_get_blob(p, &len);
	if (p->failed || priority >= PRIORITY_MAX)
		return -EBADMSG;
	if (fd < 0)
		return 0;
	return mq_timedsend(fd, text, len, (unsigned int)priority, &past) < 0 ? -errno : 0;
}

static int send_all(int fd, const void *messages, size_t len, uint64_t *ret_count)
{
	struct vin_payload p = { .at = messages, .end = (const unsigned char *)messages + len };
	int r = 0;
	for (*ret_count = 0; r == 0; *ret_count += r == 0)
		r = send_next(fd, &p);
	return r < 0 ? r : 0;
}

/* So much that nothing can fail once a message is taken. */
static int make_room(struct kept *k, size_t bytes)
{
	scoped_free void *room = calloc(1, bytes + 1);
	if (room)
		fvm_buf_add(&k->buf, room, bytes);
	k->buf.len = 0;
	return !room || k->buf.failed ? -ENOMEM : 0;
}

/* No signal ends us while the queue's messages are with us only. */
static int look_at_messages(int fd, const struct mq_attr *attr, struct kept *k)
{
	uint64_t back;
	struct stat st;
	sigset_t all, was;
	char text[128] = "";
	k->size = (size_t)attr->mq_msgsize;
	k->room = malloc(k->size + 1);
	if (!k->room || fstat(fd, &st) < 0 || pread(fd, text, sizeof(text) - 1, 0) < 0 ||
	    make_room(k, (size_t)number_of(text, "QSIZE:") + (size_t)attr->mq_curmsgs * 16) < 0)
		return -ENOMEM;
	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &was);
	int r = take_out(fd, k);
	int put = send_all(fd, k->buf.data ? k->buf.data : "", k->buf.len, &back);
	sigprocmask(SIG_SETMASK, &was, NULL);
	const struct timespec times[2] = { st.st_atim, st.st_mtim };
	(void)futimens(fd, times);
	return r < 0 ? r : k->buf.failed ? -ENOMEM : put;
}

int vin_mqueue_put(struct fvm_buf *to, const char *name, int fd, struct fvm_error *err)
{
	struct mq_attr attr;
	struct stat st;
	struct kept k = { 0 };
	if (mq_getattr(fd, &attr) < 0 || fstat(fd, &st) < 0)
		return fvm_error_set(err, errno, "look at the message queue %s", name);
	int r = attr.mq_curmsgs ? look_at_messages(fd, &attr, &k) : 0;
	vin_put_string(to, name);
	vin_put_u64(to, st.st_mode & 07777);
	vin_put_u64(to, st.st_uid);
	vin_put_u64(to, st.st_gid);
	vin_put_u64(to, (uint64_t)attr.mq_maxmsg);
	vin_put_u64(to, (uint64_t)attr.mq_msgsize);
	vin_put_u64(to, k.count);
	vin_put_blob(to, k.buf.data ? k.buf.data : "", k.buf.len);
	free(k.room);
	fvm_buf_free(&k.buf);
	return r < 0 ? fvm_error_set(err, -r, "read the message queue %s", name) : 0;
}

static bool is_name(const char *name)
{
	return *name && strlen(name) <= 255 && !strchr(name, '/') && strcmp(name, ".") != 0 &&
	       strcmp(name, "..") != 0;
}

int vin_mqueue_get(struct vin_payload *p, struct vin_mqueue *ret)
{
	struct vin_mqueue q = { .name = vin_get_string(p) };
	uint64_t field[6], count = 0;
	for (size_t i = 0; i < FVM_COUNT(field); i++)
		field[i] = vin_get_u64(p);
	q.messages = vin_get_blob(p, &q.len);
	if (!q.name || p->failed || !is_name(q.name) || field[0] > 07777 ||
	    field[1] >= UINT32_MAX || field[2] >= UINT32_MAX || field[3] == 0 ||
	    field[3] > COUNT_HARD || field[4] == 0 || field[4] > SIZE_HARD ||
	    send_all(-1, q.messages, q.len, &count) < 0 || count != field[5] || count > field[3]) {
		free(q.name);
		return -EBADMSG;
	}
	q.mode = (uint32_t)field[0];
	q.uid = (uint32_t)field[1];
	q.gid = (uint32_t)field[2];
	q.max_messages = (long)field[3];
	q.message_size = (long)field[4];
	q.count = count;
	*ret = q;
	return 0;
}

int vin_mqueue_make(const struct vin_mqueue *q, const char *name)
{
	char path[260];
	uint64_t sent;
	struct stat st;
	struct mq_attr attr = { .mq_maxmsg = q->max_messages, .mq_msgsize = q->message_size };
	snprintf(path, sizeof(path), "/%s", name);
	scoped_fd fd = mq_open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600, &attr);
	if (fd < 0)
		return -errno;
	int r = send_all(fd, q->messages, q->len, &sent);
	if (r == 0 && fstat(fd, &st) < 0)
		r = -errno;
	if (r == 0 && (st.st_uid != q->uid || st.st_gid != q->gid) &&
	    fchown(fd, q->uid, q->gid) < 0)
		r = -errno;
	if (r == 0 && fchmod(fd, q->mode) < 0)
		r = -errno;
	if (r < 0) {
		(void)mq_unlink(path);
		return r;
	}
	return fvm_fd_take(&fd);
}

/* ---- all of a namespace ---- */

/* Its file system, mounted nowhere. */
static int open_all(void)
{
	if (unshare(CLONE_NEWNS) < 0)
		return -errno;
	scoped_fd fs = (int)syscall(SYS_fsopen, "mqueue", 1);
	if (fs < 0 || syscall(SYS_fsconfig, fs, 6 /* FSCONFIG_CMD_CREATE */, NULL, NULL, 0) < 0)
		return -errno;
	return fvm_nerr((int)syscall(SYS_fsmount, fs, 1, 0));
}

static int capture_one(struct vin_ipc_visit *v, int dir, const char *name, struct fvm_error *err)
{
	scoped_buf one = { 0 };
	scoped_fd fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return fvm_error_set(err, errno, "open the message queue %s", name);
	int r = vin_mqueue_check(fd, err);
	if (r == -EOPNOTSUPP)
		return fvm_error_wrap(err, r, "the message queue %s can't be captured", name);
	if (r < 0 || v->look)
		return r;
	vin_put_u64(&one, VIN_IPC_IS_MQUEUE);
	r = vin_mqueue_put(&one, name, fd, err);
	vin_put_blob(v->to, one.data, one.len);
	v->to->failed |= one.failed;
	return r;
}

static int capture(struct vin_ipc_visit *v, struct fvm_error *err)
{
	scoped_fd dir = open_all();
	int r = 0;
	if (dir == -ENODEV) /* a kernel without them */
		return 0;
	scoped_fd list = dir < 0 ? dir : openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	scoped_dir d = list < 0 ? NULL : fdopendir(fvm_fd_take(&list));
	if (!d)
		return fvm_error_set(err, dir < 0 ? -dir : errno, "list message queues");
	for (struct dirent *e; r == 0 && (e = fvm_dir_next(d));)
		r = capture_one(v, dir, e->d_name, err);
	return r;
}

static int make(struct vin_payload *p, bool look, struct fvm_error *err)
{
	struct vin_mqueue q;
	int r = vin_mqueue_get(p, &q);
	if (r < 0)
		return r;
	scoped_free char *name = q.name;
	if (vin_get_done(p) < 0 || look)
		return vin_get_done(p);
	scoped_fd fd = vin_mqueue_make(&q, name);
	return fd < 0 ? fvm_error_set(err, -fd, "make the message queue %s", name) : 0;
}

const struct vin_ipc_kind vin_ipc_mqueues = {
	.name = "a message queue",
	.capture = capture,
	.make = make,
};
