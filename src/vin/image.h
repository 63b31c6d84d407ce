/*
 * vin/image - programs written down: one stream of records, for a file and for a socket alike
 *
 * Theory of operation
 *   A stream begins with a head (magic, format number, processor, page size) and ends with an end
 *   record. Between them stand records in the order in which replay needs them; nobody seeks.
 *
 *     tag   4 bytes   what it is, enum vin_tag
 *     zero  4 bytes
 *     len   8 bytes   of the payload
 *     payload
 *     sum   8 bytes   XXH3 of all of the above, begun with the number of the record, so that one
 *                     that is missing, doubled or in another's place does not fit
 *
 *   Numbers are little-endian. Payloads are put together from numbers, strings and blobs by
 *   vin_put_*() and taken apart by vin_get_*() in the same order. A getter that finds too little
 *   sets failed and returns zeros, so that a parser asks once, at its end (vin_get_done()).
 *   Pages are in records of their own, by pieces of some hundred KiB (vin/blocks). Such a record is not
 *   gathered: vin_out_begin() announces a payload, whose pieces then follow. Small
 *   pieces and records are written some at a time, the last of them by vin_out_end().
 *
 *   Sums find what a disk or a line did, not what somebody did on purpose: who reads a stream
 * trusts nothing that is in it.
 *
 * Limits: VIN_RECORD_MAX bytes a record that a reader keeps in memory; pages may be longer.
 * Source of XXH3: libxxhash. A format that a program does not know is refused (-EPROTONOSUPPORT).
 */
#ifndef VIN_IMAGE_H
#define VIN_IMAGE_H

#include <stdint.h>

#include "common/common.h"

#define VIN_FORMAT     3 /* 1, without EARLY and KEPT, and 2, without BLOCK, are read, too */
#define VIN_RECORD_MAX (16U << 20)

/* Values are never used again for something else. */
enum vin_tag {
	VIN_TAG_HEAD = 1,
	VIN_TAG_END = 2,
	VIN_TAG_TREE = 3,    /* who is whose child */
	VIN_TAG_PROCESS = 4, /* one process: identity, signals, limits */
	VIN_TAG_THREAD = 5,
	VIN_TAG_MAPS = 6, /* areas of memory of one process */
	VIN_TAG_PAGES = 7, /* which they are; BLOCK records with their bytes follow */
	VIN_TAG_BLOCK = 29, /* vin/blocks */
	VIN_TAG_LATE = 26, /* areas whose pages are not in the stream: vin/lazy */
	VIN_TAG_FILE = 8, /* one open file description */
	VIN_TAG_FDS = 9,  /* descriptors of one process */
	VIN_TAG_FILES = 10, /* how many descriptions there are; before the first FILE */
	VIN_TAG_DATA = 11,  /* a piece of the content of a file without a name */
	VIN_TAG_OBJECT = 16, /* shared memory without a name; its pages follow */
	VIN_TAG_SPACE = 21, /* what is set in a namespace: vin/spaces */
	VIN_TAG_IPC = 20, /* something of an IPC namespace: vin/ipc */
	VIN_TAG_MOUNT = 25, /* mounts that were made inside: vin/mounts */
	VIN_TAG_EARLY = 27, /* pages of a process as they were before; the last that comes counts */
	VIN_TAG_KEPT = 28,  /* which of them are as they were: vin/precopy */
	VIN_TAG_USERS = 24, /* user namespaces, and who is in them: vin/users */
	VIN_TAG_NAMESPACE = 29, /* other namespaces that only some are in: vin/namespaces */
};

/* ---- writing ---- */

struct vin_out;

/**
 * vin_out_open() - begin a stream on @fd, with its head
 * @fd: stays the caller's; a file, a pipe or a stream socket
 * Return: 0, or negative errno
 */
int vin_out_open(int fd, struct vin_out **ret, struct fvm_error *err);

/** vin_out_close() - forget a stream; without vin_out_end() it is an unfinished one */
void vin_out_close(struct vin_out *out);

/** vin_out_end() - the end record, and all bytes are with the kernel. Return: 0 or negative errno
 */
