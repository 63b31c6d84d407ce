/*
 * fvm/native - directories of a VM that are no overlay
 *
 * Theory of operation
 *   --native DIR[:empty]   DIR is a plain directory of the VM's own store, mounted over what the VM
 *                          would see there: for programs that need an overlay of their own upon it
 *                          (docker, podman), or what overlays lack
 *   ':' and '\' in a path are written "\:" and "\\".
 *
 *   The directory lies in the workspace, so that it goes wherever that goes: rm, freezing for a
 *   snapshot or a clone, the limit of --disk.
 *
 *     workspace/fs/+native/at-KEY   (store.h says what a KEY is)
 *     workspace/fs/+native/+new     being filled; a crash leaves it, the next start clears it
 *
 *   The builder looks for it at each start. Where there is none yet, it is filled once:
 *     1 a frozen layer has one (the VM was snapshot, rolled back or cloned): the topmost is copied
 *       as it is, with all attributes; by reflink where the file system has it
 *     2 what the VM sees at DIR is copied: the host's files, changed as its layers say. What is
 *       hidden from the VM is not there to be copied. Not with ":empty", nor where container
 *       engines keep images: their trees are of overlays' own marks, which no copy through an
 *       overlay keeps, and belong to a daemon that may be writing them.
 *     3 else it is empty, with the owner and mode of the VM's directory, if there is one
 *   It is mounted nodev, with the VM's ids, after the overlays and before the binds. Set-id bits
 *   work inside as they do in overlays; on the host they lie below a directory that is root's.
 *
 *   A VM with native directories may also make cgroups below its own (v2), as engines do.
 *
 *   Its files are compared with nothing: diff names the directory alone, commit and export leave it
 *   out. A VM that has something in one counts as changed.
 *   Limits: what lies below DIR in the VM's layers is not seen while DIR is native; a file system
 *   mounted below DIR can't be copied, only covered (":empty").
 */
#ifndef FVM_NATIVE_H
#define FVM_NATIVE_H

#include "fvm/hide.h"
#include "fvm/store.h"

#define FVM_NATIVE_DIR "+native"

struct fvm_native {
	char *path;
	bool empty; /* nothing is copied into it */
};

struct fvm_natives {
	struct fvm_native *items; /* sorted by path; none lies below another */
	size_t count;
};

void fvm_natives_free(struct fvm_natives *n);
#define scoped_natives __attribute__((cleanup(fvm_natives_free))) struct fvm_natives

/** fvm_native_parse() - read "DIR[:empty]". Return: 0, -ENOMEM, or -EINVAL with the reason */
int fvm_native_parse(const char *text, struct fvm_native *ret, struct fvm_error *err);
void fvm_native_free(struct fvm_native *n);
#define scoped_native __attribute__((cleanup(fvm_native_free))) struct fvm_native

/**
 * fvm_natives_list() - native directories of a configuration, checked together
 * Return: 0, or -EINVAL: one below the other, or below something hidden
 */
int fvm_natives_list(const struct fvm_config *config, const struct fvm_hide *hide,
		     struct fvm_natives *ret, struct fvm_error *err);

/**
 * fvm_natives_find() - paths of all native directories that @vm is to have, or has in its layers
 * @ret: sorted, each once. Return: 0 or negative errno
 */
int fvm_natives_find(const struct fvm_vm *vm, struct fvm_strv *ret);

/** fvm_natives_above() - the one of @paths that @path is or lies below, or NULL */
const char *fvm_natives_above(const struct fvm_strv *paths, const char *path);

/** fvm_natives_used() - whether a native directory of the VM's own has anything in it */
bool fvm_natives_used(const struct fvm_vm *vm);

/** fvm_natives_refuse() - -EINVAL when one of @paths (NULL-terminated, or NULL) is in a native
 *  directory, with @err: nothing there can be committed or reset */
int fvm_natives_refuse(const struct fvm_strv *natives, const char *const *paths,
		       struct fvm_error *err);

struct fvm_build;

/** fvm_natives_mount() - the builder's part: make, fill and attach them (native_mount.c) */
int fvm_natives_mount(struct fvm_build *b, struct fvm_error *err);

#endif
