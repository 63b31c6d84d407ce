/*
 * Tables of nftables. What the kernel tells of them is said back to it, attribute by attribute, in
 * the order in which it was made (that of handles), so that what is used is there; handles that
 * were given in vain are given once more. Rules find their places by those that are there already.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "vin/rtnl.h"

#define COUNT_MAX 1000000
#define VAIN_MAX  4096	 /* handles, one behind the other, that are given once more */
#define VAIN_ALL  65536	 /* and all together */
#define BATCH_MAX 100000 /* bytes; what a socket takes at once is some more */
#define HEAD	  sizeof(struct nfgenmsg)
#define BIT(n)	  (1ULL << (n))

/* Of a set that is constant, elements come before who uses it. */
enum sort { TABLE, CHAIN, SET, OBJECT, FLOWTABLE, RULE, ELEMENT, SORTS };

static const struct {
	uint16_t get, new, handle;
	uint64_t said; /* attributes that are said back */
} sorts[SORTS] = {
	[TABLE] = { NFT_MSG_GETTABLE, NFT_MSG_NEWTABLE, NFTA_TABLE_HANDLE,
		    BIT(NFTA_TABLE_NAME) | BIT(NFTA_TABLE_FLAGS) | BIT(NFTA_TABLE_USERDATA) },
	[CHAIN] = { NFT_MSG_GETCHAIN, NFT_MSG_NEWCHAIN, NFTA_CHAIN_HANDLE,
		    BIT(NFTA_CHAIN_TABLE) | BIT(NFTA_CHAIN_NAME) | BIT(NFTA_CHAIN_HOOK) |
			    BIT(NFTA_CHAIN_POLICY) | BIT(NFTA_CHAIN_TYPE) |
			    BIT(NFTA_CHAIN_COUNTERS) | BIT(NFTA_CHAIN_FLAGS) |
			    BIT(NFTA_CHAIN_USERDATA) },
	[SET] = { NFT_MSG_GETSET, NFT_MSG_NEWSET, NFTA_SET_HANDLE,
		  BIT(NFTA_SET_TABLE) | BIT(NFTA_SET_NAME) | BIT(NFTA_SET_FLAGS) |
			  BIT(NFTA_SET_KEY_TYPE) | BIT(NFTA_SET_KEY_LEN) | BIT(NFTA_SET_DATA_TYPE) |
			  BIT(NFTA_SET_DATA_LEN) | BIT(NFTA_SET_POLICY) | BIT(NFTA_SET_DESC) |
			  BIT(NFTA_SET_TIMEOUT) | BIT(NFTA_SET_GC_INTERVAL) |
			  BIT(NFTA_SET_USERDATA) | BIT(NFTA_SET_OBJ_TYPE) | BIT(NFTA_SET_EXPR) |
			  BIT(NFTA_SET_EXPRESSIONS) },
	[OBJECT] = { NFT_MSG_GETOBJ, NFT_MSG_NEWOBJ, NFTA_OBJ_HANDLE,
		     BIT(NFTA_OBJ_TABLE) | BIT(NFTA_OBJ_NAME) | BIT(NFTA_OBJ_TYPE) |
			     BIT(NFTA_OBJ_DATA) | BIT(NFTA_OBJ_USERDATA) },
	[FLOWTABLE] = { NFT_MSG_GETFLOWTABLE, NFT_MSG_NEWFLOWTABLE, NFTA_FLOWTABLE_HANDLE,
			BIT(NFTA_FLOWTABLE_TABLE) | BIT(NFTA_FLOWTABLE_NAME) |
				BIT(NFTA_FLOWTABLE_HOOK) | BIT(NFTA_FLOWTABLE_FLAGS) },
	[RULE] = { NFT_MSG_GETRULE, NFT_MSG_NEWRULE, NFTA_RULE_HANDLE,
		   BIT(NFTA_RULE_TABLE) | BIT(NFTA_RULE_CHAIN) | BIT(NFTA_RULE_EXPRESSIONS) |
			   BIT(NFTA_RULE_USERDATA) },
	[ELEMENT] = { NFT_MSG_GETSETELEM, NFT_MSG_NEWSETELEM, 0,
		      BIT(NFTA_SET_ELEM_LIST_TABLE) | BIT(NFTA_SET_ELEM_LIST_SET) |
			      BIT(NFTA_SET_ELEM_LIST_ELEMENTS) },
};

