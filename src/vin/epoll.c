/*
 * Epolls. An item is the pair of a description and the number that it had at the time, which may
 * have become another's since. kcmp(2) tells which description that is; in the new world a child,
 * whose descriptors are a copy of ours, brings the description to that number and adds it.
 *
 * Whether an edge has been told already is not to be seen without taking it. But poll(2) says
 * whether anything at all is to be told: if not, what adding the items anew found to tell is taken
 * away, and nobody hears of an edge twice. If so, it is left: better twice than never.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/kcmp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/kinds.h"

struct watched {
	uint64_t number, events, data, file;
};

struct epoll {
	bool quiet; /* has nothing to tell */
	size_t count;
	struct watched *items;
};

static bool matches(const struct vin_open *o)
{
	return vin_link_is(o, "[eventpoll]");
}

/* The items of one number come in an order of the kernel's; which one of them @at is. */
static uint32_t place_among(const struct vin_open *o, size_t at)
{
	uint32_t place = 0;
	for (size_t i = 0; i < at; i++)
		place += o->info.items[i].fd == o->info.items[at].fd;
	return place;
}

/* 1, 0, or negative: kcmp is refused, or the item has gone meanwhile. */
static int is_target(const struct vin_open *o, size_t at, const struct vin_open *target)
{
	struct kcmp_epoll_slot slot = {
		.efd = (uint32_t)o->fd,
		.tfd = (uint32_t)o->info.items[at].fd,
		.toff = place_among(o, at),
	};
	pid_t self = getpid();
	long r = syscall(SYS_kcmp, self, self, KCMP_EPOLL_TFD, (unsigned long)target->fd, &slot);
	return r < 0 ? -errno : r == 0;
}

static bool may_be_target(const struct vin_epoll_item *item, const struct vin_open *target)
{
	return target->st.st_ino == item->ino && target->st.st_dev == item->dev;
}

/* Where kcmp is refused: who has that number now is the target, if it looks like it. */
static const struct vin_open *by_number(const struct vin_files *all, const struct vin_open *o,
					const struct vin_epoll_item *item)
{
	for (size_t t = 0; t < all->table_count; t++) {
		const struct vin_table *table = &all->tables[t];
		for (size_t e = 0; table->via == o->pid && e < table->count; e++) {
			const struct vin_open *there = &all->opens[table->entries[e].file];
			if (table->entries[e].number == item->fd && may_be_target(item, there))
				return there;
		}
	}
	return NULL;
}

static const struct vin_open *find_target(const struct vin_files *all, const struct vin_open *o,
					  size_t at)
{
	const struct vin_epoll_item *item = &o->info.items[at];
	const struct vin_open *likely = by_number(all, o, item);
	if (likely && (all->no_kcmp || is_target(o, at, likely) != 0))
		return likely;
	for (size_t i = 0; !all->no_kcmp && i < all->count; i++) {
		const struct vin_open *target = &all->opens[i];
		if (may_be_target(item, target) && is_target(o, at, target) == 1)
			return target;
	}
	return NULL;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	for (size_t i = 0; i < o->info.item_count; i++) {
		if (!find_target(all, o, i))
			return fvm_error_say(err, EOPNOTSUPP,
					     "it watches number %d, which no program has open",
					     o->info.items[i].fd);
	}
	return 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	struct pollfd p = { .fd = o->fd, .events = POLLIN };
	vin_put_u64(to, poll(&p, 1, 0) == 0);
	vin_put_u64(to, o->info.item_count);
	for (size_t i = 0; i < o->info.item_count; i++) {
		const struct vin_epoll_item *item = &o->info.items[i];
		const struct vin_open *target = find_target(all, o, i);
		if (!target)
			return fvm_error_set(err, ESTALE, "find what number %d was", item->fd);
		vin_put_u64(to, (uint64_t)item->fd);
		vin_put_u64(to, item->events);
		vin_put_u64(to, item->data);
		vin_put_u64(to, target->id);
	}
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct epoll *e = ret;
	(void)first;
	uint64_t quiet = vin_get_u64(p), count = vin_get_u64(p);
	if (p->failed || quiet > 1 || count > (size_t)(p->end - p->at) / sizeof(struct watched))
		return -EBADMSG;
	e->quiet = quiet;
	e->items = calloc(count + 1, sizeof(*e->items));
	if (!e->items)
		return -ENOMEM;
	for (; e->count < count; e->count++) {
		struct watched *w = &e->items[e->count];
		w->number = vin_get_u64(p);
		w->events = vin_get_u64(p);
		w->data = vin_get_u64(p);
		w->file = vin_get_u64(p);
		if (p->failed || w->number >= VIN_FILES_MAX || w->events > UINT32_MAX)
			return -EBADMSG;
	}
	return 0;
}

