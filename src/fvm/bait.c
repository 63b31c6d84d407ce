/* The host's side of --prove: something behind each channel that would be reached if it leaked. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <mqueue.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <netinet/in.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "common/dir.h"
#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/prove.h"

#define CONTENT "the host's\n"
#define NAME	"fvm-prove-"
#define SEGMENT 4096
#define DIR_FD	6
#define TRIES	100

const char *const fvm_prove_namespaces[8] = { "user", "mnt", "pid",    "net",
					      "ipc",  "uts", "cgroup", "time" };

static int put_file(const char *dir)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/file", dir);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	if (fd < 0)
		return -errno;
	int r = fchmod(fd, 0666) < 0 ? -errno : fvm_write_all(fd, CONTENT, strlen(CONTENT));
	close(fd);
	return r;
}

static int put_socket(const struct sockaddr_un *at, socklen_t len)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)at, len) < 0 || listen(fd, 4) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static int put_named(const char *dir)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	snprintf(at.sun_path, sizeof(at.sun_path), "%s/socket", dir);
	int fd = put_socket(&at, sizeof(at));
	if (fd >= 0)
		(void)chmod(at.sun_path, 0777);
	return fd;
}

static int put_abstract(const char *name)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	size_t n = strlen(name);
	memcpy(at.sun_path + 1, name, n);
	return put_socket(&at, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + n));
}

static int put_fifo(const char *dir)
{
	char path[96];
	snprintf(path, sizeof(path), "%s/fifo", dir);
	if (mkfifo(path, 0666) < 0 || chmod(path, 0666) < 0)
		return -errno;
	return fvm_nerr(open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC));
}

static int put_port(unsigned short *ret_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (bind(fd, (struct sockaddr *)&at, sizeof(at)) < 0 || listen(fd, 4) < 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &len) < 0) {
		int r = -errno;
		close(fd);
		return r;
	}
	*ret_port = ntohs(at.sin_port);
	return fd;
}

static void note_namespaces(struct fvm_bait *b)
{
	for (size_t i = 0; i < FVM_COUNT(fvm_prove_namespaces); i++) {
		char path[64];
		struct stat st;
		snprintf(path, sizeof(path), "/proc/self/ns/%s", fvm_prove_namespaces[i]);
		b->namespaces[i] = stat(path, &st) < 0 ? 0 : st.st_ino;
	}
}

static int note_hidden(struct fvm_bait *b)
{
	struct stat st;
	b->inodes = calloc(b->hide->count + 1, sizeof(*b->inodes));
	if (!b->inodes)
		return -ENOMEM;
	for (size_t i = 0; i < b->hide->count; i++)
		b->inodes[i] = lstat(b->hide->items[i].path, &st) < 0 ? 0 : st.st_ino;
	return 0;
}

/* ---- shared memory of System V ---- */

static int shm_key_of(const char *name)
{
	uint32_t hash = 2166136261U;
	for (const char *p = name; *p; p++)
		hash = (hash ^ (unsigned char)*p) * 16777619U;
	return (int)(hash | 1);
}

/* A key is but a number: its name is in it. */
static int put_segment(int key, const char *name)
{
	int id = shmget(key, SEGMENT, IPC_CREAT | IPC_EXCL | 0666);
	char *at = id < 0 ? (void *)-1 : shmat(id, NULL, 0);
	if (at != (void *)-1) {
		strcpy(at, name);
		(void)shmdt(at);
	}
	return id;
}

/* One that was killed at once has not written its name yet. */
static void sweep_segment(const char *name)
{
	static const char zeros[SEGMENT];
	struct shmid_ds ds;
	int id = shmget(shm_key_of(name), 0, 0);
	if (id < 0 || shmctl(id, IPC_STAT, &ds) < 0 || ds.shm_perm.cuid != geteuid() ||
	    ds.shm_segsz != SEGMENT)
		return;
	const char *at = shmat(id, NULL, SHM_RDONLY);
	if (at == (void *)-1)
		return;
	const bool ours = strncmp(at, name, SEGMENT) == 0 || memcmp(at, zeros, SEGMENT) == 0;
	(void)shmdt(at);
	if (ours)
		(void)shmctl(id, IPC_RMID, NULL);
}

/* ---- what killed ones left ---- */

