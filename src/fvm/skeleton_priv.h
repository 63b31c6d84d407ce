/*
 * fvm/skeleton_priv - what skeleton.c, skeleton_dir.c and skeleton_list.c share
 *
 * The list is a header line and records without padding, a directory's before those of its files:
 *   u8 kind, u16 length of path, s64 ctime in ns, path
 */
#ifndef FVM_SKELETON_PRIV_H
#define FVM_SKELETON_PRIV_H

#include <sys/stat.h>

#include "fvm/skeleton.h"

enum skel_kind {
	SKEL_DIR = 'd',
	SKEL_SHARED = 'p',   /* one below a directory that everybody may write to */
	SKEL_LEFT_OUT = 'x', /* whether not all was taken in it stands in the ctime's place */
	SKEL_OPAQUE = 'o',   /* a directory that can't be read */
	SKEL_WHITEOUT = 'w', /* a file that can't be read */
	SKEL_COPY = 'c',
	SKEL_STANDIN = 's',
	SKEL_OWNED_DIR = 'D', /* belongs to others than root; ids stand in the ctime's place */
	SKEL_OWNED_FILE = 'F',
	SKEL_MOUNT = 'm', /* a mount point that is not looked into; its ctime is never asked */
};

/** skel_is_dir() - whether the record begins a directory: those up to the next one are of its files
 */
static inline bool skel_is_dir(enum skel_kind kind)
{
	return kind == SKEL_DIR || kind == SKEL_SHARED || kind == SKEL_OPAQUE || kind == SKEL_MOUNT;
}

struct skel_record {
	enum skel_kind kind;
	int64_t ctime_ns;
	const char *path; /* not terminated */
	size_t len;
};

/* ---- skeleton_list.c ---- */

/** skel_header() - the first line of a list: whose eyes saw the host, and how
 *  @tops: of root's skeleton, else NULL */
void skel_header(const struct fvm_strv *tops, struct fvm_buf *list);

void skel_add(struct fvm_buf *list, enum skel_kind kind, int64_t ctime_ns, const char *path);

/** skel_set_value() - change the ctime, or what stands in its place, of a record at @record */
void skel_set_value(char *record, int64_t value);

/** skel_next() - take the record at *@at; false at the end, or where the list is torn */
bool skel_next(const char **at, const char *end, struct skel_record *ret);

/** skel_fresh() - whether the host still has what @record says
 *  @outs: mount points that must not be looked into, as skel_outs() tells */
bool skel_fresh(const struct skel_record *record, const struct fvm_strv *outs);

/** skel_tops() - what root's skeleton has: the unmapped mounts (base.h), the root's own directories
 *  one by one. None: it is a user's. Return: 0 or negative errno */
int skel_tops(const struct fvm_plan *plan, struct fvm_strv *ret);

/** skel_outs() - mounts that must not be looked into: they may hang, are not for VMs or, for root,
 *  need no skeleton. @by_root: see skel_tops(). Return: 0 or -ENOMEM */
int skel_outs(const struct fvm_plan *plan, bool by_root, struct fvm_strv *ret);

/* ---- skeleton_dir.c ---- */

struct skel_walk {
	const struct fvm_strv *outs;
	const struct fvm_strv *tops; /* root's: owners are kept, all is readable; NULL: a user's */
	const char *store;	     /* path of the store, which is left out */
	struct stat store_st;	     /* whatever its path is */
	int tree;
	bool dry;     /* change nothing, only find out */
	bool differs; /* something would have to be changed */
	bool deep;    /* go on below directories that are there already */
	bool shared;  /* now below a directory that everybody may write to */
	size_t shared_count;
	bool left_out; /* of the present directory's, not all were taken */
	struct fvm_buf list;
	const struct fvm_skeleton_progress *progress;
	uint64_t done, total;
};

/** skel_sync_tops() - make the whole tree */
int skel_sync_tops(struct skel_walk *w, struct fvm_error *err);

/** skel_sync_path() - make the directory @path again what the host has */
int skel_sync_path(struct skel_walk *w, const char *path, struct fvm_error *err);

static inline int64_t skel_ctime(const struct stat *st)
{
	return st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec;
}

#endif
