/* What export and import share of the format; see image.h. */
#ifndef FVM_IMAGE_PRIV_H
#define FVM_IMAGE_PRIV_H

#include "fvm/digest.h"
#include "fvm/image.h"
#include "fvm/idmap_user.h"

#define IMAGE_LAYERS_MAX    128
#define IMAGE_JSON_MAX	    (4 << 20)
#define IMAGE_LABEL	    "org.fvm.config"
#define IMAGE_TYPE_INDEX    "application/vnd.oci.image.index.v1+json"
#define IMAGE_TYPE_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define IMAGE_TYPE_CONFIG   "application/vnd.oci.image.config.v1+json"
#define IMAGE_TYPE_LAYER    "application/vnd.oci.image.layer.v1.tar+zstd"
#define IMAGE_REF	    "org.opencontainers.image.ref.name"
#define IMAGE_PROGRAMS	    "org.fvm.programs"
/* In a tar, of an entry whose name only looks like a deletion's: it is ".wh.NAME" in the layer, too. */
#define IMAGE_NAMED_XATTR   "user.fvm.named"

/* One blob: a file of a temporary directory, named by its digest. */
struct image_blob {
	char digest[FVM_DIGEST_HEX];
	char diff_id[FVM_DIGEST_HEX]; /* layers: of the tar before compression */
	unsigned long long size;
};

/**
 * image_layer_write() - write the layer with the mounts' trees below @fs as tar+zstd into @dir
 * @ret: digest, diff_id, size; the file is @dir/DIGEST
 */
int image_layer_write(const struct fvm_vm *vm, int fs, int dir, struct image_blob *ret,
		      fvm_progress_fn progress, void *arg, struct fvm_error *err);

/**
 * image_layer_read() - unpack a tar (plain, gzip, zstd, bzip2, xz) into @fs/KEY/upper
 * @keys: mount keys of this host; paths below none of them go to "root"
 * @ids: for a rootless VM: ids that can be had, which this process has entered (subids.h); the
 *	 owners of other files, and devices, are noted as owners.h says. NULL with privileges
 * Return: 0 or negative errno (-EBADMSG with the entry's name)
 */
int image_layer_read(int blob, int fs, const struct fvm_strv *keys, const struct fvm_user_ids *ids,
		     fvm_progress_fn progress, void *arg, struct fvm_error *err);

#endif
