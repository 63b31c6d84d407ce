/* Tables of nftables: what is written down is what is there again, however much it is. */
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "checks.h"
#include "vin/spaces.h"

enum sort { TABLE, CHAIN, RULE = 5 };

/* What an ordinary kernel lets who is root in a namespace only have. */
int setsockopt(int fd, int level, int name, const void *value, socklen_t len)
{
	const int most = 212992;
	if (level == SOL_SOCKET && name == SO_SNDBUFFORCE) {
		errno = EPERM;
		return -1;
	}
	if (level == SOL_SOCKET && name == SO_SNDBUF && *(const int *)value > most)
		value = &most;
	return (int)syscall(SYS_setsockopt, fd, level, name, value, len);
}

/* ---- records ---- */

struct record {
	struct fvm_buf items;
	uint64_t count;
};

static struct nlmsghdr *message(char room[4096], uint16_t first, const char *table)
{
	memset(room, 0, 4096);
	struct nlmsghdr *m = mnl_nlmsg_put_header(room);
	struct nfgenmsg *head = mnl_nlmsg_put_extra_header(m, sizeof(*head));
	head->nfgen_family = NFPROTO_IPV4;
	mnl_attr_put_strz(m, first, table);
	return m;
}

static void add(struct record *r, enum sort sort, uint64_t handle, uint64_t after, uint64_t before,
		const struct nlmsghdr *m)
{
	vin_put_u64(&r->items, sort);
	vin_put_u64(&r->items, handle);
	vin_put_u64(&r->items, after);
	vin_put_u64(&r->items, before);
	vin_put_u64(&r->items, 0);
	vin_put_blob(&r->items, m, m->nlmsg_len);
	r->count++;
}

static void add_table(struct record *r)
{
	char room[4096] __attribute__((aligned(8)));
	add(r, TABLE, 1, 0, 0, message(room, NFTA_TABLE_NAME, "many"));
}

static void add_chain(struct record *r, uint64_t handle, const char *name)
{
	char room[4096] __attribute__((aligned(8)));
	struct nlmsghdr *m = message(room, NFTA_CHAIN_TABLE, "many");
	mnl_attr_put_strz(m, NFTA_CHAIN_NAME, name);
	add(r, CHAIN, handle, 0, 0, m);
}

/* It counts, and says which one it is. */
static void add_rule(struct record *r, uint64_t handle, uint64_t after, uint64_t before)
{
	char room[4096] __attribute__((aligned(8))), comment[200] = "";
	struct nlmsghdr *m = message(room, NFTA_RULE_TABLE, "many");
	mnl_attr_put_strz(m, NFTA_RULE_CHAIN, "c");
	struct nlattr *all = mnl_attr_nest_start(m, NFTA_RULE_EXPRESSIONS);
	struct nlattr *one = mnl_attr_nest_start(m, NFTA_LIST_ELEM);
	mnl_attr_put_strz(m, NFTA_EXPR_NAME, "counter");
	struct nlattr *data = mnl_attr_nest_start(m, NFTA_EXPR_DATA);
	mnl_attr_put_u64(m, NFTA_COUNTER_BYTES, htobe64(handle));
	mnl_attr_put_u64(m, NFTA_COUNTER_PACKETS, 0);
	mnl_attr_nest_end(m, data);
	mnl_attr_nest_end(m, one);
	mnl_attr_nest_end(m, all);
	snprintf(comment, sizeof(comment), "rule %llu", (unsigned long long)handle);
	mnl_attr_put(m, NFTA_RULE_USERDATA, sizeof(comment), comment);
	add(r, RULE, handle, after, before, m);
}

/* ---- in a network of its own ---- */

static int make(const struct record *r)
{
	scoped_buf all = { 0 };
	struct vin_moved moved = { 0 };
	vin_put_u64(&all, r->count);
	fvm_buf_add(&all, r->items.data, r->items.len);
	struct vin_payload p = { .at = (unsigned char *)all.data,
				 .end = (unsigned char *)all.data + all.len };
	return vin_space_tables.make(&p, &moved, &err);
}

