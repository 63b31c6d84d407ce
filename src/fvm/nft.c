#include <arpa/inet.h>
#include <errno.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "fvm/nft.h"
#include "fvm/nft_expr.h"
#include "fvm/nft_words.h"
#include "fvm/slot.h"

#define TABLE "fvm"

/* Types of keys: only nft(8) looks at them, to print an element. */
enum { T_ADDR4 = 7, T_ADDR6 = 8, T_PROTOCOL = 12, T_PORT = 13, T_LINK = 41 };
#define PAIR(a, b)	((uint32_t)(a) << 6 | (b))
#define TRIPLE(a, b, c) ((uint32_t)PAIR(a, b) << 6 | (c))

/* ---- the rules ---- */

struct rule {
	const char *chain;
	enum fvm_nft_word words[6];
	const char *arg; /* of the words that take one */
};

/* clang-format off */
static const struct rule rules[] = {
	/* before connections are tracked: no packet under another VM's name */
	{ "source",	{ FROM_OTHER, RETURN } },
	{ "source",	{ IS4, GUEST4, RETURN },		"guests4" },
	{ "source",	{ IS6, GUEST6, RETURN },		"guests6" },
	{ "source",	{ DROP } },

	{ "forward",	{ FROM_VM, JUMP },			"from-vm" },
	{ "forward",	{ FROM_VM, FIRST, JUMP },		"first" },
	{ "forward",	{ TO_VM, JUMP },			"to-vm" },
	{ "forward",	{ IS4, FROM_SET, TO_SET, DROP },	"quiet4" },
	{ "forward",	{ IS6, FROM_SET, TO_SET, DROP },	"quiet6" },

	{ "from-vm",	{ ESTABLISHED, ACCEPT } },
	{ "from-vm",	{ TO_VM, REJECT } },
	{ "from-vm",	{ IS4, NAME4, RETURN },			"names4" },
	{ "from-vm",	{ IS6, NAME6, RETURN },			"names6" },
	{ "from-vm",	{ IS4, DEST4, REJECT },			"never4" },
	{ "from-vm",	{ IS6, DEST6, REJECT },			"never6" },
	{ "from-vm",	{ IN_SET, RETURN },			"private" },
	{ "from-vm",	{ IS4, DEST4, REJECT },			"private4" },
	{ "from-vm",	{ IS6, DEST6, REJECT },			"private6" },

	/* the kernel's table of connections is one for the host and all VMs. How quickly they are
	 * made goes first: the other count takes longer the more it has, and adds what it drops */
	{ "first",	{ OWN },				"limits" },
	{ "first",	{ OPENED, DROP },			"opened" },
	{ "first",	{ OPEN, DROP },				"open" },

	{ "to-vm",	{ ESTABLISHED, RETURN } },
	{ "to-vm",	{ PUBLISHED, RETURN } },
	{ "to-vm",	{ DROP } },

	/* the host itself: answers to what it asked, nothing else */
	{ "input",	{ FROM_OTHER, RETURN } },
	{ "input",	{ ESTABLISHED, RETURN } },
	{ "input",	{ REJECT } },

	{ "publish",	{ FROM_OTHER, LOCAL, IS4, MAP_AT4 },	"at4" },
	{ "publish",	{ FROM_OTHER, LOCAL, IS4, MAP4 },	"ports4" },
	{ "publish",	{ FROM_OTHER, LOCAL, IS6, MAP_AT6 },	"at6" },
	{ "publish",	{ FROM_OTHER, LOCAL, IS6, MAP6 },	"ports6" },

	/* loopback can't leave the host, nor come back to it: relay.c carries that */
	{ "publish-local", { LOCAL, IS4, NOT_LOOP4, MAP_AT4 },	"at4" },
	{ "publish-local", { LOCAL, IS4, NOT_LOOP4, MAP4 },	"ports4" },
	{ "publish-local", { LOCAL, IS6, NOT_LOOP6, MAP_AT6 },	"at6" },
	{ "publish-local", { LOCAL, IS6, NOT_LOOP6, MAP6 },	"ports6" },

	{ "masquerade",	{ IS4, RANGE4, TO_OTHER, MASQUERADE } },
	{ "masquerade",	{ IS6, RANGE6, TO_OTHER, MASQUERADE } },
};