struct item {
	enum sort sort;
	uint64_t handle;
	size_t place;		/* as the kernel told it */
	size_t chain;		/* a rule: the same for all of its chain */
	uint64_t after, before; /* .. the handle of one that is there already; 0: none */
	struct nlmsghdr *m;	/* as it is said back */
	bool late;		/* an element, after all else */
	uint64_t real;		/* anew: the handle that it gets, */
	size_t batch;		/* and in which batch that was */
};

struct items {
	struct item *list;
	size_t count;
};

static void forget(struct items *all)
{
	for (size_t i = 0; i < all->count; i++)
		free(all->list[i].m);
	free(all->list);
}
#define scoped_items __attribute__((cleanup(forget))) struct items

static uint16_t type_of(uint16_t message)
{
	return (uint16_t)(NFNL_SUBSYS_NFTABLES << 8 | message);
}

static uint64_t number_of(const struct nlattr *a)
{
	const size_t len = a ? mnl_attr_get_payload_len(a) : 0;
	return len == 8 ? be64toh(mnl_attr_get_u64(a)) : len == 4 ? ntohl(mnl_attr_get_u32(a)) : 0;
}

static const char *text_of(const struct nlattr *a)
{
	const char *text = a ? mnl_attr_get_payload(a) : "";
	return a && memchr(text, '\0', mnl_attr_get_payload_len(a)) ? text : "";
}

/* ---- one message ---- */

/* @m with what of it is said back. NULL: no memory */
static struct nlmsghdr *plain(enum sort sort, const struct nlmsghdr *m)
{
	struct nlmsghdr *ret = calloc(1, m->nlmsg_len + 64UL);
	const struct nfgenmsg *head = mnl_nlmsg_get_payload(m);
	if (!ret)
		return NULL;
	(void)mnl_nlmsg_put_header(ret);
	ret->nlmsg_type = type_of(sorts[sort].new);
	struct nfgenmsg *own = mnl_nlmsg_put_extra_header(ret, HEAD);
	own->nfgen_family = head->nfgen_family;
	own->version = NFNETLINK_V0;
	for (uint16_t type = 1; type < 64; type++) {
		const struct nlattr *a =
			sorts[sort].said & BIT(type) ? vin_rtnl_attr(m, HEAD, type) : NULL;
		if (a)
			mnl_attr_put(ret, a->nla_type, mnl_attr_get_payload_len(a),
				     mnl_attr_get_payload(a));
	}
	return ret;
}

static int add(struct items *all, const struct item *one)
{
	struct item *more = one->m && all->count < COUNT_MAX
				    ? realloc(all->list, fvm_room(all->count + 1) * sizeof(*more))
				    : NULL;
	if (!more) {
		free(one->m);
		return -ENOMEM;
	}
	all->list = more;
	more[all->count++] = *one;
	return 0;
}

/* ---- all of a namespace ---- */

struct listing {
	enum sort sort;
	struct items *to;
	uint64_t handle; /* of the set whose elements are listed */
	bool late;
};

static bool has_expression(const struct nlmsghdr *m, const char *const *names, size_t count)
{
	const struct nlattr *all = vin_rtnl_attr(m, HEAD, NFTA_RULE_EXPRESSIONS), *one, *part;
	if (!all)
		return false;
	mnl_attr_for_each_nested(one, all)
	{
		mnl_attr_for_each_nested(part, one)
		{
			for (size_t i = 0; i < count; i++) {
				if (mnl_attr_get_type(part) == NFTA_EXPR_NAME &&
				    strcmp(text_of(part), names[i]) == 0)
					return true;
			}
		}
	}
	return false;
}

