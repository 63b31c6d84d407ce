/*
 * vin/ipc - all objects of an IPC namespace: segments, semaphores, queues of messages of both sorts
 *
 * Theory of operation
 *   A child of ours enters the namespace (and the user namespace that it belongs to, so that ids are
 *   those that programs see), lists what is there, and writes it down:
 *
 *     segments     /proc/sysvipc/shm; each becomes a shared object (vin/object), mapped or not, whose
 *                  contents are read through a mapping of the child's: the very thing for root, a
 *                  copy for others. What is removed but attached comes back as that
 *     semaphores   /proc/sysvipc/sem, GETALL. What a process has to give back (SEM_UNDO) is the
 *                  process's: undo.c
 *     messages     /proc/sysvipc/msg, MSG_COPY, which takes nothing away
 *     mqueues      a mount of its file system. Nothing copies their messages: they are taken and put
 *                  back in the same order, while all who could notice are stopped
 *     limits       /proc/sys/kernel, /proc/sys/fs/mqueue
 *
 *   In the new world, in a namespace that has none of them, each is made with its old id (by
 *   /proc/sys/kernel/shm_next_id and the like), under the id of who made it. Limits are raised as far
 *   as they go before, and set at the end.
 *   Objects of the namespace that we are in ourselves are the machine's and no part of programs:
 *   nothing is captured then, and programs that have them attached are refused.
 *
 *   Where only some programs have another one (vin/namespaces), a visitor lists and makes what is in
 *   it, as vin/spaces has it done: limits, semaphores and messages.
 *
 * Limits: the times of all objects are those of replay, and so are the processes that made them or
 * were the last to use them; of semaphores the latter come back as far as they live. A segment's time
 * of attachment is seen to change by a capture. Who waits to be notified of a message (mq_notify) is
 * not shown whole, and refused. Segments in a namespace that only some are in are refused.
 * Sources: svipc(7), shmctl(2), semctl(2), msgop(2), mq_overview(7), proc(5), ipc_namespaces(7).
 */
#ifndef VIN_IPC_H
#define VIN_IPC_H

#include <sys/types.h>

#include "common/common.h"
#include "vin/image.h"
#include "vin/object.h"

/**
 * vin_ipc_check() - whether all objects of the namespace of @pid can be captured; changes nothing
 * @objects: what their memory shows; segments that the namespace has are marked as known
 * Return: 0, -EOPNOTSUPP (process, object and reason are said), or another negative errno
 */
int vin_ipc_check(pid_t pid, struct vin_objects *objects, struct fvm_error *err);

/**
 * vin_ipc_capture() - IPC records of the namespace of @pid, whose processes are all stopped
 * @objects: segments are added, or completed; vin_objects_write() has to follow
 */
int vin_ipc_capture(pid_t pid, struct vin_objects *objects, struct vin_out *out,
		    struct fvm_error *err);

#define VIN_IPC_LIMITS 13

/* What is being made. */
struct vin_ipc_new { /* starts as { 0 } */
	bool look; /* go through what records tell, and make nothing */
	bool begun;
	char limits[VIN_IPC_LIMITS][64];
};

/**
 * vin_ipc_take() - make what an IPC record tells, in the namespace of this process
 * Return: 0, -EBADMSG, -EEXIST (its id or name is taken), or another negative errno
 */
int vin_ipc_take(struct vin_ipc_new *n, struct vin_payload *p, struct fvm_error *err);

/** vin_ipc_finish() - when all who had objects have them again: segments are left by us, limits set */
int vin_ipc_finish(const struct vin_ipc_new *n, struct vin_objects *objects,
		   struct fvm_error *err);

/* ---- what the kinds share ---- */

enum vin_ipc_sort {
	VIN_IPC_IS_LIMITS,
	VIN_IPC_IS_SEGMENT, /* in OBJECT records only */
	VIN_IPC_IS_SEMAPHORES,
	VIN_IPC_IS_MESSAGES,
	VIN_IPC_IS_MQUEUE,
	VIN_IPC_SORTS
};

#define VIN_IPC_MESSAGES_MAX (15U << 20) /* bytes of one queue: has to fit a record */

