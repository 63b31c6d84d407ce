/*
 * Segments of System V. The child attaches each for reading: by its mapping root opens the very
 * thing, for others it copies what is there. Which pages are is told by mincore(2), unless some of
 * them are swapped out, which it does not tell: then all are read.
 *
 * One that is removed lives on while somebody has it attached, and its key is lost to all but the
 * name of its mappings. It is made under that key, and removed as soon as we have attached it.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/ipc.h"
#include "vin/kinds.h"

#define PAGE	     4096ULL
#define WINDOW	     1024 /* pages that mincore(2) is asked about at once */
#define MODE_REMOVED 01000
#define MODE_LOCKED  02000

enum field { KEY, ID, MODE, SIZE, CPID, LPID, NATTCH, UID, GID, CUID, CGID, AT, DT, CT, RSS, SWAP };

/* ---- the child ---- */

static uint64_t whole(uint64_t size)
{
	return (size + PAGE - 1) & ~(PAGE - 1);
}

static int copy_page(const struct vin_ipc_visit *v, const unsigned char *from, uint64_t at)
{
	static const unsigned char zeros[PAGE];
	if (memcmp(from + at, zeros, PAGE) == 0)
		return 0;
	ssize_t n = pwrite(v->stash, from + at, PAGE, (off_t)(v->stashed + at));
	return n == (ssize_t)PAGE ? 0 : n < 0 ? -errno : -EIO;
}

static int copy_there(const struct vin_ipc_visit *v, unsigned char *from, uint64_t size, bool all)
{
	unsigned char in[WINDOW];
	int r = 0;
	for (uint64_t at = 0; r == 0 && at < size; at += WINDOW * PAGE) {
		const uint64_t left = size - at, len = left < WINDOW * PAGE ? left : WINDOW * PAGE;
		if (all || mincore(from + at, len, in) < 0)
			memset(in, 1, sizeof(in));
		for (uint64_t i = 0; r == 0 && i < len / PAGE; i++)
			r = in[i] & 1 ? copy_page(v, from, at + i * PAGE) : 0;
	}
	return r;
}

/* Name and size of pages of our mapping at @at. */
static int look_at_mapping(uint64_t at, int32_t *key, uint64_t *ret_huge, struct fvm_error *err)
{
	scoped_maps maps = { 0 };
	int r = vin_maps_read(getpid(), true, &maps, err);
	const struct vin_vma *v = r == 0 ? vin_maps_find(&maps, at) : NULL;
	if (!v)
		return r < 0 ? r : fvm_error_set(err, ENOENT, "find a segment in our memory");
	unsigned int named;
	if (sscanf(v->name, "/SYSV%8x", &named) == 1)
		*key = (int32_t)named;
	*ret_huge = v->page_kb > PAGE / 1024 ? v->page_kb : 0;
	return 0;
}

static void put_one(struct vin_ipc_visit *v, const struct vin_shm *s, uint64_t size, uint64_t at,
		    uint64_t end)
{
	scoped_buf one = { 0 };
	vin_put_u64(&one, VIN_IPC_IS_SEGMENT);
	vin_segment_put(&one, s);
	vin_put_u64(&one, size);
	vin_put_u64(&one, at);
	vin_put_u64(&one, end);
	vin_put_u64(&one, v->stashed);
	vin_put_blob(v->to, one.data, one.len);
	v->to->failed |= one.failed;
}

static int capture_one(struct vin_ipc_visit *v, const int64_t *f, struct fvm_error *err)
{
	struct vin_shm s = { .id = (int)f[ID],
			     .key = (int32_t)f[KEY],
			     .uid = (uint32_t)f[UID],
			     .gid = (uint32_t)f[GID],
			     .creator_uid = (uint32_t)f[CUID],
			     .creator_gid = (uint32_t)f[CGID],
			     .mode = (uint32_t)f[MODE] & 0777,
			     .removed = f[MODE] & MODE_REMOVED,
			     .locked = f[MODE] & MODE_LOCKED };
	const uint64_t size = (uint64_t)f[SIZE];
	if (v->look) {
		put_one(v, &s, size, 0, 0);
		return 0;
	}
	unsigned char *at = shmat(s.id, NULL, SHM_RDONLY);
	if (at == (void *)-1)
		return fvm_error_set(err, errno, "attach the SysV segment %d", s.id);
	int32_t named = s.key;
	int r = look_at_mapping((uint64_t)at, &named, &s.huge_kb, err);
	if (s.removed)
		s.key = named;
	const uint64_t page = s.huge_kb ? s.huge_kb * 1024 : PAGE;
	const uint64_t end = (size + page - 1) & ~(page - 1);
	if (r == 0 && v->copy) {
		r = copy_there(v, at, whole(size), f[SWAP] > 0);
		if (r < 0)
			fvm_error_set(err, -r, "copy the SysV segment %d", s.id);
	}
	put_one(v, &s, size, (uint64_t)at, (uint64_t)at + end);
	v->stashed += whole(size);
	return r;
}

/* Those without a user and a maker go where nobody keeps them: we can't be their maker. */
static int refuse_forced(struct vin_ipc_visit *v, const int64_t *f, struct fvm_error *err)
{
	(void)v;
	return f[NATTCH] ? 0
			 : fvm_error_say(err, EOPNOTSUPP,
					 "the SysV segment %d can't be captured: nobody has it "
					 "attached, and kernel.shm_rmid_forced is set",
					 (int)f[ID]);
}

