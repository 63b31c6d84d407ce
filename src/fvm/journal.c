#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/journal.h"

#define WRITE_SIZE (64U << 10)

/* CRC-32C (Castagnoli), reflected, four bits at a time: 16 words of table are enough here. */
static uint32_t crc32c(const unsigned char *p, size_t len)
{
	static const uint32_t table[16] = {
		0x00000000, 0x105ec76f, 0x20bd8ede, 0x30e349b1, 0x417b1dbc, 0x5125dad3,
		0x61c69362, 0x7198540d, 0x82f63b78, 0x92a8fc17, 0xa24bb5a6, 0xb21572c9,
		0xc38d26c4, 0xd3d3e1ab, 0xe330a81a, 0xf36e6f75,
	};
	uint32_t crc = ~0U;
	for (; len > 0; len--, p++) {
		crc ^= *p;
		crc = table[crc & 15] ^ (crc >> 4);
		crc = table[crc & 15] ^ (crc >> 4);
	}
	return ~crc;
}

void journal_close(struct journal *j)
{
	if (j->fd >= 0)
		close(j->fd);
	fvm_buf_free(&j->out);
	*j = (struct journal){ .fd = -1 };
}

void journal_u32(struct journal *j, uint32_t value)
{
	value = htole32(value);
	fvm_buf_add(&j->out, &value, sizeof(value));
}

void journal_u64(struct journal *j, uint64_t value)
{
	value = htole64(value);
	fvm_buf_add(&j->out, &value, sizeof(value));
}

void journal_bytes(struct journal *j, const void *data, size_t len)
{
	journal_u32(j, (uint32_t)len);
	fvm_buf_add(&j->out, data, len);
}

void journal_begin(struct journal *j, uint32_t type)
{
	j->start = j->out.len;
	journal_u32(j, 0);
	journal_u32(j, type);
}

static int flush(struct journal *j)
{
	int r = FVM_FAULT("journal.write");
	if (r < 0)
		return r;
	r = fvm_write_all(j->fd, j->out.data, j->out.len);
	if (r < 0)
		return r;
	j->written += j->out.len;
	j->out.len = 0;
	return 0;
}

int journal_end(struct journal *j)
{
	if (j->out.failed)
		return -ENOMEM;
	size_t len = j->out.len - j->start - 8;
	if (len > JOURNAL_PAYLOAD_MAX)
		return -E2BIG;
	uint32_t stored = htole32((uint32_t)len);
	memcpy(j->out.data + j->start, &stored, sizeof(stored));
	journal_u32(j, crc32c((const unsigned char *)j->out.data + j->start, len + 8));
	if (j->out.failed)
		return -ENOMEM;
	return j->out.len >= WRITE_SIZE ? flush(j) : 0;
}

int journal_sync(struct journal *j)
{
	if (j->out.failed)
		return -ENOMEM;
	int r = j->out.len > 0 ? flush(j) : 0;
	if (r == 0)
		r = FVM_FAULT("journal.sync");
	if (r < 0)
		return r;
	return fdatasync(j->fd) < 0 ? -errno : 0;
}

static uint32_t load_u32(const unsigned char *p)
{
	uint32_t value;
	memcpy(&value, p, sizeof(value));
	return le32toh(value);
}

int journal_next(const void *data, size_t len, size_t *pos, struct journal_record *ret)
{
	const unsigned char *p = (const unsigned char *)data + *pos;
	size_t left = len - *pos;
	if (left == 0)
		return 0;
	if (left < 12)
		return -EBADMSG;
	uint32_t payload = load_u32(p);
	if (payload > JOURNAL_PAYLOAD_MAX || left - 12 < payload)
		return -EBADMSG;
	if (load_u32(p + 8 + payload) != crc32c(p, 8 + (size_t)payload))
		return -EBADMSG;
	ret->type = load_u32(p + 4);
	ret->fields = (struct journal_cursor){ .at = p + 8, .end = p + 8 + payload };
	*pos += 12 + (size_t)payload;
	return 1;
}

static const unsigned char *take(struct journal_cursor *c, size_t len)
{
	if (c->bad || (size_t)(c->end - c->at) < len) {
		c->bad = true;
		return NULL;
	}
	c->at += len;
	return c->at - len;
}

uint32_t journal_get_u32(struct journal_cursor *c)
{
	const unsigned char *p = take(c, 4);
	return p ? load_u32(p) : 0;
}

uint64_t journal_get_u64(struct journal_cursor *c)
{
	uint64_t value = 0;
	const unsigned char *p = take(c, 8);
	if (p)
		memcpy(&value, p, sizeof(value));
	return le64toh(value);
}

const void *journal_get_bytes(struct journal_cursor *c, size_t *ret_len)
{
	size_t len = journal_get_u32(c);
	const void *p = take(c, len);
	*ret_len = p ? len : 0;
	return p;
}

char *journal_get_string(struct journal_cursor *c)
{
	size_t len;
	const char *p = journal_get_bytes(c, &len);
	if (!p)
		return NULL;
	if (memchr(p, '\0', len)) {
		c->bad = true;
		return NULL;
	}
	char *copy = malloc(len + 1);
	if (!copy) {
		c->bad = true;
		return NULL;
	}
	memcpy(copy, p, len);
	copy[len] = '\0';
	return copy;
}
