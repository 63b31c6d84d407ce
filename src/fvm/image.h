/*
 * fvm/image - a VM as one file: an OCI image archive that other tools read
 *
 * Theory of operation
 *   FILE is a tar of an OCI image layout (oci-layout, index.json, blobs/sha256/...), which skopeo,
 *   podman and buildah know as "oci-archive:". Each frozen layer and the workspace is one OCI layer
 *   (tar, zstd), lowest first, with the mounts' trees at their places below one root, whiteouts as
 *   ".wh.NAME" and opaque directories by ".wh..wh..opq". The VM's configuration travels as label
 *   "org.fvm.config" of the image's configuration, snapshots' tags with it.
 *   Export: each layer is written to a temporary file of the store while its digest is taken, then
 *   all go into FILE, which gets its name when it is whole and on the disk.
 *   Import reads what anybody may have made. Every blob is checked against its digest before a byte
 *   of it is used; names are taken apart and followed by descriptor only, below the new layer, with
 *   no link followed; devices and overlay's own xattrs are refused; the layers go to where this
 *   host's mounts want them. The VM appears when all is there, or not at all.
 *   Sources: OCI image-spec 1.0 (layer.md, manifest.md, config.md); sizes of this implementation:
 *   at most 128 layers, JSON documents up to 4 MiB.
 */
#ifndef FVM_IMAGE_H
#define FVM_IMAGE_H

#include "fvm/store.h"

/**
 * fvm_vm_export() - write the VM, open FVM_LOCK and not running, to @file of directory @dir
 * @file: replaced whole; NULL: @dir is a file, or a pipe, that is written to
 * Return: 0 or negative errno; nothing is left on failure
 */
int fvm_vm_export(const struct fvm_vm *vm, int dir, const char *file, fvm_progress_fn progress,
		  void *arg, struct fvm_error *err);

/* Of a VM that runs, and whose programs the caller holds still. */
struct fvm_image_live {
	int programs;		  /* file with what they are, which becomes a blob (checkpoint.h) */
	int layer;		  /* a copy of its workspace, which is read instead; or -1 */
	void (*written)(void *arg); /* its files are read: they may go on; may be NULL */
	void *arg;
};

/** fvm_vm_export_live() - the same of such a VM; @live may be NULL */
int fvm_vm_export_live(const struct fvm_vm *vm, int dir, const char *file,
		       const struct fvm_image_live *live, fvm_progress_fn progress, void *arg,
		       struct fvm_error *err);

/**
 * fvm_vm_import() - make VM @name (NULL: the name it had) from the image in @fd
 * @ret: open FVM_LOCK
 * Return: 0, -EBADMSG (damaged: where), -EPROTONOSUPPORT (not an image of a VM of ours or
 *         too new), -EEXIST (name taken), ...
 */
int fvm_vm_import(const struct fvm_store *store, int fd, const char *name,
		  fvm_progress_fn progress, void *arg, struct fvm_vm *ret, struct fvm_error *err);

/** fvm_vm_import_live() - the same of what fvm_vm_export_live() wrote
 *  @ret_programs: a descriptor of that blob; may be NULL. Return: also -ENOENT (it has none) */
int fvm_vm_import_live(const struct fvm_store *store, int fd, const char *name,
		       fvm_progress_fn progress, void *arg, struct fvm_vm *ret, int *ret_programs,
		       struct fvm_error *err);

#endif
