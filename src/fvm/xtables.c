#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <unistd.h>

#include <linux/netfilter_ipv4/ip_tables.h>
#include <linux/netfilter_ipv6/ip6_tables.h>
#include <linux/netfilter/xt_comment.h>

#include "fvm/xtables.h"

#define TABLE	    "filter"
#define LINKS	    "fvm+"
#define COMMENT	    "fvm: packets of VMs"
#define LOCK	    "/run/xtables.lock"
#define LOCK_TRIES  50
#define LOCK_MS	    10
#define TRIES	    8
#define TABLE_BYTES (64U << 20) /* more has nobody */

/* Both families have the same calls with the same numbers, and entries of another length. */
struct family {
	int domain, level;
	const char *names;
	size_t head; /* of an entry */
	size_t at_in, at_out, at_in_mask, at_out_mask, at_target, at_next, at_counters;
};

#define OFFSETS(type, part)                                                                        \
	sizeof(struct type), offsetof(struct type, part.iniface),                                  \
		offsetof(struct type, part.outiface), offsetof(struct type, part.iniface_mask),    \
		offsetof(struct type, part.outiface_mask), offsetof(struct type, target_offset),   \
		offsetof(struct type, next_offset), offsetof(struct type, counters)

static const struct family families[] = {
	{ AF_INET, IPPROTO_IP, "/proc/net/ip_tables_names", OFFSETS(ipt_entry, ip) },
	{ AF_INET6, IPPROTO_IPV6, "/proc/net/ip6_tables_names", OFFSETS(ip6t_entry, ipv6) },
};

_Static_assert(IPT_SO_GET_INFO == IP6T_SO_GET_INFO && IPT_SO_SET_REPLACE == IP6T_SO_SET_REPLACE &&
		       sizeof(struct ipt_replace) == sizeof(struct ip6t_replace) &&
		       sizeof(struct ipt_getinfo) == sizeof(struct ip6t_getinfo),
	       "one code for both");

/* A table as it was read, and as it is to be. */
struct table {
	const struct family *family;
	int sock;
	struct ipt_getinfo info;
	struct ipt_get_entries *old;
	struct fvm_buf entries;	 /* new */
	struct fvm_buf counters; /* of each new entry: struct xt_counters */
	int changed;
};

static void table_close(struct table *t)
{
	fvm_fd_closep(&t->sock);
	free(t->old);
	fvm_buf_free(&t->entries);
	fvm_buf_free(&t->counters);
}

/* ---- entries ---- */

static uint16_t get16(const char *at)
{
	uint16_t n;
	memcpy(&n, at, sizeof(n));
	return n;
}

static const char *old_entry(const struct table *t, size_t offset)
{
	return (const char *)t->old->entrytable + offset;
}

/* Length of the old entry at @offset, 0 when it is none. */
static size_t old_length(const struct table *t, size_t offset)
{
	const struct family *f = t->family;
	if (offset + f->head > t->old->size)
		return 0;
	size_t length = get16(old_entry(t, offset) + f->at_next);
	size_t target = get16(old_entry(t, offset) + f->at_target);
	bool fits = length >= f->head + sizeof(struct xt_entry_target) &&
		    offset + length <= t->old->size && target >= f->head &&
		    target + sizeof(struct xt_entry_target) <= length;
	return fits ? length : 0;
}

/* The first match is our comment. */
static bool is_ours(const struct table *t, size_t offset)
{
	const struct family *f = t->family;
	const char *entry = old_entry(t, offset);
	struct xt_entry_match match;
	const size_t info = f->head + sizeof(match);
	if (get16(entry + f->at_target) < info + sizeof(COMMENT))
		return false;
	memcpy(&match, entry + f->head, sizeof(match));
	return strncmp(match.u.user.name, "comment", sizeof(match.u.user.name)) == 0 &&
	       memcmp(entry + info, COMMENT, sizeof(COMMENT)) == 0;
}

#define MATCH_SIZE  XT_ALIGN(sizeof(struct xt_entry_match) + sizeof(struct xt_comment_info))
#define TARGET_SIZE XT_ALIGN(sizeof(struct xt_standard_target))

static size_t our_length(const struct family *f)
{
	return f->head + MATCH_SIZE + TARGET_SIZE;
}

