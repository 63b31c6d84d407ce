/*
 * The server of stand-ins: see standins.h. Requests come from the kernel, names in them from
 * programs of the VM; what they name is opened anew each time, below the base.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/fuse.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fvm/caps.h"
#include "fvm/helper.h"
#include "fvm/standins.h"
#include "fvm/sys.h"

#define BUCKETS	      16384U /* powers of two */
#define READ_BYTES    (128 * 1024)
#define REQUEST_BYTES (READ_BYTES + 4096)
#define VALID_SECONDS 1

struct node { /* what the kernel knows by a number */
	uint64_t id, lookups;
	struct node *by_id, *by_path;
	char path[]; /* relative to the base; "." is the top */
};

struct server {
	int fuse, base;
	const struct fvm_idmap *map;
	uint64_t last_id;
	struct node *ids[BUCKETS], *paths[BUCKETS];
	char request[REQUEST_BYTES], data[READ_BYTES];
};

/* ---- nodes ---- */

static size_t path_bucket(const char *path)
{
	uint32_t h = 2166136261U;
	for (; *path; path++)
		h = (h ^ (unsigned char)*path) * 16777619U;
	return h % BUCKETS;
}

static struct node *node_by_id(const struct server *s, uint64_t id)
{
	struct node *n = s->ids[id % BUCKETS];
	while (n && n->id != id)
		n = n->by_id;
	return n;
}

static struct node *node_take(struct server *s, const char *path)
{
	size_t bucket = path_bucket(path), len = strlen(path) + 1;
	struct node *n = s->paths[bucket];
	while (n && strcmp(n->path, path) != 0)
		n = n->by_path;
	if (!n) {
		n = malloc(sizeof(*n) + len);
		if (!n)
			return NULL;
		*n = (struct node){ .id = ++s->last_id, .by_path = s->paths[bucket] };
		memcpy(n->path, path, len);
		s->paths[bucket] = n;
		n->by_id = s->ids[n->id % BUCKETS];
		s->ids[n->id % BUCKETS] = n;
	}
	n->lookups++;
	return n;
}

static void node_forget(struct server *s, uint64_t id, uint64_t lookups)
{
	struct node *n = node_by_id(s, id), **at;
	if (!n || n->id == FUSE_ROOT_ID)
		return;
	n->lookups -= lookups < n->lookups ? lookups : n->lookups;
	if (n->lookups)
		return;
	for (at = &s->ids[id % BUCKETS]; *at != n; at = &(*at)->by_id)
		;
	*at = n->by_id;
	for (at = &s->paths[path_bucket(n->path)]; *at != n; at = &(*at)->by_path)
		;
	*at = n->by_path;
	free(n);
}

/* ---- the base ---- */

static int open_base(const struct server *s, const char *path, int flags)
{
	const struct open_how how = {
		.flags = (uint64_t)(flags | O_CLOEXEC | O_NOFOLLOW),
		.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV,
	};
	return fvm_nerr(syscall(SYS_openat2, s->base, path, &how, sizeof(how)));
}

static int look_at(const struct server *s, const char *path, struct stat *ret)
{
	scoped_fd fd = open_base(s, path, O_PATH);
	if (fd < 0)
		return fd;
	return fstatat(fd, "", ret, AT_EMPTY_PATH | AT_NO_AUTOMOUNT) < 0 ? -errno : 0;
}

/* What a stranger could not read, execute or take away, or what loses its meaning with its owner.
 */
static bool is_missed(const struct server *s, const struct node *dir, const struct stat *st)
{
	struct stat parent;
	if (S_ISDIR(st->st_mode))
		return true;
	if (!S_ISREG(st->st_mode))
		return false;
	if (!(st->st_mode & S_IROTH) || (st->st_mode & (S_ISUID | S_ISGID)) ||
	    ((st->st_mode & 0111) && !(st->st_mode & S_IXOTH)))
		return true;
	return look_at(s, dir->path, &parent) == 0 && (parent.st_mode & S_ISVTX);
}

/* Whom nobody in the VM can be becomes its root. */
static void fill_attr(const struct server *s, const struct stat *st, struct fuse_attr *ret)
{
	uint32_t uid = fvm_idmap_uid(s->map, st->st_uid), gid = fvm_idmap_gid(s->map, st->st_gid);
	*ret = (struct fuse_attr){
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.blocks = (uint64_t)st->st_blocks,
		.atime = (uint64_t)st->st_atim.tv_sec,
		.mtime = (uint64_t)st->st_mtim.tv_sec,
		.ctime = (uint64_t)st->st_ctim.tv_sec,
		.atimensec = (uint32_t)st->st_atim.tv_nsec,
		.mtimensec = (uint32_t)st->st_mtim.tv_nsec,
		.ctimensec = (uint32_t)st->st_ctim.tv_nsec,
		.mode = st->st_mode,
		.nlink = (uint32_t)st->st_nlink,
		.uid = uid == UINT32_MAX ? s->map->base : uid,
		.gid = gid == UINT32_MAX ? s->map->base : gid,
		.blksize = (uint32_t)st->st_blksize,
	};
}

