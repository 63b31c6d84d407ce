/*
 * sock_diag(7) for one unix socket. It answers for the network namespace that its own socket was
 * made in: for another one than ours a child goes there and leaves such a socket at a number of
 * ours.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/sockios.h>
#include <linux/unix_diag.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/unix.h"

#ifndef SIOCGSKNS
#define SIOCGSKNS 0x894C
#endif
#ifndef NS_GET_USERNS
#define NS_GET_USERNS _IO(0xb7, 0x1)
#endif

static uint64_t net_of(int sock)
{
	uint64_t cookie = 0;
	socklen_t len = sizeof(cookie);
	return getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) < 0 ? 0 : cookie;
}

static int open_diag(void)
{
	return fvm_nerr(socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG));
}

struct place {
	int net;
	int at; /* the number that is reserved for it */
};

/* Runs in the child: its namespaces are not ours, its descriptors are. */
static int go_and_open(void *arg)
{
	const struct place *p = arg;
	const int net = p->net;
	scoped_fd user = fvm_nerr(ioctl(net, NS_GET_USERNS));
	/* who may not as we are may as the owner of the namespace's user namespace */
	if (setns(net, CLONE_NEWNET) < 0 &&
	    (user < 0 || setns(user, CLONE_NEWUSER) < 0 || setns(net, CLONE_NEWNET) < 0))
		return -errno;
	scoped_fd diag = open_diag();
	return diag < 0 ? diag : fvm_nerr(dup3(diag, p->at, O_CLOEXEC)) < 0 ? -errno : 0;
}

static int open_diag_of(int sock)
{
	scoped_fd net = fvm_nerr(ioctl(sock, SIOCGSKNS));
	scoped_fd place = unix_reserve();
	struct place p = { net, place };
	if (net < 0 || place < 0)
		return net < 0 ? net : place;
	int r = unix_apart(go_and_open, &p);
	return r < 0 ? r : fvm_fd_take(&place);
}

int vin_asker_find(struct vin_files *all, int sock)
{
	const uint64_t net = net_of(sock);
	for (size_t i = 0; i < all->asker_count; i++) {
		if (all->askers[i].net == net)
			return all->askers[i].fd;
	}
	struct vin_asker *more =
		realloc(all->askers, fvm_room(all->asker_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	all->askers = more;
	scoped_fd own = open_diag();
	if (own >= 0 && net_of(own) != net) {
		fvm_fd_closep(&own);
		own = open_diag_of(sock);
	}
	if (own < 0)
		return own;
	more[all->asker_count++] = (struct vin_asker){ net, own };
	return fvm_fd_take(&own);
}

static void take_waiting(const struct nlattr *a, struct unix_diag *ret)
{
	const size_t len = a->nla_len - NLA_HDRLEN;
	ret->waiting_count = (uint32_t)(len / sizeof(uint32_t));
	if (ret->waiting_count > FVM_COUNT(ret->waiting))
		ret->waiting_count = FVM_COUNT(ret->waiting);
	memcpy(ret->waiting, (const char *)a + NLA_HDRLEN,
	       ret->waiting_count * sizeof(*ret->waiting));
}

static void take_attribute(const struct nlattr *a, struct unix_diag *ret)
{
	const void *data = (const char *)a + NLA_HDRLEN;
	const size_t len = a->nla_len - NLA_HDRLEN;
	struct unix_diag_rqlen queue;
	struct unix_diag_vfs file;
	if (a->nla_type == UNIX_DIAG_PEER && len >= 4) {
		memcpy(&ret->peer, data, 4);
		ret->has_peer = true;
	} else if (a->nla_type == UNIX_DIAG_VFS && len >= sizeof(file)) {
		memcpy(&file, data, sizeof(file));
		ret->has_file = true;
		ret->file_ino = file.udiag_vfs_ino;
	} else if (a->nla_type == UNIX_DIAG_RQLEN && len >= sizeof(queue)) {
		memcpy(&queue, data, sizeof(queue));
		ret->queued = queue.udiag_rqueue;
		ret->backlog = queue.udiag_wqueue;
	} else if (a->nla_type == UNIX_DIAG_SHUTDOWN && len >= 1) {
		ret->down = *(const unsigned char *)data;
	} else if (a->nla_type == UNIX_DIAG_ICONS) {
		take_waiting(a, ret);
	}
}

static int take_answer(const char *at, size_t len, struct unix_diag *ret)
{
	struct nlmsghdr head;
	struct unix_diag_msg msg;
	if (len < sizeof(head))
		return -EBADMSG;
	memcpy(&head, at, sizeof(head));
	if (head.nlmsg_len > len)
		return -EBADMSG;
	if (head.nlmsg_type == NLMSG_ERROR) {
		struct nlmsgerr e;
		if (head.nlmsg_len < NLMSG_HDRLEN + sizeof(e))
			return -EBADMSG;
		memcpy(&e, at + NLMSG_HDRLEN, sizeof(e));
		return e.error ? e.error : -EBADMSG;
	}
	if (head.nlmsg_len < NLMSG_HDRLEN + sizeof(msg))
		return -EBADMSG;
	memcpy(&msg, at + NLMSG_HDRLEN, sizeof(msg));
	ret->state = msg.udiag_state;
	for (size_t i = NLMSG_HDRLEN + NLMSG_ALIGN(sizeof(msg));
	     i + NLA_HDRLEN <= head.nlmsg_len;) {
		const struct nlattr *a = (const void *)(at + i);
		if (a->nla_len < NLA_HDRLEN || i + a->nla_len > head.nlmsg_len)
			return -EBADMSG;
		take_attribute(a, ret);
		i += NLA_ALIGN(a->nla_len);
	}
	return 0;
}

static int ask(int nl, ino_t ino, struct unix_diag *ret)
{
	struct {
		struct nlmsghdr head;
		struct unix_diag_req req;
	} q = {
		.head = { .nlmsg_len = sizeof(q),
			  .nlmsg_type = SOCK_DIAG_BY_FAMILY,
			  .nlmsg_flags = NLM_F_REQUEST },
		.req = { .sdiag_family = AF_UNIX,
			 .udiag_states = ~0U,
			 .udiag_ino = (uint32_t)ino,
			 .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_VFS | UDIAG_SHOW_ICONS |
				       UDIAG_SHOW_RQLEN,
			 .udiag_cookie = { ~0U, ~0U } },
	};
	_Alignas(struct nlmsghdr) char answer[8192];
	if (send(nl, &q, sizeof(q), 0) < 0)
		return -errno;
	ssize_t n = recv(nl, answer, sizeof(answer), 0);
	return n < 0 ? -errno : take_answer(answer, (size_t)n, ret);
}

int unix_ask(struct vin_files *all, const struct vin_open *o, struct unix_diag *ret,
	     struct fvm_error *err)
{
	*ret = (struct unix_diag){ 0 };
	int nl = vin_asker_find(all, o->fd);
	int r = nl < 0 ? nl : ask(nl, o->st.st_ino, ret);
	if (r == -ENOENT || r == -EPROTONOSUPPORT)
		fvm_error_hint(err, "this kernel may need a module for it: modprobe unix_diag");
	return r < 0 ? fvm_error_set(err, -r, "ask the kernel about %s (sock_diag)", o->link) : 0;
}