static int check_one(enum sort sort, const struct nlmsghdr *m, struct fvm_error *err)
{
	static const char *const foreign[] = { "match", "target" };
	const char *why = NULL;
	if (sort == TABLE &&
	    number_of(vin_rtnl_attr(m, HEAD, NFTA_TABLE_FLAGS)) & NFT_TABLE_F_OWNER)
		why = "that belongs to a program";
	if (sort == CHAIN &&
	    number_of(vin_rtnl_attr(m, HEAD, NFTA_CHAIN_FLAGS)) & NFT_CHAIN_BINDING)
		why = "with a chain that has no name";
	if (sort == RULE && has_expression(m, foreign, FVM_COUNT(foreign)))
		why = "with a rule of iptables'";
	/* the name of the table comes first in all of them */
	return why ? fvm_error_say(err, EOPNOTSUPP,
				   "the network can't be captured: it has nftables' table %s, %s",
				   text_of(vin_rtnl_attr(m, HEAD, 1)), why)
		   : 0;
}

static int add_elements(struct listing *l, const struct nlmsghdr *m)
{
	const struct nlattr *all = vin_rtnl_attr(m, HEAD, NFTA_SET_ELEM_LIST_ELEMENTS), *one;
	int r = 0;
	if (!all)
		return 0;
	mnl_attr_for_each_nested(one, all)
	{
		struct item it = { .sort = ELEMENT, .handle = l->handle, .late = l->late };
		const size_t len = mnl_attr_get_payload_len(one);
		it.m = calloc(1, len + 1024);
		if (!it.m)
			return -ENOMEM;
		(void)mnl_nlmsg_put_header(it.m);
		it.m->nlmsg_type = type_of(NFT_MSG_NEWSETELEM);
		memcpy(mnl_nlmsg_put_extra_header(it.m, HEAD), mnl_nlmsg_get_payload(m), HEAD);
		mnl_attr_put_strz(it.m, NFTA_SET_ELEM_LIST_TABLE,
				  text_of(vin_rtnl_attr(m, HEAD, NFTA_SET_ELEM_LIST_TABLE)));
		mnl_attr_put_strz(it.m, NFTA_SET_ELEM_LIST_SET,
				  text_of(vin_rtnl_attr(m, HEAD, NFTA_SET_ELEM_LIST_SET)));
		struct nlattr *list = mnl_attr_nest_start(it.m, NFTA_SET_ELEM_LIST_ELEMENTS);
		mnl_attr_put(it.m, NFTA_LIST_ELEM | NLA_F_NESTED, len, mnl_attr_get_payload(one));
		mnl_attr_nest_end(it.m, list);
		it.place = l->to->count;
		r = add(l->to, &it);
		if (r < 0)
			break;
	}
	return r;
}

static bool same_text(const struct item *a, const struct item *b, uint16_t type)
{
	return strcmp(text_of(vin_rtnl_attr(a->m, HEAD, type)),
		      text_of(vin_rtnl_attr(b->m, HEAD, type))) == 0;
}

static bool same_chain(const struct item *a, const struct item *b)
{
	const struct nfgenmsg *x = mnl_nlmsg_get_payload(a->m), *y = mnl_nlmsg_get_payload(b->m);
	return a->sort == RULE && b->sort == RULE && x->nfgen_family == y->nfgen_family &&
	       same_text(a, b, NFTA_RULE_TABLE) && same_text(a, b, NFTA_RULE_CHAIN);
}

/* The kernel tells one chain after the other. */
static size_t chain_of(const struct items *all, const struct item *rule)
{
	for (size_t i = all->count; i-- > 0;) {
		if (same_chain(&all->list[i], rule))
			return all->list[i].chain;
	}
	return all->count;
}

static int take_message(void *arg, const struct nlmsghdr *m, struct fvm_error *err)
{
	struct listing *l = arg;
	if (m->nlmsg_type != type_of(sorts[l->sort].new))
		return 0;
	int r = l->sort == ELEMENT ? add_elements(l, m) : check_one(l->sort, m, err);
	if (r == 0 && l->sort != ELEMENT) {
		struct item it = { .sort = l->sort,
				   .handle =
					   number_of(vin_rtnl_attr(m, HEAD, sorts[l->sort].handle)),
				   .place = l->to->count,
				   .m = plain(l->sort, m) };
		if (it.m && it.sort == RULE)
			it.chain = chain_of(l->to, &it);
		r = add(l->to, &it);
	}
	return r == -ENOMEM ? fvm_error_set(err, ENOMEM, "list tables of nftables") : r;
}

