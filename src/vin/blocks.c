#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <xxhash.h>

#include "vin/blocks.h"

#define PAGE  VIN_BLOCK_PAGE
#define WORD  sizeof(uint64_t)
#define HEAD  sizeof(struct vin_block_head)
#define SLOTS 8

enum form { PLAIN };

_Static_assert(VIN_BLOCK / PAGE == 64, "a bit for each page");

struct vin_block {
	uint64_t at;	 /* of its payload in the file */
	uint64_t number; /* of its record, or NO_SUM: bytes as they are */
	uint32_t len;	 /* of its payload */
	uint32_t bytes;	 /* of memory */
};
#define NO_SUM UINT64_MAX

struct vin_block_slot {
	size_t block; /* SIZE_MAX: none */
	unsigned char *bytes;
};

/* ---- one block ---- */

bool vin_page_same(const void *page, uint64_t *ret_word)
{
	uint64_t words[2];
	memcpy(words, page, sizeof(words));
	*ret_word = words[0];
	return words[0] == words[1] &&
	       memcmp(page, (const unsigned char *)page + WORD, PAGE - WORD) == 0;
}

size_t vin_block_pack(void *room, size_t len)
{
	struct vin_block_head head = { .form = PLAIN };
	unsigned char *const bytes = (unsigned char *)room + HEAD, *to = bytes;
	uint64_t words[VIN_BLOCK / PAGE + 1];
	size_t count = 0;
	for (size_t i = 0; i < len / PAGE; i++) {
		const unsigned char *page = bytes + i * PAGE;
		if (!vin_page_same(page, &words[count])) {
			if (to != page)
				memcpy(to, page, PAGE);
			to += PAGE;
			continue;
		}
		if (words[count]) {
			head.same |= 1ULL << i;
			count++;
		} else {
			head.zeros |= 1ULL << i;
		}
	}
	memcpy(room, &head, HEAD);
	memcpy(to, words, count * WORD);
	return (size_t)(to - (unsigned char *)room) + count * WORD;
}

/* What the others are goes up to where they belong, from the last on. */
static void spread(const struct vin_block_head *h, const unsigned char *words, unsigned char *to,
		   size_t pages)
{
	size_t others = pages - (size_t)__builtin_popcountll(h->zeros | h->same);
	size_t same = (size_t)__builtin_popcountll(h->same);
	if (others == pages)
		return;
	for (size_t i = pages; i-- > 0;) {
		unsigned char *page = to + i * PAGE;
		if (h->zeros >> i & 1) {
			memset(page, 0, PAGE);
		} else if (h->same >> i & 1) {
			same--;
			for (size_t at = 0; at < PAGE; at += WORD)
				memcpy(page + at, words + same * WORD, WORD);
		} else if (--others != i) {
			memcpy(page, to + others * PAGE, PAGE);
		}
	}
}

/* @ret_bytes, @ret_words: how long both are. Return: whether a payload of @len may have this head
 */
static bool fits(const struct vin_block_head *h, size_t pages, uint64_t len, size_t *ret_bytes,
		 size_t *ret_words)
{
	const uint64_t all = pages == 64 ? ~0ULL : (1ULL << pages) - 1;
	*ret_bytes = (pages - (size_t)__builtin_popcountll(h->zeros | h->same)) * PAGE;
	*ret_words = (size_t)__builtin_popcountll(h->same) * WORD;
	return h->form == PLAIN && !(h->zeros & h->same) && !((h->zeros | h->same) & ~all) &&
	       len == HEAD + *ret_bytes + *ret_words;
}

static int damaged(struct fvm_error *err)
{
	return fvm_error_say(err, EBADMSG, "the image is damaged: other pages than it lists");
}

/* Return: 0, or as vin_in_next() */
static int next_block(struct vin_in *in, uint64_t *ret_len, struct fvm_error *err)
{
	enum vin_tag tag;
	int r = vin_in_next(in, &tag, ret_len, err);
	if (r == 0 && (tag != VIN_TAG_BLOCK || *ret_len < HEAD || *ret_len > VIN_BLOCK_ROOM))
		r = damaged(err);
	return r;
}

int vin_block_read(struct vin_in *in, void *to, size_t len, struct fvm_error *err)
{
	struct vin_block_head head;
	unsigned char words[VIN_BLOCK_WORDS];
	size_t bytes = 0, word_bytes = 0;
	uint64_t payload;
	int r = next_block(in, &payload, err);
	if (r == 0)
		r = vin_in_piece(in, &head, HEAD, err);
	if (r == 0 && !fits(&head, len / PAGE, payload, &bytes, &word_bytes))
		r = damaged(err);
	if (r == 0)
		r = vin_in_piece(in, to, bytes, err);
	if (r == 0)
		r = vin_in_piece(in, words, word_bytes, err);
	if (r == 0)
		r = vin_in_finish(in, err);
	if (r == 0)
		spread(&head, words, to, len / PAGE);
	return r;
}