/* What the child does. */
struct vin_ipc_visit {
	bool look;  /* only say what can't be captured */
	bool copy;  /* nobody can open our mappings: copy segments into stash */
	int stash;
	uint64_t stashed;
	struct fvm_buf *to; /* a blob for each object: its sort, and what its kind has */
};

/* Of all three that are of System V. */
struct vin_ipc_perm {
	int32_t key;
	int id;
	uint32_t uid, gid, creator_uid, creator_gid;
	uint32_t mode;
};

void vin_ipc_put_perm(struct fvm_buf *to, const struct vin_ipc_perm *perm);
/** vin_ipc_get_perm() - nothing but permissions in mode. Return: 0 or -EBADMSG */
int vin_ipc_get_perm(struct vin_payload *p, struct vin_ipc_perm *ret);

#define VIN_SYSVIPC_FIELDS 16

/**
 * vin_sysvipc_each() - the lines of /proc/sysvipc/@name as numbers, the third of which is octal
 * @fn: its failure ends it and is returned
 */
typedef int (*vin_sysvipc_fn)(struct vin_ipc_visit *v, const int64_t *fields,
			      struct fvm_error *err);
int vin_sysvipc_each(const char *name, struct vin_ipc_visit *v, vin_sysvipc_fn fn,
		     struct fvm_error *err);

/**
 * vin_ipc_make() - have @get make an object, with the id and the creator of @perm
 * @next: the name of its file in /proc/sys/kernel
 * @get:  shmget(2) or the like. Return: id, or negative errno
 */
int vin_ipc_make(const struct vin_ipc_perm *perm, const char *next, int (*get)(const void *arg),
		 const void *arg);

/* Child: capture() is there for all; replay: make(), if it has IPC records. @look: make nothing */
struct vin_ipc_kind {
	const char *name;
	int (*capture)(struct vin_ipc_visit *v, struct fvm_error *err);
	int (*make)(struct vin_payload *p, bool look, struct fvm_error *err);
};
extern const struct vin_ipc_kind vin_ipc_segments, vin_ipc_semaphores, vin_ipc_messages,
	vin_ipc_mqueues;

/* ---- segments, for vin/object ---- */

/** vin_segment_take() - what the child says of one, added to @objects
 *  @child: whose mappings to open; @stash: where copies are. Return: 0 or negative errno */
int vin_segment_take(struct vin_payload *p, pid_t child, int stash, struct vin_objects *objects);

/** vin_segment_known() - what it says of one that is there: if it is one of @objects, it is known */
void vin_segment_known(struct vin_payload *p, struct vin_objects *objects);

void vin_segment_put(struct fvm_buf *to, const struct vin_shm *s);
/** vin_segment_get() - Return: 0 or -EBADMSG */
int vin_segment_get(struct vin_payload *p, struct vin_shm *ret);

/** vin_segment_leave() - if it was made */
void vin_segment_leave(struct vin_object *o);

/** vin_segment_make() - in our namespace; attached by us, at o->base of o->fd. Return: 0 or -errno */
int vin_segment_make(struct vin_object *o);

/* ---- POSIX queues, for vin/mqueue ---- */

struct vin_mqueue {
	char *name; /* without a slash in it */
	uint32_t mode, uid, gid;
	long max_messages, message_size;
	uint64_t count;
	const unsigned char *messages; /* in the payload */
	size_t len;
};

/** vin_mqueue_check() - @fd: open for both ways. Return: 0 or -EOPNOTSUPP */
int vin_mqueue_check(int fd, struct fvm_error *err);

/** vin_mqueue_put() - attributes and messages of a queue. Return: 0 or negative errno */
int vin_mqueue_put(struct fvm_buf *to, const char *name, int fd, struct fvm_error *err);

/** vin_mqueue_get() - Return: 0, -EBADMSG or -ENOMEM; name is to be freed, messages stay in @p */
int vin_mqueue_get(struct vin_payload *p, struct vin_mqueue *ret);

/** vin_mqueue_make() - under @name, with its messages. Return: descriptor for both ways or -errno */
int vin_mqueue_make(const struct vin_mqueue *q, const char *name);

#endif
