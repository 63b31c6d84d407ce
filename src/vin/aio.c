/*
 * Rings of asynchronous I/O: io_setup(2), what MySQL, nginx and others read and write files with.
 *
 * A context is known by the address of its ring, a mapping of the kernel's: at its head numbers
 * that both sides keep, behind them events that were not fetched yet. In the new world io_setup(2)
 * puts it somewhere, and the kernel follows an mremap(2) to where it was. Its tail can't be set, so
 * requests that do nothing (a read of an empty eventfd) are made and fetched until it is there, and
 * as many again as there were events; over these the events are written.
 *
 * How many requests are in flight nobody tells, and one that is forgotten is waited for forever.
 * But the kernel gives a context a number of places that can be had one by one, and then says
 * EAGAIN: so while all stand still, requests that do nothing take what there is, and what is
 * missing is in flight. These are waited for. Afterwards the ring is turned to where it was, and
 * what had come and not been fetched is written into it again: the program finds each byte as it
 * was.
 *
 *     places  = events - 1, less what does not fill a batch of the kernel's (usable())
 *     flight  = places - events not fetched - those that we got
 *
 * Each processor keeps some places to itself: so we go to all of them. If none is in flight and all
 * is fetched, the whole turn is one batch of calls (vin/rcall), and whoever kills us does no harm.
 * Limit: killed within the millisecond of a turn with something in the ring, the program sees
 * events of requests that it never made.
 * Sources: io_setup(2), io_submit(2), io_getevents(2), fs/aio.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/mem.h"

#define MAGIC	   0xa10a10a1U
#define COOKIE	   0x66766d2072696e67ULL /* of a request of ours */
#define FLIGHT_MS  3000			 /* longest wait for requests in flight */
#define LIST	   2048			 /* requests in one call */
#define EVENTS	   1024			 /* fetched by one call */
#define ROLL_CALLS 128			 /* enough for the rest */
#define MASK	   128			 /* bytes of a set of processors */
#define PROCESSORS (MASK * 8)
#define TRIES	   8		/* to have as many places taken as were when all began */
#define RING_MAX   (5ULL << 20) /* whose turn is one batch */

struct head {
	uint32_t id, nr, head, tail, magic, compat, incompat, length;
};

/* Arguments in the program's memory. */
struct room {
	struct iocb request;
	uint64_t list[LIST];		      /* all of them the one request */
	unsigned char masks[8][2 * MASK + 1]; /* one bit each, with room for it to be anywhere */
	unsigned char own[MASK];
	uint64_t context;
	struct io_event events[EVENTS];
};
_Static_assert(sizeof(struct room) <= VIN_DATA_SIZE, "arguments fit");
#define AT(w, member) ((w)->post->data + offsetof(struct room, member))

/* A ring that is turned. */
struct wheel {
	const struct vin_post *post;
	struct vin_thread *t;
	struct room *room; /* our copy */
	uint64_t ring;
	uint32_t nr;  /* events that there is room for */
	uint32_t pos; /* to where events were looked at */
	int fd;
	struct io_event *real; /* not of our requests */
	size_t real_count;
	uint64_t placed, looked; /* requests of ours, and how many of them at the last look */
	struct vin_call calls[VIN_BATCH_MAX];
	size_t count;
};

static uint32_t events_of(uint64_t size)
{
	return (uint32_t)((size - sizeof(struct head)) / sizeof(struct io_event));
}

static uint32_t unread(uint32_t head, uint32_t tail, uint32_t nr)
{
	return tail >= head ? tail - head : nr - head + tail;
}

/* ---- processors ---- */

/* "0-3,8-11": how many the kernel may ever have. */
static size_t possible(size_t *ret_last)
{
	scoped_free char *text = NULL;
	size_t count = 0;
	if (fvm_read_file(AT_FDCWD, "/sys/devices/system/cpu/possible", 4096, &text, NULL) < 0)
		return 0;
	for (char *p = text; *p >= '0' && *p <= '9';) {
		const size_t first = strtoul(p, &p, 10);
		*ret_last = *p == '-' ? strtoul(p + 1, &p, 10) : first;
		count += *ret_last - first + 1;
		p += *p == ',';
	}
	return count;
}

static uint32_t batch_of(uint32_t nr, size_t processors)
{
	const uint32_t batch = (uint32_t)((nr - 1) / (processors * 4));
	return batch ? batch : 1;
}

