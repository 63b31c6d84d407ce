#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>
#include <xxhash.h>

#include "vin/image.h"

#define MAGIC	  "fvm-vin\n"
#define PROCESSOR 62 /* as ELF numbers them: x86-64 */
#define GATHERED  (64UL * 1024)

struct head_of_record {
	uint32_t tag, zero;
	uint64_t len;
};

/* A record on its way, in either direction. */
struct passing {
	XXH3_state_t *sum;
	uint64_t number; /* of records before it */
	uint64_t left;	 /* of its payload */
	bool open;
};

struct vin_out {
	int fd;
	struct passing now;
	size_t held; /* bytes of what waits to be written */
	unsigned char waiting[GATHERED];
};

struct vin_in {
	int fd;
	struct passing now;
	unsigned char *payload;
	bool ended;
};

static void begin(struct passing *p, const struct head_of_record *head)
{
	XXH3_64bits_reset_withSeed(p->sum, p->number);
	XXH3_64bits_update(p->sum, head, sizeof(*head));
	p->left = head->len;
	p->open = true;
}

static uint64_t finish(struct passing *p)
{
	p->open = false;
	p->number++;
	return XXH3_64bits_digest(p->sum);
}

/* ---- numbers, strings, blobs ---- */

void vin_put_u64(struct fvm_buf *to, uint64_t value)
{
	fvm_buf_add(to, &value, sizeof(value));
}

void vin_put_blob(struct fvm_buf *to, const void *data, size_t len)
{
	vin_put_u64(to, len);
	fvm_buf_add(to, data, len);
}

void vin_put_string(struct fvm_buf *to, const char *text)
{
	vin_put_blob(to, text, strlen(text));
}

uint64_t vin_get_u64(struct vin_payload *p)
{
	uint64_t value = 0;
	if (p->failed || (size_t)(p->end - p->at) < sizeof(value)) {
		p->failed = true;
		return 0;
	}
	memcpy(&value, p->at, sizeof(value));
	p->at += sizeof(value);
	return value;
}

const void *vin_get_blob(struct vin_payload *p, size_t *ret_len)
{
	uint64_t len = vin_get_u64(p);
	*ret_len = 0;
	if (p->failed || len > (uint64_t)(p->end - p->at)) {
		p->failed = true;
		return NULL;
	}
	const void *blob = p->at;
	p->at += len;
	*ret_len = (size_t)len;
	return blob;
}

char *vin_get_string(struct vin_payload *p)
{
	size_t len;
	const char *text = vin_get_blob(p, &len);
	char *copy = text && !memchr(text, '\0', len) ? strndup(text, len) : NULL;
	if (!copy)
		p->failed = true;
	return copy;
}

int vin_get_done(const struct vin_payload *p)
{
	return p->failed || p->at != p->end ? -EBADMSG : 0;
}

/* ---- writing ---- */

static int out_failed(int r, struct fvm_error *err)
{
	return fvm_error_set(err, -r, "write the image");
}

static int flush(struct vin_out *out)
{
	const size_t len = out->held;
	out->held = 0;
	return len ? fvm_write_all(out->fd, out->waiting, len) : 0;
}

/* With what waits before it, at once if the kernel takes so much. */
static int write_both(struct vin_out *out, const void *data, size_t len)
{
	const struct iovec both[2] = { { out->waiting, out->held },
				       { (void *)(uintptr_t)data, len } };
	ssize_t n = writev(out->fd, both, 2);
	if (n < 0)
		n = errno == EINTR || errno == EAGAIN ? 0 : -errno;
	if (n < 0)
		return (int)n;
	if ((size_t)n < out->held) {
		int r = fvm_write_all(out->fd, out->waiting + n, out->held - (size_t)n);
		if (r < 0)
			return r;
		n = (ssize_t)out->held;
	}
	const size_t done = (size_t)n - out->held;
	out->held = 0;
	return fvm_write_all(out->fd, (const char *)data + done, len - done);
}

/* Records are many and small: they are written together. Pages are large, and not copied. */
static int pass_on(struct vin_out *out, const void *data, size_t len)
{
	if (len == 0)
		return 0;
	if (len > GATHERED / 2)
		return write_both(out, data, len);
	int r = len > GATHERED - out->held ? flush(out) : 0;
	if (r < 0)
		return r;
	memcpy(out->waiting + out->held, data, len);
	out->held += len;
	return 0;
}

int vin_out_begin(struct vin_out *out, enum vin_tag tag, uint64_t len, struct fvm_error *err)
{
	const struct head_of_record head = { .tag = tag, .len = len };
	begin(&out->now, &head);
	int r = pass_on(out, &head, sizeof(head));
	return r < 0 ? out_failed(r, err) : 0;
}