struct chain {
	const char *name;
	const char *type; /* NULL: no hook */
	uint32_t hook;
	int priority;
};

static const struct chain chains[] = {
	{ "from-vm" },
	{ "to-vm" },
	{ "first" },
	{ "source",	   "filter", NF_INET_PRE_ROUTING,  -310 }, /* before raw */
	{ "input",	   "filter", NF_INET_LOCAL_IN,	   -5 },
	{ "forward",	   "filter", NF_INET_FORWARD,	   -5 },
	{ "publish",	   "nat",    NF_INET_PRE_ROUTING,  -105 }, /* before docker's */
	{ "publish-local", "nat",    NF_INET_LOCAL_OUT,	   -105 },
	{ "masquerade",	   "nat",    NF_INET_POST_ROUTING, 95 },
};

struct set {
	const char *name;
	uint32_t flags, key_type, key_len, data_type, data_len;
};

static const struct set sets[] = {
	{ "guests4", 0, PAIR(T_LINK, T_ADDR4), 20 },
	{ "guests6", 0, PAIR(T_LINK, T_ADDR6), 32 },
	{ "private", 0, T_LINK, 16 },
	{ "quiet4", 0, T_LINK, 16 },
	{ "quiet6", 0, T_LINK, 16 },
	{ "opened", NFT_SET_EVAL, T_LINK, 16 },
	{ "open", NFT_SET_EVAL, T_LINK, 16 },
	{ "limits", NFT_SET_MAP, T_LINK, 16, NFT_DATA_VERDICT, 0 },
	{ "names4", 0, TRIPLE(T_ADDR4, T_PROTOCOL, T_PORT), 12 },
	{ "names6", 0, TRIPLE(T_ADDR6, T_PROTOCOL, T_PORT), 24 },
	{ "never4", NFT_SET_INTERVAL | NFT_SET_CONSTANT, T_ADDR4, 4 },
	{ "never6", NFT_SET_INTERVAL | NFT_SET_CONSTANT, T_ADDR6, 16 },
	{ "private4", NFT_SET_INTERVAL | NFT_SET_CONSTANT, T_ADDR4, 4 },
	{ "private6", NFT_SET_INTERVAL | NFT_SET_CONSTANT, T_ADDR6, 16 },
	{ "ports4", NFT_SET_MAP, PAIR(T_PROTOCOL, T_PORT), 8,
	  PAIR(T_ADDR4, T_PORT), 8 },
	{ "ports6", NFT_SET_MAP, PAIR(T_PROTOCOL, T_PORT), 8,
	  PAIR(T_ADDR6, T_PORT), 20 },
	{ "at4", NFT_SET_MAP, TRIPLE(T_ADDR4, T_PROTOCOL, T_PORT), 12,
	  PAIR(T_ADDR4, T_PORT), 8 },
	{ "at6", NFT_SET_MAP, TRIPLE(T_ADDR6, T_PROTOCOL, T_PORT), 24,
	  PAIR(T_ADDR6, T_PORT), 20 },
};

struct prefix {
	const char *set, *address;
	unsigned int bits;
};

