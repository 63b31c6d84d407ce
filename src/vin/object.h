/*
 * vin/object - shared memory that has no name (any more): found once, made once, mapped by many
 *
 * Theory of operation
 *   Memory that processes share is known by device and inode in all their maps: MAP_SHARED of
 *   nothing, memfd, files that were deleted while mapped. Each is written once, before the
 *   processes, with all its pages; replay makes it anew and gives a descriptor of it to whoever
 *   maps it (and, for memfd, to whoever holds one: descriptors find theirs by vin_objects_find()).
 *
 *   /proc/PID/map_files opens the very thing, but for root only. For others what the mapping shows
 *   is read through a process that has it: all of it that somebody maps.
 * Limits: a deleted file comes back as a memfd with its contents, without its attributes.
 * Sources: proc(5), memfd_create(2).
 */
#ifndef VIN_OBJECT_H
#define VIN_OBJECT_H

#include <sys/types.h>

#include "common/common.h"
#include "vin/image.h"
#include "vin/maps.h"

enum vin_object_kind {
	VIN_OBJECT_NAMELESS, /* "/dev/zero (deleted)" in maps */
	VIN_OBJECT_MEMFD,
	VIN_OBJECT_DELETED,
	VIN_OBJECT_SEGMENT, /* of System V: "/SYSV0000002a (deleted)"; vin/ipc */
	VIN_OBJECT_KINDS
};

/* What a segment is beside its memory. */
struct vin_shm {
	int id;
	int32_t key; /* of one that is removed: that it had */
	uint32_t uid, gid, creator_uid, creator_gid, mode;
	bool known;   /* it is one of the namespace's */
	bool removed; /* nobody finds it by its key, and it goes with its last user */
	bool locked;
	uint64_t huge_kb; /* size of its pages, if that is no ordinary one */
};

/* One place where a process maps it. */
struct vin_sight {
	pid_t pid;
	uint64_t start, end, offset;
	bool shared; /* what it shows is the thing's own, not this process's */
};

struct vin_object {
	enum vin_object_kind kind;
	char *name; /* of a memfd; path that a deleted file had */
	uint64_t size;
	int seals;
	mode_t mode;	  /* of a memfd: F_SEAL_EXEC seals more when it may be executed */
	uint64_t huge_kb; /* size of its pages, if that is no ordinary one; no segment's */
	/* when it is captured */
	dev_t dev;
	ino_t ino;
	struct vin_sight *sights;
	size_t sight_count;
	struct vin_shm segment;
	uint64_t file; /* who has it open, too: id of the first of its descriptions, and 1; 0: nobody */
	/* the thing itself: found by vin/ipc before it is captured, or made by replay */
	int fd;
	uint64_t base; /* where in fd it begins; of a segment made: where we have it attached */
	bool attached;
};

struct vin_objects { /* starts as { 0 } */
	struct vin_object *list; /* an object's number is its place here */
	size_t count;
};

void vin_objects_free(struct vin_objects *o);

/** vin_objects_find() - by what maps or stat(2) say; no segment. Return: its number, or -1 */
ssize_t vin_objects_find(const struct vin_objects *o, dev_t dev, ino_t ino);

/** vin_is_segment() - whether an area is of one, whose id is its inode */
bool vin_is_segment(const struct vin_vma *v);

/** vin_objects_segment() - by its id. Return: as vin_objects_find() */
ssize_t vin_objects_segment(const struct vin_objects *o, int id);

/** vin_objects_add() - which has name and sights of its own. Return: its number, or -ENOMEM */
ssize_t vin_objects_add(struct vin_objects *o, const struct vin_object *object);

/** vin_objects_see() - a process maps one. Return: its number, or negative errno */
ssize_t vin_objects_see(struct vin_objects *o, pid_t pid, const struct vin_vma *v);

/** vin_objects_write() - OBJECT records of all of them, and their PAGES; processes are stopped */
int vin_objects_write(struct vin_objects *o, struct vin_out *out, struct fvm_error *err);

/** vin_object_get() - take an OBJECT payload apart and add it. Return: 0, -EBADMSG or -ENOMEM */
int vin_object_get(struct vin_payload *p, struct vin_objects *to);

/** vin_object_make() - make the last one that was added, empty; its descriptor is in fd */
int vin_object_make(struct vin_objects *o, struct fvm_error *err);

/** vin_object_fill() - the present PAGES record is the last one's */
int vin_object_fill(struct vin_objects *o, struct vin_in *in, struct fvm_error *err);

/** vin_objects_seal() - as they were; when all have mapped them, since seals forbid new writers */
int vin_objects_seal(const struct vin_objects *o, struct fvm_error *err);

#endif