/* The kernel hands places out by batches, and what does not fill one to nobody. */
static uint32_t usable(uint32_t nr, size_t processors)
{
	return nr - 1 - (nr - 1) % batch_of(nr, processors);
}

/* ---- calls ---- */

static void add(struct wheel *w, const struct vin_call call)
{
	if (w->count < VIN_BATCH_MAX)
		w->calls[w->count] = call;
	w->count++;
}

static void add_submit(struct wheel *w, uint64_t n)
{
	for (uint64_t done = 0; done < n; done += LIST) {
		const uint64_t some = n - done < LIST ? n - done : LIST;
		add(w, (struct vin_call){ SYS_io_submit, { w->ring, some, AT(w, list) } });
	}
}

static void add_fetch(struct wheel *w, uint64_t n)
{
	for (uint64_t done = 0; done < n; done += EVENTS)
		add(w, (struct vin_call){ SYS_io_getevents,
					  { w->ring, 0, EVENTS, AT(w, events), 0 } });
}

static void add_processor(struct wheel *w, size_t n)
{
	const uint64_t mask = AT(w, masks) + n % 8 * sizeof(w->room->masks[0]) + MASK - n / 8;
	add(w, (struct vin_call){ SYS_sched_setaffinity, { 0, MASK, mask } });
}

/* Results of io_submit(2) are how many were taken; that there is no place is none of its failures.
 */
static int run(struct wheel *w, struct fvm_error *err)
{
	size_t done = 0;
	if (w->count > VIN_BATCH_MAX)
		return fvm_error_say(err, EOPNOTSUPP,
				     "requests of so large a ring can't be counted");
	int r = w->count ? vin_batch(w->post, w->t, w->calls, w->count, true, &done, err) : 0;
	for (size_t i = 0; r == 0 && i < w->count; i++) {
		const struct vin_call *c = &w->calls[i];
		if (c->nr == SYS_io_submit && c->result > 0)
			w->placed += (uint64_t)c->result;
		else if (c->result < 0 && c->result != -EAGAIN && c->nr != SYS_sched_setaffinity)
			r = fvm_error_set(err, (int)-c->result, "ask a ring of asynchronous I/O");
	}
	w->count = 0;
	return r;
}

/* The lowest number that is free: what the next open takes. */
static int free_number(pid_t tid)
{
	char path[64], link[8];
	for (int n = 0; n < 1 << 20; n++) {
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", tid, n);
		if (readlink(path, link, sizeof(link)) < 0)
			return errno == ENOENT ? n : -errno;
	}
	return -EMFILE;
}

static int fail(struct wheel *w, int r, const char *what, struct fvm_error *err)
{
	return fvm_error_set(err, -r, "%s of process %d", what, w->t->pid);
}

static int prepare(struct wheel *w, struct fvm_error *err)
{
	struct room *room = w->room;
	w->fd = free_number(w->t->tid);
	if (w->fd < 0)
		return fail(w, w->fd, "look at descriptors", err);
	room->request = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PREAD,
				       .aio_data = COOKIE,
				       .aio_fildes = (uint32_t)w->fd,
				       .aio_buf = AT(w, context),
				       .aio_nbytes = sizeof(room->context) };
	for (size_t i = 0; i < LIST; i++)
		room->list[i] = AT(w, request);
	for (size_t i = 0; i < 8; i++)
		room->masks[i][MASK] = (unsigned char)(1 << i);
	if (syscall(SYS_sched_getaffinity, w->t->tid, (size_t)MASK, room->own) < 0)
		return fail(w, -errno, "ask for processors", err);
	int r = vin_mem_write(w->post->pid, w->post->data, room, offsetof(struct room, events));
	return r < 0 ? fail(w, r, "write to the memory", err) : 0;
}

static void begin(struct wheel *w)
{
	add(w, (struct vin_call){ SYS_eventfd2, { 0, EFD_NONBLOCK | EFD_CLOEXEC } });
}

static void end(struct wheel *w)
{
	add(w, (struct vin_call){ SYS_close, { (uint64_t)w->fd } });
	add(w, (struct vin_call){ SYS_sched_setaffinity, { 0, MASK, AT(w, own) } });
}

/* ---- at the source: what is in flight ---- */

static int read_head(const struct wheel *w, struct head *ret)
{
	int r = vin_mem_read(w->post->pid, w->ring, ret, sizeof(*ret));
	return r == 0 && (ret->magic != MAGIC || ret->nr != w->nr || ret->head >= w->nr ||
			  ret->tail >= w->nr)
		       ? -EUCLEAN
		       : r;
}