/* The directory last: by that the next one finds what is left. */
static void sweep_one(int tmp, const char *name)
{
	char queue[NAME_MAX + 2];
	struct stat st;
	scoped_fd dir = openat(tmp, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (dir < 0 || fstat(dir, &st) < 0 || st.st_uid != geteuid() ||
	    fvm_lock_named(dir, tmp, name, LOCK_EX) < 0)
		return;
	snprintf(queue, sizeof(queue), "/%s", name);
	(void)mq_unlink(queue);
	(void)shm_unlink(queue);
	sweep_segment(name);
	(void)fvm_remove_tree(tmp, name);
}

static void sweep(int tmp)
{
	scoped_dir d = fvm_dir_open(tmp, ".");
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		if (strncmp(e->d_name, NAME, strlen(NAME)) == 0)
			sweep_one(tmp, e->d_name);
	}
}

/* ---- all of it ---- */

static int put_all(struct fvm_bait *b, const char *name)
{
	struct mq_attr small = { .mq_maxmsg = 1, .mq_msgsize = 1 }; /* RLIMIT_MSGQUEUE is for all */
	snprintf(b->abstract, sizeof(b->abstract), "%.30s", name);
	snprintf(b->queue, sizeof(b->queue), "/%.30s", name);
	b->shm_key = shm_key_of(name);
	b->shm_id = put_segment(b->shm_key, name);
	note_namespaces(b);
	b->fds[0] = put_named(b->dir);
	b->fds[1] = put_abstract(b->abstract);
	b->fds[2] = put_fifo(b->dir);
	b->fds[3] = put_port(&b->port);
	b->fds[4] = mq_open(b->queue, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666, &small);
	b->fds[5] = shm_open(b->queue, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
	for (size_t i = 0; i < 4; i++) {
		if (b->fds[i] < 0)
			return b->fds[i];
	}
	int r = note_hidden(b);
	return r < 0 ? r : put_file(b->dir);
}

/* Another one may sweep it before it is locked. Return: its descriptor, or -EAGAIN, -errno */
static int make_dir(int tmp, char dir[64])
{
	strcpy(dir, "/tmp/" NAME "XXXXXX");
	if (!mkdtemp(dir))
		return -errno;
	const char *name = dir + strlen("/tmp/");
	scoped_fd fd = openat(tmp, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return errno == ENOENT ? -EAGAIN : -errno;
	int r = fvm_lock_named(fd, tmp, name, LOCK_EX);
	if (r == 0 && fchmod(fd, 0777) < 0)
		r = -errno;
	return r < 0 ? r : fvm_fd_take(&fd);
}

int fvm_bait_put(const struct fvm_config *config, const struct fvm_hide *hide, struct fvm_bait *ret,
		 struct fvm_error *err)
{
	struct fvm_bait b = {
		.config = config, .hide = hide, .shm_id = -1, .fds = { -1, -1, -1, -1, -1, -1, -1 }
	};
	int r = -EAGAIN;
	scoped_fd tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	sweep(tmp);
	for (int i = 0; r == -EAGAIN && i < TRIES; i++)
		r = b.fds[DIR_FD] = make_dir(tmp, b.dir);
	if (r < 0)
		return fvm_error_set(err, -r, "make a directory for --prove");
	r = put_all(&b, b.dir + strlen("/tmp/"));
	if (r < 0) {
		(void)fvm_bait_take(&b);
		return fvm_error_set(err, -r, "put up the bait for --prove");
	}
	*ret = b;
	return 0;
}

int fvm_bait_take(struct fvm_bait *b)
{
	scoped_free char *text = NULL;
	char path[96];
	snprintf(path, sizeof(path), "%s/file", b->dir);
	int r = 0;
	if (fvm_read_file(AT_FDCWD, path, 4096, &text, NULL) < 0 || strcmp(text, CONTENT) != 0)
		r = -EBADE;
	if (b->fds[4] >= 0)
		(void)mq_unlink(b->queue);
	if (b->fds[5] >= 0)
		(void)shm_unlink(b->queue);
	free(b->inodes);
	b->inodes = NULL;
	if (b->shm_id >= 0)
		(void)shmctl(b->shm_id, IPC_RMID, NULL);
	scoped_fd tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	(void)fvm_remove_tree(tmp, b->dir + strlen("/tmp/"));
	for (size_t i = 0; i < FVM_COUNT(b->fds); i++)
		fvm_fd_closep(&b->fds[i]);
	return r;
}
