/*
 * The helper: puts pages where they belong until all have come.
 *
 * Each round reads what the kernel tells of all spaces, gives those pages that somebody waits for,
 * and one block of the others. Whatever can't be done because the kernel has something to tell
 * first (EAGAIN) is tried again in the next round.
 */
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/fault.h"
#include "vin/lazy_priv.h"

#define PAGE	 VIN_LAZY_PAGE
#define BLOCK	 (256UL * 1024)
#define AROUND	 (64UL * 1024) /* for who waits, with what is behind it */
#define MESSAGES 16
#define LOOK	 (64ULL << 20) /* bytes that are looked through between two rounds */
#define PAUSE_MS 5	       /* when nothing went on */

struct serving {
	struct vin_lazy_serving *to;
	struct pollfd *polled;
	size_t next;  /* whose turn it is */
	bool went_on; /* in this round */
	char *block;
};

/* ---- into the memory ---- */

static void wake(const struct vin_lazy_space *s, uint64_t at, uint64_t len)
{
	struct uffdio_range range = { at, len };
	(void)ioctl(s->uffd, UFFDIO_WAKE, &range);
}

/* @from: NULL for zeros. Return: 0 or negative errno; @ret_done: bytes that it came to in any case
 */
static int fill(const struct vin_lazy_space *s, uint64_t to, const char *from, uint64_t len,
		long *ret_done)
{
	struct uffdio_copy c = { .dst = to, .src = (uintptr_t)from, .len = len };
	struct uffdio_zeropage z = { .range = { to, len } };
	int r = fvm_nerr(from ? ioctl(s->uffd, UFFDIO_COPY, &c)
			      : ioctl(s->uffd, UFFDIO_ZEROPAGE, &z));
	*ret_done = (long)(from ? c.copy : z.zeropage);
	return r;
}

/* Return: bytes that were dealt with, or negative errno if there were none */
static long fill_once(const struct vin_lazy_space *s, uint64_t to, const char *from, uint64_t len)
{
	long done;
	int r = fill(s, to, from, len, &done);
	if (r == 0)
		return (long)len;
	if (done > 0)
		return done;
	/* over the border of two areas, or where none is any more */
	if (r == -ENOENT && len > PAGE)
		return fill_once(s, to, from, PAGE);
	if (r != -EEXIST && r != -ENOENT)
		return r;
	/* it is there already; or nowhere, which who waits is to find out */
	wake(s, to, PAGE);
	return (long)PAGE;
}

/* Return: bytes from @from on, all of pages of zeros or none of them */
static uint64_t alike(const char *from, uint64_t len, bool *ret_zeros)
{
	uint64_t word, done = PAGE;
	*ret_zeros = vin_page_same(from, &word) && word == 0;
	while (done < len && (vin_page_same(from + done, &word) && word == 0) == *ret_zeros)
		done += PAGE;
	return done;
}

/* Return: bytes that were dealt with, fewer if the kernel has something to tell first or there is
 * no memory, or negative errno: -ESRCH, as the process is gone */
static long copy(const struct vin_lazy_space *s, uint64_t to, const char *from, uint64_t len)
{
	uint64_t done = 0;
	while (done < len) {
		bool zeros;
		const uint64_t part = alike(from + done, len - done, &zeros);
		long n = fill_once(s, to + done, zeros ? NULL : from + done, part);
		if (n == -EAGAIN || n == -ENOMEM)
			break;
		if (n < 0)
			return n;
		done += (uint64_t)n;
	}
	return (long)done;
}

static int read_piece(struct serving *v, const struct vin_lazy_space *s, uint64_t at, uint64_t len)
{
	if (s->blocks)
		return vin_blocks_read(s->blocks, at, v->block, len);
	ssize_t n = pread(s->from, v->block, len, (off_t)at);
	return n < 0 ? -errno : (uint64_t)n == len ? 0 : -EIO;
}

/* ---- who waits ---- */