static uint64_t event_at(const struct wheel *w, uint32_t n)
{
	return w->ring + sizeof(struct head) + (uint64_t)n * sizeof(struct io_event);
}

/* Events from @first on, around the end; written by us into the ring, or read. */
static int copy_events(const struct wheel *w, uint32_t first, uint32_t n, struct io_event *events,
		       bool write)
{
	const uint32_t before = n < w->nr - first ? n : w->nr - first;
	const struct {
		uint32_t at, count;
		struct io_event *events;
	} parts[] = { { first, before, events }, { 0, n - before, events + before } };
	int r = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(parts); i++) {
		const size_t len = parts[i].count * sizeof(*events);
		const uint64_t at = event_at(w, parts[i].at);
		if (len)
			r = write ? vin_mem_write(w->post->pid, at, parts[i].events, len)
				  : vin_mem_read(w->post->pid, at, parts[i].events, len);
	}
	return r;
}

/* What has come since the last look, and is not ours: with ours at most a whole turn. */
static int scan(struct wheel *w)
{
	struct head h;
	int r = read_head(w, &h);
	uint32_t n = r == 0 ? unread(w->pos, h.tail, w->nr) : 0;
	if (r == 0 && n < w->placed - w->looked)
		n += w->nr;
	w->looked = w->placed;
	scoped_free struct io_event *new = malloc((n + 1) * sizeof(*new));
	struct io_event *more = realloc(w->real, (w->real_count + n + 1) * sizeof(*more));
	if (more)
		w->real = more;
	if (!new || !more)
		return -ENOMEM;
	if (r == 0)
		r = copy_events(w, w->pos, n, new, false);
	for (uint32_t i = 0; r == 0 && i < n; i++) {
		if (new[i].data != COOKIE || new[i].obj != AT(w, request))
			w->real[w->real_count++] = new[i];
	}
	w->pos = r == 0 ? h.tail : w->pos;
	return r;
}

/* The whole turn, if nothing is in flight. Return: places that were got, or a failure */
static int64_t take_places(struct wheel *w, size_t processors, size_t last, uint32_t waiting,
			   struct fvm_error *err)
{
	const uint32_t all = usable(w->nr, processors);
	const uint32_t places = all > waiting ? all - waiting : 0;
	uint64_t got = 0;
	begin(w);
	for (size_t i = 0; i <= last; i++) {
		const uint32_t kept = 2 * batch_of(w->nr, processors);
		add_processor(w, i);
		add_submit(w, i == 0 || kept > places ? places + 1 : kept + 1);
	}
	const size_t so_far = w->count;
	add_fetch(w, w->nr);
	add_submit(w, w->nr - places);
	add_fetch(w, w->nr);
	end(w);
	int r = run(w, err);
	if (r == 0 && w->calls[0].result != w->fd)
		r = fvm_error_say(err, EOPNOTSUPP,
				  "process %d has no descriptor left to count its requests with",
				  w->t->pid);
	for (size_t i = 0; r == 0 && i < so_far; i++) {
		if (w->calls[i].nr == SYS_io_submit && w->calls[i].result > 0)
			got += (uint64_t)w->calls[i].result;
	}
	return r < 0 ? r : (int64_t)got;
}

/* The rest of the turn, round by round; the last one takes as many places as there will be events
 * that are not fetched, since those are what the kernel then believes to be taken. */
static int turn_back(struct wheel *w, uint32_t waiting, uint64_t last, struct fvm_error *err)
{
	int r = scan(w);
	for (int tries = 0; r == 0; tries++) {
		const uint64_t keep = waiting + w->real_count, before = w->placed;
		const uint64_t left = w->nr - w->placed % w->nr;
		if (w->placed % w->nr == 0 && (last >= keep || tries > TRIES))
			return 0;
		begin(w);
		add_submit(w, left > keep ? left - keep : left);
		add_fetch(w, w->nr);
		end(w);
		r = run(w, err);
		last = w->placed - before;
		if (r == 0)
			r = scan(w);
		if (r == 0 && (uint64_t)tries > w->nr)
			r = -EDEADLK;
	}
	return fail(w, r, "turn a ring of asynchronous I/O", err);
}

static int put_back(struct wheel *w, const struct head *old, struct io_event *events,
		    uint32_t waiting, struct fvm_error *err)
{
	int r = copy_events(w, old->head, waiting, events, true);
	if (r == 0)
		r = copy_events(w, old->tail, (uint32_t)w->real_count, w->real, true);
	if (r == 0 && waiting + w->real_count)
		r = vin_mem_write(w->post->pid, w->ring + offsetof(struct head, head), &old->head,
				  sizeof(old->head));
	return r < 0 ? fail(w, r, "fill a ring of asynchronous I/O", err) : 0;
}

