/*
 * vin/mounts - mounts that programs made in the mount namespace of their world
 *
 * Theory of operation
 *   Mounts that a world was built with are locked (its namespace belongs to a less privileged user
 *   than its mounts came from), which no one can undo from inside. So the kernel itself tells which
 *   were made inside:
 *
 *     a first look    umount2(MNT_EXPIRE) says EINVAL of a locked one, and EBUSY of another, as we
 *                     hold it meanwhile. A mount that is made over another is the one that is seen,
 *                     so where none is seen there is none
 *     a closer one    a child of ours copies the namespace, in which nothing is shared with the
 *                     programs', and takes mount after mount away, the last first: so it comes to
 *                     what lies covered. What can be taken away was made inside, and so was all
 *                     that is mounted on it
 *
 *   MOUNT records, when the new world's first process is there (mountinfo.c has the table, mounts.c
 *   looks and writes, mount_tree.c is what lies in a tmpfs, mount_make.c makes):
 *
 *     list      all mounts, those of the world too; each behind the one that it is mounted on and
 *               behind one that shows as much of its file system
 *     content   what lies in a tmpfs, piece by piece, read below whatever covers it
 *     done
 *
 *   The first mount of a file system that the world has none of makes it anew (tmpfs with its
 *   content, proc, sysfs, devpts, mqueue, cgroup2, overlay of directories inside); all others are
 *   bound. A mount is made on the mount it was on, by descriptors: what is covered stays covered.
 *   Flags, read-only file systems and groups of propagation are set when all are there. Where a
 *   mount of the world may not be bound without those below it, these come along, and what was not
 *   there is taken away. Directories to mount on that the new world lacks are made.
 *   Mounts of the world that programs restricted further (read-only, nosuid, ..) are so again.
 *
 *   A namespace that only some programs have began as a copy of the world's. What is in both is part
 *   of the copy again; the rest is made as above, and what the copy has besides is taken away. Groups
 *   of propagation that reach into the world's are refused.
 *
 * Limits: file systems of other kinds, of another pid namespace, or shown nowhere from their root
 * on; overlays that are volatile or whose layers were named relative to somewhere. Where the new
 * world is an overlay of overlays, the kernel stacks no third one on its directories.
 * Sources: mount_namespaces(7), umount(2), proc(5), fsopen(2), move_mount(2), mount_setattr(2).
 */
#ifndef VIN_MOUNTS_H
#define VIN_MOUNTS_H

#include <sys/types.h>

#include "common/common.h"
#include "vin/image.h"

/**
 * vin_mounts_check() - whether the mounts that were made in the namespace of @within can be
 * @within: a process of a world that was built by somebody with more rights; its mounts are locked
 * Return: whether there are any, -EOPNOTSUPP (the mount is said), or another negative errno
 */
int vin_mounts_check(pid_t within, struct fvm_error *err);

/** vin_mounts_capture() - MOUNT records, if any were made; @within and all in it are stopped */
int vin_mounts_capture(pid_t within, struct vin_out *out, struct fvm_error *err);

struct vin_mount_table;

/* A mount namespace that only some programs have (vin/namespaces), in the world's user namespace. */
struct vin_mounts_own {
	pid_t within; /* who is in it */
	pid_t world;  /* who is in the world's */
};

/** vin_mounts_own_check() - whether its mounts can be made again, by whoever has a copy of the world's
 *  Return: 0, -EOPNOTSUPP (the mount is said), or another negative errno */
int vin_mounts_own_check(const struct vin_mounts_own *o, struct fvm_error *err);

/** vin_mounts_own_capture() - the payloads of MOUNT records to @take; all programs are stopped */
int vin_mounts_own_capture(const struct vin_mounts_own *o,
			   int (*take)(void *arg, const struct fvm_buf *piece,
				       struct fvm_error *err),
			   void *arg, struct fvm_error *err);

/**
 * vin_mounts_uncover() - leave for a copy of our mount namespace in which none is that was made
 * inside
 * @t: of this namespace. Each is marked that was made inside, and held where it could be taken away
 * Return: 0, -EOPNOTSUPP (they changed), or another negative errno
 */
int vin_mounts_uncover(struct vin_mount_table *t, struct fvm_error *err);

