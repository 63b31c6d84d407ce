/*
 * fvm/digest - SHA-256 of what goes by
 */
#ifndef FVM_DIGEST_H
#define FVM_DIGEST_H

#include <stddef.h>

#define FVM_DIGEST_HEX 65 /* 64 digits and NUL */

struct fvm_digest;

/** fvm_digest_new() - start one; NULL when out of memory */
struct fvm_digest *fvm_digest_new(void);
void fvm_digest_add(struct fvm_digest *d, const void *data, size_t len);
/** fvm_digest_end() - the digest in hex; @d is freed */
void fvm_digest_end(struct fvm_digest *d, char ret_hex[FVM_DIGEST_HEX]);
/** fvm_digest_free() - for one that is not wanted any more; NULL is fine */
void fvm_digest_free(struct fvm_digest *d);

#endif