/* In the order of addresses within a set. */
static const struct prefix prefixes[] = {
	{ "never4", "0.0.0.0", 8 },
	{ "never4", "100.100.100.200", 32 },	/* metadata of a cloud */
	{ "never4", "127.0.0.0", 8 },
	{ "never4", "168.63.129.16", 32 },	/* likewise, though a public address */
	{ "never4", "169.254.0.0", 16 },	/* link-local, and most clouds' metadata */
	{ "never4", "192.0.0.192", 32 },	/* likewise */
	{ "never4", "224.0.0.0", 3 },		/* multicast, reserved, broadcast */
	{ "never6", "::", 96 },			/* unspecified, loopback, IPv4 inside */
	{ "never6", "::ffff:0:0", 96 },
	{ "never6", "64:ff9b::", 104 },		/* what never4 has, by way of a translator */
	{ "never6", "64:ff9b::7f00:0", 104 },
	{ "never6", "64:ff9b::a9fe:0", 112 },
	{ "never6", "64:ff9b::e000:0", 99 },
	{ "never6", "fd00:42::42", 128 },	/* metadata */
	{ "never6", "fd00:ec2::254", 128 },	/* metadata */
	{ "never6", "fd20:ce::254", 128 },	/* metadata */
	{ "never6", "fe80::", 10 },
	{ "never6", "ff00::", 8 },
	{ "private4", "10.0.0.0", 8 },
	{ "private4", "100.64.0.0", 10 },
	{ "private4", "172.16.0.0", 12 },
	{ "private4", "192.0.0.0", 24 },
	{ "private4", "192.168.0.0", 16 },
	{ "private4", "198.18.0.0", 15 },
	{ "private6", "64:ff9b::a00:0", 104 },	/* private4, by way of a translator */
	{ "private6", "64:ff9b::6440:0", 106 },
	{ "private6", "64:ff9b::ac10:0", 108 },
	{ "private6", "64:ff9b::c0a8:0", 112 },
	{ "private6", "64:ff9b:1::", 48 },	/* a local translator to IPv4 */
	{ "private6", "fc00::", 7 },
	{ "private6", "fec0::", 10 },
};
/* clang-format on */

bool fvm_nft_prefix(size_t i, struct fvm_nft_prefix *ret)
{
	if (i >= FVM_COUNT(prefixes))
		return false;
	const struct prefix *p = &prefixes[i];
	*ret = (struct fvm_nft_prefix){ p->address, p->bits, strncmp(p->set, "private", 7) == 0 };
	return true;
}

/* Where nobody counts, there is no rule that would. */
static bool is_wanted(const struct rule *rule, const struct fvm_nft_table *table)
{
	return table->connections || strcmp(rule->chain, "first") != 0;
}

static void add_rule(struct fvm_nl_batch *b, const struct rule *rule,
		     const struct fvm_nft_table *table)
{
	const struct fvm_nft_context in = { rule->arg, table->range, table->reject,
					    table->connections };
	if (!is_wanted(rule, table))
		return;
	struct nlattr *list = fvm_nft_rule_begin(b, TABLE, rule->chain);
	for (size_t i = 0; i < FVM_COUNT(rule->words) && rule->words[i] != END; i++)
		fvm_nft_word(b, rule->words[i], &in);
	fvm_nft_rule_end(b, list);
}

static void add_chain(struct fvm_nl_batch *b, const struct chain *chain)
{
	fvm_nft_message(b, NFT_MSG_NEWCHAIN, NLM_F_CREATE | NLM_F_EXCL, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_TABLE, TABLE);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_NAME, chain->name);
	if (chain->type) {
		struct nlattr *hook = mnl_attr_nest_start(b->last, NFTA_CHAIN_HOOK);
		fvm_nft_put32(b, NFTA_HOOK_HOOKNUM, chain->hook);
		fvm_nft_put32(b, NFTA_HOOK_PRIORITY, (uint32_t)chain->priority);
		mnl_attr_nest_end(b->last, hook);
		fvm_nft_put32(b, NFTA_CHAIN_POLICY, NF_ACCEPT);
		mnl_attr_put_strz(b->last, NFTA_CHAIN_TYPE, chain->type);
	}
	fvm_nl_end(b);
}

