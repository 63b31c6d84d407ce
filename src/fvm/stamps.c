/* Stamps made and compared: the part of it that reads base files. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/inode.h"
#include "fvm/stamps.h"

static int64_t ctime_ns(const struct stat *st)
{
	return st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec;
}

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

static int tree_entry(const struct fvm_change *c, void *arg)
{
	struct tree *t = arg;
	if (ctime_ns(c->was) > t->after_ns)
		t->later = true;
	if (!t->ctx)
		return t->later ? -ECANCELED : 0;
	char line[160];
	int len = snprintf(line, sizeof(line), "%o %u %u %lld %lld.%09ld ", c->was->st_mode,
			   c->was->st_uid, c->was->st_gid,
			   S_ISDIR(c->was->st_mode) ? 0LL : (long long)c->was->st_size,
			   (long long)c->was->st_mtim.tv_sec, c->was->st_mtim.tv_nsec);
	EVP_DigestUpdate(t->ctx, line, (size_t)len);
	EVP_DigestUpdate(t->ctx, c->path, strlen(c->path) + 1);
	return 0;
}

static int digest_tree(const struct fvm_change *c, unsigned char ret[FVM_DIGEST_SIZE])
{
	scoped_mdctx *ctx = digest_start();
	struct tree t = { .ctx = ctx, .after_ns = INT64_MAX };
	if (!ctx)
		return -ENOMEM;
	int r = fvm_change_deleted(c, tree_entry, &t);
	if (r < 0)
		return r;
	return EVP_DigestFinal_ex(ctx, ret, NULL) == 1 ? 0 : -ENOMEM;
}

static int digest_base(const struct fvm_change *c, char kind, unsigned char ret[FVM_DIGEST_SIZE])
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

/* When the VM's side was made: see the header. */
static int64_t made_ns(const struct fvm_config *config, const struct fvm_change *c)
{
	struct statx sx;
	if (c->now && c->layer_dir >= 0 &&
	    statx(c->layer_dir, c->name, AT_SYMLINK_NOFOLLOW, STATX_BTIME, &sx) == 0 &&
	    (sx.stx_mask & STATX_BTIME))
		return sx.stx_btime.tv_sec * 1000000000LL + sx.stx_btime.tv_nsec;
	return config->first_start_ns;
}

static int drift_by_time(const struct fvm_config *config, const struct fvm_change *c,
			 const char **ret_why)
{
	*ret_why = "changed on the host since the VM made its own version";
	if (!c->was)
		return 0;
	bool stays = c->now && S_ISDIR(c->now->st_mode) && S_ISDIR(c->was->st_mode);
	if (stays) /* its ctime tells of entries that come and go */
		return 0;
	int64_t made = made_ns(config, c);
	if (!S_ISDIR(c->was->st_mode))
		return ctime_ns(c->was) > made;
	struct tree t = { .after_ns = made };
	int r = fvm_change_deleted(c, tree_entry, &t);
	*ret_why = "something in it changed on the host since the VM's first start";
	return t.later ? 1 : r < 0 ? r : 0;
}

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
	if (known->kind != 't' && known->ino == now.ino && known->ctime_ns == now.ctime_ns)
		return 0;
	if (!known->has_digest)
		return 1;
	int r = digest_base(c, known->kind, digest);
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
	return usable ? drift_by_stamp(known, c, ret_why) : drift_by_time(config, c, ret_why);
}

/* ---- ancestors ---- */

static void digest_name(const struct fvm_stamp *stamp, char ret[2 * FVM_DIGEST_SIZE + 1])
{
	for (size_t i = 0; i < FVM_DIGEST_SIZE; i++)
		snprintf(ret + 2 * i, 3, "%02x", stamp->digest[i]);
}

static int ancestor_keep(int dir, const struct fvm_change *c, const struct fvm_stamp *stamp)
{
	char name[2 * FVM_DIGEST_SIZE + 1];
	scoped_free char *text = malloc(FVM_ANCESTOR_MAX);
	digest_name(stamp, name);
	if (!text)
		return -ENOMEM;
	if (faccessat(dir, name, F_OK, 0) == 0)
		return 0;
	scoped_fd fd = fvm_open_file(c->base_dir, c->name);
	ssize_t n = fd < 0 ? fd : fvm_read_full(fd, text, FVM_ANCESTOR_MAX);
	if (n < 0)
		return (int)n;
	if (n == FVM_ANCESTOR_MAX || memchr(text, '\0', (size_t)n))
		return 0;
	return fvm_write_file_atomic(dir, name, text, (size_t)n, false);
}

int fvm_ancestor_read(int vm_dir, const struct fvm_stamp *stamp, char **ret, size_t *ret_len)
{
	char path[2 * FVM_DIGEST_SIZE + 16] = "ancestors/";
	if (!stamp->has_digest)
		return -ENOENT;
	digest_name(stamp, path + strlen(path));
	return fvm_read_file(vm_dir, path, FVM_ANCESTOR_MAX, ret, ret_len);
}

