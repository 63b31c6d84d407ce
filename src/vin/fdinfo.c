#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "vin/fdinfo.h"

#define TEXT_LIMIT (64U << 20) /* an epoll may watch hundreds of thousands, a line each */

void vin_fdinfo_free(struct vin_fdinfo *i)
{
	free(i->locks);
	free(i->items);
	free(i->marks);
	*i = (struct vin_fdinfo){ 0 };
}

/* ---- numbers ---- */

/* Reads one number at *@p behind blanks and goes on behind it. */
static bool number(const char **p, int base, uint64_t *ret)
{
	char *after;
	const char *from = *p + strspn(*p, " \t");
	if ((*from < '0' || *from > '9') && (base < 16 || *from < 'a' || *from > 'f'))
		return false;
	errno = 0;
	*ret = strtoull(from, &after, base);
	*p = after;
	return errno == 0 && after > from;
}

static bool small(const char **p, int base, uint64_t limit, uint64_t *ret)
{
	return number(p, base, ret) && *ret <= limit;
}

/* @word, and a number behind it. */
static bool named(const char **p, const char *word, int base, uint64_t *ret)
{
	const char *from = *p + strspn(*p, " \t");
	size_t len = strlen(word);
	if (strncmp(from, word, len) != 0)
		return false;
	*p = from + len;
	return number(p, base, ret);
}

/* One of @words, which starts with its first; its place, or -1. */
static int one_of(const char **p, const char *const *words, size_t count)
{
	const char *from = *p + strspn(*p, " \t");
	for (size_t i = 0; i < count; i++) {
		size_t len = strlen(words[i]);
		if (strncmp(from, words[i], len) == 0 && from[len] == ' ') {
			*p = from + len;
			return (int)i;
		}
	}
	return -1;
}

/* ---- lines ---- */

typedef int (*line_fn)(const char *value, struct vin_fdinfo *to);

static int line_pos(const char *value, struct vin_fdinfo *to)
{
	char *after;
	errno = 0;
	to->pos = strtoll(value, &after, 10);
	return errno != 0 || after == value ? -EBADMSG : 0;
}

static int line_flags(const char *value, struct vin_fdinfo *to)
{
	uint64_t n;
	if (!small(&value, 8, UINT_MAX, &n))
		return -EBADMSG;
	to->flags = (unsigned int)n;
	return 0;
}

static int line_mount(const char *value, struct vin_fdinfo *to)
{
	uint64_t n;
	if (!small(&value, 10, INT_MAX, &n))
		return -EBADMSG;
	to->mnt_id = (int)n;
	return 0;
}

static int line_count(const char *value, struct vin_fdinfo *to)
{
	to->is_eventfd = true;
	return number(&value, 16, &to->eventfd_count) ? 0 : -EBADMSG;
}

static int line_semaphore(const char *value, struct vin_fdinfo *to)
{
	uint64_t n;
	if (!small(&value, 10, 1, &n))
		return -EBADMSG;
	to->eventfd_semaphore = (int)n;
	return 0;
}

static int line_clock(const char *value, struct vin_fdinfo *to)
{
	uint64_t n;
	to->is_timerfd = true;
	if (!small(&value, 10, 63, &n))
		return -EBADMSG;
	to->clock = (int)n;
	return 0;
}

static int line_ticks(const char *value, struct vin_fdinfo *to)
{
	return number(&value, 10, &to->ticks) ? 0 : -EBADMSG;
}

static int line_settime(const char *value, struct vin_fdinfo *to)
{
	uint64_t n;
	if (!small(&value, 8, INT_MAX, &n))
		return -EBADMSG;
	to->settime_flags = (int)n;
	return 0;
}

static int line_sigmask(const char *value, struct vin_fdinfo *to)
{
	to->is_signalfd = true;
	return number(&value, 16, &to->sigmask) ? 0 : -EBADMSG;
}

/* The kernel's own form of a device's number: 12 bits of major, 20 of minor. */
static dev_t kernels_device(uint64_t number)
{
	return makedev(number >> 20, number & 0xfffff);
}