static void add_set(struct fvm_nl_batch *b, const struct set *set, uint32_t id)
{
	static const struct {
		uint8_t type, len;
		uint32_t value;
	} __attribute__((packed)) host_order = { 0, sizeof(uint32_t), 1 };
	fvm_nft_message(b, NFT_MSG_NEWSET, NLM_F_CREATE | NLM_F_EXCL, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_SET_TABLE, TABLE);
	mnl_attr_put_strz(b->last, NFTA_SET_NAME, set->name);
	fvm_nft_put32(b, NFTA_SET_FLAGS, set->flags);
	fvm_nft_put32(b, NFTA_SET_KEY_TYPE, set->key_type);
	fvm_nft_put32(b, NFTA_SET_KEY_LEN, set->key_len);
	if (set->flags & NFT_SET_MAP) {
		fvm_nft_put32(b, NFTA_SET_DATA_TYPE, set->data_type);
		fvm_nft_put32(b, NFTA_SET_DATA_LEN, set->data_len);
	}
	if (set->flags & NFT_SET_EVAL) {
		struct nlattr *desc = mnl_attr_nest_start(b->last, NFTA_SET_DESC);
		fvm_nft_put32(b, NFTA_SET_DESC_SIZE, FVM_SLOTS);
		mnl_attr_nest_end(b->last, desc);
	}
	fvm_nft_put32(b, NFTA_SET_ID, id);
	if (set->key_type == T_LINK) /* for nft(8): names are in the host's byte order */
		mnl_attr_put(b->last, NFTA_SET_USERDATA, sizeof(host_order), &host_order);
	fvm_nl_end(b);
}

/* ---- elements ---- */

struct element {
	uint8_t key[64], data[64];
	size_t key_len, data_len;
	const char *go_to; /* a chain; or NULL */
	bool is_end;	   /* of an interval: the first address after it */
};

static void element_put(struct fvm_nl_batch *b, uint16_t type, const char *set,
			const struct element *elements, size_t count)
{
	const uint16_t flags = type == NFT_MSG_NEWSETELEM ? NLM_F_CREATE : 0;
	fvm_nft_message(b, type, flags, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_SET_ELEM_LIST_TABLE, TABLE);
	mnl_attr_put_strz(b->last, NFTA_SET_ELEM_LIST_SET, set);
	struct nlattr *list = mnl_attr_nest_start(b->last, NFTA_SET_ELEM_LIST_ELEMENTS);
	for (size_t i = 0; i < count; i++) {
		struct nlattr *element = mnl_attr_nest_start(b->last, NFTA_LIST_ELEM);
		fvm_nft_put_data(b, NFTA_SET_ELEM_KEY, elements[i].key, elements[i].key_len);
		if (elements[i].data_len && type == NFT_MSG_NEWSETELEM)
			fvm_nft_put_data(b, NFTA_SET_ELEM_DATA, elements[i].data,
					 elements[i].data_len);
		if (elements[i].go_to && type == NFT_MSG_NEWSETELEM)
			fvm_nft_put_verdict(b, NFTA_SET_ELEM_DATA, NFT_GOTO, elements[i].go_to);
		if (elements[i].is_end)
			fvm_nft_put32(b, NFTA_SET_ELEM_FLAGS, NFT_SET_ELEM_INTERVAL_END);
		mnl_attr_nest_end(b->last, element);
	}
	mnl_attr_nest_end(b->last, list);
	fvm_nl_end(b);
}

/* Parts of a concatenation are padded to 32 bits. */
static void part(uint8_t *to, size_t *len, const void *bytes, size_t count)
{
	memcpy(to + *len, bytes, count);
	*len += (count + 3) & ~(size_t)3;
}

static void part_port(uint8_t *to, size_t *len, uint16_t port)
{
	const uint16_t be = htons(port);
	part(to, len, &be, sizeof(be));
}

static void link_element(struct element *e, const char *link)
{
	char name[16] = { 0 };
	memcpy(name, link, strnlen(link, sizeof(name) - 1));
	part(e->key, &e->key_len, name, sizeof(name));
}

void fvm_nft_guest(struct fvm_nl_batch *b, uint16_t type, const struct fvm_nft_guest *guest)
{
	const struct fvm_address *addresses[] = { &guest->a4, &guest->a6 };
	static const char *const names[] = { "guests4", "guests6" };
	for (size_t i = 0; i < 2; i++) {
		struct element e = { 0 };
		link_element(&e, guest->link);
		part(e.key, &e.key_len, addresses[i]->bytes, fvm_address_len(addresses[i]));
		element_put(b, type, names[i], &e, 1);
	}
}

