#include <errno.h>
#include <libmnl/libmnl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vin/image.h"
#include "vin/rtnl.h"

#define ANSWER_BYTES 65536

int vin_rtnl_open(int protocol)
{
	scoped_fd sock = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	const struct sockaddr_nl us = { .nl_family = AF_NETLINK };
	const int on = 1;
	if (sock < 0 || bind(sock, (const struct sockaddr *)&us, sizeof(us)) < 0)
		return -errno;
	(void)setsockopt(sock, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
	(void)setsockopt(sock, SOL_NETLINK, NETLINK_GET_STRICT_CHK, &on, sizeof(on));
	return fvm_fd_take(&sock);
}

/* From the kernel, not from another program in the namespace. */
static ssize_t receive(int sock, void *buf, size_t size)
{
	for (;;) {
		struct sockaddr_nl from = { .nl_pid = ~0U };
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(sock, buf, size, MSG_TRUNC, (struct sockaddr *)&from, &len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (len == sizeof(from) && from.nl_pid == 0)
			return (size_t)n > size ? -EMSGSIZE : n;
	}
}

/* Return: 1: there is more, 0: the end, or negative errno */
static int take_answer(const void *buf, int left, vin_rtnl_fn fn, void *arg, struct fvm_error *err)
{
	for (const struct nlmsghdr *m = buf; mnl_nlmsg_ok(m, left); m = mnl_nlmsg_next(m, &left)) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(m);
		if (m->nlmsg_type == NLMSG_DONE)
			return 0;
		if (m->nlmsg_type == NLMSG_ERROR)
			return mnl_nlmsg_get_payload_len(m) < sizeof(*e) ? -EBADMSG : e->error;
		int r = fn ? fn(arg, m, err) : 0;
		if (r < 0)
			return r;
	}
	return 1;
}

static int send_to_kernel(int sock, const struct nlmsghdr *m)
{
	const struct sockaddr_nl kernel = { .nl_family = AF_NETLINK };
	ssize_t n =
		sendto(sock, m, m->nlmsg_len, 0, (const struct sockaddr *)&kernel, sizeof(kernel));
	return n < 0 ? -errno : 0;
}

static int answers(int sock, vin_rtnl_fn fn, void *arg, struct fvm_error *err)
{
	scoped_free char *buf = malloc(ANSWER_BYTES);
	int r = buf ? 1 : -ENOMEM;
	while (r > 0) {
		ssize_t n = receive(sock, buf, ANSWER_BYTES);
		r = n < 0 ? (int)n : take_answer(buf, (int)n, fn, arg, err);
	}
	return r;
}

int vin_rtnl_dump(int sock, uint16_t type, const void *head, size_t len, vin_rtnl_fn fn, void *arg,
		  struct fvm_error *err)
{
	char buf[256] __attribute__((aligned(NLMSG_ALIGNTO)));
	struct nlmsghdr *m = mnl_nlmsg_put_header(buf);
	m->nlmsg_type = type;
	m->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	memcpy(mnl_nlmsg_put_extra_header(m, len), head, len);
	int r = send_to_kernel(sock, m);
	return r < 0 ? r : answers(sock, fn, arg, err);
}

int vin_rtnl_send(int sock, struct nlmsghdr *m, uint16_t flags)
{
	m->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
	m->nlmsg_seq = 0;
	m->nlmsg_pid = 0;
	int r = send_to_kernel(sock, m);
	return r < 0 ? r : answers(sock, NULL, NULL, NULL);
}

int vin_rtnl_message(struct vin_payload *p, size_t head, struct nlmsghdr **ret)
{
	size_t len = 0;
	const void *data = vin_get_blob(p, &len);
	if (p->failed || len < NLMSG_HDRLEN + head || len > ANSWER_BYTES)
		return -EBADMSG;
	struct nlmsghdr *m = calloc(1, MNL_ALIGN(len));
	if (!m)
		return -ENOMEM;
	memcpy(m, data, len);
	if (m->nlmsg_len != len) {
		free(m);
		return -EBADMSG;
	}
	*ret = m;
	return 0;
}

const struct nlattr *vin_rtnl_attr(const struct nlmsghdr *m, size_t head, uint16_t type)
{
	const struct nlattr *a;
	if (mnl_nlmsg_get_payload_len(m) < head)
		return NULL;
	mnl_attr_for_each(a, m, head)
	{
		if (mnl_attr_get_type(a) == type)
			return a;
	}
	return NULL;
}