/* "       5 events:       19 data:                5  pos:0 ino:61af sdev:7" */
static int line_item(const char *p, struct vin_fdinfo *to)
{
	struct vin_epoll_item item = { 0 };
	uint64_t fd, events, dev;
	if (!small(&p, 10, INT_MAX, &fd) || !named(&p, "events:", 16, &events) ||
	    events > UINT32_MAX || !named(&p, "data:", 16, &item.data))
		return -EBADMSG;
	/* the position may be negative and is of no use */
	p = strstr(p, "ino:");
	if (!p || !named(&p, "ino:", 16, &item.ino) || !named(&p, "sdev:", 16, &dev))
		return -EBADMSG;
	item.fd = (int)fd;
	item.events = (uint32_t)events;
	item.dev = kernels_device(dev);
	struct vin_epoll_item *more =
		realloc(to->items, fvm_room(to->item_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	to->items = more;
	to->items[to->item_count++] = item;
	return 0;
}

/* ---- marks ---- */

static int hex_digit(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* " fhandle-bytes:8 fhandle-type:1 f_handle:7e9e0000640d1b6d", where a file system has handles. */
static bool mark_handle(const char *p, struct vin_mark *m)
{
	uint64_t len, type;
	const char *at = strstr(p, "fhandle-bytes:");
	const char *end = p + strcspn(p, "\n");
	if (!at || at > end)
		return true;
	if (!named(&at, "fhandle-bytes:", 16, &len) || !named(&at, "fhandle-type:", 16, &type) ||
	    len > VIN_HANDLE_MAX || type > INT_MAX || strncmp(at, " f_handle:", 10) != 0)
		return false;
	at += 10;
	for (size_t i = 0; i < len; i++) {
		int high = hex_digit(at[0]), low = high < 0 ? -1 : hex_digit(at[1]);
		if (low < 0)
			return false;
		m->handle[i] = (unsigned char)(high << 4 | low);
		at += 2;
	}
	m->handle_type = (int)type;
	m->handle_len = (size_t)len;
	return true;
}

static int add_mark(struct vin_fdinfo *to, const struct vin_mark *m)
{
	struct vin_mark *more = realloc(to->marks, fvm_room(to->mark_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	to->marks = more;
	to->marks[to->mark_count++] = *m;
	return 0;
}

/* "inotify wd:3 ino:9e7e sdev:800013 mask:800afce ignored_mask:0 fhandle-bytes:8 .." */
static int line_inotify(const char *p, struct vin_fdinfo *to)
{
	struct vin_mark m = { .kind = VIN_MARK_INOTIFY };
	uint64_t wd, dev;
	if (!named(&p, "wd:", 16, &wd) || wd == 0 || wd > INT_MAX ||
	    !named(&p, "ino:", 16, &m.ino) || !named(&p, "sdev:", 16, &dev) ||
	    !named(&p, "mask:", 16, &m.mask) || m.mask > UINT32_MAX || !mark_handle(p, &m))
		return -EBADMSG;
	m.wd = (int)wd;
	m.dev = kernels_device(dev);
	return add_mark(to, &m);
}

static bool mark_masks(const char *p, struct vin_mark *m)
{
	return named(&p, "mflags:", 16, &m->flags) && named(&p, "mask:", 16, &m->mask) &&
	       named(&p, "ignored_mask:", 16, &m->ignored) && mark_handle(p, m);
}

/* "fanotify flags:0 event-flags:8000", then a line a mark: of an inode (ino:, sdev:), a mount
 * (mnt_id:) or a file system (sdev:), each with mflags:, mask: and ignored_mask: */
static int line_fanotify(const char *p, struct vin_fdinfo *to)
{
	struct vin_mark m = { .kind = VIN_MARK_INODE };
	uint64_t n;
	to->is_fanotify = true;
	if (named(&p, "flags:", 16, &to->fanotify_flags))
		return named(&p, "event-flags:", 16, &to->fanotify_event_flags) ? 0 : -EBADMSG;
	if (named(&p, "mnt_id:", 16, &n)) {
		m.kind = VIN_MARK_MOUNT;
		m.mnt_id = (int)(n & INT_MAX);
	} else {
		if (!named(&p, "ino:", 16, &m.ino))
			m.kind = VIN_MARK_FILESYSTEM;
		if (!named(&p, "sdev:", 16, &n))
			return -EBADMSG;
		m.dev = kernels_device(n);
	}
	return mark_masks(p, &m) ? add_mark(to, &m) : -EBADMSG;
}

/* ---- pidfds ---- */

static int line_pid(const char *value, struct vin_fdinfo *to)
{
	char *after;
	errno = 0;
	long n = strtol(value, &after, 10);
	to->is_pidfd = true;
	if (errno != 0 || after == value || n < -1 || n > INT_MAX)
		return -EBADMSG;
	to->pid = (pid_t)n;
	return 0;
}

/* One number a namespace, the innermost last. */
static int line_pids(const char *value, struct vin_fdinfo *to)
{
	uint64_t n = 0;
	const char *end = value + strcspn(value, "\n");
	if (strncmp(value + strspn(value, " \t"), "-1", 2) == 0)
		return 0;
	while (value < end) {
		if (!small(&value, 10, INT_MAX, &n))
			return -EBADMSG;
		value += strspn(value, " \t");
	}
	to->inner_pid = (pid_t)n;
	return 0;
}

/* ---- locks ---- */

static bool lock_range(const char *p, struct vin_lock *lock)
{
	uint64_t start, end = 0;
	p = strrchr(p, ':'); /* behind pid, device and inode */
	if (!p)
		return false;
	p++;
	if (!number(&p, 10, &start) || !small(&p, 10, INT64_MAX, &start))
		return false;
	p += strspn(p, " ");
	bool open = strncmp(p, "EOF", 3) == 0;
	if (!open && (!small(&p, 10, INT64_MAX, &end) || end < start))
		return false;
	lock->start = (int64_t)start;
	lock->end = open ? -1 : (int64_t)end;
	return true;
}

/* "1: POSIX  ADVISORY  WRITE 359 00:13:11691 0 EOF" */
static int line_lock(const char *value, struct vin_fdinfo *to)
{
	static const char *const kinds[] = { "POSIX", "OFDLCK", "FLOCK", "LEASE" };
	static const char *const states[] = { "ADVISORY", "MANDATORY", "ACTIVE", "BREAKING" };
	static const char *const types[] = { "READ", "WRITE" };
	char line[160];
	uint64_t n;
	snprintf(line, sizeof(line), "%.*s", (int)strcspn(value, "\n"), value);
	const char *p = line;
	if (!number(&p, 10, &n) || *p++ != ':')
		return -EBADMSG;
	int kind = one_of(&p, kinds, FVM_COUNT(kinds));
	int state = one_of(&p, states, FVM_COUNT(states));
	int type = one_of(&p, types, FVM_COUNT(types));
	/* what we have no name for (delegations of a server, a lease that ends) is nobody's here */
	if (kind < 0 || state < 0 || type < 0)
		return 0;
	struct vin_lock lock = { .kind = (enum vin_lock_kind)kind,
				 .write = type == 1,
				 .breaking = state == 3 };
	if (!lock_range(p, &lock))
		return -EBADMSG;
	struct vin_lock *more = realloc(to->locks, fvm_room(to->lock_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	to->locks = more;
	to->locks[to->lock_count++] = lock;
	return 0;
}

static const struct line {
	const char *name;
	line_fn parse;
} lines[] = {
	{ "pos:", line_pos },
	{ "flags:", line_flags },
	{ "mnt_id:", line_mount },
	{ "eventfd-count:", line_count },
	{ "eventfd-semaphore:", line_semaphore },
	{ "clockid:", line_clock },
	{ "ticks:", line_ticks },
	{ "settime flags:", line_settime },
	{ "sigmask:", line_sigmask },
	{ "tfd:", line_item },
	{ "lock:", line_lock },
	{ "inotify ", line_inotify },
	{ "fanotify ", line_fanotify },
	{ "Pid:", line_pid },
	{ "NSpid:", line_pids },
};

static int parse_line(const char *line, struct vin_fdinfo *to)
{
	for (size_t i = 0; i < FVM_COUNT(lines); i++) {
		size_t len = strlen(lines[i].name);
		if (strncmp(line, lines[i].name, len) == 0)
			return lines[i].parse(line + len, to);
	}
	return 0;
}

int vin_fdinfo_parse(const char *text, struct vin_fdinfo *ret)
{
	scoped_fdinfo info = { .eventfd_semaphore = -1 };
	if (strncmp(text, "pos:", 4) != 0)
		return -EBADMSG;
	for (const char *p = text; *p;) {
		int r = parse_line(p, &info);
		if (r < 0)
			return r;
		p += strcspn(p, "\n");
		p += *p == '\n';
	}
	*ret = info;
	info.locks = NULL;
	info.items = NULL;
	info.marks = NULL;
	return 0;
}

int vin_fdinfo_read(pid_t pid, int fd, struct vin_fdinfo *ret, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/fdinfo/%d", pid, fd);
	int r = fvm_read_file(AT_FDCWD, path, TEXT_LIMIT, &text, NULL);
	if (r < 0)
		return fvm_error_set(err, -r, "read %s", path);
	r = vin_fdinfo_parse(text, ret);
	return r < 0 ? fvm_error_set(err, -r, "understand %s", path) : 0;
}
