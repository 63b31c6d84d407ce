/*
 * Pipes and FIFOs, with what is queued in them. tee(2) copies the queue and takes nothing away. In
 * the new world the first of a pipe's ends makes the pipe, through a descriptor for both ways that
 * fills it and lives until all ends are open; each end is then opened through it.
 *
 * A queue is kept as chunks. Of a pipe of packets (O_DIRECT) each is one; a read that ends before
 * the queue does tells so, too, when the end that had the flag is closed. Other queues come closer
 * together: a pipe that was full of small pieces may have room.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/kinds.h"

#define QUEUE_MAX (15U << 20) /* has to fit a record */

struct pipe {
	char *name; /* of a FIFO; "" */
	bool nameless;
	bool untouched; /* a FIFO that nobody has written to since it was opened */
	bool packets;
	uint64_t size;
	size_t count;	       /* of chunks */
	unsigned char *chunks; /* length (8 bytes) and bytes of each */
	size_t len;
};

static bool matches(const struct vin_open *o)
{
	return S_ISFIFO(o->st.st_mode) && (o->link[0] == '/' || strncmp(o->link, "pipe:", 5) == 0);
}

static bool is_fifo(const struct vin_open *o)
{
	return o->link[0] == '/';
}

static short poll_of(int fd)
{
	struct pollfd p = { .fd = fd };
	return poll(&p, 1, 0) < 0 ? 0 : p.revents;
}

/* Whether an end of @o's pipe in the tree may read, or write. */
static bool has_end(const struct vin_files *all, const struct vin_open *o, unsigned int mode)
{
	for (size_t i = o->twin; i < all->count && all->opens[i].twin == o->twin; i++) {
		unsigned int is = all->opens[i].info.flags & O_ACCMODE;
		if (is == mode || is == O_RDWR)
			return true;
	}
	return false;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	const short poll = poll_of(o->fd);
	int queued = 0;
	if (ioctl(o->fd, FIONREAD, &queued) == 0 && (unsigned int)queued > QUEUE_MAX)
		return fvm_error_say(err, EOPNOTSUPP, "%d bytes are queued in it", queued);
	if (is_fifo(o))
		return vin_link_leads(all, o) || o->st.st_nlink == 0
			       ? 0
			       : fvm_error_say(err, EOPNOTSUPP, "its name is hidden");
	if (!has_end(all, o, O_WRONLY) && !(poll & POLLHUP))
		return fvm_error_say(err, EOPNOTSUPP, "who writes to it is another program");
	if (!has_end(all, o, O_RDONLY) && !(poll & POLLERR))
		return fvm_error_say(err, EOPNOTSUPP, "who reads it is another program");
	return 0;
}

/* ---- the queue ---- */

/* A copy of what is queued, to be read from a pipe of ours. */
static int copy_queue(int from, int size, int *ret_fd)
{
	int ends[2], queued = 0;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	scoped_fd out = ends[0], in = ends[1];
	/* as many slots as there: a queue of small pieces needs them all */
	if (fcntl(in, F_SETPIPE_SZ, size) < 0 || ioctl(from, FIONREAD, &queued) < 0)
		return -errno;
	ssize_t n = queued > 0 ? tee(from, in, (size_t)queued, SPLICE_F_NONBLOCK) : 0;
	if (n < 0)
		return -errno;
	*ret_fd = fvm_fd_take(&out);
	return n == queued ? 0 : -EIO;
}

static int put_chunks(int fd, bool packets, struct fvm_buf *to)
{
	int left = 0;
	uint64_t count = 0;
	scoped_buf chunks = { 0 };
	scoped_free char *bytes = malloc(1 << 16);
	if (!bytes)
		return -ENOMEM;
	while (ioctl(fd, FIONREAD, &left) == 0 && left > 0) {
		ssize_t n = read(fd, bytes, 1 << 16);
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		packets |= n < left && n < 1 << 16;
		vin_put_blob(&chunks, bytes, (size_t)n);
		count++;
	}
	vin_put_u64(to, packets);
	vin_put_u64(to, count);
	vin_put_blob(to, chunks.data ? chunks.data : "", chunks.len);
	return chunks.failed ? -ENOMEM : 0;
}

static int put_queue(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to)
{
	bool packets = false, reads = (o->info.flags & O_ACCMODE) != O_WRONLY;
	int size = fcntl(o->fd, F_GETPIPE_SZ), copy = -1;
	scoped_fd own = reads ? -1 : vin_again_here(o->fd, O_RDONLY | O_NONBLOCK);
	int from = reads ? o->fd : own;
	if (size < 0 || from < 0)
		return size < 0 ? -errno : from;
	for (size_t i = o->twin; i < all->count && all->opens[i].twin == o->twin; i++)
		packets |= (all->opens[i].info.flags & O_DIRECT) != 0;
	int r = copy_queue(from, size, &copy);
	scoped_fd queue = copy;
	vin_put_u64(to, (uint64_t)size);
	return r < 0 ? r : put_chunks(queue, packets, to);
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	bool nameless = is_fifo(o) && !vin_link_leads(all, o);
	scoped_free char *name = !is_fifo(o) ? strdup("")
				 : nameless  ? vin_link_name(o)
					     : strdup(o->link);
	if (!name)
		return fvm_error_set(err, ENOMEM, "write down %s", o->link);
	if (o->id != o->twin)
		return 0;
	vin_put_string(to, name);
	vin_put_u64(to, nameless);
	vin_put_u64(to, is_fifo(o) && !has_end(all, o, O_WRONLY) && !(poll_of(o->fd) & POLLHUP));
	int r = put_queue(all, o, to);
	return r < 0 ? fvm_error_set(err, -r, "copy what is queued in %s", o->link) : 0;
}