int vin_out_end(struct vin_out *out, struct fvm_error *err);

/** vin_out_mark() - all so far is with the kernel, and vin_out_back() makes a stream go on from there
 *  again: what has come since is for the caller to take away. Return: 0 or negative errno */
struct vin_out_place {
	uint64_t number;
};
int vin_out_mark(struct vin_out *out, struct vin_out_place *ret, struct fvm_error *err);
void vin_out_back(struct vin_out *out, const struct vin_out_place *place);

/** vin_out_record() - a whole record; @payload->failed is told as -ENOMEM */
int vin_out_record(struct vin_out *out, enum vin_tag tag, const struct fvm_buf *payload,
		   struct fvm_error *err);

/** vin_out_begin() - a record of @len bytes, which vin_out_piece() and then vin_out_finish() follow
 */
int vin_out_begin(struct vin_out *out, enum vin_tag tag, uint64_t len, struct fvm_error *err);
int vin_out_piece(struct vin_out *out, const void *data, size_t len, struct fvm_error *err);
int vin_out_finish(struct vin_out *out, struct fvm_error *err);

void vin_put_u64(struct fvm_buf *to, uint64_t value);
void vin_put_blob(struct fvm_buf *to, const void *data, size_t len);
void vin_put_string(struct fvm_buf *to, const char *text);

/* ---- reading ---- */

struct vin_in;

/**
 * vin_in_open() - read the head of a stream
 * Return: 0, -EPROTONOSUPPORT (another format, processor or page size), -EBADMSG (no stream of
 * ours, or damaged), or another negative errno
 */
int vin_in_open(int fd, struct vin_in **ret, struct fvm_error *err);

void vin_in_close(struct vin_in *in);

/** vin_in_number() - how many records came before the one that vin_in_next() would read now */
uint64_t vin_in_number(const struct vin_in *in);

/** vin_in_left() - bytes of the present record's payload that were not read yet */
uint64_t vin_in_left(const struct vin_in *in);

/** vin_in_file() - the descriptor, if it is one of a file. Return: or -ESPIPE */
int vin_in_file(const struct vin_in *in);

/** vin_in_next() - the next record's tag and length; VIN_TAG_END at the end, after which there is
 * none Return: 0, -EBADMSG, or another negative errno */
int vin_in_next(struct vin_in *in, enum vin_tag *ret_tag, uint64_t *ret_len, struct fvm_error *err);

/** vin_in_piece() - bytes of the present record's payload; @len must not exceed what is left */
int vin_in_piece(struct vin_in *in, void *to, size_t len, struct fvm_error *err);

/** vin_in_finish() - check the sum of a record whose payload was read by pieces */
int vin_in_finish(struct vin_in *in, struct fvm_error *err);

/**
 * vin_in_leave() - what is left of the present record's payload stays unread, and its sum unchecked
 * @ret_at: where it begins in the file; @ret_len: its bytes
 * Return: 0, -ESPIPE (the stream is no file), -EBADMSG (cut short), or another negative errno
 */
int vin_in_leave(struct vin_in *in, uint64_t *ret_at, uint64_t *ret_len, struct fvm_error *err);

/**
 * vin_in_payload() - the present record's payload as a whole, checked
 * @ret: what vin_get_*() take apart; valid until the next record
 * Return: 0, -EMSGSIZE (above VIN_RECORD_MAX), -EBADMSG, or another negative errno
 */
struct vin_payload {
	const unsigned char *at, *end;
	bool failed;
};
int vin_in_payload(struct vin_in *in, struct vin_payload *ret, struct fvm_error *err);

uint64_t vin_get_u64(struct vin_payload *p);
/** vin_get_blob() - @ret_len bytes that stay in the payload */
const void *vin_get_blob(struct vin_payload *p, size_t *ret_len);
/** vin_get_string() - a copy to free(), without a NUL in it; NULL when it failed */
char *vin_get_string(struct vin_payload *p);
/** vin_get_done() - whether all went well and nothing is left. Return: 0 or -EBADMSG */
int vin_get_done(const struct vin_payload *p);

#endif