/* @flight more events have to come behind @tail. */
static int wait_for(const struct wheel *w, uint32_t tail, uint64_t flight, struct fvm_error *err)
{
	struct head h;
	for (int ms = 0; ms < FLIGHT_MS; ms++) {
		int r = read_head(w, &h);
		if (r < 0)
			return fvm_error_set(err, -r, "look at a ring of process %d", w->t->pid);
		if (unread(tail, h.tail, w->nr) >= flight)
			return 0;
		fvm_sleep_ms(1);
	}
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d can't be captured: of its asynchronous I/O at %llx %llu "
			     "requests are in flight and do not end",
			     w->t->pid, (unsigned long long)w->ring,
			     (unsigned long long)(flight - unread(tail, h.tail, w->nr)));
}

/* A fork's child has the mapping, but no context; and nothing behind it when its parent ends. */
static int is_live(const struct vin_post *post, struct vin_thread *t, uint64_t ring, bool *ret,
		   struct fvm_error *err)
{
	const struct vin_call ask = { SYS_io_getevents, { ring, 0, 0, 0, 0 } };
	int64_t result;
	int r = vin_call(post, t, "io_getevents", &ask, &result, err);
	*ret = result == 0;
	return r;
}

static int count(struct wheel *w, size_t processors, size_t last, struct fvm_error *err)
{
	struct head old;
	int r = read_head(w, &old);
	if (r < 0)
		return fail(w, r, "look at a ring", err);
	const uint32_t waiting = unread(old.head, old.tail, w->nr);
	scoped_free struct io_event *events = malloc((waiting + 1) * sizeof(*events));
	if (!events || copy_events(w, old.head, waiting, events, false) < 0)
		return fail(w, -ENOMEM, "read a ring", err);
	w->pos = old.tail;
	w->placed = w->looked = 0;
	const int64_t got = take_places(w, processors, last, waiting, err);
	if (got < 0)
		return (int)got;
	const int64_t flight = (int64_t)usable(w->nr, processors) - waiting - got;
	r = turn_back(w, waiting, w->placed - (uint64_t)got, err);
	if (r == 0)
		r = put_back(w, &old, events, waiting, err);
	return r == 0 && flight > 0 ? wait_for(w, old.tail, (uint64_t)flight, err) : r;
}

static int settle_one(struct wheel *w, const struct vin_area *a, struct fvm_error *err)
{
	size_t last = 0;
	const size_t processors = possible(&last);
	bool live;
	w->ring = a->start;
	w->nr = events_of(a->end - a->start);
	w->real_count = 0;
	int r = is_live(w->post, w->t, a->start, &live, err);
	if (r < 0 || !live)
		return r;
	if (processors == 0 || last >= PROCESSORS)
		return fvm_error_say(err, EOPNOTSUPP,
				     "it is not known how many processors there are");
	r = prepare(w, err);
	return r < 0 ? r : count(w, processors, last, err);
}

static bool is_ring(const struct vin_area *a)
{
	return a->kind == VIN_AREA_RING;
}

static size_t rings_in(const struct vin_mem *m)
{
	size_t n = 0;
	for (size_t i = 0; i < m->area_count; i++)
		n += is_ring(&m->areas[i]);
	return n;
}

static void wheel_free(struct wheel **w)
{
	if (*w) {
		free((*w)->room);
		free((*w)->real);
	}
	free(*w);
}

static struct wheel *wheel_new(const struct vin_post *post, struct vin_thread *t)
{
	struct wheel *w = calloc(1, sizeof(*w));
	if (w) {
		w->post = post;
		w->t = t;
		w->room = calloc(1, sizeof(*w->room));
	}
	if (w && !w->room)
		wheel_free(&w);
	return w;
}

int vin_rings_settle(const struct vin_mem *m, struct vin_thread *t, struct fvm_error *err)
{
	struct vin_post post;
	if (rings_in(m) == 0)
		return 0;
	int r = vin_post_open(&post, t, err);
	if (r < 0)
		return r;
	__attribute__((cleanup(wheel_free))) struct wheel *w = wheel_new(&post, t);
	if (!w)
		r = fvm_error_set(err, ENOMEM, "count requests");
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		if (is_ring(&m->areas[i]))
			r = settle_one(w, &m->areas[i], err);
	}
	int closed = vin_post_close(&post, t, r < 0 ? NULL : err);
	return r < 0 ? r : closed;
}