int vin_out_piece(struct vin_out *out, const void *data, size_t len, struct fvm_error *err)
{
	if (!out->now.open || len > out->now.left)
		return out_failed(-EINVAL, err);
	XXH3_64bits_update(out->now.sum, data, len);
	out->now.left -= len;
	int r = pass_on(out, data, len);
	return r < 0 ? out_failed(r, err) : 0;
}

int vin_out_finish(struct vin_out *out, struct fvm_error *err)
{
	if (!out->now.open || out->now.left > 0)
		return out_failed(-EINVAL, err);
	uint64_t sum = finish(&out->now);
	int r = pass_on(out, &sum, sizeof(sum));
	return r < 0 ? out_failed(r, err) : 0;
}

int vin_out_record(struct vin_out *out, enum vin_tag tag, const struct fvm_buf *payload,
		   struct fvm_error *err)
{
	if (payload->failed)
		return out_failed(-ENOMEM, err);
	int r = vin_out_begin(out, tag, payload->len, err);
	if (r == 0)
		r = vin_out_piece(out, payload->data, payload->len, err);
	return r < 0 ? r : vin_out_finish(out, err);
}

int vin_out_open(int fd, struct vin_out **ret, struct fvm_error *err)
{
	struct vin_out *out = calloc(1, sizeof(*out));
	scoped_buf head = { 0 };
	if (!out || !(out->now.sum = XXH3_createState())) {
		free(out);
		return out_failed(-ENOMEM, err);
	}
	out->fd = fd;
	vin_put_u64(&head, VIN_FORMAT);
	vin_put_u64(&head, PROCESSOR);
	vin_put_u64(&head, (uint64_t)sysconf(_SC_PAGESIZE));
	int r = pass_on(out, MAGIC, strlen(MAGIC));
	r = r < 0 ? out_failed(r, err) : vin_out_record(out, VIN_TAG_HEAD, &head, err);
	if (r < 0) {
		vin_out_close(out);
		return r;
	}
	*ret = out;
	return 0;
}

int vin_out_end(struct vin_out *out, struct fvm_error *err)
{
	const struct fvm_buf nothing = { 0 };
	int r = vin_out_record(out, VIN_TAG_END, &nothing, err);
	if (r == 0 && (r = flush(out)) < 0)
		out_failed(r, err);
	return r;
}

int vin_out_mark(struct vin_out *out, struct vin_out_place *ret, struct fvm_error *err)
{
	int r = flush(out);
	ret->number = out->now.number;
	return r < 0 ? out_failed(r, err) : 0;
}

void vin_out_back(struct vin_out *out, const struct vin_out_place *place)
{
	out->held = 0;
	out->now.number = place->number;
	out->now.open = false;
}

void vin_out_close(struct vin_out *out)
{
	if (out)
		XXH3_freeState(out->now.sum);
	free(out);
}

/* ---- reading ---- */

static int damaged(const struct vin_in *in, const char *how, struct fvm_error *err)
{
	fvm_error_say(err, EBADMSG, "the image is damaged: record %" PRIu64 " %s", in->now.number,
		      how);
	fvm_error_hint(err, "copy it again from where it came");
	return -EBADMSG;
}

static int take(struct vin_in *in, void *to, size_t len, struct fvm_error *err)
{
	ssize_t n = fvm_read_full(in->fd, to, len);
	if (n < 0)
		return fvm_error_set(err, (int)-n, "read the image");
	return (size_t)n < len ? damaged(in, "is cut short", err) : 0;
}

int vin_in_piece(struct vin_in *in, void *to, size_t len, struct fvm_error *err)
{
	if (!in->now.open || len > in->now.left)
		return damaged(in, "is too short", err);
	int r = take(in, to, len, err);
	if (r < 0)
		return r;
	XXH3_64bits_update(in->now.sum, to, len);
	in->now.left -= len;
	return 0;
}

int vin_in_finish(struct vin_in *in, struct fvm_error *err)
{
	uint64_t there;
	if (in->now.left > 0)
		return damaged(in, "is longer than it should be", err);
	int r = take(in, &there, sizeof(there), err);
	if (r < 0)
		return r;
	const uint64_t at = in->now.number;
	if (finish(&in->now) == there)
		return 0;
	in->now.number = at;
	return damaged(in, "has another sum", err);
}

uint64_t vin_in_number(const struct vin_in *in)
{
	return in->now.number;
}

uint64_t vin_in_left(const struct vin_in *in)
{
	return in->now.left;
}

int vin_in_file(const struct vin_in *in)
{
	struct stat st;
	return fstat(in->fd, &st) == 0 && S_ISREG(st.st_mode) ? in->fd : -ESPIPE;
}

