/*
 * fvm/skeleton - the host's system directories once more, owned by the user
 *
 * Theory of operation
 *   In a user's own namespace the host's files belong to nobody, and nobody's directories can't be
 *   written. So a lower layer of directories alone, owned by the user, lies above the host's in
 *   every overlay of his rootless VMs; merged directories take their owner from it. It also has
 *
 *     opaque directories  where the user can't read the host's: seen empty, not as an error
 *     whiteouts           for files that he can't read: seen as absent, so that locks and caches
 *                         are made anew
 *     copies              of /etc's files, as many programs refuse configuration owned by nobody,
 *                         and of programs that only owner or group may execute
 *     stand-ins           for /etc/shadow and gshadow, made from passwd and group, all locked
 *
 *   STORE/skeleton/HOST/          HOST: machine id, as a home may be shared by several machines
 *     lock                        flock: shared to check, exclusive to change
 *     current                     symlink to gN
 *     gN/tree/...                 the layer;  gN/lock: flock shared by every VM that runs on it
 *     gN/list                     what was copied, with the host's ctimes (skeleton_priv.h)
 *     gN/quick                    the part of it that is compared at each start
 *     gN/foreign/                 see foreign.h
 *     gN/own/                     see root_owned.c
 *     gN/owned                    what is not root's: service accounts' files and directories
 *     gN/left                     where not all was taken, each path with a NUL behind; or none
 *     gN/checked                  stamp: the whole list was right then; not there: it is not
 *
 *   Below directories that everybody may write to, as /var/tmp is, not more than 1024 are made: else
 *   others could make a user's start take as long as they like. The rest stays the host's, which
 *   can be read, and that is told.
 *
 *   At each start the list's ctimes are compared with the host's: those of /etc and of the upper
 *   directories, which every package that comes or goes changes (2 ms); and if one differs, all
 *   (30 ms for 18,000). Else all are compared once the VM runs, at most every 10 s, and the next
 *   start makes up for what that finds. What differs is looked at again:
 *   mostly that is a directory whose files came and went, and only the list is written. Otherwise
 *   the layer is changed in place when no VM runs on it, and a new generation is made if one does.
 *   A crash leaves no list, and then all of it is gone through again.
 *
 *   A rootless start compares while it mounts already (fvm_skeleton_guess), and begins anew, with
 *   all in order, when it finds a difference.
 *
 *   Root has one, too, where a VM of his stands on unmapped file systems (base.h). It has what lies
 *   in those alone, and root can read it all: no whiteouts, nothing opaque; owners are kept, as the
 *   store is idmapped for the VM; and there are copies of what a stranger may not read or execute,
 *   of set-id programs, of what lies in sticky directories, and of /etc.
 *
 *   Limits: what the host changes while a VM runs is seen as overlayfs shows it, without any of
 *   this; directories made then belong to nobody, until the VM's next start.
 */
#ifndef FVM_SKELETON_H
#define FVM_SKELETON_H

#include "fvm/plan.h"
#include "fvm/store.h"

#define FVM_SKELETON_LEFT                                                                          \
	"too many directories of others are in it: some can be read, but not written"

struct fvm_skeleton {
	int tree;	  /* gN/tree; of the caller's mount namespace */
	int lock;	  /* to be kept open as long as a VM runs on it */
	char path[128];	  /* gN/tree below STORE */
	char owned[128];  /* gN/owned below STORE */
	char left[128];	  /* gN/left below STORE */
	bool check_later; /* see fvm_skeleton_check() */
};

/* Called now and then while the first skeleton is made; @total is 0 when not known. */
struct fvm_skeleton_progress {
	void (*fn)(void *arg, uint64_t done, uint64_t total);
	void *arg;
};

/**
 * fvm_skeleton_take() - the user's skeleton of this host, as the host is now
 * @plan: the host's mounts: what is behind a network or a user's FUSE is not looked at; with
 *        unmapped ones it is root's skeleton
 * @progress: may be NULL
 * Return: 0, or negative errno
 */
int fvm_skeleton_take(const struct fvm_store *store, const struct fvm_plan *plan,
		      const struct fvm_skeleton_progress *progress, struct fvm_skeleton *ret,
		      struct fvm_error *err);

/**
 * fvm_skeleton_guess() - the skeleton that there is, without a look at the host, so that mounting
 * can begin; then comes fvm_skeleton_fresh(), and nobody may see what was mounted if it says no
 * Return: 0, or negative errno: there is none, and fvm_skeleton_take() makes one
 */
int fvm_skeleton_guess(const struct fvm_store *store, const struct fvm_plan *plan,
		       struct fvm_skeleton *ret);

/** fvm_skeleton_fresh() - whether @s is as the host is now; sets check_later */
bool fvm_skeleton_fresh(const struct fvm_store *store, const struct fvm_plan *plan,
			struct fvm_skeleton *s);

struct fvm_trees;
struct fvm_user_ids;

/** fvm_skeleton_check() - compare all of it, and what foreign.h keeps, in a process of its own that
 *  nobody waits for. It ends soon, and makes no store that was removed again */
void fvm_skeleton_check(const struct fvm_store *store, const struct fvm_plan *plan,
			const struct fvm_trees *trees, const struct fvm_user_ids *ids);

/** fvm_skeleton_drop() - delete all skeletons that no VM runs on, and wait a moment for checks of
 *  them; the next start makes them anew. Without it their user can't: services' ids own some of it
 *  Return: how many */
unsigned int fvm_skeleton_drop(const struct fvm_store *store, bool dry_run);

void fvm_skeleton_close(struct fvm_skeleton *s);

/* Something of the skeleton's directories that is not root's. */
struct fvm_skeleton_owned {
	bool dir;
	uid_t uid;
	gid_t gid;
	const char *path; /* not terminated */
	size_t len;
};

/** fvm_skeleton_owned() - take the next of gN/owned's text, from *@at to @end. False: no more */
bool fvm_skeleton_owned(const char **at, const char *end, struct fvm_skeleton_owned *ret);

/** fvm_skeleton_has() - whether @path is among the directories that a skeleton has */
bool fvm_skeleton_has(const char *path);

#endif