/* Return: bytes dealt with, as copy() */
static long give_zeros(const struct vin_lazy_space *s, uint64_t page)
{
	long n = fill_once(s, page, NULL, PAGE);
	return n == -EAGAIN || n == -ENOMEM ? 0 : n;
}

static long give_page(struct serving *v, const struct vin_lazy_space *s, uint64_t page)
{
	const struct vin_piece *p = vin_pieces_find(&s->pieces, page);
	if (!p)
		p = vin_pieces_find(&s->unsure, page);
	if (!p)
		return give_zeros(s, page);
	const uint64_t left = p->end - page, len = left < AROUND ? left : AROUND;
	int r = read_piece(v, s, p->at + (page - p->start), len);
	return r < 0 ? r : copy(s, page, v->block, len);
}

static int give_asked(struct serving *v, struct vin_lazy_space *s)
{
	size_t kept = 0;
	for (size_t i = 0; i < s->asked_count; i++) {
		long n = give_page(v, s, s->asked[i]);
		if (n < 0)
			return (int)n;
		if (n == 0)
			s->asked[kept++] = s->asked[i];
		v->went_on |= n > 0;
	}
	s->asked_count = kept;
	return 0;
}

/* ---- the others ---- */

/* Of a part of what nobody has looked for yet: which pages there are. The others are zeros. */
static int look_for_more(struct vin_lazy_space *s)
{
	scoped_runs runs = { 0 };
	if (s->pieces.first < s->pieces.count || s->unsure.count == 0)
		return 0;
	const struct vin_piece p = s->unsure.list[0];
	const uint64_t left = p.end - p.start, len = left < LOOK ? left : LOOK;
	int r = vin_pages_find(s->pagemap, p.at, p.at + len, VIN_PAGES_OWN, false, &runs);
	for (size_t i = 0; r == 0 && i < runs.count; i++) {
		const uint64_t start = runs.runs[i].start, end = runs.runs[i].end;
		r = vin_pieces_add(&s->pieces, start - p.at + p.start, end - p.at + p.start, start);
	}
	return r < 0 ? r : vin_pieces_cut(&s->unsure, p.start, p.start + len);
}

static bool has_all(const struct vin_lazy_space *s)
{
	return s->pieces.first == s->pieces.count && s->unsure.count == 0;
}

/* What has come is none of its pieces any more. */
static int give_some(struct serving *v, struct vin_lazy_space *s)
{
	uint64_t room = BLOCK;
	while (room > 0 && s->pieces.first < s->pieces.count) {
		struct vin_piece *p = &s->pieces.list[s->pieces.first];
		const uint64_t left = p->end - p->start, len = left < room ? left : room;
		int r = read_piece(v, s, p->at, len);
		long n = r < 0 ? r : copy(s, p->start, v->block, len);
		if (n < 0)
			return (int)n;
		p->start += (uint64_t)n;
		p->at += (uint64_t)n;
		if (p->start == p->end)
			s->pieces.first++;
		v->went_on |= n > 0;
		if ((uint64_t)n < len)
			return 0;
		room -= len;
	}
	return 0;
}

/* ---- what the kernel tells ---- */

