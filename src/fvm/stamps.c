/* Digests of base files, and the comparison that needs them. */
#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/inode.h"
#include "fvm/stamps.h"

/* ---- digests ---- */

static void mdctx_freep(EVP_MD_CTX **ctx)
{
	EVP_MD_CTX_free(*ctx);
}
#define scoped_mdctx __attribute__((cleanup(mdctx_freep))) EVP_MD_CTX

static EVP_MD_CTX *digest_start(void)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) == 1)
		return ctx;
	EVP_MD_CTX_free(ctx);
	return NULL;
}

static int digest_file(int dir, const char *name, unsigned char ret[FVM_DIGEST_SIZE])
{
	const size_t size = 128U << 10;
	scoped_fd fd = fvm_open_file(dir, name);
	if (fd < 0)
		return fd;
	scoped_mdctx *ctx = digest_start();
	scoped_free char *buf = malloc(size);
	if (!ctx || !buf)
		return -ENOMEM;
	ssize_t n;
	while ((n = fvm_read_full(fd, buf, size)) > 0) {
		if (EVP_DigestUpdate(ctx, buf, (size_t)n) != 1)
			return -ENOMEM;
	}
	if (n < 0)
		return (int)n;
	/* labels and lists are somebody's work, too; a file without has the digest of its content
	 */
	const struct fvm_xattr_at at = { .fd = fd };
	scoped_buf xattrs = { 0 };
	int r = fvm_xattrs_read(&at, &xattrs);
	if (r < 0)
		return r;
	if (xattrs.len && EVP_DigestUpdate(ctx, xattrs.data, xattrs.len) != 1)
		return -ENOMEM;
	return EVP_DigestFinal_ex(ctx, ret, NULL) == 1 ? 0 : -ENOMEM;
}

static int digest_link(int dir, const char *name, unsigned char ret[FVM_DIGEST_SIZE])
{
	char target[PATH_MAX];
	ssize_t n = readlinkat(dir, name, target, sizeof(target));
	if (n < 0)
		return -errno;
	return EVP_Digest(target, (size_t)n, ret, NULL, EVP_sha256(), NULL) == 1 ? 0 : -ENOMEM;
}

struct tree {		  /* what a walk through a deleted tree is for */
	EVP_MD_CTX *ctx;  /* its digest, or */
	int64_t after_ns; /* whether anything changed later than this */
	bool later;
};

static int digest_entry(const struct fvm_change *c, void *arg)
{
	EVP_MD_CTX *ctx = arg;
	char line[160];
	int len = snprintf(line, sizeof(line), "%o %u %u %lld %lld.%09ld ", c->was->st_mode,
			   c->was->st_uid, c->was->st_gid,
			   S_ISDIR(c->was->st_mode) ? 0LL : (long long)c->was->st_size,
			   (long long)c->was->st_mtim.tv_sec, c->was->st_mtim.tv_nsec);
	EVP_DigestUpdate(ctx, line, (size_t)len);
	EVP_DigestUpdate(ctx, c->path, strlen(c->path) + 1);
	return 0;
}

static int digest_tree(const struct fvm_change *c, unsigned char ret[FVM_DIGEST_SIZE])
{
	scoped_mdctx *ctx = digest_start();
	if (!ctx)
		return -ENOMEM;
	int r = fvm_change_deleted(c, digest_entry, ctx);
	if (r < 0)
		return r;
	return EVP_DigestFinal_ex(ctx, ret, NULL) == 1 ? 0 : -ENOMEM;
}

/* Return: 0, -ENODATA for what has none, or -errno */
static int stamp_digest(const struct fvm_change *c, char kind, unsigned char ret[FVM_DIGEST_SIZE])
{
	switch (kind) {
	case 'f':
		return digest_file(c->base_dir, c->name, ret);
	case 'l':
		return digest_link(c->base_dir, c->name, ret);
	case 't':
		return digest_tree(c, ret);
	default:
		return -ENODATA;
	}
}

/* ---- drift ---- */

static bool same_meta(const struct fvm_stamp *a, const struct fvm_stamp *b)
{
	return a->mode == b->mode && a->uid == b->uid && a->gid == b->gid;
}

static int drift_by_stamp(const struct fvm_stamp *known, const struct fvm_change *c,
			  const char **ret_why)
{
	struct fvm_stamp now;
	unsigned char digest[FVM_DIGEST_SIZE];
	fvm_stamp_of(c->was, &now);
	*ret_why = now.kind == 'a'	? "deleted on the host meanwhile"
		   : known->kind == 'a' ? "made on the host meanwhile"
		   : known->kind == 't' ? "something in it changed on the host meanwhile"
					: "changed on the host meanwhile";
	if (known->drifted)
		return 1;
	if (known->kind == 't' && now.kind == 'd')
		now.kind = 't';
	if (known->kind != now.kind)
		return 1;
	if (known->kind == 'a')
		return 0;
	if (known->kind != 't' && !same_meta(known, &now))
		return 1;
	if (known->kind == 'd')
		return 0;
	if (known->kind == 't' && fvm_stamp_tree_ctime(c, &now.ctime_ns) < 0)
		return 1;
	if (known->ctime_ns == now.ctime_ns && (known->kind == 't' || known->ino == now.ino))
		return 0;
	if (!known->has_digest)
		return 1;
	int r = stamp_digest(c, known->kind, digest);
	if (r < 0)
		return r;
	return memcmp(digest, known->digest, sizeof(digest)) != 0;
}

int fvm_stamps_drift(const struct fvm_stamps *stamps, const struct fvm_config *config,
		     const struct fvm_change *c, const char **ret_why)
{
	const struct fvm_stamp *known = fvm_stamps_find(stamps, c->path);
	/* a directory that was changed, and is gone now, has the stamp of another question */
	bool usable = known && (known->kind == 't') <= !c->now && (known->kind != 'd' || c->now);
	return usable ? drift_by_stamp(known, c, ret_why)
		      : fvm_stamp_drift_by_time(stamps, config, c, ret_why);
}

int fvm_stamps_update_digests(const struct fvm_vm *vm, const struct fvm_stacks *stacks,
			      struct fvm_error *err)
{
	return fvm_stamps_update_with(vm, stacks, stamp_digest, err);
}
