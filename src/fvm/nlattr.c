#include <errno.h>
#include <string.h>

#include "fvm/nlattr.h"

static char *tail(struct nlmsghdr *nlh)
{
	return (char *)nlh + NLMSG_ALIGN(nlh->nlmsg_len);
}

void fvm_nl_put(struct nlmsghdr *nlh, uint16_t type, size_t len, const void *data)
{
	struct nlattr attr = { .nla_type = type, .nla_len = (uint16_t)(NLA_HDRLEN + len) };
	char *at = tail(nlh);
	memcpy(at, &attr, sizeof(attr));
	if (len)
		memcpy(at + NLA_HDRLEN, data, len);
	memset(at + NLA_HDRLEN + len, 0, NLA_ALIGN(attr.nla_len) - attr.nla_len);
	nlh->nlmsg_len = NLMSG_ALIGN(nlh->nlmsg_len) + NLA_ALIGN(attr.nla_len);
}

void fvm_nl_put_u8(struct nlmsghdr *nlh, uint16_t type, uint8_t value)
{
	fvm_nl_put(nlh, type, sizeof(value), &value);
}

void fvm_nl_put_u32(struct nlmsghdr *nlh, uint16_t type, uint32_t value)
{
	fvm_nl_put(nlh, type, sizeof(value), &value);
}

void fvm_nl_put_u64(struct nlmsghdr *nlh, uint16_t type, uint64_t value)
{
	fvm_nl_put(nlh, type, sizeof(value), &value);
}

void fvm_nl_put_text(struct nlmsghdr *nlh, uint16_t type, const char *text)
{
	fvm_nl_put(nlh, type, strlen(text) + 1, text);
}

void *fvm_nl_put_struct(struct nlmsghdr *nlh, size_t bytes)
{
	char *at = tail(nlh);
	memset(at, 0, NLMSG_ALIGN(bytes));
	nlh->nlmsg_len = NLMSG_ALIGN(nlh->nlmsg_len) + NLMSG_ALIGN(bytes);
	return at;
}

struct nlattr *fvm_nl_nest(struct nlmsghdr *nlh, uint16_t type)
{
	char *at = tail(nlh);
	fvm_nl_put(nlh, type | NLA_F_NESTED, 0, NULL);
	return (struct nlattr *)(void *)at;
}

void fvm_nl_nest_end(struct nlmsghdr *nlh, struct nlattr *nest)
{
	nest->nla_len = (uint16_t)(tail(nlh) - (char *)nest);
}

static bool get(const struct nlattr *attr, void *ret, size_t len)
{
	if (fvm_nl_len(attr) != len)
		return false;
	memcpy(ret, fvm_nl_data(attr), len);
	return true;
}

uint8_t fvm_nl_get_u8(const struct nlattr *attr)
{
	uint8_t value;
	return get(attr, &value, sizeof(value)) ? value : 0;
}

uint32_t fvm_nl_get_u32(const struct nlattr *attr)
{
	uint32_t value;
	return get(attr, &value, sizeof(value)) ? value : 0;
}

uint64_t fvm_nl_get_u64(const struct nlattr *attr)
{
	uint64_t value;
	return get(attr, &value, sizeof(value)) ? value : 0;
}

const void *fvm_nl_family(const struct nlmsghdr *nlh, size_t bytes)
{
	return nlh->nlmsg_len < NLMSG_HDRLEN + bytes ? NULL : (const char *)nlh + NLMSG_HDRLEN;
}

const struct nlattr *fvm_nl_next(const void *at, const void *end)
{
	const struct nlattr *attr = at;
	ssize_t left = (const char *)end - (const char *)at;
	if (left < (ssize_t)sizeof(*attr) || attr->nla_len < NLA_HDRLEN || attr->nla_len > left)
		return NULL;
	return attr;
}

const struct nlattr *fvm_nl_first(const struct nlmsghdr *nlh, size_t bytes)
{
	return fvm_nl_next((const char *)nlh + NLMSG_HDRLEN + NLMSG_ALIGN(bytes),
			   (const char *)nlh + nlh->nlmsg_len);
}

/* What the kernel says to a request as a whole. */
static int take_control(const struct nlmsghdr *nlh)
{
	const struct nlmsgerr *e = fvm_nl_family(nlh, sizeof(*e));
	if (nlh->nlmsg_type != NLMSG_ERROR)
		return nlh->nlmsg_type == NLMSG_DONE ? FVM_NL_STOP : FVM_NL_MORE;
	if (!e)
		return -EBADMSG;
	return e->error < 0 ? e->error : FVM_NL_STOP;
}

int fvm_nl_walk(const void *buf, size_t len, uint32_t seq, fvm_nl_fn each, void *arg)
{
	const struct nlmsghdr *nlh = buf;
	int r = FVM_NL_MORE;
	while (r == FVM_NL_MORE && NLMSG_OK(nlh, len)) {
		if (nlh->nlmsg_seq != seq)
			return -EPROTO;
		if (nlh->nlmsg_flags & NLM_F_DUMP_INTR)
			return -EINTR;
		r = nlh->nlmsg_type < NLMSG_MIN_TYPE ? take_control(nlh) : each(nlh, arg);
		nlh = NLMSG_NEXT(nlh, len);
	}
	return r;
}