static void put_ours(struct table *t, bool out)
{
	const struct family *f = t->family;
	char entry[sizeof(struct ip6t_entry) + MATCH_SIZE + TARGET_SIZE] = { 0 };
	struct xt_entry_match match = { .u.user = { .match_size = MATCH_SIZE, .name = "comment" } };
	struct xt_standard_target target = {
		.target.u.user.target_size = TARGET_SIZE,
		.verdict = -NF_ACCEPT - 1,
	};
	const struct xt_counters none = { 0 };
	const uint16_t length = (uint16_t)our_length(f),
		       target_at = (uint16_t)(f->head + MATCH_SIZE);
	memcpy(entry + (out ? f->at_out : f->at_in), LINKS, sizeof(LINKS));
	/* without the '+': what begins so */
	memset(entry + (out ? f->at_out_mask : f->at_in_mask), 0xff, strlen(LINKS) - 1);
	memcpy(entry + f->at_target, &target_at, sizeof(target_at));
	memcpy(entry + f->at_next, &length, sizeof(length));
	memcpy(entry + f->head, &match, sizeof(match));
	memcpy(entry + f->head + sizeof(match), COMMENT, sizeof(COMMENT));
	memcpy(entry + f->head + MATCH_SIZE, &target, sizeof(target));
	fvm_buf_add(&t->entries, entry, length);
	fvm_buf_add(&t->counters, &none, sizeof(none));
	t->changed++;
}

static void put_old(struct table *t, size_t offset, size_t length)
{
	const char *entry = old_entry(t, offset);
	fvm_buf_add(&t->entries, entry, length);
	fvm_buf_add(&t->counters, entry + t->family->at_counters, sizeof(struct xt_counters));
}

/* ---- a table ---- */