void fvm_nft_private(struct fvm_nl_batch *b, uint16_t type, const char *link)
{
	struct element e = { 0 };
	link_element(&e, link);
	element_put(b, type, "private", &e, 1);
}

void fvm_nft_opened(struct fvm_nl_batch *b, uint16_t type, const char *link)
{
	struct element e = { 0 };
	link_element(&e, link);
	element_put(b, type, "opened", &e, 1);
}

static void limit_chain(struct fvm_nl_batch *b, const char *chain, uint32_t connections)
{
	static const enum fvm_nft_measure measures[] = { FVM_NFT_OPENED, FVM_NFT_OPEN };
	add_chain(b, &(struct chain){ .name = chain });
	for (size_t i = 0; i < FVM_COUNT(measures); i++) {
		struct nlattr *list = fvm_nft_rule_begin(b, TABLE, chain);
		fvm_nft_expr_over(b, measures[i], connections);
		fvm_nft_expr_verdict(b, NF_DROP, NULL);
		fvm_nft_rule_end(b, list);
	}
}

void fvm_nft_limit(struct fvm_nl_batch *b, uint16_t type, const char *link, uint32_t connections)
{
	char chain[32];
	struct element e = { .go_to = chain };
	snprintf(chain, sizeof(chain), "first-%.16s", link);
	link_element(&e, link);
	if (type == NFT_MSG_NEWSETELEM)
		limit_chain(b, chain, connections);
	element_put(b, type, "limits", &e, 1);
	if (type == NFT_MSG_NEWSETELEM)
		return;
	/* its rules go with it */
	fvm_nft_message(b, NFT_MSG_DELCHAIN, 0, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_TABLE, TABLE);
	mnl_attr_put_strz(b->last, NFTA_CHAIN_NAME, chain);
	fvm_nl_end(b);
}

void fvm_nft_port(struct fvm_nl_batch *b, uint16_t type, const struct fvm_nft_port *port)
{
	const bool is6 = port->to.family == AF_INET6;
	struct element e = { 0 };
	if (port->at.family)
		part(e.key, &e.key_len, port->at.bytes, fvm_address_len(&port->at));
	part(e.key, &e.key_len, &port->protocol, sizeof(port->protocol));
	part_port(e.key, &e.key_len, port->host);
	part(e.data, &e.data_len, port->to.bytes, fvm_address_len(&port->to));
	part_port(e.data, &e.data_len, port->guest);
	if (port->at.family)
		element_put(b, type, is6 ? "at6" : "at4", &e, 1);
	else
		element_put(b, type, is6 ? "ports6" : "ports4", &e, 1);
}

void fvm_nft_name_server(struct fvm_nl_batch *b, uint16_t type, const struct fvm_address *a)
{
	static const uint8_t protocols[] = { IPPROTO_TCP, IPPROTO_UDP };
	struct element e[2] = { 0 };
	for (size_t i = 0; i < 2; i++) {
		part(e[i].key, &e[i].key_len, a->bytes, fvm_address_len(a));
		part(e[i].key, &e[i].key_len, &protocols[i], 1);
		part_port(e[i].key, &e[i].key_len, 53);
	}
	element_put(b, type, a->family == AF_INET6 ? "names6" : "names4", e, 2);
}

void fvm_nft_quiet(struct fvm_nl_batch *b, uint16_t type, uint8_t family, const char *link)
{
	struct element e = { 0 };
	link_element(&e, link);
	element_put(b, type, family == AF_INET6 ? "quiet6" : "quiet4", &e, 1);
}

/* The first address after @prefix. Return: false when there is none. */
static bool prefix_end(const struct prefix *prefix, struct fvm_address *a)
{
	unsigned int bit = prefix->bits - 1;
	unsigned int carry = 0x80U >> (bit % 8);
	for (size_t i = bit / 8 + 1; i-- > 0 && carry;) {
		carry += a->bytes[i];
		a->bytes[i] = (uint8_t)carry;
		carry >>= 8;
	}
	return carry == 0;
}

