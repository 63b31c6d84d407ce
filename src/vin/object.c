#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/ipc.h"
#include "vin/mem.h"

#define PAGE	  4096ULL
#define SIZE_MAX_ (1ULL << 46)
#define DELETED	  " (deleted)"
#define MEMFD	  "/memfd:"
#define SYSV	  "/SYSV"

void vin_objects_free(struct vin_objects *o)
{
	for (size_t i = 0; i < o->count; i++) {
		free(o->list[i].name);
		free(o->list[i].sights);
		if (o->list[i].fd >= 0)
			close(o->list[i].fd);
		vin_segment_leave(&o->list[i]);
	}
	free(o->list);
	*o = (struct vin_objects){ 0 };
}

ssize_t vin_objects_find(const struct vin_objects *o, dev_t dev, ino_t ino)
{
	for (size_t i = 0; i < o->count; i++) {
		if (o->list[i].ino == ino && o->list[i].dev == dev &&
		    o->list[i].kind != VIN_OBJECT_SEGMENT)
			return (ssize_t)i;
	}
	return -1;
}

ssize_t vin_objects_segment(const struct vin_objects *o, int id)
{
	for (size_t i = 0; i < o->count; i++) {
		if (o->list[i].kind == VIN_OBJECT_SEGMENT && o->list[i].segment.id == id)
			return (ssize_t)i;
	}
	return -1;
}