static int capture(struct vin_ipc_visit *v, struct fvm_error *err)
{
	scoped_free char *forced = NULL;
	int r = fvm_read_file(AT_FDCWD, "/proc/sys/kernel/shm_rmid_forced", 8, &forced, NULL);
	if (r == 0 && forced[0] == '1') {
		r = vin_sysvipc_each("shm", v, refuse_forced, err);
		if (r < 0)
			return r;
	}
	struct stat st;
	if (v->copy && fstat(v->stash, &st) < 0)
		return fvm_error_set(err, errno, "copy SysV segments");
	r = vin_sysvipc_each("shm", v, capture_one, err);
	if (r == 0 && v->copy && ftruncate(v->stash, (off_t)v->stashed) < 0)
		r = fvm_error_set(err, errno, "copy SysV segments");
	return r;
}

const struct vin_ipc_kind vin_ipc_segments = { .name = "a SysV segment", .capture = capture };

/* ---- the parent ---- */

void vin_segment_known(struct vin_payload *p, struct vin_objects *objects)
{
	struct vin_shm s;
	ssize_t n = vin_segment_get(p, &s) < 0 ? -1 : vin_objects_segment(objects, s.id);
	if (n >= 0)
		objects->list[n].segment.known = true;
}

int vin_segment_take(struct vin_payload *p, pid_t child, int stash, struct vin_objects *objects)
{
	struct vin_shm s;
	char path[96];
	if (vin_segment_get(p, &s) < 0)
		return -EIO;
	const uint64_t size = vin_get_u64(p), at = vin_get_u64(p), end = vin_get_u64(p);
	const uint64_t base = vin_get_u64(p);
	if (vin_get_done(p) < 0)
		return -EIO;
	ssize_t n = vin_objects_segment(objects, s.id);
	if (n < 0) {
		struct vin_object new = { .kind = VIN_OBJECT_SEGMENT, .fd = -1, .segment = s };
		new.name = strdup("");
		n = new.name ? vin_objects_add(objects, &new) : -ENOMEM;
		if (n < 0) {
			free(new.name);
			return (int)n;
		}
	}
	struct vin_object *o = &objects->list[n];
	o->segment = s;
	o->segment.known = true;
	o->size = size;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, child, at, end);
	o->fd = fvm_nerr(open(path, O_RDONLY | O_CLOEXEC));
	o->base = o->fd < 0 ? base : 0;
	if (o->fd < 0)
		o->fd = fvm_nerr(fcntl(stash, F_DUPFD_CLOEXEC, 3));
	return o->fd < 0 ? o->fd : 0;
}

void vin_segment_put(struct fvm_buf *to, const struct vin_shm *s)
{
	const struct vin_ipc_perm perm = {
		.key = s->key,
		.id = s->id,
		.uid = s->uid,
		.gid = s->gid,
		.creator_uid = s->creator_uid,
		.creator_gid = s->creator_gid,
		.mode = s->mode,
	};
	vin_ipc_put_perm(to, &perm);
	vin_put_u64(to, s->removed);
	vin_put_u64(to, s->locked);
	vin_put_u64(to, s->huge_kb);
}

int vin_segment_get(struct vin_payload *p, struct vin_shm *ret)
{
	struct vin_ipc_perm perm;
	int r = vin_ipc_get_perm(p, &perm);
	const uint64_t removed = vin_get_u64(p), locked = vin_get_u64(p), huge = vin_get_u64(p);
	if (r < 0 || p->failed || removed > 1 || locked > 1 || huge > 1 << 30 ||
	    (huge & (huge - 1)) || (huge && huge <= PAGE / 1024))
		return -EBADMSG;
	*ret = (struct vin_shm){ .id = perm.id,
				 .key = perm.key,
				 .uid = perm.uid,
				 .gid = perm.gid,
				 .creator_uid = perm.creator_uid,
				 .creator_gid = perm.creator_gid,
				 .mode = perm.mode,
				 .known = true,
				 .removed = removed != 0,
				 .locked = locked != 0,
				 .huge_kb = huge };
	return 0;
}

static int get(const void *arg)
{
	const struct vin_object *o = arg;
	const struct vin_shm *s = &o->segment;
	int flags = IPC_CREAT | IPC_EXCL | (int)s->mode;
	if (s->huge_kb)
		flags |= SHM_HUGETLB | (__builtin_ctzll(s->huge_kb * 1024) << 26);
	int id = shmget(s->key, o->size, flags);
	/* another has the key that it had */
	if (id < 0 && errno == EEXIST && s->removed)
		id = shmget(IPC_PRIVATE, o->size, flags);
	return fvm_nerr(id);
}

static int set_owner(const struct vin_shm *s)
{
	struct shmid_ds ds = { .shm_perm = { .uid = s->uid, .gid = s->gid } };
	ds.shm_perm.mode = (unsigned short)s->mode;
	if ((s->uid != s->creator_uid || s->gid != s->creator_gid) &&
	    shmctl(s->id, IPC_SET, &ds) < 0)
		return -errno;
	if (s->locked && shmctl(s->id, SHM_LOCK, NULL) < 0)
		return -errno;
	return s->removed && shmctl(s->id, IPC_RMID, NULL) < 0 ? -errno : 0;
}

void vin_segment_leave(struct vin_object *o)
{
	if (o->attached)
		(void)shmdt((void *)(uintptr_t)o->base);
	o->attached = false;
}

int vin_segment_make(struct vin_object *o)
{
	const struct vin_ipc_perm perm = { .id = o->segment.id,
					   .creator_uid = o->segment.creator_uid,
					   .creator_gid = o->segment.creator_gid };
	int r = vin_ipc_make(&perm, "shm_next_id", get, o);
	if (r < 0)
		return r;
	void *at = shmat(o->segment.id, NULL, 0);
	if (at == (void *)-1)
		return -errno;
	o->base = (uint64_t)at;
	o->attached = true;
	o->fd = fvm_nerr(open("/proc/self/mem", O_RDWR | O_CLOEXEC));
	return o->fd < 0 ? o->fd : set_owner(&o->segment);
}