/* ---- answers ---- */

static void reply(const struct server *s, const struct fuse_in_header *in, int error,
		  const void *body, size_t len)
{
	const struct fuse_out_header head = {
		.len = (uint32_t)(sizeof(head) + len),
		.error = error,
		.unique = in->unique,
	};
	const struct iovec parts[2] = { { (void *)(uintptr_t)&head, sizeof(head) },
					{ (void *)(uintptr_t)body, len } };
	/* ENOENT: who asked was killed meanwhile */
	(void)!writev(s->fuse, parts, len ? 2 : 1);
}

static void on_init(const struct server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_init_in *wish = arg;
	struct fuse_init_out out = {
		.major = FUSE_KERNEL_VERSION,
		.minor = FUSE_KERNEL_MINOR_VERSION,
		.max_readahead = wish->max_readahead,
		.max_write = 4096,
		.time_gran = 1,
	};
	reply(s, in, 0, &out, sizeof(out));
}

/* Return: 0 or negative errno; -ENOENT also for what is the base's own */
static int look_up(struct server *s, uint64_t parent, const char *name, struct fuse_entry_out *out)
{
	const struct node *dir = node_by_id(s, parent);
	char path[PATH_MAX];
	struct stat st;
	if (!dir)
		return -ESTALE;
	int n = strcmp(dir->path, ".") == 0
			? snprintf(path, sizeof(path), "%s", name)
			: snprintf(path, sizeof(path), "%s/%s", dir->path, name);
	if (n < 0 || (size_t)n >= sizeof(path) || strchr(name, '/') || look_at(s, path, &st) < 0 ||
	    !is_missed(s, dir, &st))
		return -ENOENT;
	struct node *node = node_take(s, path);
	if (!node)
		return -ENOMEM;
	out->nodeid = node->id;
	out->attr_valid = VALID_SECONDS;
	fill_attr(s, &st, &out->attr);
	return 0;
}

static void on_lookup(struct server *s, const struct fuse_in_header *in, const void *arg)
{
	/* number 0: there is nothing, and for so long */
	struct fuse_entry_out out = { .entry_valid = VALID_SECONDS };
	int r = look_up(s, in->nodeid, arg, &out);
	if (r < 0 && r != -ENOENT)
		reply(s, in, r, NULL, 0);
	else
		reply(s, in, 0, &out, sizeof(out));
}

static void on_getattr(const struct server *s, const struct fuse_in_header *in)
{
	struct fuse_attr_out out = { .attr_valid = VALID_SECONDS };
	const struct node *n = node_by_id(s, in->nodeid);
	struct stat st;
	int r = n ? look_at(s, n->path, &st) : -ESTALE;
	if (r < 0) {
		reply(s, in, r, NULL, 0);
		return;
	}
	fill_attr(s, &st, &out.attr);
	reply(s, in, 0, &out, sizeof(out));
}

static void on_open(const struct server *s, const struct fuse_in_header *in)
{
	const struct node *n = node_by_id(s, in->nodeid);
	struct stat st;
	int fd = n ? open_base(s, n->path, O_RDONLY | O_NONBLOCK) : -ESTALE;
	if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
		close(fd);
		fd = -ESTALE; /* something else has its name now */
	}
	struct fuse_open_out out = { .fh = (uint64_t)fd };
	reply(s, in, fd < 0 ? fd : 0, &out, fd < 0 ? 0 : sizeof(out));
}

static void on_read(struct server *s, const struct fuse_in_header *in, const void *arg)
{
	const struct fuse_read_in *q = arg;
	size_t size = q->size < READ_BYTES ? q->size : READ_BYTES;
	ssize_t n = pread((int)q->fh, s->data, size, (off_t)q->offset);
	reply(s, in, n < 0 ? -errno : 0, s->data, n < 0 ? 0 : (size_t)n);
}

static void on_statfs(const struct server *s, const struct fuse_in_header *in)
{
	struct fuse_statfs_out out = { 0 };
	struct statfs fs;
	if (fstatfs(s->base, &fs) == 0) {
		out.st.blocks = (uint64_t)fs.f_blocks;
		out.st.bfree = (uint64_t)fs.f_bfree;
		out.st.bavail = (uint64_t)fs.f_bavail;
		out.st.files = (uint64_t)fs.f_files;
		out.st.ffree = (uint64_t)fs.f_ffree;
		out.st.bsize = out.st.frsize = (uint32_t)fs.f_bsize;
		out.st.namelen = NAME_MAX;
	}
	reply(s, in, 0, &out, sizeof(out));
}

static void on_forgets(struct server *s, const void *arg, size_t len)
{
	const struct fuse_batch_forget_in *batch = arg;
	const struct fuse_forget_one *one = (const void *)(batch + 1);
	size_t most = (len - sizeof(*batch)) / sizeof(*one);
	for (size_t i = 0; i < batch->count && i < most; i++)
		node_forget(s, one[i].nodeid, one[i].nlookup);
}

