/*
 * fvm/nlattr - the attributes of netlink messages: put into one, and read from one
 *
 * Theory of operation
 *   A message is a header and a struct of its family, then attributes: a length, a type, and bytes,
 *   each padded to four. A nested one is a list of them. Putting writes behind what is there, into
 *   room that the batch has (NL_ROOM, see netlink.h). Reading takes no length for granted: a loop
 *   ends at the first attribute that does not fit into what is around it.
 *   Of our own making, as a library for this would be one more to load at each start.
 *   Sources: netlink(7), Documentation/userspace-api/netlink/intro.rst.
 */
#ifndef FVM_NLATTR_H
#define FVM_NLATTR_H

#include <linux/netlink.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/common.h"

/* ---- putting ---- */

/** fvm_nl_put() - one attribute of @len bytes */
void fvm_nl_put(struct nlmsghdr *nlh, uint16_t type, size_t len, const void *data);
void fvm_nl_put_u8(struct nlmsghdr *nlh, uint16_t type, uint8_t value);
void fvm_nl_put_u32(struct nlmsghdr *nlh, uint16_t type, uint32_t value);
void fvm_nl_put_u64(struct nlmsghdr *nlh, uint16_t type, uint64_t value);
/** fvm_nl_put_text() - with the zero at its end */
void fvm_nl_put_text(struct nlmsghdr *nlh, uint16_t type, const char *text);
/** fvm_nl_put_struct() - @bytes, zeroed, that are no attribute. Return: where they are */
void *fvm_nl_put_struct(struct nlmsghdr *nlh, size_t bytes);
/** fvm_nl_nest() - what is put from now on lies within the one returned, until fvm_nl_nest_end() */
struct nlattr *fvm_nl_nest(struct nlmsghdr *nlh, uint16_t type);
void fvm_nl_nest_end(struct nlmsghdr *nlh, struct nlattr *nest);

/* ---- reading ---- */

static inline uint16_t fvm_nl_type(const struct nlattr *attr)
{
	return attr->nla_type & NLA_TYPE_MASK;
}

static inline size_t fvm_nl_len(const struct nlattr *attr)
{
	return (size_t)attr->nla_len - NLA_HDRLEN;
}

static inline const void *fvm_nl_data(const struct nlattr *attr)
{
	return (const char *)attr + NLA_HDRLEN;
}

/** fvm_nl_get_u32() - 0 when it is of another length; so for the others */
uint8_t fvm_nl_get_u8(const struct nlattr *attr);
uint32_t fvm_nl_get_u32(const struct nlattr *attr);
uint64_t fvm_nl_get_u64(const struct nlattr *attr);

/** fvm_nl_family() - the struct behind the header, NULL when the message is shorter than @bytes */
const void *fvm_nl_family(const struct nlmsghdr *nlh, size_t bytes);

/** fvm_nl_next() - the attribute at @at if all of it lies before @end, else NULL */
const struct nlattr *fvm_nl_next(const void *at, const void *end);

/* @attr is each attribute behind the struct of @bytes; of a message shorter than that there is none
 */
#define fvm_nl_each(attr, nlh, bytes)                                                              \
	for (const struct nlattr *attr = fvm_nl_first(nlh, bytes); attr;                           \
	     attr = fvm_nl_next((const char *)attr + NLA_ALIGN(attr->nla_len),                     \
				(const char *)(nlh) + (nlh)->nlmsg_len))
#define fvm_nl_each_in(attr, nest)                                                                 \
	for (const struct nlattr *attr =                                                           \
		     fvm_nl_next(fvm_nl_data(nest), (const char *)(nest) + (nest)->nla_len);       \
	     attr; attr = fvm_nl_next((const char *)attr + NLA_ALIGN(attr->nla_len),               \
				      (const char *)(nest) + (nest)->nla_len))
const struct nlattr *fvm_nl_first(const struct nlmsghdr *nlh, size_t bytes);

/* What is done with each message of an answer. Return: FVM_NL_MORE, FVM_NL_STOP or negative errno
 */
enum { FVM_NL_STOP = 0, FVM_NL_MORE = 1 };
typedef int (*fvm_nl_fn)(const struct nlmsghdr *nlh, void *arg);

/**
 * fvm_nl_walk() - pass each message of @buf that answers request @seq to @each
 * Return: FVM_NL_MORE, FVM_NL_STOP (also at the end of a dump, or an acknowledgement), or the
 *         negative errno that the kernel or @each gave; -EINTR for a dump that changed meanwhile
 */
int fvm_nl_walk(const void *buf, size_t len, uint32_t seq, fvm_nl_fn each, void *arg);

#endif
