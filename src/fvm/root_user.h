/*
 * fvm/root_user - the world of a rootless VM: which overlays, of what, mounted where
 *
 * Theory of operation
 *   In a user's namespace overlayfs refuses a lower directory with a mount anywhere below it. So
 *   the tree is taken apart from the top down, anew at each start:
 *
 *     nothing mounted below  an overlay: workspace > frozen > hidden > skeleton > host
 *     something is           a *synthetic* directory: an overlay over a copy of what lies directly
 *                            in it (links, small files, empty directories to mount on); an *inner*
 *                            one, of the same mount, is made in the one above it: no overlay more
 *     can't be entered, empty   nothing; it is a directory of the synthetic one above
 *
 *   So / is synthetic, /usr and /home are overlays, and what is made directly in / is kept as the
 *   change of key "root"; with a mount on /mnt/a/b what is made in /mnt is, too. Where a mount
 * comes or goes between two starts, the tree is taken apart otherwise than before. What a VM has
 * once changed must stay in its place:
 *     - a key with changes goes on to have an overlay of its own, though nothing is mounted there
 *     - the layers of the keys above lie, from where the new key begins, below its own layers
 *
 *   The host's directory that the store lies in would hold its own upper directory, which overlayfs
 *   refuses; a read-only overlay between the two makes it another file system (as build.c does).
 *   Everything is mounted by the builder in the user's first namespace; PID 1 lives in a second one
 *   and takes a copy of the mounts, which locks them, as with privileges (build.h).
 *   A mount point that gets no overlay (empty, or not to be read) keeps its owner and mode.
 *   Limits: in trees without a skeleton (/home, /tmp, /data) the first 512 directories of other
 *   people can be written in; synthetic directories show the files that were in them
 *   at the start, up to 1 MiB each.
 */
#ifndef FVM_ROOT_USER_H
#define FVM_ROOT_USER_H

#include <sys/stat.h>

#include "fvm/plan.h"
#include "fvm/store.h"

enum fvm_tree_kind { FVM_TREE_OVERLAY, FVM_TREE_SYNTHETIC, FVM_TREE_READ_ONLY };

/* One overlay; parents before children, the root first. */
struct fvm_tree {
	enum fvm_tree_kind kind;
	char *path, *key;
	unsigned long flags; /* MS_NOSUID, MS_NOEXEC of the mount it lies in */
	struct stat st;	     /* of the host's directory */
	char *foreign;	     /* below STORE: see foreign.h; NULL: to be made */
	bool full;	     /* it has not all of them */
	bool bare;	     /* without the host's directory, which has mounts below it */
};

/* A directory that needs no overlay: empty, or one that the user can't read, or inner. */
struct fvm_tree_place {
	char *path;
	struct stat st;
	bool inner;
};

struct fvm_trees {
	struct fvm_tree *items;
	size_t count;
	struct fvm_tree_place *places;
	size_t place_count;
};

void fvm_trees_free(struct fvm_trees *trees);

/* What the plan asks of the host; a test has answers of its own. */
struct fvm_tree_view {
	/** stat @path and see whether it can be entered. Return: 0, -EACCES, -errno */
	int (*look)(void *arg, const char *path, struct stat *ret);
	/** names of the directories in @path; *@ret_empty: there is nothing else either */
	int (*list)(void *arg, const char *path, struct fvm_strv *ret, bool *ret_empty);
	void *arg;
};

/** fvm_trees_plan() - take the host's tree apart
 *  @keys: keys of the VM that have changes. Return: 0 or negative errno */
int fvm_trees_plan(const struct fvm_plan *plan, const struct fvm_strv *keys,
		   const struct fvm_tree_view *view, struct fvm_trees *ret);

/** fvm_trees_make() - the same for this host and VM
 *  @blank: it was just made, and its workspace holds nothing */
int fvm_trees_make(const struct fvm_vm *vm, const struct fvm_plan *plan, bool blank,
		   struct fvm_trees *ret, struct fvm_error *err);

struct fvm_build;

/** fvm_trees_mount() - steps 3 to 5 of build.h: scratch, workspaces, overlays (root_mount.c) */
int fvm_trees_mount(struct fvm_build *b, struct fvm_error *err);

#endif