/* ---- where they are ---- */

void vin_blocks_free(struct vin_blocks *b)
{
	for (size_t i = 0; b->slots && i < SLOTS; i++)
		free(b->slots[i].bytes);
	free(b->slots);
	free(b->list);
	fvm_fd_closep(&b->aside);
	*b = (struct vin_blocks)VIN_NO_BLOCKS;
}

static int add(struct vin_blocks *b, const struct vin_block *block, struct fvm_error *err)
{
	struct vin_block *more = realloc(b->list, fvm_room(b->count + 1) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "list pages");
	b->list = more;
	more[b->count++] = *block;
	return 0;
}

static uint32_t part_of(uint64_t bytes, uint64_t done)
{
	return (uint32_t)(bytes - done < VIN_BLOCK ? bytes - done : VIN_BLOCK);
}

/* Of formats 1 and 2. */
static int add_plain(struct vin_blocks *b, uint64_t at, uint64_t bytes, struct fvm_error *err)
{
	int r = 0;
	for (uint64_t done = 0; r == 0 && done < bytes; done += VIN_BLOCK) {
		const uint32_t part = part_of(bytes, done);
		const struct vin_block block = { at + done, NO_SUM, part, part };
		r = add(b, &block, err);
	}
	return r;
}

static int open_aside(struct vin_blocks *b, struct fvm_error *err)
{
	if (b->aside < 0)
		b->aside = memfd_create("vin-blocks", MFD_CLOEXEC);
	b->file = b->aside;
	return b->aside < 0 ? fvm_error_set(err, errno, "put pages aside") : 0;
}

/* Through a buffer, since the sum is of it all; and aside, if it can't be read again. */
static int read_all(struct vin_blocks *b, struct vin_in *in, uint64_t bytes, bool aside,
		    struct fvm_error *err)
{
	int r = 0;
	scoped_free char *block = malloc(VIN_BLOCK);
	if (!block)
		return fvm_error_set(err, ENOMEM, "read pages");
	while (r == 0 && bytes > 0) {
		const size_t len = bytes < VIN_BLOCK ? (size_t)bytes : VIN_BLOCK;
		r = vin_in_piece(in, block, len, err);
		if (r == 0 && aside && pwrite(b->aside, block, len, (off_t)b->end) != (ssize_t)len)
			r = fvm_error_set(err, errno ? errno : EIO, "put pages aside");
		if (r == 0 && aside)
			b->end += len;
		bytes -= len;
	}
	return r < 0 ? r : vin_in_finish(in, err);
}

static int take_plain(struct vin_blocks *b, struct vin_in *in, uint64_t bytes, bool late,
		      struct fvm_error *err)
{
	uint64_t at, len;
	const bool aside = b->file == b->aside; /* a pipe */
	if (late && !aside) {
		int r = vin_in_leave(in, &at, &len, err);
		return r < 0 ? r : add_plain(b, at, bytes, err);
	}
	const off_t here = aside ? (off_t)b->end : lseek(b->file, 0, SEEK_CUR);
	if (here < 0)
		return fvm_error_set(err, errno, "read the image");
	int r = read_all(b, in, bytes, aside, err);
	return r < 0 ? r : add_plain(b, (uint64_t)here, bytes, err);
}

struct record_head {
	uint64_t tag, len;
};

/* As vin/image has it. */
static uint64_t sum_of(const unsigned char *record, uint64_t len, uint64_t number)
{
	return XXH3_64bits_withSeed(record, sizeof(struct record_head) + len, number);
}

/* With a sum of ours, as its own has been looked at. */
static int put_aside(struct vin_blocks *b, struct vin_in *in, struct vin_block *block,
		     unsigned char *record, struct fvm_error *err)
{
	const struct record_head head = { VIN_TAG_BLOCK, block->len };
	unsigned char *payload = record + sizeof(head);
	const size_t len = block->len + sizeof(uint64_t);
	int r = vin_in_piece(in, payload, block->len, err);
	if (r == 0)
		r = vin_in_finish(in, err);
	if (r < 0)
		return r;
	memcpy(record, &head, sizeof(head));
	const uint64_t sum = sum_of(record, block->len, block->number);
	memcpy(payload + block->len, &sum, sizeof(sum));
	if (pwrite(b->aside, payload, len, (off_t)b->end) != (ssize_t)len)
		return fvm_error_set(err, errno ? errno : EIO, "put pages aside");
	block->at = b->end;
	b->end += len;
	return 0;
}

#define RECORD_ROOM (sizeof(struct record_head) + VIN_BLOCK_ROOM + sizeof(uint64_t))