static int list_sort(int sock, enum sort sort, struct items *to, struct fvm_error *err)
{
	static const char head[HEAD];
	struct listing l = { .sort = sort, .to = to };
	int r = vin_rtnl_dump(sock, type_of(sorts[sort].get), head, HEAD, take_message, &l, err);
	/* a kernel that has no such thing has none of it */
	return r == -EINVAL || r == -EOPNOTSUPP || r == -ENOENT ? (err->code ? r : 0) : r;
}

static int list_elements(int sock, const struct item *set, struct items *to, struct fvm_error *err)
{
	char room[256] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *m = mnl_nlmsg_put_header(room);
	const char *table = text_of(vin_rtnl_attr(set->m, HEAD, NFTA_SET_TABLE));
	const char *name = text_of(vin_rtnl_attr(set->m, HEAD, NFTA_SET_NAME));
	const uint64_t flags = number_of(vin_rtnl_attr(set->m, HEAD, NFTA_SET_FLAGS));
	struct listing l = { .sort = ELEMENT, .to = to, .handle = set->handle };
	if (strlen(table) + strlen(name) > 180)
		return fvm_error_say(err, EOPNOTSUPP,
				     "the network can't be captured: the name of nftables' set %s "
				     "is too long",
				     name);
	l.late = !(flags & (NFT_SET_ANONYMOUS | NFT_SET_CONSTANT));
	memcpy(mnl_nlmsg_put_extra_header(m, HEAD), mnl_nlmsg_get_payload(set->m), HEAD);
	mnl_attr_put_strz(m, NFTA_SET_ELEM_LIST_TABLE, table);
	mnl_attr_put_strz(m, NFTA_SET_ELEM_LIST_SET, name);
	return vin_rtnl_dump(sock, type_of(NFT_MSG_GETSETELEM), mnl_nlmsg_get_payload(m),
			     m->nlmsg_len - NLMSG_HDRLEN, take_message, &l, err);
}

static int list_all(struct items *ret, struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	scoped_fd sock = vin_rtnl_open(NETLINK_NETFILTER);
	int r = sock < 0 ? (sock == -EPROTONOSUPPORT ? 0 : sock) : 0;
	for (enum sort s = TABLE; r == 0 && sock >= 0 && s < ELEMENT; s++)
		r = list_sort(sock, s, ret, &mine);
	const size_t count = ret->count;
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (ret->list[i].sort == SET)
			r = list_elements(sock, &ret->list[i], ret, &mine);
	}
	if (r < 0 && !mine.code)
		fvm_error_set(&mine, -r, "list tables of nftables");
	if (r < 0 && err)
		*err = mine;
	return r;
}

/* ---- their order ---- */

static int phase(const struct item *it)
{
	return it->sort == TABLE ? 0 : it->late ? 2 : 1;
}

static const struct nlattr *inner(const struct nlattr *in, uint16_t type)
{
	const struct nlattr *a;
	if (!in)
		return NULL;
	mnl_attr_for_each_nested(a, in)
	{
		if (mnl_attr_get_type(a) == type)
			return a;
	}
	return NULL;
}

static const struct nlattr *element_of(const struct item *it)
{
	return inner(vin_rtnl_attr(it->m, HEAD, NFTA_SET_ELEM_LIST_ELEMENTS), NFTA_LIST_ELEM);
}