/* The next chunk; NULL when there is none. */
static const void *next_chunk(struct vin_payload *p, size_t *ret_len)
{
	return p->at < p->end ? vin_get_blob(p, ret_len) : NULL;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct pipe *its = ret;
	if (!first)
		return 0;
	its->name = vin_get_string(p);
	uint64_t nameless = vin_get_u64(p), untouched = vin_get_u64(p);
	its->size = vin_get_u64(p);
	uint64_t packets = vin_get_u64(p), count = vin_get_u64(p);
	const void *chunks = vin_get_blob(p, &its->len);
	if (p->failed || nameless > 1 || untouched > 1 || packets > 1 || its->size > INT32_MAX ||
	    (its->name[0] && its->name[0] != '/') || (nameless && !its->name[0]))
		return -EBADMSG;
	its->nameless = nameless;
	its->untouched = untouched;
	its->packets = packets;
	struct vin_payload q = { .at = chunks, .end = (const unsigned char *)chunks + its->len };
	size_t len;
	while (next_chunk(&q, &len))
		its->count++;
	if (q.failed || its->count != count)
		return -EBADMSG;
	its->chunks = malloc(its->len + 1);
	if (!its->chunks)
		return -ENOMEM;
	memcpy(its->chunks, chunks, its->len);
	return 0;
}

static void forget(void *its)
{
	struct pipe *p = its;
	free(p->name);
	free(p->chunks);
}

/* ---- anew ---- */

static int make_pipe(const struct vin_reopen *r)
{
	int ends[2];
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	scoped_fd read_end = ends[0], write_end = ends[1];
	(void)write_end;
	return vin_again(r, read_end, O_RDWR | O_NONBLOCK);
}

static int open_fifo(const struct vin_reopen *r, const struct pipe *its, unsigned int mode)
{
	struct stat st;
	scoped_fd there =
		its->nameless ? vin_nameless(r, its->name, S_IFIFO) : vin_name_open(r, its->name);
	if (there < 0)
		return there;
	if (fstat(there, &st) < 0)
		return -errno;
	return S_ISFIFO(st.st_mode) ? vin_again(r, there, mode | O_NONBLOCK) : -ENXIO;
}

static int fill(int fd, const struct pipe *its)
{
	struct vin_payload p = { .at = its->chunks, .end = its->chunks + its->len };
	const void *chunk;
	size_t len;
	if (fcntl(fd, F_GETPIPE_SZ) != (int)its->size &&
	    fcntl(fd, F_SETPIPE_SZ, (int)its->size) < 0)
		return -errno;
	if (its->packets && fcntl(fd, F_SETFL, O_NONBLOCK | O_DIRECT) < 0)
		return -errno;
	while ((chunk = next_chunk(&p, &len))) {
		ssize_t n = write(fd, chunk, len);
		if (n != (ssize_t)len)
			return n < 0 ? -errno : -EAGAIN;
	}
	return 0;
}

static int make(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct pipe *its = f->its;
	int fd = its->name[0] ? open_fifo(r, its, O_RDWR) : make_pipe(r);
	if (fd < 0)
		return fvm_error_set(err, -fd, "make the pipe %s", its->name);
	f->maker = fd;
	int ret = fill(fd, its);
	return ret < 0 ? fvm_error_set(err, -ret, "fill the pipe %s", its->name) : 0;
}

/* A FIFO without a writer so far says nothing of one that has gone: nobody of ours may be one. */
static int open_untouched(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct pipe *first = r->files[f->twin].its;
	int fd = f->id == f->twin ? open_fifo(r, first, f->flags & O_ACCMODE)
				  : vin_again(r, r->files[f->twin].fd, f->flags | O_NONBLOCK);
	return fd < 0 ? fvm_error_set(err, -fd, "open %s", first->name) : fd;
}

static int open_pipe(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct pipe *first = r->files[f->twin].its;
	if (first->untouched && first->count == 0 && first->name[0])
		return open_untouched(r, f, err);
	int ret = f->id == f->twin ? make(r, f, err) : 0;
	if (ret < 0)
		return ret;
	int maker = vin_maker_of(r, f);
	int fd = maker < 0 ? -EBADMSG : vin_again(r, maker, (f->flags & O_ACCMODE) | O_NONBLOCK);
	return fd < 0 ? fvm_error_set(err, -fd, "open an end of the pipe %s", first->name) : fd;
}

const struct vin_kind vin_kind_pipe = {
	.name = "a pipe",
	.nr = VIN_KIND_PIPE,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct pipe),
	.parse = parse,
	.forget = forget,
	.open = open_pipe,
};
