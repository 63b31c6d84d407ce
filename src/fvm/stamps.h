/*
 * fvm/stamps - what is known of the base file under a change
 *
 * Theory of operation
 *   A VM's version of a path was made from the host's version at some moment. Commit must know
 *   whether the host's has changed since: it has *drifted* then, and to replace it would lose
 *   somebody's work. The kernel gives no notice of a copy-up, so:
 *
 *     made when    the birth time of the layer's inode (statx) is the time of its copy-up, or of
 *                  the program that wrote it anew. A deletion counts from the start in which it
 *                  was made: the kernel makes a mount's work directory anew at each start, and a
 *                  whiteout, which many names share, later than that. When that start is not the
 *                  last one, for what an opaque directory deletes, for noise, which gets no
 *                  stamps, and where the file system has no birth time, the first start counts.
 *     drifted      the base's ctime is later than that. Nobody can set a ctime.
 *
 *   A program that replaces a file a second time moves the birth time, and a base file may be
 *   touched without a change. So after each stop fvm_stamps_update() writes down what the
 *   base was when its change was first seen: inode, size, ctime, mode, owner; diff adds a digest.
 *   From then on the stamp counts: equal ctime and inode means no drift at once, otherwise the
 *   digest (of content and xattrs) decides. A stamp stays until its path is no change any more. If
 *   the layer still has a copy then, equal to the base (put back, or committed while the VM was
 *   paused), its stamp becomes that of the base as it is now: that is what the copy will be changed
 *   from. A tree deleted whole has one stamp, with the latest ctime in it and a digest of its list.
 *   A directory that stays drifts by mode and owner only; entries in it have stamps of their own.
 *   Limit: what the host deleted before the VM's first stop or diff shows as added.
 *
 *   The content of small text files under change (below 256 KiB, no NUL byte, at most 1000 of
 *   them) is kept in vms/NAME/ancestors/INO-CTIME: it is the ancestor for a three-way merge.
 *
 * File
 *   vms/NAME/stamps, replaced whole; lines of text:
 *     fvm-stamps 1
 *     KIND INO CTIME_NS SIZE MODE(octal) UID GID DIGEST(hex or -) PATH
 *   KIND: a absent, f file, l symlink, d directory, t deleted tree, o other; a capital letter says
 *   that it had drifted already when first seen. Bytes of PATH up to space, '%' and 0x7f stand as
 *   %XX.
 */
#ifndef FVM_STAMPS_H
#define FVM_STAMPS_H

#include "fvm/changes.h"

#define FVM_DIGEST_SIZE	   32
#define FVM_ANCESTOR_MAX   (256U << 10)
#define FVM_ANCESTOR_COUNT 1000

struct fvm_stamp {
	char kind;    /* a f l d t o */
	bool drifted; /* already when first seen */
	bool has_digest;
	uint64_t ino, size;
	int64_t ctime_ns;
	uint32_t mode, uid, gid;
	unsigned char digest[FVM_DIGEST_SIZE];
};

struct fvm_stamps;

/** fvm_stamps_load() - read vms/NAME/stamps of the VM directory @dir; none is an empty list.
 *  Return: 0, -EBADMSG (damaged: which line), or another negative errno */
int fvm_stamps_load(int dir, struct fvm_stamps **ret, struct fvm_error *err);
/** fvm_stamps_parse() - the same from memory */
int fvm_stamps_parse(const char *text, size_t len, struct fvm_stamps **ret, struct fvm_error *err);
/** fvm_stamps_save() - replace the file, when anything was changed */
int fvm_stamps_save(struct fvm_stamps *stamps, int dir);
void fvm_stamps_free(struct fvm_stamps *stamps);
/** fvm_stamps_copy() - a clone knows what its origin knew; directories of two VMs */
int fvm_stamps_copy(int from, int to);

/** fvm_stamps_find() - the stamp of a path as seen in the VM, or NULL */
const struct fvm_stamp *fvm_stamps_find(const struct fvm_stamps *stamps, const char *path);
/** fvm_stamps_set() - add or replace; Return: 0 or -ENOMEM */
int fvm_stamps_set(struct fvm_stamps *stamps, const char *path, const struct fvm_stamp *stamp);
void fvm_stamps_drop(struct fvm_stamps *stamps, const char *path);
/** fvm_stamps_each() - call @fn for each, in no order, until it returns something else than 0 */
typedef int (*fvm_stamps_fn)(const char *path, const struct fvm_stamp *stamp, void *arg);
int fvm_stamps_each(const struct fvm_stamps *stamps, fvm_stamps_fn fn, void *arg);
size_t fvm_stamps_count(const struct fvm_stamps *stamps);

/** fvm_stamp_of() - what can be said of the base by a stat alone; @st NULL: absent */
void fvm_stamp_of(const struct stat *st, struct fvm_stamp *ret);

/**
 * fvm_stamps_update() - write down the base of each change not yet known, forget what is none
 * To be called of a stopped or paused VM. Takes as long as the workspace is large. Needs no
 * libcrypto. One at a time: who waits longer than 2 s for another's, which may stand before a
 * server that hangs, leaves it at that.
 */
int fvm_stamps_update(const struct fvm_vm *vm, struct fvm_error *err);

/** fvm_stamps_update_later() - the same in a child process, while the caller goes on: at a stop */
void fvm_stamps_update_later(struct fvm_vm *vm);

/* Digest of the base under a change of that kind. Return: 0, -ENODATA for what has none, ... */
typedef int (*fvm_stamp_digest_fn)(const struct fvm_change *c, char kind,
				   unsigned char ret[FVM_DIGEST_SIZE]);
/** fvm_stamps_update_with() - the same for stacks that are open; @digest: NULL leaves them out */
int fvm_stamps_update_with(const struct fvm_vm *vm, const struct fvm_stacks *stacks,
			   fvm_stamp_digest_fn digest, struct fvm_error *err);

/** fvm_stamp_drift_by_time() - what births and ctimes say of a change without a stamp; see below */
int fvm_stamp_drift_by_time(const struct fvm_stamps *stamps, const struct fvm_config *config,
			    const struct fvm_change *change, const char **ret_why);
/** fvm_stamp_tree_ctime() - the latest ctime below a deleted directory. Return: 0 or -errno */
int fvm_stamp_tree_ctime(const struct fvm_change *change, int64_t *ret_ns);

/* ---- stamps.c: with digests, so it needs libcrypto ---- */

/** fvm_stamps_update_digests() - as fvm_stamps_update_with(), with digests: at each diff */
int fvm_stamps_update_digests(const struct fvm_vm *vm, const struct fvm_stacks *stacks,
			      struct fvm_error *err);

/**
 * fvm_stamps_drift() - whether the host's side of a change has changed since the VM made its own
 * @ret_why: a phrase for the person when it has; static
 * Return: 0 or 1, or negative errno when the base can't be read
 */
int fvm_stamps_drift(const struct fvm_stamps *stamps, const struct fvm_config *config,
		     const struct fvm_change *change, const char **ret_why);

/** fvm_ancestor_read() - the kept content of a text file's base. Return: 0, -ENOENT, ... */
int fvm_ancestor_read(int vm_dir, const struct fvm_stamp *stamp, char **ret, size_t *ret_len);

#endif