int vin_in_leave(struct vin_in *in, uint64_t *ret_at, uint64_t *ret_len, struct fvm_error *err)
{
	struct stat st;
	const off_t at = lseek(in->fd, 0, SEEK_CUR);
	if (at < 0 || fstat(in->fd, &st) < 0)
		return fvm_error_set(err, errno, "read the image");
	const uint64_t len = in->now.left + sizeof(uint64_t); /* with the sum */
	if (at > st.st_size || len > (uint64_t)(st.st_size - at))
		return damaged(in, "is cut short", err);
	if (lseek(in->fd, (off_t)len, SEEK_CUR) < 0)
		return fvm_error_set(err, errno, "read the image");
	(void)finish(&in->now);
	*ret_at = (uint64_t)at;
	*ret_len = in->now.left;
	return 0;
}

int vin_in_next(struct vin_in *in, enum vin_tag *ret_tag, uint64_t *ret_len, struct fvm_error *err)
{
	struct head_of_record head;
	if (in->ended)
		return damaged(in, "stands behind the end", err);
	int r = take(in, &head, sizeof(head), err);
	if (r < 0)
		return r;
	if (head.zero != 0 || head.len > 1ULL << 60)
		return damaged(in, "has no head", err);
	begin(&in->now, &head);
	if (head.tag == VIN_TAG_END) {
		in->ended = true;
		r = vin_in_finish(in, err);
		if (r < 0)
			return r;
	}
	*ret_tag = head.tag;
	*ret_len = head.len;
	return 0;
}

/* By and by: a length that somebody made up is not to cost what it says. */
static int read_whole(struct vin_in *in, struct fvm_buf *to, struct fvm_error *err)
{
	unsigned char piece[16384];
	int r = 0;
	while (r == 0 && in->now.left > 0) {
		size_t len = in->now.left < sizeof(piece) ? (size_t)in->now.left : sizeof(piece);
		r = vin_in_piece(in, piece, len, err);
		if (r == 0)
			fvm_buf_add(to, piece, len);
	}
	return r == 0 && to->failed ? fvm_error_set(err, ENOMEM, "read the image") : r;
}

int vin_in_payload(struct vin_in *in, struct vin_payload *ret, struct fvm_error *err)
{
	scoped_buf all = { 0 };
	if (in->now.left > VIN_RECORD_MAX)
		return fvm_error_say(err, EMSGSIZE,
				     "record %" PRIu64 " of the image has %" PRIu64
				     " bytes, at most %u are read",
				     in->now.number, in->now.left, VIN_RECORD_MAX);
	int r = read_whole(in, &all, err);
	if (r == 0)
		r = vin_in_finish(in, err);
	if (r < 0)
		return r;
	size_t len = all.len;
	free(in->payload);
	in->payload = (unsigned char *)fvm_buf_steal(&all);
	*ret = (struct vin_payload){ .at = in->payload, .end = in->payload + len };
	return 0;
}

static int check_head(struct vin_in *in, struct fvm_error *err)
{
	enum vin_tag tag;
	uint64_t len;
	struct vin_payload p;
	int r = vin_in_next(in, &tag, &len, err);
	if (r == 0 && tag != VIN_TAG_HEAD)
		r = damaged(in, "is no head", err);
	if (r == 0)
		r = vin_in_payload(in, &p, err);
	if (r < 0)
		return r;
	uint64_t format = vin_get_u64(&p);
	if (p.failed || format > VIN_FORMAT || format == 0) {
		fvm_error_say(err, EPROTONOSUPPORT,
			      "the image has format %" PRIu64 ", this fvm knows %d", format,
			      VIN_FORMAT);
		fvm_error_hint(err, "a newer fvm reads it");
		return -EPROTONOSUPPORT;
	}
	uint64_t processor = vin_get_u64(&p), page = vin_get_u64(&p);
	if (vin_get_done(&p) < 0)
		return damaged(in, "is no head", err);
	if (processor != PROCESSOR || page != (uint64_t)sysconf(_SC_PAGESIZE))
		return fvm_error_say(err, EPROTONOSUPPORT,
				     "the image is of programs for another processor");
	return 0;
}

int vin_in_open(int fd, struct vin_in **ret, struct fvm_error *err)
{
	struct vin_in *in = calloc(1, sizeof(*in));
	char magic[sizeof(MAGIC)] = { 0 };
	if (!in || !(in->now.sum = XXH3_createState())) {
		free(in);
		return fvm_error_set(err, ENOMEM, "read the image");
	}
	in->fd = fd;
	ssize_t n = fvm_read_full(fd, magic, strlen(MAGIC));
	int r = n < 0 ? fvm_error_set(err, (int)-n, "read the image")
		: strcmp(magic, MAGIC) != 0
			? fvm_error_say(err, EBADMSG, "that is no image of programs")
			: check_head(in, err);
	if (r < 0) {
		vin_in_close(in);
		return r;
	}
	*ret = in;
	return 0;
}

void vin_in_close(struct vin_in *in)
{
	if (in) {
		XXH3_freeState(in->now.sum);
		free(in->payload);
	}
	free(in);
}