static int ask_for(struct vin_lazy_space *s, uint64_t page)
{
	uint64_t *more = realloc(s->asked, fvm_room(s->asked_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	s->asked = more;
	more[s->asked_count++] = page;
	return 0;
}

/* Its pages are those of its parent at this moment. */
static int add_child(struct serving *v, size_t parent, int uffd)
{
	struct vin_lazy_space child = { .uffd = uffd };
	struct vin_lazy_space *more =
		realloc(v->to->spaces, fvm_room(v->to->count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	v->to->spaces = more;
	child.blocks = more[parent].blocks;
	child.from = more[parent].from;
	child.pagemap = more[parent].pagemap;
	int r = vin_pieces_copy(&more[parent].pieces, &child.pieces);
	if (r == 0)
		r = vin_pieces_copy(&more[parent].unsure, &child.unsure);
	if (r == 0)
		more[v->to->count++] = child;
	return r;
}

static int hear(struct serving *v, size_t which, const struct uffd_msg *m)
{
	struct vin_lazy_space *s = &v->to->spaces[which];
	int r;
	v->went_on = true;
	switch (m->event) {
	case UFFD_EVENT_PAGEFAULT:
		return ask_for(s, m->arg.pagefault.address & ~(PAGE - 1));
	case UFFD_EVENT_FORK:
		return add_child(v, which, (int)m->arg.fork.ufd);
	case UFFD_EVENT_REMAP:
		r = vin_pieces_move(&s->pieces, m->arg.remap.from, m->arg.remap.to,
				    m->arg.remap.len);
		return r < 0 ? r
			     : vin_pieces_move(&s->unsure, m->arg.remap.from, m->arg.remap.to,
					       m->arg.remap.len);
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		r = vin_pieces_cut(&s->pieces, m->arg.remove.start, m->arg.remove.end);
		return r < 0 ? r
			     : vin_pieces_cut(&s->unsure, m->arg.remove.start, m->arg.remove.end);
	default:
		return -EPROTO;
	}
}

static int listen_to(struct serving *v, size_t which)
{
	struct uffd_msg m[MESSAGES];
	ssize_t n = read(v->to->spaces[which].uffd, m, sizeof(m));
	int r = n < 0 && errno != EAGAIN && errno != EINTR ? -errno : 0;
	for (ssize_t i = 0; r == 0 && n > 0 && i < n / (ssize_t)sizeof(*m); i++)
		r = hear(v, which, &m[i]);
	return r;
}

/* Those of children come behind the others, and are listened to in the next round. */
static int listen_to_all(struct serving *v, int timeout_ms)
{
	const size_t count = v->to->count;
	struct pollfd *more = realloc(v->polled, fvm_room(count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	v->polled = more;
	for (size_t i = 0; i < count; i++)
		more[i] = (struct pollfd){ .fd = v->to->spaces[i].uffd, .events = POLLIN };
	more[count] = (struct pollfd){ .fd = v->to->after };
	int r = poll(more, count + 1, timeout_ms) < 0 && errno != EINTR ? -errno : 0;
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (more[i].revents)
			r = listen_to(v, i);
	}
	if (more[count].revents)
		close(fvm_fd_take(&v->to->after));
	return r;
}

/* ---- all of it ---- */

/* Nothing is left to come, or nobody it could come to: who waits goes on. */
static void drop(struct serving *v, size_t which)
{
	struct vin_lazy_space *list = v->to->spaces;
	vin_lazy_space_free(&list[which]);
	list[which] = list[--v->to->count];
}

static int give_all_asked(struct serving *v)
{
	for (size_t i = 0; i < v->to->count;) {
		int r = give_asked(v, &v->to->spaces[i]);
		if (r < 0 && r != -ESRCH)
			return r;
		if (r < 0)
			drop(v, i);
		else
			i++;
	}
	return 0;
}

/* A block of one of them; they take turns. */
static int give_next(struct serving *v)
{
	if (v->to->count == 0 || v->to->after >= 0)
		return 0;
	v->next = (v->next + 1) % v->to->count;
	struct vin_lazy_space *s = &v->to->spaces[v->next];
	int r = FVM_FAULT("lazy.rest");
	if (r == 0)
		r = look_for_more(s);
	if (r == 0)
		r = give_some(v, s);
	if (r < 0 && r != -ESRCH)
		return r;
	if (r < 0 || has_all(s)) {
		drop(v, v->next);
		v->went_on = true;
	}
	return 0;
}

int vin_lazy_serve(struct vin_lazy_serving *to)
{
	scoped_free char *block = malloc(BLOCK);
	struct serving v = { .to = to, .block = block, .went_on = true };
	int r = block ? 0 : -ENOMEM;
	while (r == 0 && to->count > 0) {
		const bool idle = !v.went_on;
		v.went_on = false;
		to->each_round(to->arg);
		r = listen_to_all(&v, idle ? PAUSE_MS : 0);
		if (r == 0)
			r = give_all_asked(&v);
		if (r == 0)
			r = give_next(&v);
	}
	free(v.polled);
	return r;
}