static void forget(void *its)
{
	free(((struct epoll *)its)->items);
}

static int open_epoll(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	(void)r;
	(void)f;
	int fd = epoll_create1(EPOLL_CLOEXEC);
	return fd < 0 ? fvm_error_set(err, errno, "make an epoll") : fd;
}

/* In the child: the pool is above all numbers, and what is below it is not needed any more. */
static int add_all(const struct vin_reopen *r, const struct vin_file *f)
{
	const struct epoll *e = f->its;
	for (size_t i = 0; i < e->count; i++) {
		const struct watched *w = &e->items[i];
		struct epoll_event event = { .events = (uint32_t)w->events, .data.u64 = w->data };
		const int number = (int)w->number;
		if (dup2(r->files[w->file].fd, number) < 0 ||
		    epoll_ctl(f->fd, EPOLL_CTL_ADD, number, &event) < 0)
			return errno;
		close(number);
	}
	return 0;
}

static int finish(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct epoll *e = f->its;
	int status;
	for (size_t i = 0; i < e->count; i++) {
		if (e->items[i].file >= r->count || e->items[i].number >= (uint64_t)r->base)
			return fvm_error_set(err, EBADMSG, "understand what an epoll watches");
	}
	if (e->count == 0)
		return 0;
	pid_t child = fork();
	if (child == 0)
		_exit(add_all(r, f));
	if (child < 0 || waitpid(child, &status, 0) < 0)
		return fvm_error_set(err, errno, "have a child fill an epoll");
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		return fvm_error_set(err, WIFEXITED(status) ? WEXITSTATUS(status) : EIO,
				     "have an epoll watch %zu files", e->count);
	return 0;
}

static bool has_number(const struct vin_table *t, const struct watched *w)
{
	for (size_t i = 0; i < t->count; i++) {
		if ((uint64_t)t->entries[i].number == w->number && t->entries[i].file == w->file)
			return true;
	}
	return false;
}

/* A signalfd tells whoever has it watched of the signals of the process that said so, and of no
 * other: it is watched once more, by the process. */
static int plan(struct vin_reopen *r, const struct vin_file *f)
{
	const struct epoll *e = f->its;
	int number, result = 0;
	struct vin_table *t = vin_late_holder(r, f->id, &number);
	for (size_t i = 0; t && result == 0 && i < e->count; i++) {
		const struct watched *w = &e->items[i];
		struct epoll_event event = { .events = (uint32_t)w->events, .data.u64 = w->data };
		const struct vin_inside forget_it = {
			.nr = SYS_epoll_ctl, .args = { (uint64_t)number, EPOLL_CTL_DEL, w->number }
		};
		struct vin_inside watch_it = {
			.nr = SYS_epoll_ctl,
			.args = { (uint64_t)number, EPOLL_CTL_ADD, w->number },
			.data_arg = 3,
			.data_len = sizeof(event),
		};
		memcpy(watch_it.data, &event, sizeof(event));
		if (r->files[w->file].kind != &vin_kind_signalfd || !has_number(t, w))
			continue;
		result = vin_late_add(t, &forget_it);
		if (result == 0)
			result = vin_late_add(t, &watch_it);
	}
	return result;
}

/* Edges only: an item with a level would have had something to tell. */
static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct epoll *e = f->its;
	struct epoll_event events[64];
	(void)r;
	for (size_t rounds = e->count / 64 + 2; e->quiet && rounds > 0; rounds--) {
		int n = epoll_wait(f->fd, events, FVM_COUNT(events), 0);
		if (n < 0)
			return fvm_error_set(err, errno, "wait for an epoll");
		if (n == 0)
			break;
	}
	return 0;
}

const struct vin_kind vin_kind_epoll = {
	.name = "an epoll",
	.nr = VIN_KIND_EPOLL,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct epoll),
	.parse = parse,
	.forget = forget,
	.open = open_epoll,
	.finish = finish,
	.plan = plan,
	.settle = settle,
};