/* An interval ends before another begins at the same key; the kernel tells the last first. */
static int compare_elements(const struct item *a, const struct item *b)
{
	const struct nlattr *one = element_of(a), *two = element_of(b);
	const struct nlattr *x = inner(inner(one, NFTA_SET_ELEM_KEY), NFTA_DATA_VALUE);
	const struct nlattr *y = inner(inner(two, NFTA_SET_ELEM_KEY), NFTA_DATA_VALUE);
	/* one that has both ends is told as it was added */
	if (inner(one, NFTA_SET_ELEM_KEY_END) && inner(two, NFTA_SET_ELEM_KEY_END))
		return 0;
	if (!x || !y)
		return (x != NULL) - (y != NULL);
	const size_t m = mnl_attr_get_payload_len(x), n = mnl_attr_get_payload_len(y);
	int r = memcmp(mnl_attr_get_payload(x), mnl_attr_get_payload(y), m < n ? m : n);
	if (r == 0)
		r = (int)(number_of(inner(two, NFTA_SET_ELEM_FLAGS)) & NFT_SET_ELEM_INTERVAL_END) -
		    (int)(number_of(inner(one, NFTA_SET_ELEM_FLAGS)) & NFT_SET_ELEM_INTERVAL_END);
	return r;
}

static int compare(const void *x, const void *y)
{
	const struct item *a = x, *b = y;
	int r = phase(a) - phase(b);
	if (r == 0)
		r = (a->handle > b->handle) - (a->handle < b->handle);
	if (r == 0)
		r = (int)a->sort - (int)b->sort;
	if (r == 0 && a->sort == ELEMENT)
		r = compare_elements(a, b);
	return r ?: (a->place > b->place) - (a->place < b->place);
}

/* Behind the nearest that is there already; else before it. What is made later does not count. */
static void find_place(struct items *all, size_t i)
{
	struct item *it = &all->list[i];
	size_t behind = 0, before = SIZE_MAX;
	for (size_t j = 0; it->sort == RULE && j < i; j++) {
		const struct item *o = &all->list[j];
		if (o->sort != RULE || o->chain != it->chain)
			continue;
		if (o->place < it->place && o->place >= behind) {
			behind = o->place;
			it->after = o->handle;
		} else if (o->place > it->place && o->place < before) {
			before = o->place;
			it->before = o->handle;
		}
	}
}

static int capture(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	scoped_items all = { 0 };
	(void)arg;
	int r = list_all(&all, err);
	if (r < 0)
		return r;
	if (all.count)
		qsort(all.list, all.count, sizeof(*all.list), compare);
	vin_put_u64(to, all.count);
	for (size_t i = 0; i < all.count; i++) {
		const struct item *it = &all.list[i];
		find_place(&all, i);
		vin_put_u64(to, it->sort);
		vin_put_u64(to, it->handle);
		vin_put_u64(to, it->after);
		vin_put_u64(to, it->before);
		vin_put_u64(to, it->late);
		vin_put_blob(to, it->m, it->m->nlmsg_len);
	}
	return 0;
}

static int check(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	scoped_items all = { 0 };
	(void)arg;
	(void)to;
	return list_all(&all, err);
}

/* ---- anew ---- */

static int get_item(struct vin_payload *p, struct item *ret)
{
	const uint64_t sort = vin_get_u64(p);
	ret->handle = vin_get_u64(p);
	ret->after = vin_get_u64(p);
	ret->before = vin_get_u64(p);
	const uint64_t late = vin_get_u64(p);
	if (p->failed || sort >= SORTS || late > 1 || (late && sort != ELEMENT))
		return -EBADMSG;
	struct nlmsghdr *copy = NULL;
	int r = vin_rtnl_message(p, HEAD, &copy);
	if (r < 0)
		return r;
	ret->sort = (enum sort)sort;
	ret->late = late;
	ret->m = plain(ret->sort, copy);
	free(copy);
	return ret->m ? 0 : -ENOMEM;
}

/* Of each table: which handle comes next at the source, and how many were given here. */
struct vain {
	uint8_t family;
	const char *table; /* of an item */
	uint64_t next, given;
};

/* What the kernel makes at once. */
struct batch {
	int sock;
	size_t number;
	struct fvm_buf all;
	uint32_t count;
	bool unbound; /* it ends with a set that has no name, and no rule yet */
	uint64_t in_vain;
	struct vain *tables;
	size_t table_count;
};

