#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/mem.h"

#define PAGE	  4096ULL
#define SIZE_MAX_ (1ULL << 46)
#define ALL_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)
#define DELETED	  " (deleted)"
#define MEMFD	  "/memfd:"

void vin_objects_free(struct vin_objects *o)
{
	for (size_t i = 0; i < o->count; i++) {
		free(o->list[i].name);
		free(o->list[i].sights);
		if (o->list[i].fd >= 0)
			close(o->list[i].fd);
	}
	free(o->list);
	*o = (struct vin_objects){ 0 };
}

ssize_t vin_objects_find(const struct vin_objects *o, dev_t dev, ino_t ino)
{
	for (size_t i = 0; i < o->count; i++) {
		if (o->list[i].ino == ino && o->list[i].dev == dev)
			return (ssize_t)i;
	}
	return -1;
}

static ssize_t add(struct vin_objects *o, const struct vin_object *object)
{
	struct vin_object *more = realloc(o->list, fvm_room(o->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	o->list = more;
	o->list[o->count] = *object;
	return (ssize_t)o->count++;
}

/* "/memfd:NAME (deleted)", "/dev/zero (deleted)", "/tmp/x (deleted)" */
static ssize_t add_seen(struct vin_objects *o, const struct vin_vma *v)
{
	struct vin_object new = { .dev = v->dev, .ino = v->ino, .fd = -1 };
	const size_t len = strlen(v->name) - strlen(DELETED), skip = strlen(MEMFD);
	new.kind = VIN_OBJECT_DELETED;
	if (strncmp(v->name, MEMFD, skip) == 0)
		new.kind = VIN_OBJECT_MEMFD;
	else if (strcmp(v->name, "/dev/zero" DELETED) == 0)
		new.kind = VIN_OBJECT_NAMELESS;
	new.name = new.kind == VIN_OBJECT_MEMFD ? strndup(v->name + skip, len - skip)
						: strndup(v->name, len);
	ssize_t n = new.name ? add(o, &new) : -ENOMEM;
	if (n < 0)
		free(new.name);
	return n;
}

ssize_t vin_objects_see(struct vin_objects *o, pid_t pid, const struct vin_vma *v)
{
	ssize_t n = vin_objects_find(o, v->dev, v->ino);
	if (n < 0)
		n = add_seen(o, v);
	if (n < 0)
		return n;
	struct vin_object *object = &o->list[n];
	struct vin_sight *more =
		realloc(object->sights, fvm_room(object->sight_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	object->sights = more;
	object->sights[object->sight_count++] =
		(struct vin_sight){ pid, v->start, v->end, v->offset, v->shared };
	const uint64_t end = v->offset + (v->end - v->start);
	if (object->size < end)
		object->size = end;
	return n;
}

/* ---- capture ---- */

/* The thing itself, if we may have it. */
static int open_object(const struct vin_object *o)
{
	char path[96];
	const struct vin_sight *s = &o->sights[0];
	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, s->pid, s->start,
		 s->end);
	return fvm_nerr(open(path, O_RDONLY | O_CLOEXEC));
}

static int data_of_file(int fd, uint64_t size, struct vin_runs *ret)
{
	for (off_t at = 0; (uint64_t)at < size;) {
		off_t start = lseek(fd, at, SEEK_DATA);
		if (start < 0)
			return errno == ENXIO ? 0 : -errno;
		off_t end = lseek(fd, start, SEEK_HOLE);
		if (end < 0)
			return -errno;
		at = end;
		const uint64_t first = (uint64_t)start & ~(PAGE - 1);
		const uint64_t last = ((uint64_t)end + PAGE - 1) & ~(PAGE - 1);
		if ((uint64_t)start < size && vin_runs_add(ret, first, last) < 0)
			return -ENOMEM;
	}
	return 0;
}

static int write_record(const struct vin_object *o, struct vin_out *out, struct fvm_error *err)
{
	scoped_buf head = { 0 };
	vin_put_u64(&head, o->kind);
	vin_put_string(&head, o->name);
	vin_put_u64(&head, o->size);
	vin_put_u64(&head, (uint64_t)o->seals);
	return vin_out_record(out, VIN_TAG_OBJECT, &head, err);
}

/* A copy in a memfd of ours: where the thing itself is not to be had, all sights are laid over each
 * other, the shared ones last. Holes can't be seen from there; pages of zeros become some. */
static int copy_sight(const struct vin_sight *s, bool zeros_too, int to)
{
	static const unsigned char zeros[PAGE];
	unsigned char page[PAGE];
	for (uint64_t at = s->start; at < s->end; at += PAGE) {
		int r = vin_mem_read(s->pid, at, page, PAGE);
		if (r == -EFAULT) /* behind the end of the file, or not readable here */
			continue;
		if (r < 0)
			return r;
		if ((zeros_too || memcmp(page, zeros, PAGE) != 0) &&
		    pwrite(to, page, PAGE, (off_t)(s->offset + (at - s->start))) != PAGE)
			return -EIO;
	}
	return 0;
}

static bool seen_before(const struct vin_object *o, size_t n)
{
	const struct vin_sight *s = &o->sights[n];
	for (size_t i = 0; i < n; i++) {
		const struct vin_sight *t = &o->sights[i];
		if (t->shared == s->shared && t->offset <= s->offset &&
		    t->offset + (t->end - t->start) >= s->offset + (s->end - s->start))
			return true;
	}
	return false;
}

static int copy_sights(const struct vin_object *o)
{
	bool private = false;
	scoped_fd copy = memfd_create("vin", MFD_CLOEXEC);
	int r = copy < 0 || ftruncate(copy, (off_t)o->size) < 0 ? -errno : 0;
	for (int shared = 0; shared < 2; shared++) {
		for (size_t i = 0; r == 0 && i < o->sight_count; i++) {
			if (o->sights[i].shared != shared || seen_before(o, i))
				continue;
			r = copy_sight(&o->sights[i], shared && private, copy);
			private |= !shared;
		}
	}
	return r < 0 ? r : fvm_fd_take(&copy);
}

static int write_one(struct vin_object *o, size_t number, struct vin_out *out,
		     struct fvm_error *err)
{
	struct stat st;
	scoped_runs runs = { 0 };
	scoped_fd fd = open_object(o);
	if (fd >= 0 && fstat(fd, &st) == 0) {
		o->size = (uint64_t)st.st_size;
		int seals = fcntl(fd, F_GET_SEALS);
		o->seals = o->kind == VIN_OBJECT_MEMFD && seals > 0 ? seals : 0;
	} else {
		fd = copy_sights(o);
	}
	int r = fd < 0 ? fd : data_of_file(fd, o->size, &runs);
	if (r < 0)
		return fvm_error_set(err, -r, "read shared memory %s", o->name);
	r = write_record(o, out, err);
	return r < 0 ? r : vin_stream_out(0, fd, number, &runs, out, err);
}

int vin_objects_write(struct vin_objects *o, struct vin_out *out, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < o->count; i++)
		r = write_one(&o->list[i], i, out, err);
	return r;
}

/* ---- replay ---- */

int vin_object_get(struct vin_payload *p, struct vin_objects *to)
{
	struct vin_object o = { .fd = -1 };
	const uint64_t kind = vin_get_u64(p);
	o.name = vin_get_string(p);
	o.size = vin_get_u64(p);
	const uint64_t seals = vin_get_u64(p);
	int r = vin_get_done(p);
	if (r == 0 && (kind >= VIN_OBJECT_KINDS || o.size > SIZE_MAX_ || seals > 0x3f))
		r = -EBADMSG;
	o.kind = (enum vin_object_kind)kind;
	o.seals = (int)seals;
	if (r == 0 && add(to, &o) < 0)
		r = -ENOMEM;
	if (r < 0)
		free(o.name);
	return r;
}

/* As the kernel makes it for MAP_SHARED | MAP_ANONYMOUS; only root may open it as a file. */
static int make_nameless(uint64_t size)
{
	char path[64];
	void *at = size ? mmap(NULL, size, PROT_READ | PROT_WRITE,
			       MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
			: MAP_FAILED;
	if (at == MAP_FAILED)
		return -ENOMEM;
	const uint64_t end = ((uint64_t)at + size + PAGE - 1) & ~(PAGE - 1);
	snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIx64 "-%" PRIx64, (uint64_t)at,
		 end);
	int fd = fvm_nerr(open(path, O_RDWR | O_CLOEXEC));
	munmap(at, size);
	return fd;
}

int vin_object_make(struct vin_objects *objects, struct fvm_error *err)
{
	struct vin_object *o = &objects->list[objects->count - 1];
	const char *name = o->kind == VIN_OBJECT_MEMFD ? o->name : "shared";
	if (o->kind == VIN_OBJECT_NAMELESS)
		o->fd = make_nameless(o->size);
	if (o->fd < 0)
		o->fd = fvm_nerr(memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));
	if (o->fd >= 0 && o->kind != VIN_OBJECT_NAMELESS && ftruncate(o->fd, (off_t)o->size) < 0)
		return fvm_error_set(err, errno, "make shared memory of %" PRIu64 " bytes",
				     o->size);
	if (o->fd >= 0 && o->kind == VIN_OBJECT_NAMELESS)
		(void)ftruncate(o->fd, (off_t)o->size); /* when it had to be a memfd */
	return o->fd < 0 ? fvm_error_set(err, -o->fd, "make shared memory") : 0;
}

static bool within(const void *arg, uint64_t start, uint64_t end)
{
	const struct vin_object *o = arg;
	return start < end && end <= ((o->size + PAGE - 1) & ~(PAGE - 1));
}

int vin_object_fill(struct vin_objects *objects, struct vin_in *in, struct fvm_error *err)
{
	struct vin_object *o = &objects->list[objects->count - 1];
	int r = vin_stream_in(o->fd, within, o, in, err);
	/* the last page may be larger than what the file has of it */
	if (r == 0 && o->size % PAGE && ftruncate(o->fd, (off_t)o->size) < 0)
		r = fvm_error_set(err, errno, "set the size of shared memory");
	return r;
}

int vin_objects_seal(const struct vin_objects *objects, struct fvm_error *err)
{
	for (size_t i = 0; i < objects->count; i++) {
		const struct vin_object *o = &objects->list[i];
		if (o->seals && fcntl(o->fd, F_ADD_SEALS, o->seals) < 0)
			return fvm_error_set(err, errno, "seal shared memory %s", o->name);
	}
	return 0;
}
