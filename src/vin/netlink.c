/*
 * Netlink sockets: port number, groups and options. Messages of the kernel that are not read can't
 * be made again by anybody else: with some of them, or with a dump under way, a socket is not
 * captured at that moment (-EAGAIN). What the kernel keeps for a socket of other protocols (queues,
 * tables, a daemon's place) is not seen from outside; these are refused.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "vin/sock.h"

#define WORDS_MAX 64 /* of 32 groups */

struct netlink {
	struct vin_sock sock;
	uint32_t groups[WORDS_MAX];
	size_t words;
};

static bool matches(const struct vin_open *o)
{
	int family, type, protocol;
	return vin_sock_is(o, &family, &type, &protocol) && family == AF_NETLINK;
}

static bool known(int protocol)
{
	return protocol == NETLINK_ROUTE || protocol == NETLINK_USERSOCK ||
	       protocol == NETLINK_SOCK_DIAG || protocol == NETLINK_XFRM ||
	       protocol == NETLINK_KOBJECT_UEVENT || protocol == NETLINK_GENERIC;
}

static int groups_of(int fd, uint32_t *ret, size_t *ret_words)
{
	socklen_t len = WORDS_MAX * sizeof(*ret);
	memset(ret, 0, len);
	if (getsockopt(fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, ret, &len) < 0)
		return -errno;
	*ret_words = len / sizeof(*ret);
	return *ret_words > WORDS_MAX ? -E2BIG : 0;
}

static bool has_groups(int fd)
{
	uint32_t groups[WORDS_MAX];
	size_t words;
	if (groups_of(fd, groups, &words) < 0)
		return true;
	for (size_t i = 0; i < words; i++) {
		if (groups[i])
			return true;
	}
	return false;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	const int protocol = vin_sock_option(o->fd, SOL_SOCKET, SO_PROTOCOL);
	(void)all;
	if (!known(protocol))
		return fvm_error_say(err, EOPNOTSUPP,
				     "the kernel may keep something for a netlink socket of "
				     "protocol %d",
				     protocol);
	if (protocol == NETLINK_GENERIC && has_groups(o->fd))
		return fvm_error_say(err, EOPNOTSUPP,
				     "each kernel has other numbers for groups of generic netlink");
	return vin_sock_check(o, err);
}

/* Of /proc/net/netlink: "sk Eth Pid Groups Rmem Wmem Dump Locks Drops Inode" */
static bool dumps(const struct vin_open *o)
{
	char path[40], line[256];
	bool found = false;
	snprintf(path, sizeof(path), "/proc/%d/net/netlink", o->pid);
	FILE *file = fopen(path, "re");
	while (file && !found && fgets(line, sizeof(line), file)) {
		unsigned int dump;
		unsigned long long ino;
		if (sscanf(line, "%*s %*d %*u %*x %*d %*d %u %*d %*d %llu", &dump, &ino) == 2 &&
		    ino == o->st.st_ino)
			found = dump != 0;
	}
	if (file)
		fclose(file);
	return found;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	struct pollfd p = { .fd = o->fd, .events = POLLIN };
	uint32_t groups[WORDS_MAX];
	size_t words = 0;
	(void)all;
	int r = vin_sock_ready(o, err);
	if (r == 0 && poll(&p, 1, 0) > 0 && p.revents & POLLIN)
		r = fvm_error_say(err, EAGAIN, "a message of the kernel is not read yet");
	if (r == 0 && dumps(o))
		r = fvm_error_say(err, EAGAIN, "the kernel is telling it a list");
	if (r == 0)
		r = vin_sock_put(o, NULL, 0, to, err);
	if (r < 0)
		return r;
	r = groups_of(o->fd, groups, &words);
	vin_put_blob(to, groups, r == 0 ? words * sizeof(*groups) : 0);
	return r < 0 ? fvm_error_set(err, -r, "list the groups of a netlink socket") : 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct netlink *n = ret;
	size_t len;
	(void)first;
	int r = vin_sock_get(p, &n->sock);
	const void *groups = r == 0 ? vin_get_blob(p, &len) : NULL;
	if (r < 0 || p->failed || len > sizeof(n->groups) || len % sizeof(n->groups[0]) ||
	    n->sock.family != AF_NETLINK || !known(n->sock.protocol) ||
	    (n->sock.type != SOCK_RAW && n->sock.type != SOCK_DGRAM))
		return r < 0 ? r : -EBADMSG;
	memcpy(n->groups, groups, len);
	n->words = len / sizeof(n->groups[0]);
	return 0;
}

static void forget(void *its)
{
	vin_sock_forget(&((struct netlink *)its)->sock);
}

static int name(int fd, const struct vin_sock *s)
{
	struct sockaddr_nl own = { .nl_family = AF_NETLINK }, to = own;
	if (s->local.len > 0)
		own.nl_pid = ((const struct sockaddr_nl *)&s->local.at)->nl_pid;
	if (s->peer.len > 0)
		memcpy(&to, &s->peer.at, sizeof(to));
	if (own.nl_pid && bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		return -errno;
	if ((to.nl_pid || to.nl_groups) && connect(fd, (struct sockaddr *)&to, sizeof(to)) < 0)
		return -errno;
	return 0;
}

static int open_netlink(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct netlink *n = f->its;
	(void)r;
	scoped_fd fd = vin_sock_make(&n->sock, err);
	if (fd < 0)
		return fd;
	int ret = name(fd, &n->sock);
	return ret < 0 ? fvm_error_set(err, -ret, "give a netlink socket its number")
		       : fvm_fd_take(&fd);
}

/* From here on it hears of what happens. */
static int settle(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct netlink *n = f->its;
	(void)r;
	for (size_t i = 0; i < n->words * 32; i++) {
		const int group = (int)i + 1;
		if (n->groups[i / 32] & 1U << i % 32 &&
		    setsockopt(f->fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) <
			    0)
			return fvm_error_set(err, errno, "join group %d of netlink", group);
	}
	return vin_sock_finish(f->fd, &n->sock, err);
}

const struct vin_kind vin_kind_netlink = {
	.name = "a netlink socket",
	.nr = VIN_KIND_NETLINK,
	.matches = matches,
	.check = check,
	.capture = capture,
	.size = sizeof(struct netlink),
	.parse = parse,
	.forget = forget,
	.open = open_netlink,
	.settle = settle,
};
