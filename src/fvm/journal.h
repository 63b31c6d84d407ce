/*
 * fvm/journal - records on disk that survive being cut short, and say so
 *
 * Theory of operation
 *   A journal is a file of records, each of them
 *
 *     u32 length of the payload | u32 type | payload | u32 CRC-32C of all before it
 *
 *   in little-endian order, the numbers of a payload too; byte strings in it are a u32 length and
 *   the bytes. Records are buffered and written in large pieces; journal_sync() brings them to the
 *   disk. Reading stops at the first record that is not whole. What that means is for the reader
 *   to know: a journal that was synced whole may not end early (see commit.h, the state file).
 *
 *   A journal is read as bytes from outside: lengths are checked before use, a cursor that was
 *   asked for more than there is turns bad and gives zeros from then on.
 */
#ifndef FVM_JOURNAL_H
#define FVM_JOURNAL_H

#include <stdint.h>

#include "common/common.h"

#define JOURNAL_PAYLOAD_MAX (1U << 20)

struct journal { /* a writer; starts as { .fd = -1 } */
	int fd;
	struct fvm_buf out; /* not yet written */
	size_t start;	    /* of the record being made, in out */
	uint64_t written;   /* bytes in the file, out not counted */
};

void journal_close(struct journal *j);

/** journal_begin() - start a record; fields follow, then journal_end() */
void journal_begin(struct journal *j, uint32_t type);
void journal_u32(struct journal *j, uint32_t value);
void journal_u64(struct journal *j, uint64_t value);
void journal_bytes(struct journal *j, const void *data, size_t len);
/** journal_end() - finish the record. Return: 0, -ENOMEM, or what writing a full buffer gave */
int journal_end(struct journal *j);

/** journal_sync() - write out and bring to the disk. Return: 0 or negative errno */
int journal_sync(struct journal *j);

struct journal_cursor { /* what is left of a payload */
	const unsigned char *at, *end;
	bool bad; /* something was asked for that is not there */
};

struct journal_record {
	uint32_t type;
	struct journal_cursor fields;
};

/**
 * journal_next() - the record at *@pos of a journal in memory
 * Return: 1 with *@pos behind it; 0 at the end; -EBADMSG where no whole record stands
 */
int journal_next(const void *data, size_t len, size_t *pos, struct journal_record *ret);

uint32_t journal_get_u32(struct journal_cursor *c);
uint64_t journal_get_u64(struct journal_cursor *c);
/** journal_get_bytes() - a byte string, borrowed from the journal's memory; NULL when bad */
const void *journal_get_bytes(struct journal_cursor *c, size_t *ret_len);
/** journal_get_string() - a copy as a C string; NULL when bad, out of memory, or it holds a NUL */
char *journal_get_string(struct journal_cursor *c);

#endif