/* ---- what is written down ---- */

const char *vin_ring_why_not(pid_t pid, const struct vin_vma *v)
{
	const uint64_t size = v->end - v->start;
	struct head h;
	if (v->offset || !v->shared || size > RING_MAX)
		return "it is a part of a ring of asynchronous I/O";
	if (vin_mem_read(pid, v->start, &h, sizeof(h)) < 0)
		return NULL; /* of somebody who has ended */
	if (h.magic != MAGIC || h.length != sizeof(h) || h.nr != events_of(size))
		return "it is a ring of asynchronous I/O of another sort";
	return NULL;
}

static int ask_one(const struct vin_post *post, struct vin_thread *t, const struct vin_area *a,
		   struct vin_ring *ret, struct fvm_error *err)
{
	struct head h;
	*ret = (struct vin_ring){ .start = a->start };
	int r = is_live(post, t, a->start, &ret->live, err);
	if (r < 0 || !ret->live)
		return r;
	const struct wheel w = {
		.post = post, .t = t, .ring = a->start, .nr = events_of(a->end - a->start)
	};
	r = read_head(&w, &h);
	if (r == 0) {
		ret->head = h.head;
		ret->count = unread(h.head, h.tail, w.nr);
		ret->events = malloc((ret->count + 1) * sizeof(struct io_event));
		r = ret->events ? copy_events(&w, h.head, ret->count, ret->events, false) : -ENOMEM;
	}
	return r < 0 ? fvm_error_set(err, -r, "read a ring of process %d", t->pid) : 0;
}

void vin_rings_free(struct vin_mem *m)
{
	for (size_t i = 0; i < m->ring_count; i++)
		free(m->rings[i].events);
	free(m->rings);
	m->rings = NULL;
	m->ring_count = 0;
}

int vin_rings_ask(const struct vin_post *post, struct vin_thread *t, struct vin_mem *m,
		  struct fvm_error *err)
{
	int r = 0;
	vin_rings_free(m);
	m->rings = calloc(rings_in(m) + 1, sizeof(*m->rings));
	if (!m->rings)
		return fvm_error_set(err, ENOMEM, "list rings");
	for (size_t i = 0; r == 0 && i < m->area_count; i++) {
		if (is_ring(&m->areas[i]))
			r = ask_one(post, t, &m->areas[i], &m->rings[m->ring_count++], err);
	}
	return r;
}

void vin_rings_put(struct fvm_buf *to, const struct vin_mem *m)
{
	for (size_t i = 0; i < m->ring_count; i++) {
		const struct vin_ring *ring = &m->rings[i];
		vin_put_u64(to, ring->live);
		vin_put_u64(to, ring->head);
		vin_put_blob(to, ring->events, ring->count * sizeof(struct io_event));
	}
}

/* One for each area of that kind, in their order. */
int vin_rings_get(struct vin_payload *from, struct vin_mem *m)
{
	m->rings = calloc(rings_in(m) + 1, sizeof(*m->rings));
	if (!m->rings)
		return -ENOMEM;
	for (size_t i = 0; !from->failed && i < m->area_count; i++) {
		if (!is_ring(&m->areas[i]))
			continue;
		struct vin_ring ring = { .start = m->areas[i].start };
		const uint64_t size = m->areas[i].end - m->areas[i].start;
		size_t len;
		ring.live = vin_get_u64(from) != 0;
		const uint64_t head = vin_get_u64(from);
		const void *events = vin_get_blob(from, &len);
		ring.count = (uint32_t)(len / sizeof(struct io_event));
		ring.head = (uint32_t)head;
		if (from->failed || size > RING_MAX || head >= events_of(size) ||
		    len % sizeof(struct io_event) ||
		    len / sizeof(struct io_event) >= events_of(size))
			return -EBADMSG;
		ring.events = malloc(len + 1);
		if (!ring.events)
			return -ENOMEM;
		memcpy(ring.events, events, len);
		m->rings[m->ring_count++] = ring;
	}
	return 0;
}

/* ---- in the new world ---- */