static int take_blocks(struct vin_blocks *b, struct vin_in *in, uint64_t bytes,
		       struct fvm_error *err)
{
	scoped_free unsigned char *record = malloc(RECORD_ROOM);
	int r = record ? vin_in_finish(in, err) : fvm_error_set(err, ENOMEM, "read pages");
	for (uint64_t done = 0; r == 0 && done < bytes; done += VIN_BLOCK) {
		uint64_t len = 0;
		struct vin_block block = { .number = vin_in_number(in),
					   .bytes = part_of(bytes, done) };
		r = next_block(in, &len, err);
		block.len = (uint32_t)len;
		if (r == 0)
			r = b->file == b->aside ? put_aside(b, in, &block, record, err)
						: vin_in_leave(in, &block.at, &len, err);
		if (r == 0)
			r = add(b, &block, err);
	}
	return r;
}

int vin_blocks_take(struct vin_blocks *b, struct vin_in *in, uint64_t bytes, bool late,
		    uint64_t *ret_at, struct fvm_error *err)
{
	const int file = vin_in_file(in);
	const uint64_t there = vin_in_left(in);
	int r = 0;
	*ret_at = b->count * VIN_BLOCK;
	if (file < 0)
		r = open_aside(b, err);
	else
		b->file = file;
	if (r == 0 && there != 0 && there != bytes)
		r = damaged(err);
	if (r < 0)
		return r;
	return there ? take_plain(b, in, bytes, late, err) : take_blocks(b, in, bytes, err);
}

/* ---- reading again ---- */

static int read_exactly(int file, void *to, size_t len, uint64_t at)
{
	ssize_t n = pread(file, to, len, (off_t)at);
	return n < 0 ? -errno : (size_t)n == len ? 0 : -EIO;
}

static int check_block(const struct vin_block *block, const unsigned char *record,
		       unsigned char *to)
{
	const unsigned char *payload = record + sizeof(struct record_head);
	struct vin_block_head head;
	size_t bytes, word_bytes;
	uint64_t sum;
	memcpy(&sum, payload + block->len, sizeof(sum));
	memcpy(&head, payload, HEAD);
	if (sum != sum_of(record, block->len, block->number) ||
	    !fits(&head, block->bytes / PAGE, block->len, &bytes, &word_bytes))
		return -EBADMSG;
	memcpy(to, payload + HEAD, bytes);
	spread(&head, payload + HEAD + bytes, to, block->bytes / PAGE);
	return 0;
}

static int read_block(const struct vin_blocks *b, const struct vin_block *block, unsigned char *to)
{
	const struct record_head head = { VIN_TAG_BLOCK, block->len };
	scoped_free unsigned char *record = malloc(RECORD_ROOM);
	if (!record)
		return -ENOMEM;
	memcpy(record, &head, sizeof(head));
	int r = read_exactly(b->file, record + sizeof(head), block->len + sizeof(uint64_t),
			     block->at);
	return r < 0 ? r : check_block(block, record, to);
}

static struct vin_block_slot *make_slots(struct vin_blocks *b)
{
	if (!b->slots)
		b->slots = calloc(SLOTS, sizeof(*b->slots));
	for (size_t i = 0; b->slots && i < SLOTS; i++)
		b->slots[i].block = SIZE_MAX;
	return b->slots;
}

/* Return: 0, or as vin_blocks_read() */
static int have_block(struct vin_blocks *b, size_t which, const unsigned char **ret)
{
	if (!b->slots && !make_slots(b))
		return -ENOMEM;
	for (size_t i = 0; i < SLOTS; i++) {
		if (b->slots[i].block == which) {
			*ret = b->slots[i].bytes;
			return 0;
		}
	}
	struct vin_block_slot *slot = &b->slots[b->next++ % SLOTS];
	if (!slot->bytes && !(slot->bytes = malloc(VIN_BLOCK)))
		return -ENOMEM;
	slot->block = SIZE_MAX;
	int r = read_block(b, &b->list[which], slot->bytes);
	if (r < 0)
		return r;
	slot->block = which;
	*ret = slot->bytes;
	return 0;
}

/* Within block @which. */
static int read_part(struct vin_blocks *b, size_t which, uint64_t inside, void *to, size_t len)
{
	const struct vin_block *block = &b->list[which];
	const unsigned char *bytes = NULL;
	if (block->number == NO_SUM)
		return read_exactly(b->file, to, len, block->at + inside);
	int r = have_block(b, which, &bytes);
	if (r == 0)
		memcpy(to, bytes + inside, len);
	return r;
}

int vin_blocks_read(struct vin_blocks *b, uint64_t at, void *to, size_t len)
{
	int r = 0;
	for (size_t part; r == 0 && len > 0; at += part, to = (char *)to + part, len -= part) {
		const uint64_t which = at / VIN_BLOCK, inside = at % VIN_BLOCK;
		if (which >= b->count || inside >= b->list[which].bytes)
			return -EBADMSG;
		const uint64_t left = b->list[which].bytes - inside;
		part = len < left ? len : (size_t)left;
		r = read_part(b, (size_t)which, inside, to, part);
	}
	return r;
}
