/* Digests, and the file that keeps them between two inventories. */
#include <errno.h>
#include <inttypes.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <openssl/evp.h>

#include "tests/tools/inventory.h"

struct known {
	uint64_t dev, ino, size;
	int64_t mtime_ns, ctime_ns;
	char digest[INVENTORY_DIGEST];
};

static void *tree;
static FILE *saving;

static int compare(const void *a, const void *b)
{
	/* everything before the digest is numbers without padding */
	return memcmp(a, b, offsetof(struct known, digest));
}

static int remember(const struct known *k)
{
	struct known *copy = malloc(sizeof(*copy));
	if (!copy)
		return -ENOMEM;
	*copy = *k;
	struct known **found = tsearch(copy, &tree, compare);
	if (!found || *found != copy)
		free(copy);
	return found ? 0 : -ENOMEM;
}

void inventory_cache_load(const char *path)
{
	FILE *f = fopen(path, "re");
	if (!f)
		return;
	struct known k = { 0 };
	while (fscanf(f, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNd64 " %" SCNd64 " %64s\n",
		      &k.dev, &k.ino, &k.size, &k.mtime_ns, &k.ctime_ns, k.digest) == 6)
		remember(&k);
	fclose(f);
}

static void save_one(const void *node, VISIT visit, int depth)
{
	(void)depth;
	if (visit != postorder && visit != leaf)
		return;
	const struct known *k = *(const struct known *const *)node;
	fprintf(saving, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRId64 " %" PRId64 " %s\n", k->dev,
		k->ino, k->size, k->mtime_ns, k->ctime_ns, k->digest);
}

int inventory_cache_save(const char *path)
{
	saving = fopen(path, "we");
	if (!saving)
		return -errno;
	twalk(tree, save_one);
	int bad = ferror(saving);
	return fclose(saving) != 0 || bad ? -EIO : 0;
}

static int digest_file(int fd, char ret[INVENTORY_DIGEST])
{
	static unsigned char buf[1 << 18];
	unsigned char sum[32];
	int r = 0;
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	if (!ctx || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		r = -ENOMEM;
	while (r == 0) {
		ssize_t n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			r = -errno;
		if (n <= 0)
			break;
		EVP_DigestUpdate(ctx, buf, (size_t)n);
	}
	if (r == 0)
		EVP_DigestFinal_ex(ctx, sum, NULL);
	EVP_MD_CTX_free(ctx);
	for (size_t i = 0; r == 0 && i < sizeof(sum); i++)
		snprintf(ret + 2 * i, 3, "%02x", sum[i]);
	return r;
}

int inventory_digest(int fd, const struct stat *st, char ret[INVENTORY_DIGEST])
{
	struct known k = {
		.dev = st->st_dev,
		.ino = st->st_ino,
		.size = (uint64_t)st->st_size,
		.mtime_ns = st->st_mtim.tv_sec * 1000000000LL + st->st_mtim.tv_nsec,
		.ctime_ns = st->st_ctim.tv_sec * 1000000000LL + st->st_ctim.tv_nsec,
	};
	struct known **found = tfind(&k, &tree, compare);
	if (found) {
		memcpy(ret, (*found)->digest, INVENTORY_DIGEST);
		return 0;
	}
	int r = digest_file(fd, k.digest);
	if (r < 0)
		return r;
	memcpy(ret, k.digest, INVENTORY_DIGEST);
	return remember(&k);
}
