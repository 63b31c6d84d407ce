/*
 * fvm/hide - paths of the host that a VM does not see
 *
 * Theory of operation
 *   What is hidden does not exist in the VM: between the base and the VM's own layers lies a layer
 *   with a whiteout for each hidden path. No mask is mounted, so there is nothing to unmount, and
 *   the VM may make something of its own in that place.
 *   The layer may not lie below the base's own root (overlay refuses it with ELOOP), so it is made
 *   at each start in the VM's scratch tmpfs; or, where RUN is a tmpfs that can be idmapped, once
 *   for all VMs that hide the same (hide_shared.c). The attributes of the directories above a
 *   whiteout, which hide the host's, are never stale. All whiteouts are hard links of one 0:0
 *   device. Paths that do not exist yet are hidden as long as their directory is there.
 *
 *   The starter plans: the store itself, the paths asked for, and the secrets (secrets.c), with
 *   symlinks resolved: both the link and what it leads to are hidden. Nothing is looked at on
 *   network mounts. The builder then makes one layer per overlaid mount, walking the base's
 *   detached clone, where ids are the VM's already and no other mount can be crossed into.
 *   A mount point that is or lies below a hidden path is not mounted at all.
 *   Limits: a file that has another name (a hard link, a bind mount, a copy) shows by that name.
 */
#ifndef FVM_HIDE_H
#define FVM_HIDE_H

#include "fvm/config.h"
#include "fvm/idmap.h"
#include "fvm/plan.h"

struct fvm_hidden {
	char *path;   /* absolute, without symlinks but perhaps its last component */
	size_t mount; /* index into the plan of the mount that it lies in */
};

struct fvm_hide {
	struct fvm_hidden *items; /* sorted by path; none lies below another */
	size_t count;
};

void fvm_hide_free(struct fvm_hide *hide);
#define scoped_hide __attribute__((cleanup(fvm_hide_free))) struct fvm_hide

/**
 * fvm_hide_plan() - what is hidden from a VM of this configuration, with policies merged in
 * @store: the store in use
 * Return: 0 or negative errno
 */
int fvm_hide_plan(const struct fvm_config *config, const char *store, const struct fvm_plan *plan,
		  struct fvm_hide *ret, struct fvm_error *err);

/** fvm_hide_has() - whether absolute @path is hidden, or lies below something hidden */
bool fvm_hide_has(const struct fvm_hide *hide, const char *path);

/** fvm_hide_in() - whether something in mount @mount (index into the plan) is hidden */
bool fvm_hide_in(const struct fvm_hide *hide, size_t mount);

/**
 * fvm_hide_layer() - make the layer of one mount as directory @layer of @scratch
 * @base: directory of @scratch where the mount's clone is attached
 * @map: NULL when it is idmapped; else what its owners are in the VM
 * Return: 1 made, 0 nothing is hidden there, or negative errno
 */
int fvm_hide_layer(const struct fvm_hide *hide, const struct fvm_plan *plan, size_t mount,
		   const struct fvm_idmap *map, int scratch, const char *base, const char *layer);

/* All that the layers of all mounts depend on, as text. */
struct fvm_hide_key {
	struct fvm_buf names;  /* directories that there are, and what is hidden in each */
	struct fvm_buf stamps; /* the same directories' attributes, a line each */
};

void fvm_hide_key_free(struct fvm_hide_key *key);
#define scoped_hide_key __attribute__((cleanup(fvm_hide_key_free))) struct fvm_hide_key

int fvm_hide_key(const struct fvm_hide *hide, const struct fvm_plan *plan,
		 struct fvm_hide_key *ret);

/**
 * fvm_hide_refresh() - layers with the same names get the attributes that directories have now
 * VMs that use them see the host's directories as they are, then, too.
 * @layers: as of fvm_hide_layers(); @was, @is: stamps. Return: 0 or negative errno
 */
int fvm_hide_refresh(const struct fvm_plan *plan, int layers, const char *was, const char *is);

/** fvm_hide_layers() - make the layers of all mounts, with the host's ids, as directories of @dir
 *  named by the mount's index in the plan. Return: 0 or negative errno */
int fvm_hide_layers(const struct fvm_hide *hide, const struct fvm_plan *plan, int dir);

/* ---- hide_shared.c ---- */

/**
 * fvm_hide_shared() - layers that other VMs may use as well, made if need be
 * @run: RUN
 * Return: directory as fvm_hide_layers() makes it; the layers stay as long as the descriptor or a
 *         copy of it is open. -EOPNOTSUPP: RUN is no tmpfs; or another negative errno
 */
int fvm_hide_shared(int run, const struct fvm_hide *hide, const struct fvm_plan *plan);

/**
 * fvm_hide_detached() - the same in a new tmpfs that is attached nowhere: where RUN is none
 * Return: descriptor of its mount, of which clones can be attached, in any mount namespace;
 *         -EINVAL before Linux 6.15, which can't do that; or another negative errno
 */
int fvm_hide_detached(const struct fvm_hide *hide, const struct fvm_plan *plan);

/** fvm_hide_clone() - a clone of that mount, to be attached. Return: descriptor or -errno */
int fvm_hide_clone(int tree);

/** fvm_hide_fits() - whether the layers in @dir are those of @key, also after a refresh */
bool fvm_hide_fits(int dir, const struct fvm_plan *plan, const struct fvm_hide_key *key);

/* ---- secrets.c ---- */

/**
 * fvm_secrets_list() - absolute paths of what the policy of secrets hides on this host
 * For root and the caller also what does not exist yet; in other homes what is there now.
 */
int fvm_secrets_list(const struct fvm_plan *plan, struct fvm_strv *ret);

/** fvm_homes_list() - homes of all accounts of /etc/passwd, and directories of /home, each once
 *  @people: only root's and people's (uid 1000 and up) */
int fvm_homes_list(const struct fvm_plan *plan, bool people, struct fvm_strv *ret);

/** fvm_hide_resolve() - append @path without symlinks in its directory part, and what it leads to
 *  if it is a symlink itself. Nothing is appended when its directory does not exist.
 *  @must_exist: nor when it does not exist itself */
int fvm_hide_resolve(const struct fvm_plan *plan, const char *path, bool must_exist,
		     struct fvm_strv *ret);

/** fvm_plan_find() - index of the mount that absolute @path lies in
 *  @strictly: a mount point is taken to lie in the mount above it */
size_t fvm_plan_find(const struct fvm_plan *plan, const char *path, bool strictly);

#endif