/* Delete kept files that no stamp speaks of; @used has their names as paths. */
static int ancestors_prune(int dir, const struct fvm_stamps *used)
{
	DIR *d = fdopendir(dup(dir));
	if (!d)
		return -errno;
	for (struct dirent *e = readdir(d); e; e = readdir(d)) {
		if (e->d_name[0] != '.' && !fvm_stamps_find(used, e->d_name))
			(void)unlinkat(dir, e->d_name, 0);
	}
	closedir(d);
	return 0;
}

/* ---- update ---- */

struct update {
	const struct fvm_config *config;
	struct fvm_stamps *old, *fresh, *used; /* used: names of ancestors */
	int ancestors;
	size_t kept;
};

static int note_ancestor(struct update *u, const struct fvm_change *c, const struct fvm_stamp *t)
{
	char name[2 * FVM_DIGEST_SIZE + 1];
	if (t->kind != 'f' || !t->has_digest || t->drifted || t->size >= FVM_ANCESTOR_MAX ||
	    u->kept >= FVM_ANCESTOR_COUNT)
		return 0;
	int r = 0;
	if (!fvm_stamps_find(u->old, c->path)) /* else it was kept then, and may be newer now */
		r = ancestor_keep(u->ancestors, c, t);
	u->kept++;
	digest_name(t, name);
	return r < 0 ? r : fvm_stamps_set(u->used, name, t);
}

static int note_change(const struct fvm_change *c, void *arg)
{
	struct update *u = arg;
	struct fvm_stamp t;
	const char *why;
	const struct fvm_stamp *known = fvm_stamps_find(u->old, c->path);
	if (known && fvm_stamps_find(u->fresh, c->path))
		return 0; /* deleted and added again: two changes of one path */
	if (known) {
		t = *known;
	} else {
		fvm_stamp_of(c->was, &t);
		if (!c->now && t.kind == 'd')
			t.kind = 't';
		int drift = drift_by_time(u->config, c, &why);
		t.drifted = drift > 0;
		/* a base that can't be read has no digest, and no drift that could be missed */
		if (!t.drifted)
			t.has_digest = digest_base(c, t.kind, t.digest) == 0;
		if (fvm_stamps_find(u->fresh, c->path))
			return 0;
	}
	int r = note_ancestor(u, c, &t);
	return r < 0 ? r : fvm_stamps_set(u->fresh, c->path, &t);
}

static int update_run(struct update *u, const struct fvm_vm *vm, const struct fvm_stacks *stacks,
		      struct fvm_error *err)
{
	const struct fvm_scan_options options = { .skip_content = true };
	if (mkdirat(vm->dir, "ancestors", 0700) < 0 && errno != EEXIST)
		return fvm_error_set(err, errno, "make a directory for the base's text files");
	scoped_fd dir = fvm_open_nofollow(vm->dir, "ancestors", O_RDONLY | O_DIRECTORY);
	if (dir < 0)
		return fvm_error_set(err, -dir, "open the base's text files");
	u->ancestors = dir;
	int r = fvm_stacks_scan(stacks, &options, note_change, u, err);
	if (r < 0)
		return err && err->code ? r : fvm_error_set(err, -r, "note the base files");
	if (fvm_stamps_count(u->fresh) > 0)
		r = fvm_stamps_save(u->fresh, vm->dir);
	else if (unlinkat(vm->dir, "stamps", 0) < 0 && errno != ENOENT)
		r = -errno;
	if (r == 0)
		r = ancestors_prune(dir, u->used);
	return r < 0 ? fvm_error_set(err, -r, "write the list of stamps") : 0;
}

int fvm_stamps_update_from(const struct fvm_vm *vm, const struct fvm_stacks *stacks,
			   struct fvm_error *err)
{
	struct update u = { .config = &vm->config, .ancestors = -1 };
	int r = fvm_stamps_load(vm->dir, &u.old, err);
	if (r == 0)
		r = fvm_stamps_parse("", 0, &u.fresh, err);
	if (r == 0)
		r = fvm_stamps_parse("", 0, &u.used, err);
	if (r == 0)
		r = update_run(&u, vm, stacks, err);
	fvm_stamps_free(u.old);
	fvm_stamps_free(u.fresh);
	fvm_stamps_free(u.used);
	return r;
}

int fvm_stamps_update(const struct fvm_vm *vm, struct fvm_error *err)
{
	struct fvm_stacks stacks;
	int r = fvm_stacks_open(vm, &stacks, err);
	if (r < 0)
		return r;
	r = fvm_stamps_update_from(vm, &stacks, err);
	fvm_stacks_close(&stacks);
	return r;
}