/* Return: 0, -ENOENT (there is none), -errno */
static int table_read(struct table *t)
{
	socklen_t len = sizeof(t->info);
	/* iptables(8) has a raw one; any of the family will do, and the keeper has no right to
	 * those */
	t->sock = socket(t->family->domain, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (t->sock < 0)
		return -errno;
	strcpy(t->info.name, TABLE);
	if (getsockopt(t->sock, t->family->level, IPT_SO_GET_INFO, &t->info, &len) < 0)
		return -errno;
	if (t->info.size > TABLE_BYTES)
		return -EFBIG;
	len = (socklen_t)(sizeof(*t->old) + t->info.size);
	t->old = calloc(1, len);
	if (!t->old)
		return -ENOMEM;
	strcpy(t->old->name, TABLE);
	t->old->size = t->info.size;
	if (getsockopt(t->sock, t->family->level, IPT_SO_GET_ENTRIES, t->old, &len) < 0)
		return -errno;
	return 0;
}

/* Where the old entry at @old is in the new table: @moved has each entry's old and new offset. */
struct moved {
	uint32_t from, to;
};

static int compare_moved(const void *key, const void *item)
{
	uint32_t from = *(const uint32_t *)key;
	const struct moved *m = item;
	return from < m->from ? -1 : from > m->from;
}

static bool look_up(const struct fvm_buf *moved, uint32_t *offset)
{
	const struct moved *m =
		bsearch(offset, moved->data, moved->len / sizeof(*m), sizeof(*m), compare_moved);
	if (m)
		*offset = m->to;
	return m;
}

/* Jumps of a new table still say old offsets. */
static int move_jumps(struct table *t, const struct fvm_buf *moved)
{
	const struct family *f = t->family;
	for (size_t at = 0; at < t->entries.len; at += get16(t->entries.data + at + f->at_next)) {
		char *target = t->entries.data + at + get16(t->entries.data + at + f->at_target);
		const struct xt_entry_target *head = (void *)target;
		char *verdict = target + offsetof(struct xt_standard_target, verdict);
		uint32_t to;
		if (strcmp(head->u.user.name, XT_STANDARD_TARGET) != 0 ||
		    head->u.user.target_size < sizeof(struct xt_standard_target))
			continue;
		memcpy(&to, verdict, sizeof(to));
		if (to > INT_MAX) /* a verdict, no jump */
			continue;
		if (!look_up(moved, &to))
			return -EBADMSG;
		memcpy(verdict, &to, sizeof(to));
	}
	return 0;
}

/* The new table: the old one without our entries, and with @add with new ones. */
static int table_build(struct table *t, bool add, struct fvm_buf *moved)
{
	const uint32_t forward = t->info.hook_entry[NF_INET_FORWARD];
	size_t length, found = 0;
	assert(t->old);
	for (size_t at = 0; at < t->old->size; at += length) {
		length = old_length(t, at);
		if (length == 0)
			return -EBADMSG;
		if (at == forward && add) {
			put_ours(t, false);
			put_ours(t, true);
		}
		const struct moved m = { (uint32_t)at, (uint32_t)t->entries.len };
		fvm_buf_add(moved, &m, sizeof(m));
		if (is_ours(t, at))
			found++;
		else
			put_old(t, at, length);
	}
	if (t->entries.failed || t->counters.failed || moved->failed)
		return -ENOMEM;
	t->changed += (int)found;
	/* both are there, first of all: nothing to do */
	const size_t second = forward + our_length(t->family);
	if (add && found == 2 && is_ours(t, forward) && is_ours(t, second))
		t->changed = 0;
	return t->changed ? move_jumps(t, moved) : 0;
}

static int table_write(struct table *t, bool add, const struct fvm_buf *moved)
{
	size_t size = sizeof(struct ipt_replace) + t->entries.len;
	const size_t count = t->counters.len / sizeof(struct xt_counters);
	scoped_free struct ipt_replace *new = calloc(1, size);
	scoped_free struct xt_counters *old = calloc(t->info.num_entries, sizeof(*old));
	if (!new || !old)
		return -ENOMEM;
	strcpy(new->name, TABLE);
	new->valid_hooks = t->info.valid_hooks;
	new->num_entries = (unsigned int)count;
	new->size = (unsigned int)t->entries.len;
	new->num_counters = t->info.num_entries;
	new->counters = old;
	for (size_t i = 0; i < NF_INET_NUMHOOKS; i++) {
		if (!(t->info.valid_hooks & 1U << i))
			continue;
		new->hook_entry[i] = t->info.hook_entry[i];
		new->underflow[i] = t->info.underflow[i];
		if (!look_up(moved, &new->hook_entry[i]) || !look_up(moved, &new->underflow[i]))
			return -EBADMSG;
	}
	if (add) /* ours stand before what was the first */
		new->hook_entry[NF_INET_FORWARD] -= 2 * (uint32_t)our_length(t->family);
	memcpy(new->entries, t->entries.data, t->entries.len);
	if (setsockopt(t->sock, t->family->level, IPT_SO_SET_REPLACE, new, (socklen_t)size) < 0)
		return -errno;
	/* what was counted since it was read is lost: nobody's, for a moment */
	size = sizeof(struct xt_counters_info) + t->counters.len;
	scoped_free struct xt_counters_info *counters = calloc(1, size);
	if (!counters)
		return 0;
	strcpy(counters->name, TABLE);
	counters->num_counters = (unsigned int)count;
	memcpy(counters->counters, t->counters.data, t->counters.len);
	(void)setsockopt(t->sock, t->family->level, IPT_SO_SET_ADD_COUNTERS, counters,
			 (socklen_t)size);
	return 0;
}

static int change_once(const struct family *f, bool add)
{
	struct table t = { .family = f, .sock = -1 };
	scoped_buf moved = { 0 };
	int r = table_read(&t);
	if (r == 0)
		r = table_build(&t, add, &moved);
	if (r == 0 && t.changed) {
		r = table_write(&t, add, &moved);
		r = r < 0 ? r : t.changed;
	}
	table_close(&t);
	return r;
}

/* ---- all ---- */

static bool is_used(const struct family *f)
{
	scoped_free char *names = NULL;
	if (fvm_read_file(AT_FDCWD, f->names, 4096, &names, NULL) < 0)
		return false;
	for (char *save = NULL, *name = strtok_r(names, "\n", &save); name;
	     name = strtok_r(NULL, "\n", &save)) {
		if (strcmp(name, TABLE) == 0)
			return true;
	}
	return false;
}

bool fvm_xtables_used(void)
{
	return is_used(&families[0]) || is_used(&families[1]);
}

/* Who holds it does so for a moment; we go on without rather than leave VMs cut off. */
static int lock_take(void)
{
	int fd = open(LOCK, O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	for (int i = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0 && i < LOCK_TRIES; i++)
		fvm_sleep_ms(LOCK_MS);
	return fd;
}

static int change(bool add)
{
	int changed = 0;
	for (size_t i = 0; i < FVM_COUNT(families); i++) {
		if (!is_used(&families[i]))
			continue;
		scoped_fd lock = lock_take();
		int r = -EAGAIN;
		(void)lock; /* without it, too */
		for (int tries = 0; tries < TRIES && r == -EAGAIN; tries++)
			r = change_once(&families[i], add);
		if (r < 0)
			return r;
		changed += r;
	}
	return changed;
}

int fvm_xtables_open(void)
{
	return change(true);
}

int fvm_xtables_close(void)
{
	return change(false);
}
