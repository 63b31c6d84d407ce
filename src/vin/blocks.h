/*
 * vin/blocks - pages in an image, some at a time, each time with a sum of their own
 *
 * Theory of operation
 *   A PAGES or EARLY record lists runs of pages. Their bytes, one run behind the other, follow it in
 *   BLOCK records, each of VIN_BLOCK bytes of memory, the last of what is left:
 *
 *     form   8 bytes   how the bytes are written
 *     zeros  8 bytes   a bit for each page of the block: it is zeros
 *     same   8 bytes   the same: it is one word of 8 bytes again and again
 *     bytes            of all its other pages
 *     words  8 bytes   of each page that is the same
 *
 *   What is read when programs run already (vin/lazy), or when it is known who it is of (vin/early),
 *   is a list of where blocks are: struct vin_blocks. The bytes of all its blocks, one behind the
 *   other, have numbers, as if they were a file: vin/pieces keeps these. A block is read as a whole,
 *   and nothing of it is given to anybody unless its sum is right. What came out of a pipe is
 *   put aside as it came, in a file of ours that has no name.
 *
 *   In formats 1 and 2 the bytes were in the PAGES record itself, with one sum for them all. They are
 *   listed as blocks without a sum: who leaves them unread has looked at the whole file.
 * Limits: a page is looked for zeros by its first words first; one that is not costs a line of the
 * cache.
 */
#ifndef VIN_BLOCKS_H
#define VIN_BLOCKS_H

#include "vin/image.h"
#include "vin/relay.h"

#define VIN_BLOCK      VIN_RELAY_BLOCK
#define VIN_BLOCK_PAGE 4096UL

struct vin_block_head {
	uint64_t form, zeros, same;
};
#define VIN_BLOCK_WORDS (VIN_BLOCK / VIN_BLOCK_PAGE * sizeof(uint64_t))
#define VIN_BLOCK_ROOM	(sizeof(struct vin_block_head) + VIN_BLOCK + VIN_BLOCK_WORDS)

/** vin_page_same() - whether a page is one word again and again. @ret_word: which */
bool vin_page_same(const void *page, uint64_t *ret_word);

/** vin_block_pack() - the payload of a BLOCK record, in place
 *  @room: of VIN_BLOCK_ROOM bytes; those of whole pages, @len together, stand behind its head
 *  Return: bytes of the payload */
size_t vin_block_pack(void *room, size_t len);

/** vin_block_read() - the next record, which has to be a BLOCK of @len bytes of memory, into @to
 *  Return: 0, -EBADMSG, or another negative errno */
int vin_block_read(struct vin_in *in, void *to, size_t len, struct fvm_error *err);

struct vin_block;
struct vin_block_slot;

struct vin_blocks { /* starts as VIN_NO_BLOCKS */
	int file;  /* where they are */
	int aside; /* our own file, or -1 */
	uint64_t end; /* of it */
	struct vin_block *list;
	size_t count;
	struct vin_block_slot *slots; /* some that were read last */
	size_t next;
};
#define VIN_NO_BLOCKS { .file = -1, .aside = -1 }

void vin_blocks_free(struct vin_blocks *b);

/**
 * vin_blocks_take() - the bytes of the present record, whose list of runs was read, and its end
 * @bytes: that the runs have together
 * @late: of formats 1 and 2: its sum is not looked at
 * @ret_at: the number of the first of them
 * Return: 0, -EBADMSG, or another negative errno
 */
int vin_blocks_take(struct vin_blocks *b, struct vin_in *in, uint64_t bytes, bool late,
		    uint64_t *ret_at, struct fvm_error *err);

/** vin_blocks_read() - @len bytes from number @at on. Return: 0, -EBADMSG (damaged: another sum, or
 *  none there), -EIO (cut short), or another negative errno */
int vin_blocks_read(struct vin_blocks *b, uint64_t at, void *to, size_t len);

#endif
