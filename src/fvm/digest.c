#include <stdio.h>

#include <openssl/evp.h>

#include "fvm/digest.h"

/* An EVP_MD_CTX under our own name, so that the header needs none of OpenSSL's. */
static EVP_MD_CTX *context(struct fvm_digest *d)
{
	return (EVP_MD_CTX *)d;
}

struct fvm_digest *fvm_digest_new(void)
{
	EVP_MD_CTX *c = EVP_MD_CTX_new();
	if (c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) == 1)
		return (struct fvm_digest *)c;
	EVP_MD_CTX_free(c);
	return NULL;
}

void fvm_digest_add(struct fvm_digest *d, const void *data, size_t len)
{
	(void)EVP_DigestUpdate(context(d), data, len); /* fails for no software digest */
}

void fvm_digest_end(struct fvm_digest *d, char ret_hex[FVM_DIGEST_HEX])
{
	unsigned char bytes[EVP_MAX_MD_SIZE] = { 0 };
	unsigned int len = 0;
	(void)EVP_DigestFinal_ex(context(d), bytes, &len);
	for (size_t i = 0; i < 32; i++)
		snprintf(ret_hex + 2 * i, 3, "%02x", bytes[i]);
	fvm_digest_free(d);
}

void fvm_digest_free(struct fvm_digest *d)
{
	EVP_MD_CTX_free(context(d));
}