ssize_t vin_objects_add(struct vin_objects *o, const struct vin_object *object)
{
	struct vin_object *more = realloc(o->list, fvm_room(o->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	o->list = more;
	o->list[o->count] = *object;
	return (ssize_t)o->count++;
}

/* "/SYSV0000002a (deleted)": a file of that name has no such device, which is no disk's. The first
 * segment's number is 0 */
bool vin_is_segment(const struct vin_vma *v)
{
	return strncmp(v->name, SYSV, strlen(SYSV)) == 0 && major(v->dev) == 0 &&
	       strlen(v->name) == strlen(SYSV) + 8 + strlen(DELETED);
}

/* "/memfd:NAME (deleted)", "/dev/zero (deleted)", "/tmp/x (deleted)" */
static ssize_t add_seen(struct vin_objects *o, const struct vin_vma *v)
{
	struct vin_object new = { .dev = v->dev, .ino = v->ino, .fd = -1 };
	const bool huge = vin_vma_is(v, VIN_VMA_HUGETLB) && !vin_is_segment(v);
	new.huge_kb = huge ? v->page_kb : 0;
	const size_t len = strlen(v->name) - strlen(DELETED), skip = strlen(MEMFD);
	new.kind = VIN_OBJECT_DELETED;
	if (vin_is_segment(v)) {
		new.kind = VIN_OBJECT_SEGMENT;
		new.segment.id = (int)v->ino;
	} else if (strncmp(v->name, MEMFD, skip) == 0) {
		new.kind = VIN_OBJECT_MEMFD;
	} else if (strcmp(v->name, "/dev/zero" DELETED) == 0 ||
		   strcmp(v->name, "/anon_hugepage" DELETED) == 0) {
		new.kind = VIN_OBJECT_NAMELESS;
	}
	new.name = new.kind == VIN_OBJECT_MEMFD ? strndup(v->name + skip, len - skip)
						: strndup(v->name, len);
	ssize_t n = new.name ? vin_objects_add(o, &new) : -ENOMEM;
	if (n < 0)
		free(new.name);
	return n;
}

ssize_t vin_objects_see(struct vin_objects *o, pid_t pid, const struct vin_vma *v)
{
	ssize_t n = vin_is_segment(v) ? vin_objects_segment(o, (int)v->ino)
				      : vin_objects_find(o, v->dev, v->ino);
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

/* The runs of what is in it, from @base on. */
static int data_of_file(int fd, uint64_t base, uint64_t size, struct vin_runs *ret)
{
	for (off_t at = (off_t)base; (uint64_t)at < base + size;) {
		off_t start = lseek(fd, at, SEEK_DATA);
		if (start < 0)
			return errno == ENXIO ? 0 : -errno;
		off_t end = lseek(fd, start, SEEK_HOLE);
		if (end < 0)
			return -errno;
		at = end;
		const uint64_t first = (uint64_t)start & ~(PAGE - 1);
		const uint64_t last = ((uint64_t)end + PAGE - 1) & ~(PAGE - 1);
		if ((uint64_t)start >= base + size)
			return 0;
		const uint64_t most = (base + size + PAGE - 1) & ~(PAGE - 1);
		if (vin_runs_add(ret, first - base, (last < most ? last : most) - base) < 0)
			return -ENOMEM;
	}
	return 0;
}

static bool has_data(int fd, uint64_t at, uint64_t end)
{
	static const unsigned char zeros[PAGE];
	unsigned char page[PAGE];
	for (; at < end; at += PAGE) {
		ssize_t n = pread(fd, page, PAGE, (off_t)at);
		if (n < 0 || memcmp(page, zeros, (size_t)n) != 0)
			return true;
	}
	return false;
}

/* hugetlbfs does not tell its holes: pages of zeros are some. */
static int data_of_huge(int fd, const struct vin_object *o, uint64_t huge, struct vin_runs *ret)
{
	const uint64_t size = (o->size + PAGE - 1) & ~(PAGE - 1);
	int r = 0;
	for (uint64_t at = 0; r == 0 && at < size; at += huge) {
		const uint64_t end = size - at < huge ? size : at + huge;
		if (has_data(fd, o->base + at, o->base + end))
			r = vin_runs_add(ret, at, end);
	}
	return r;
}

static int write_record(const struct vin_object *o, struct vin_out *out, struct fvm_error *err)
{
	scoped_buf head = { 0 };
	vin_put_u64(&head, o->kind);
	vin_put_string(&head, o->name);
	vin_put_u64(&head, o->size);
	vin_put_u64(&head, (uint64_t)o->seals);
	vin_put_u64(&head, o->mode);
	vin_put_u64(&head, o->huge_kb);
	vin_put_u64(&head, o->file);
	if (o->kind == VIN_OBJECT_SEGMENT)
		vin_segment_put(&head, &o->segment);
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

/* Return: a descriptor of what is in it, or negative errno */
static int find_content(struct vin_object *o)
{
	struct stat st;
	if (o->kind == VIN_OBJECT_SEGMENT) /* by vin/ipc, which knows its size */
		return o->fd < 0 ? -ENOENT : fvm_nerr(fcntl(o->fd, F_DUPFD_CLOEXEC, 3));
	scoped_fd fd = open_object(o);
	if (fd < 0 || fstat(fd, &st) < 0)
		return copy_sights(o);
	o->size = (uint64_t)st.st_size;
	int seals = fcntl(fd, F_GET_SEALS);
	o->seals = o->kind == VIN_OBJECT_MEMFD && seals > 0 ? seals : 0;
	o->mode = st.st_mode & 07777;
	return fvm_fd_take(&fd);
}

static int write_one(struct vin_object *o, size_t number, struct vin_out *out,
		     struct fvm_error *err)
{
	scoped_runs runs = { 0 };
	scoped_fd fd = find_content(o);
	const uint64_t huge = o->kind == VIN_OBJECT_SEGMENT ? o->segment.huge_kb : o->huge_kb;
	int r = fd < 0 ? fd
		: huge ? data_of_huge(fd, o, huge * 1024, &runs)
		       : data_of_file(fd, o->base, o->size, &runs);
	if (r < 0)
		return fvm_error_set(err, -r, "read shared memory %s", o->name);
	r = write_record(o, out, err);
	const struct vin_bytes s = { .fd = fd, .base = o->base };
	return r < 0 ? r : vin_stream_out(&s, number, &runs, out, err);
}

int vin_objects_write(struct vin_objects *o, struct vin_out *out, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < o->count; i++)
		r = write_one(&o->list[i], i, out, err);
	return r;
}

/* ---- replay ---- */

static bool fits_pages(const struct vin_object *o)
{
	const uint64_t kb = o->huge_kb;
	return kb == 0 || (o->kind != VIN_OBJECT_SEGMENT && kb <= 1 << 24 && (kb & (kb - 1)) == 0 &&
			   kb > PAGE / 1024 && o->size % (kb * 1024) == 0);
}

int vin_object_get(struct vin_payload *p, struct vin_objects *to)
{
	struct vin_object o = { .fd = -1 };
	const uint64_t kind = vin_get_u64(p);
	o.name = vin_get_string(p);
	o.size = vin_get_u64(p);
	const uint64_t seals = vin_get_u64(p), mode = vin_get_u64(p);
	o.huge_kb = vin_get_u64(p);
	o.file = vin_get_u64(p);
	o.kind = kind < VIN_OBJECT_KINDS ? (enum vin_object_kind)kind : VIN_OBJECT_NAMELESS;
	int r = kind == VIN_OBJECT_SEGMENT ? vin_segment_get(p, &o.segment) : 0;
	if (r == 0)
		r = vin_get_done(p);
	if (r == 0 && kind == VIN_OBJECT_SEGMENT && vin_objects_segment(to, o.segment.id) >= 0)
		r = -EBADMSG;
	if (r == 0 && (kind >= VIN_OBJECT_KINDS || !fits_pages(&o) || o.size > SIZE_MAX_ ||
		       seals > 0x3f || mode > 07777))
		r = -EBADMSG;
	o.seals = (int)seals;
	o.mode = (mode_t)mode;
	if (r == 0 && vin_objects_add(to, &o) < 0)
		r = -ENOMEM;
	if (r < 0)
		free(o.name);
	return r;
}

/* As the kernel makes it for MAP_SHARED | MAP_ANONYMOUS; only root may open it as a file. */
static int make_nameless(uint64_t size, uint64_t huge_kb)
{
	char path[64];
	int flags = MAP_SHARED | MAP_ANONYMOUS | MAP_NORESERVE;
	if (huge_kb)
		flags |= MAP_HUGETLB | __builtin_ctzll(huge_kb * 1024) << MAP_HUGE_SHIFT;
	void *at = size ? mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0) : MAP_FAILED;
	if (at == MAP_FAILED)
		return -ENOMEM;
	const uint64_t end = ((uint64_t)at + size + PAGE - 1) & ~(PAGE - 1);
	snprintf(path, sizeof(path), "/proc/self/map_files/%" PRIx64 "-%" PRIx64, (uint64_t)at,
		 end);
	int fd = fvm_nerr(open(path, O_RDWR | O_CLOEXEC));
	munmap(at, size);
	return fd;
}

static int make_memfd(const char *name, uint64_t huge_kb)
{
	unsigned int flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
	if (huge_kb)
		flags |= MFD_HUGETLB | (unsigned int)__builtin_ctzll(huge_kb * 1024)
					       << MAP_HUGE_SHIFT;
	return fvm_nerr(memfd_create(name, flags));
}

int vin_object_make(struct vin_objects *objects, struct fvm_error *err)
{
	struct vin_object *o = &objects->list[objects->count - 1];
	const char *name = o->kind == VIN_OBJECT_MEMFD ? o->name : "shared";
	if (o->kind == VIN_OBJECT_SEGMENT) {
		int r = vin_segment_make(o);
		return r < 0 ? fvm_error_set(err, -r, "make the SysV segment %d", o->segment.id)
			     : 0;
	}
	if (o->kind == VIN_OBJECT_NAMELESS)
		o->fd = make_nameless(o->size, o->huge_kb);
	if (o->fd < 0)
		o->fd = make_memfd(name, o->huge_kb);
	if (o->fd >= 0 && o->kind != VIN_OBJECT_NAMELESS && ftruncate(o->fd, (off_t)o->size) < 0)
		return fvm_error_set(err, errno, "make shared memory of %" PRIu64 " bytes",
				     o->size);
	if (o->fd >= 0 && o->kind == VIN_OBJECT_MEMFD && fchmod(o->fd, o->mode) < 0)
		return fvm_error_set(err, errno, "give shared memory its mode");
	if (o->fd >= 0 && o->kind == VIN_OBJECT_NAMELESS)
		(void)ftruncate(o->fd, (off_t)o->size); /* when it had to be a memfd */
	return o->fd < 0 ? fvm_error_set(err, -o->fd, "make shared memory") : 0;
}

static bool within(const void *arg, uint64_t start, uint64_t end)
{
	const struct vin_object *o = arg;
	return start < end && end <= ((o->size + PAGE - 1) & ~(PAGE - 1));
}

/* Huge pages are written to through a mapping only. */
static int fill_huge(const struct vin_object *o, struct vin_in *in, struct fvm_error *err)
{
	scoped_fd mem = fvm_nerr(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	void *at = o->size ? mmap(NULL, o->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
				  o->fd, 0)
			   : NULL;
	if (mem < 0 || at == MAP_FAILED)
		return fvm_error_set(err, errno, "map huge pages");
	const struct vin_bytes s = {
		.fd = mem, .base = (uint64_t)at, .zeros = within, .zeros_arg = o
	};
	int r = vin_stream_in(&s, within, o, in, err);
	if (at)
		munmap(at, o->size);
	return r;
}

int vin_object_fill(struct vin_objects *objects, struct vin_in *in, struct fvm_error *err)
{
	struct vin_object *o = &objects->list[objects->count - 1];
	if (o->huge_kb)
		return fill_huge(o, in, err);
	const struct vin_bytes s = {
		.fd = o->fd, .base = o->base, .zeros = within, .zeros_arg = o
	};
	int r = vin_stream_in(&s, within, o, in, err);
	/* the last page may be larger than what the file has of it */
	if (r == 0 && o->size % PAGE && o->kind != VIN_OBJECT_SEGMENT &&
	    ftruncate(o->fd, (off_t)o->size) < 0)
		r = fvm_error_set(err, errno, "set the size of shared memory");
	return r;
}

int vin_objects_seal(const struct vin_objects *objects, struct fvm_error *err)
{
	for (size_t i = 0; i < objects->count; i++) {
		const struct vin_object *o = &objects->list[i];
		/* whoever has it open may have sealed it already */
		if (o->seals && fcntl(o->fd, F_GET_SEALS) != o->seals &&
		    fcntl(o->fd, F_ADD_SEALS, o->seals) < 0)
			return fvm_error_set(err, errno, "seal shared memory %s", o->name);
	}
	return 0;
}