/* ---- anew ---- */

#define VIN_MOUNT_NONE SIZE_MAX

struct vin_mount {
	int id;	       /* of this moment */
	size_t parent; /* of the table, an earlier one; VIN_MOUNT_NONE: the root */
	uint64_t device;
	char *root, *point, *type, *source, *options;
	uint64_t attributes;	 /* MOUNT_ATTR_* */
	uint64_t shared, master; /* peer groups; 0: none */
	bool unbindable;
	bool inside; /* was made inside */
	int fd;	     /* its root; -1: not held */
	bool there;  /* in the new world */
};

struct vin_mount_table { /* starts as { 0 } */
	struct vin_mount *list;
	size_t count;
};

struct vin_mounts_new { /* starts as { 0 } */
	struct vin_mount_table table;
	size_t next; /* those before it are there */
	bool begun, done;
	pid_t holder; /* a process in a copy of the world's namespace, which is to become one that
		       * only some have; 0: it is the world's itself */
	int root;    /* of the world; stays the caller's */
	pid_t first; /* a process in it */
};

/**
 * vin_mounts_take() - make what a MOUNT record tells
 * This process is root of the world's user namespace.
 * @first: a process in the world's namespaces; @root: directory that its paths begin at
 * Return: 0, -EBADMSG, -EOPNOTSUPP, or another negative errno
 */
int vin_mounts_take(struct vin_mounts_new *n, pid_t first, int root, struct vin_payload *p,
		    struct fvm_error *err);

void vin_mounts_forget(struct vin_mounts_new *n);

/* ---- what the files of this share ---- */

/** vin_mount_table_parse() - what mountinfo says, which is taken apart, each behind its parent
 *  Return: 0, -EBADMSG or -ENOMEM; @ret is to be freed on success */
int vin_mount_table_parse(char *text, struct vin_mount_table *ret);

/** vin_mount_table_read() - of the namespace that @pid is in */
int vin_mount_table_read(pid_t pid, struct vin_mount_table *ret, struct fvm_error *err);

void vin_mount_table_put(struct fvm_buf *to, const struct vin_mount_table *t);

/** vin_mount_table_get() - trusts nothing. Return: 0, -EBADMSG or -ENOMEM */
int vin_mount_table_get(struct vin_payload *p, struct vin_mount_table *ret);

void vin_mount_table_free(struct vin_mount_table *t);
#define scoped_mounts __attribute__((cleanup(vin_mount_table_free))) struct vin_mount_table

/** vin_mount_below() - @path as seen from @above, "" if it is that; NULL: it is not below */
const char *vin_mount_below(const char *path, const char *above);

/** vin_mount_is_new() - whether its file system is to be made, by mount @i of the table */
bool vin_mount_is_new(const struct vin_mount_table *t, size_t i);

/** vin_mount_source() - the next mount before @i, from @from on, that can be bound for it;
 *  VIN_MOUNT_NONE: there is none */
size_t vin_mount_source(const struct vin_mount_table *t, size_t i, size_t from);

/** vin_mount_has_content() - whether CONTENT of mount @i is to follow */
bool vin_mount_has_content(const struct vin_mount_table *t, size_t i);

/** vin_mount_option() - the next of the options at *@at, whose value is cut off and "" if it has
 *  none; the word is taken apart. Return: its name; NULL: it was the last */
char *vin_mount_option(char **at, char **ret_value);

enum vin_mount_sort { VIN_MOUNT_LIST = 1, VIN_MOUNT_CONTENT = 2, VIN_MOUNT_DONE = 3 };

/* What is done with a payload. */
typedef int (*vin_mount_send_fn)(void *arg, const struct fvm_buf *payload);

/** vin_mount_tree_write() - CONTENT of mount @index, whose root @fd is; anywhere, by anybody
 *  Return: 0, what @send did, or negative errno */
int vin_mount_tree_write(int fd, size_t index, vin_mount_send_fn send, void *arg,
			 struct fvm_error *err);

/** vin_mount_tree_take() - what is behind the index in a record of CONTENT, below @fd */
int vin_mount_tree_take(int fd, struct vin_payload *p, struct fvm_error *err);

#endif