static void put(struct batch *b, struct nlmsghdr *m, uint16_t flags)
{
	static const char zeros[NLMSG_ALIGNTO];
	m->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	m->nlmsg_seq = ++b->count;
	m->nlmsg_pid = 0;
	fvm_buf_add(&b->all, m, m->nlmsg_len);
	fvm_buf_add(&b->all, zeros, MNL_ALIGN(m->nlmsg_len) - m->nlmsg_len);
}

static struct nlmsghdr *begin(char room[1024], uint16_t type, uint8_t family, uint16_t resource)
{
	memset(room, 0, 1024);
	struct nlmsghdr *m = mnl_nlmsg_put_header(room);
	struct nfgenmsg *head = mnl_nlmsg_put_extra_header(m, HEAD);
	m->nlmsg_type = type;
	head->nfgen_family = family;
	head->version = NFNETLINK_V0;
	head->res_id = htons(resource);
	return m;
}

static void put_edge(struct batch *b, uint16_t type)
{
	char room[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
	put(b, begin(room, type, AF_UNSPEC, NFNL_SUBSYS_NFTABLES), 0);
}

/* What came first; when there were more failures than have room, at least that there were some. */
static int hear(int sock)
{
	char answer[8192] __attribute__((aligned(NLMSG_ALIGNTO)));
	int r = 0, lost = 0;
	for (;;) {
		ssize_t n = recv(sock, answer, sizeof(answer), MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return r ?: lost;
		if (n < 0 && errno != ENOBUFS && errno != EINTR)
			return r ?: -errno;
		lost = n < 0 && errno == ENOBUFS ? -ENOBUFS : lost;
		int left = n < 0 ? 0 : (int)n;
		for (const struct nlmsghdr *m = (void *)answer; mnl_nlmsg_ok(m, left);
		     m = mnl_nlmsg_next(m, &left)) {
			const struct nlmsgerr *e = mnl_nlmsg_get_payload(m);
			if (m->nlmsg_type == NLMSG_ERROR && r == 0)
				r = e->error;
		}
	}
}

static int run(struct batch *b)
{
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	put_edge(b, NFNL_MSG_BATCH_END);
	if (b->all.failed)
		return -ENOMEM;
	if (sendto(b->sock, b->all.data, b->all.len, 0, (const struct sockaddr *)&kernel,
		   sizeof(kernel)) < 0)
		return -errno;
	return hear(b->sock);
}

static int run_next(struct batch *b)
{
	int r = b->number++ > 0 ? run(b) : 0;
	b->all.len = 0;
	b->count = 0;
	put_edge(b, NFNL_MSG_BATCH_BEGIN);
	return r;
}

/* A socket takes so much, and a set without a name has to come together with its rule. */
static bool is_full(const struct batch *b)
{
	return b->all.len > BATCH_MAX && !b->unbound;
}

static struct vain *table_of(struct batch *b, const struct item *it)
{
	const struct nfgenmsg *head = mnl_nlmsg_get_payload(it->m);
	const char *name = text_of(vin_rtnl_attr(it->m, HEAD, 1));
	for (size_t i = 0; i < b->table_count; i++) {
		if (b->tables[i].family == head->nfgen_family &&
		    strcmp(b->tables[i].table, name) == 0)
			return &b->tables[i];
	}
	struct vain *more = realloc(b->tables, fvm_room(b->table_count + 1) * sizeof(*more));
	if (!more)
		return NULL;
	b->tables = more;
	more[b->table_count] = (struct vain){ head->nfgen_family, name, 1, 0 };
	return &more[b->table_count++];
}

static void put_one_in_vain(struct batch *b, struct vain *v)
{
	char room[1024] __attribute__((aligned(NLMSG_ALIGNTO)));
	for (int i = 0; i < 2; i++) {
		struct nlmsghdr *m =
			begin(room, type_of(i ? NFT_MSG_DELCHAIN : NFT_MSG_NEWCHAIN), v->family, 0);
		if (strlen(v->table) < 256)
			mnl_attr_put_strz(m, NFTA_CHAIN_TABLE, v->table);
		mnl_attr_put_strz(m, NFTA_CHAIN_NAME, "vin-vain");
		put(b, m, i ? 0 : NLM_F_CREATE);
	}
	v->given++;
	b->in_vain++;
}

/* Handles that something had which is gone; and which one it gets itself. */
static int put_vain(struct batch *b, struct item *it)
{
	int r = 0;
	struct vain *v = table_of(b, it);
	if (!v)
		return -ENOMEM;
	for (uint64_t n = v->next; r == 0 && n < it->handle && it->handle - v->next < VAIN_MAX &&
				   b->in_vain < VAIN_ALL && b->all.len < 2 * BATCH_MAX;
	     n++) {
		put_one_in_vain(b, v);
		r = is_full(b) ? run_next(b) : 0;
	}
	v->next = it->handle + 1;
	it->real = ++v->given;
	return r;
}

/* The rule of its chain that its place is told by. */
static void put_place(const struct batch *b, const struct items *all, size_t i)
{
	const struct item *it = &all->list[i], *other = NULL;
	const uint64_t handle = it->after ?: it->before;
	for (size_t j = i; handle && !other && j-- > 0;) {
		if (all->list[j].handle == handle && same_chain(&all->list[j], it))
			other = &all->list[j];
	}
	if (other && other->batch != b->number)
		mnl_attr_put_u64(it->m, NFTA_RULE_POSITION, htobe64(other->real));
	else if (handle)
		mnl_attr_put_u32(it->m, NFTA_RULE_POSITION_ID, htonl((uint32_t)handle));
}

static int put_item(struct batch *b, const struct items *all, size_t i)
{
	struct item *it = &all->list[i];
	uint16_t flags = NLM_F_CREATE;
	int r = it->sort != TABLE && it->sort != ELEMENT ? put_vain(b, it) : 0;
	it->batch = b->number;
	if (it->sort == SET) {
		mnl_attr_put_u32(it->m, NFTA_SET_ID, htonl(b->count + 1));
		b->unbound |= (number_of(vin_rtnl_attr(it->m, HEAD, NFTA_SET_FLAGS)) &
			       NFT_SET_ANONYMOUS) != 0;
	}
	if (it->sort == RULE) {
		mnl_attr_put_u32(it->m, NFTA_RULE_ID, htonl((uint32_t)it->handle));
		put_place(b, all, i);
		flags |= it->after || !it->before ? NLM_F_APPEND : 0;
		b->unbound = false;
	} else if (it->sort != ELEMENT) {
		flags |= NLM_F_EXCL;
	}
	put(b, it->m, flags);
	return r;
}

static int make_in(struct batch *b, const struct items *all)
{
	int size = 64 << 20, r = 0;
	if (setsockopt(b->sock, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size)) < 0)
		(void)setsockopt(b->sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	for (size_t i = 0; r == 0 && i < all->count; i++) {
		const bool late = all->list[i].late && !all->list[i - (i > 0)].late;
		if (i == 0 || late || is_full(b))
			r = run_next(b);
		if (r == 0)
			r = put_item(b, all, i);
	}
	return r < 0 ? r : run(b);
}

static int make_all(const struct items *all)
{
	if (all->count == 0)
		return 0;
	scoped_fd sock = vin_rtnl_open(NETLINK_NETFILTER);
	struct batch b = { .sock = sock };
	int r = sock < 0 ? sock : make_in(&b, all);
	fvm_buf_free(&b.all);
	free(b.tables);
	return r;
}

static int make(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err)
{
	scoped_items all = { 0 };
	const uint64_t count = vin_get_u64(p);
	int r = p->failed || count > COUNT_MAX ? -EBADMSG : 0;
	(void)moved;
	for (uint64_t i = 0; r == 0 && i < count; i++) {
		struct item it = { 0 };
		r = get_item(p, &it);
		if (r == 0)
			r = add(&all, &it);
	}
	if (r == 0)
		r = vin_get_done(p);
	if (r < 0)
		return r;
	r = make_all(&all);
	return r < 0 ? fvm_error_set(err, -r, "make tables of nftables") : 0;
}

const struct vin_space_kind vin_space_tables = {
	.space = CLONE_NEWNET, .check = check, .capture = capture, .make = make
};