static int set_up(struct wheel *w, uint32_t nr, struct fvm_error *err)
{
	struct head h;
	const struct vin_call call = { SYS_io_setup, { (nr - 2) / 2, AT(w, context) } };
	w->room->context = 0;
	w->nr = nr;
	int64_t result = 0;
	int r = prepare(w, err);
	if (r == 0)
		r = vin_call(w->post, w->t, "io_setup", &call, &result, err);
	if (r < 0)
		return r;
	if (result < 0) {
		r = fvm_error_set(err, (int)-result, "make a ring of asynchronous I/O");
		if (result == -EAGAIN)
			fvm_error_hint(err,
				       "/proc/sys/fs/aio-max-nr is how many requests there may "
				       "be for all programs");
		return r;
	}
	r = vin_mem_read(w->post->pid, AT(w, context), &w->ring, sizeof(w->ring));
	if (r == 0)
		r = vin_mem_read(w->post->pid, w->ring, &h, sizeof(h));
	if (r < 0)
		return fail(w, r, "look at a ring", err);
	return h.nr == nr ? 0
			  : fvm_error_say(err, EOPNOTSUPP,
					  "programs have a ring of asynchronous I/O for %u events, "
					  "and this kernel makes one for %u",
					  nr, h.nr);
}

/* By one processor, which has all places then. */
static int roll(struct wheel *w, const struct vin_ring *ring, struct fvm_error *err)
{
	struct head h;
	const uint32_t tail = (ring->head + ring->count) % w->nr;
	size_t first = 0;
	while (first < PROCESSORS - 1 && !(w->room->own[first / 8] >> first % 8 & 1))
		first++;
	begin(w);
	add_processor(w, first);
	const uint32_t some =
		w->nr / 2 < EVENTS ? w->nr / 2 : EVENTS; /* so many places there are */
	int r = 0;
	for (uint32_t done = 0; r == 0 && done < ring->head; done += some) {
		add_submit(w, ring->head - done < some ? ring->head - done : some);
		add_fetch(w, some);
		r = w->count + ROLL_CALLS > VIN_BATCH_MAX ? run(w, err) : 0;
	}
	add_submit(w, ring->count);
	end(w);
	if (r == 0)
		r = run(w, err);
	if (r == 0 && (vin_mem_read(w->post->pid, w->ring, &h, sizeof(h)) < 0 ||
		       h.head != ring->head || h.tail != tail))
		r = fvm_error_say(err, EOPNOTSUPP,
				  "a ring of asynchronous I/O can't be turned to where it was");
	if (r == 0 && copy_events(w, ring->head, ring->count, ring->events, true) < 0)
		r = fvm_error_say(err, EIO, "write into a ring of asynchronous I/O");
	return r;
}

static int move(struct wheel *w, const struct vin_area *a, struct fvm_error *err)
{
	const uint64_t size = a->end - a->start;
	const struct vin_call call = {
		SYS_mremap, { w->ring, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, a->start }
	};
	const struct vin_call protect = { SYS_mprotect, { a->start, size, (uint64_t)a->prot } };
	int64_t at;
	bool live = false;
	int r = vin_call(w->post, w->t, "mremap", &call, &at, err);
	if (r == 0 && (uint64_t)at != a->start)
		r = fvm_error_say(err, EOPNOTSUPP, "a ring of asynchronous I/O can't be moved");
	if (r == 0)
		r = is_live(w->post, w->t, a->start, &live, err);
	if (r == 0 && !live)
		r = fvm_error_say(err, EOPNOTSUPP, "a ring of asynchronous I/O is lost when moved");
	if (r == 0 && a->prot != (PROT_READ | PROT_WRITE))
		r = vin_call(w->post, w->t, "mprotect", &protect, NULL, err);
	return r;
}

static const struct vin_area *area_of(const struct vin_mem *m, const struct vin_ring *ring)
{
	size_t i = 0;
	while (m->areas[i].start != ring->start)
		i++;
	return &m->areas[i];
}

int vin_rings_make(struct vin_blank *b, const struct vin_mem *m, struct fvm_error *err)
{
	int r = 0;
	if (m->ring_count == 0)
		return 0;
	__attribute__((cleanup(wheel_free))) struct wheel *w = wheel_new(&b->post, &b->thread);
	if (!w)
		return fvm_error_set(err, ENOMEM, "make rings");
	for (size_t i = 0; r == 0 && i < m->ring_count; i++) {
		const struct vin_area *a = area_of(m, &m->rings[i]);
		if (!m->rings[i].live)
			continue;
		r = set_up(w, events_of(a->end - a->start), err);
		if (r == 0)
			r = roll(w, &m->rings[i], err);
		if (r == 0)
			r = move(w, a, err);
	}
	return r;
}