/* Return: what @fn did with @r there; -ENOSYS: there is no such place to be had */
static int apart(int (*fn)(struct record *r), struct record *r)
{
	int status;
	pid_t pid = fork_below();
	if (pid == 0) {
		if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
			_exit(ENOSYS);
		_exit(-fn(r));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	if (WEXITSTATUS(status) == ENOSYS) {
		print_message("skipped: needs user namespaces, and nftables\n");
		skip();
	}
	return -WEXITSTATUS(status);
}

static int make_it(struct record *r)
{
	return make(r);
}

static struct vin_payload payload_of(const struct fvm_buf *b)
{
	return (struct vin_payload){ .at = (unsigned char *)b->data,
				     .end = (unsigned char *)b->data + b->len };
}

/* Which rule it says it is. */
static const char *comment_of(const struct nlmsghdr *m)
{
	const struct nlattr *a;
	mnl_attr_for_each(a, m, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(a) == NFTA_RULE_USERDATA)
			return mnl_attr_get_payload(a);
	}
	return "none";
}

/* What is there afterwards is what was to be made: numbers, places and comments. */
static int make_and_compare(struct record *r)
{
	scoped_buf now = { 0 };
	int e = make(r);
	if (e == 0)
		e = vin_space_tables.capture(NULL, &now, &err);
	if (e < 0)
		return e;
	struct vin_payload was = payload_of(&r->items), is = payload_of(&now);
	if (vin_get_u64(&is) != r->count)
		return -EBADE;
	for (uint64_t i = 0; i < r->count; i++) {
		size_t len;
		uint64_t sort = TABLE;
		for (int j = 0; j < 5; j++) {
			const uint64_t x = vin_get_u64(&was), y = vin_get_u64(&is);
			sort = j == 0 ? x : sort;
			if (x != y &&
			    (j != 1 || sort != TABLE)) /* whose numbers all networks share */
				return -EBADE;
		}
		const void *m = vin_get_blob(&was, &len), *n = vin_get_blob(&is, &len);
		if (sort == RULE && strcmp(comment_of(m), comment_of(n)) != 0)
			return -EBADE;
	}
	return was.failed || is.failed ? -EBADE : 0;
}

static void many_failures_are_one(void **state)
{
	(void)state;
	struct record r = { 0 };
	char name[20];
	for (uint64_t i = 1; i <= 5000; i++) {
		snprintf(name, sizeof(name), "c%d", (int)i);
		add_chain(&r, i, name); /* of a table that is not there */
	}
	assert_int_equal(apart(make_it, &r), -ENOENT);
	fvm_buf_free(&r.items);
}

/* Rules that were put anywhere among those before them. */
static void add_rules(struct record *r, size_t count, uint64_t handle, uint64_t step)
{
	uint64_t *order = calloc(count + 2, sizeof(*order)); /* 0 at both ends */
	assert_non_null(order);
	for (size_t i = 0; i < count; i++, handle += step) {
		const size_t at = i % 3 ? i : i * 7919 % (i + 1);
		memmove(order + at + 2, order + at + 1, (i - at + 1) * sizeof(*order));
		order[at + 1] = handle;
		add_rule(r, handle, order[at], order[at + 2]);
	}
	free(order);
}

static void more_rules_than_one_message_has_room_for(void **state)
{
	(void)state;
	struct record r = { 0 };
	add_table(&r);
	add_chain(&r, 1, "c");
	add_rules(&r, 4000, 2, 1);
	assert_int_equal(apart(make_and_compare, &r), 0);
	fvm_buf_free(&r.items);
}

static void what_was_deleted_leaves_its_handles_out(void **state)
{
	(void)state;
	struct record r = { 0 };
	add_table(&r);
	add_chain(&r, 4000, "c");
	add_rules(&r, 20, 8000, 1500);
	assert_int_equal(apart(make_and_compare, &r), 0);
	fvm_buf_free(&r.items);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_failures_are_one),
		cmocka_unit_test(more_rules_than_one_message_has_room_for),
		cmocka_unit_test(what_was_deleted_leaves_its_handles_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