/* What each request has at least after its header. */
static size_t least(uint32_t opcode)
{
	switch (opcode) {
	case FUSE_INIT:
		return 16; /* major, minor, read-ahead, flags */
	case FUSE_LOOKUP:
		return 1;
	case FUSE_READ:
		return sizeof(struct fuse_read_in);
	case FUSE_RELEASE:
		return sizeof(struct fuse_release_in);
	case FUSE_FORGET:
		return sizeof(struct fuse_forget_in);
	case FUSE_BATCH_FORGET:
		return sizeof(struct fuse_batch_forget_in);
	default:
		return 0;
	}
}

static void serve(struct server *s, const struct fuse_in_header *in, const void *arg, size_t len)
{
	static const struct fuse_open_out no_file;
	if (len < least(in->opcode)) {
		reply(s, in, -EIO, NULL, 0);
		return;
	}
	switch (in->opcode) {
	case FUSE_INIT:
		on_init(s, in, arg);
		break;
	case FUSE_LOOKUP: /* the name ends in NUL; so does the buffer */
		on_lookup(s, in, arg);
		break;
	case FUSE_GETATTR:
		on_getattr(s, in);
		break;
	case FUSE_OPEN:
		on_open(s, in);
		break;
	case FUSE_READ:
		on_read(s, in, arg);
		break;
	case FUSE_RELEASE:
		close((int)((const struct fuse_release_in *)arg)->fh);
		reply(s, in, 0, NULL, 0);
		break;
	case FUSE_OPENDIR:
		reply(s, in, 0, &no_file, sizeof(no_file));
		break;
	case FUSE_READDIR: /* the base's own listing is merged, and has all names */
	case FUSE_RELEASEDIR:
		reply(s, in, 0, NULL, 0);
		break;
	case FUSE_STATFS:
		on_statfs(s, in);
		break;
	case FUSE_FORGET:
		node_forget(s, in->nodeid, ((const struct fuse_forget_in *)arg)->nlookup);
		break;
	case FUSE_BATCH_FORGET:
		on_forgets(s, arg, len);
		break;
	case FUSE_INTERRUPT:
		break;
	default:
		reply(s, in, -ENOSYS, NULL, 0);
	}
}

static void loop(struct server *s)
{
	for (;;) {
		ssize_t n = read(s->fuse, s->request, sizeof(s->request) - 1);
		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;
		if (n < (ssize_t)sizeof(struct fuse_in_header))
			return; /* ENODEV: unmounted */
		s->request[n] = '\0';
		const struct fuse_in_header *in = (const void *)s->request;
		serve(s, in, in + 1, (size_t)n - sizeof(*in));
	}
}

/* ---- the process ---- */

static int drop_rights(void)
{
	fvm_raise_descriptors(NULL);
	(void)prctl(PR_SET_NAME, "fvm-stand-ins");
	return fvm_caps_keep(FVM_CAP(DAC_READ_SEARCH));
}

struct to_serve {
	const char *path;
	const struct fvm_idmap *map;
	int fuse, go;
};

/* Nothing of the base is touched before the builder is at it: its server might hang. */
static int server_main(void *arg, int report)
{
	const struct to_serve *what = arg;
	struct fvm_error err = { 0 };
	const int keep[] = { report, what->fuse, what->go };
	fvm_helper_close(keep, FVM_COUNT(keep));
	struct server *s = calloc(1, sizeof(*s));
	int r = s ? drop_rights() : -ENOMEM;
	if (r < 0)
		fvm_error_set(&err, -r, "show strangers' files of %s", what->path);
	fvm_helper_report(report, &err);
	char byte;
	if (r < 0 || fvm_read_full(what->go, &byte, 1) != 1)
		return 1; /* never mounted */
	s->fuse = what->fuse;
	s->map = what->map;
	s->base = open(what->path, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	/* the top is number 1 */
	if (s->base >= 0 && node_take(s, "."))
		loop(s);
	return 0;
}

int fvm_standins_start(const char *path, const struct fvm_idmap *map, struct fvm_standins *ret,
		       struct fvm_error *err)
{
	int go[2];
	scoped_fd fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	if (fuse < 0)
		return fvm_error_set(err, errno, "open /dev/fuse");
	if (pipe2(go, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	struct to_serve what = { .path = path, .map = map, .fuse = fuse, .go = go[0] };
	pid_t pid = fvm_helper_start(server_main, &what, err);
	close(go[0]);
	if (pid < 0) {
		close(go[1]);
		return pid;
	}
	ret->fuse = fvm_fd_take(&fuse);
	ret->go = go[1];
	return 0;
}

int fvm_standins_mount(const struct fvm_standins *s, int scratch, const char *name)
{
	char options[160], link[64];
	if (mkdirat(scratch, name, 0755) < 0)
		return -errno;
	scoped_fd at = openat(scratch, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (at < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", at);
	snprintf(options, sizeof(options),
		 "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions",
		 s->fuse);
	if (mount("fvm", link, "fuse", MS_RDONLY | MS_NOSUID | MS_NODEV, options) < 0)
		return -errno;
	return write(s->go, "g", 1) == 1 ? 0 : -errno;
}