static void add_prefix(struct fvm_nl_batch *b, const struct prefix *prefix)
{
	struct element e[2] = { { .is_end = false }, { .is_end = true } };
	struct fvm_address a;
	if (fvm_address_parse(prefix->address, &a) < 0)
		return;
	part(e[0].key, &e[0].key_len, a.bytes, fvm_address_len(&a));
	bool has_end = prefix_end(prefix, &a);
	part(e[1].key, &e[1].key_len, a.bytes, fvm_address_len(&a));
	element_put(b, NFT_MSG_NEWSETELEM, prefix->set, e, has_end ? 2 : 1);
}

/* ---- the table ---- */

void fvm_nft_table_add(struct fvm_nl_batch *b, const struct fvm_nft_table *table)
{
	fvm_nft_message(b, NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_TABLE_NAME, TABLE);
	fvm_nft_put32(b, NFTA_TABLE_FLAGS, NFT_TABLE_F_OWNER);
	fvm_nl_end(b);
	for (size_t i = 0; i < FVM_COUNT(sets); i++)
		add_set(b, &sets[i], (uint32_t)i + 1);
	for (size_t i = 0; i < FVM_COUNT(prefixes); i++)
		add_prefix(b, &prefixes[i]);
	for (size_t i = 0; i < FVM_COUNT(chains); i++)
		add_chain(b, &chains[i]);
	for (size_t i = 0; i < FVM_COUNT(rules); i++)
		add_rule(b, &rules[i], table);
}

void fvm_nft_table_delete(struct fvm_nl_batch *b)
{
	fvm_nft_message(b, NFT_MSG_DELTABLE, 0, NFPROTO_INET);
	mnl_attr_put_strz(b->last, NFTA_TABLE_NAME, TABLE);
	fvm_nl_end(b);
}

int fvm_nft_table_find(int sock)
{
	scoped_nl_batch b = { 0 };
	fvm_nft_message(&b, NFT_MSG_GETTABLE, 0, NFPROTO_INET);
	mnl_attr_put_strz(b.last, NFTA_TABLE_NAME, TABLE);
	fvm_nl_end(&b);
	int r = fvm_nl_run(sock, &b, NULL);
	return r == -ENOENT ? 0 : r < 0 ? r : 1;
}

/* ---- transactions ---- */

static int generation_take(const struct nlmsghdr *nlh, void *arg)
{
	const struct nlattr *attr;
	mnl_attr_for_each(attr, nlh, sizeof(struct nfgenmsg))
	{
		if (mnl_attr_get_type(attr) == NFTA_GEN_ID &&
		    mnl_attr_get_payload_len(attr) == sizeof(uint32_t))
			*(uint32_t *)arg = ntohl(mnl_attr_get_u32(attr));
	}
	return MNL_CB_STOP;
}

int fvm_nft_generation(int sock, uint32_t *ret)
{
	scoped_nl_batch b = { 0 };
	fvm_nft_message(&b, NFT_MSG_GETGEN, 0, NFPROTO_UNSPEC);
	fvm_nl_end(&b);
	return fvm_nl_ask(sock, &b, generation_take, ret);
}

static void transaction_edge(struct fvm_nl_batch *b, uint16_t type, uint32_t generation)
{
	struct nfgenmsg *g = fvm_nl_begin(b, type, 0, sizeof(*g));
	g->version = NFNETLINK_V0;
	g->res_id = htons(NFNL_SUBSYS_NFTABLES);
	if (generation)
		fvm_nft_put32(b, NFNL_BATCH_GENID, generation);
	fvm_nl_end(b);
}

void fvm_nft_begin(struct fvm_nl_batch *b, uint32_t generation)
{
	transaction_edge(b, NFNL_MSG_BATCH_BEGIN, generation);
}

int fvm_nft_run(int sock, struct fvm_nl_batch *b, uint32_t *ret_failed)
{
	/* kernels before 6.10 acknowledge a message of the transaction, but not its end */
	const ptrdiff_t last = (char *)b->last - b->buf;
	transaction_edge(b, NFNL_MSG_BATCH_END, 0);
	if (!b->failed)
		b->last = (struct nlmsghdr *)(b->buf + last);
	return fvm_nl_run(sock, b, ret_failed);
}
