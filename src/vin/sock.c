#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/sock.h"
#include "vin/sockopts.h"

#define BUFFER_MAX (64 << 20) /* that we ask for above the system's limit */
#define VALUES_MAX 512

bool vin_sock_is(const struct vin_open *o, int *ret_family, int *ret_type, int *ret_protocol)
{
	if (strncmp(o->link, "socket:[", 8) != 0)
		return false;
	*ret_family = vin_sock_option(o->fd, SOL_SOCKET, SO_DOMAIN);
	*ret_type = vin_sock_option(o->fd, SOL_SOCKET, SO_TYPE);
	*ret_protocol = vin_sock_option(o->fd, SOL_SOCKET, SO_PROTOCOL);
	return true;
}

int vin_sock_option(int fd, int level, int name)
{
	int value = 0;
	socklen_t len = sizeof(value);
	return getsockopt(fd, level, name, &value, &len) == 0 ? value : 0;
}

/* ---- filters ---- */

ssize_t vin_filter_read(int fd, unsigned char **ret)
{
	socklen_t count = 0;
	/* the length counts instructions */
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, NULL, &count) < 0)
		return -errno;
	if (count == 0)
		return 0;
	const size_t size = count * sizeof(struct sock_filter);
	unsigned char *filter = malloc(size);
	if (!filter)
		return -ENOMEM;
	if (getsockopt(fd, SOL_SOCKET, SO_GET_FILTER, filter, &count) < 0) {
		int r = -errno;
		free(filter);
		return r;
	}
	*ret = filter;
	return (ssize_t)size;
}

int vin_filter_set(int fd, const void *filter, size_t len)
{
	struct sock_fprog program = {
		.len = (unsigned short)(len / sizeof(struct sock_filter)),
		.filter = (struct sock_filter *)(uintptr_t)filter,
	};
	const int none = 0;
	if (len > 0)
		return fvm_nerr(
			setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)));
	int r = setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &none, sizeof(none));
	return r < 0 && errno != ENOENT ? -errno : 0;
}

int vin_filter_deaf(int fd)
{
	const struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
	return vin_filter_set(fd, &nothing, sizeof(nothing));
}

int vin_sock_check(const struct vin_open *o, struct fvm_error *err)
{
	scoped_free unsigned char *filter = NULL;
	ssize_t r = vin_filter_read(o->fd, &filter);
	if (r == -EACCES)
		return fvm_error_say(err, EOPNOTSUPP, "its filter is a program in eBPF");
	return r < 0 ? fvm_error_set(err, (int)-r, "read its filter") : 0;
}

int vin_sock_ready(const struct vin_open *o, struct fvm_error *err)
{
	struct pollfd p = { .fd = o->fd };
	if (poll(&p, 1, 0) > 0 && p.revents & POLLERR)
		return fvm_error_say(err, EAGAIN, "an error of it is not told to the program yet");
	return 0;
}

/* ---- addresses ---- */

static uint32_t *device_in(struct sockaddr_storage *a)
{
	if (a->ss_family == AF_INET6)
		return &((struct sockaddr_in6 *)a)->sin6_scope_id;
	if (a->ss_family == AF_PACKET)
		return (uint32_t *)&((struct sockaddr_ll *)a)->sll_ifindex;
	return NULL;
}

static int put_address(const struct vin_open *o, bool peer, struct fvm_buf *to)
{
	struct sockaddr_storage a = { 0 };
	socklen_t len = sizeof(a);
	struct ifreq device = { 0 };
	if ((peer ? getpeername(o->fd, (struct sockaddr *)&a, &len)
		  : getsockname(o->fd, (struct sockaddr *)&a, &len)) < 0)
		len = 0;
	const uint32_t *number = len > 0 ? device_in(&a) : NULL;
	if (number && *number > 0) {
		device.ifr_ifindex = (int)*number;
		if (ioctl(o->fd, SIOCGIFNAME, &device) < 0)
			return -errno;
	}
	vin_put_blob(to, &a, len);
	vin_put_string(to, device.ifr_name);
	return 0;
}

socklen_t vin_sock_len(int family)
{
	switch (family) {
	case AF_INET:
		return sizeof(struct sockaddr_in);
	case AF_INET6:
		return sizeof(struct sockaddr_in6);
	case AF_NETLINK:
		return sizeof(struct sockaddr_nl);
	default:
		return offsetof(struct sockaddr_ll, sll_addr);
	}
}

uint16_t vin_sock_port(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET ? ((const struct sockaddr_in *)a)->sin_port
				       : ((const struct sockaddr_in6 *)a)->sin6_port;
}

void vin_sock_set_port(struct sockaddr_storage *a, uint16_t port)
{
	if (a->ss_family == AF_INET)
		((struct sockaddr_in *)a)->sin_port = port;
	else
		((struct sockaddr_in6 *)a)->sin6_port = port;
}

size_t vin_sock_ip(struct sockaddr_storage *a, unsigned char **ret)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)a;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)a;
	if (a->ss_family == AF_INET) {
		*ret = (unsigned char *)&v4->sin_addr;
		return sizeof(v4->sin_addr);
	}
	if (a->ss_family != AF_INET6)
		return 0;
	const size_t skip = IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) ? 12 : 0;
	*ret = v6->sin6_addr.s6_addr + skip;
	return sizeof(v6->sin6_addr) - skip;
}

bool vin_sock_is_here(const struct sockaddr_storage *a)
{
	struct sockaddr_storage at = *a;
	scoped_fd fd = socket(a->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	vin_sock_set_port(&at, 0);
	return fd >= 0 && bind(fd, (struct sockaddr *)&at, vin_sock_len(a->ss_family)) == 0;
}

static int get_address(struct vin_payload *p, int family, struct vin_address *ret)
{
	size_t len;
	const void *at = vin_get_blob(p, &len);
	scoped_free char *link = vin_get_string(p);
	if (p->failed || len > sizeof(ret->at) || strlen(link) >= sizeof(ret->link))
		return -EBADMSG;
	memcpy(&ret->at, at, len);
	if (len > 0 && (ret->at.ss_family != family || len < vin_sock_len(family) ||
			(family != AF_PACKET && len != vin_sock_len(family))))
		return -EBADMSG;
	ret->len = (socklen_t)len;
	strcpy(ret->link, link);
	return ret->link[0] && (len == 0 || !device_in(&ret->at)) ? -EBADMSG : 0;
}

int vin_address_of(int fd, const struct vin_address *a, struct sockaddr_storage *ret)
{
	struct ifreq device = { 0 };
	*ret = a->at;
	if (!a->link[0])
		return 0;
	strcpy(device.ifr_name, a->link);
	if (ioctl(fd, SIOCGIFINDEX, &device) < 0)
		return -errno;
	*device_in(ret) = (uint32_t)device.ifr_ifindex;
	return 0;
}

/* ---- into the image ---- */

static void put_options(const struct vin_open *o, int family, int protocol, struct fvm_buf *to)
{
	unsigned char value[VIN_SOCK_VALUE_MAX];
	uint64_t count = 0;
	scoped_buf b = { 0 };
	for (size_t i = 0; i < vin_sock_option_count; i++) {
		const struct vin_sock_option *opt = &vin_sock_options[i];
		socklen_t len = sizeof(value);
		if (!vin_sock_option_fits(opt, family, protocol) ||
		    getsockopt(o->fd, opt->level, opt->name, value, &len) < 0 ||
		    len > sizeof(value))
			continue;
		vin_put_u64(&b, (uint64_t)opt->level);
		vin_put_u64(&b, (uint64_t)opt->name);
		vin_put_blob(&b, value, len);
		count++;
	}
	vin_put_u64(to, count);
	vin_put_blob(to, b.data ? b.data : "", b.len);
	to->failed |= b.failed;
}

int vin_sock_put(const struct vin_open *o, const void *filter, size_t filter_len,
		 struct fvm_buf *to, struct fvm_error *err)
{
	int family = 0, type = 0, protocol = 0;
	scoped_free unsigned char *own = NULL;
	vin_sock_is(o, &family, &type, &protocol);
	vin_put_u64(to, (uint64_t)family);
	vin_put_u64(to, (uint64_t)type);
	vin_put_u64(to, (uint64_t)protocol);
	int r = put_address(o, false, to);
	if (r == 0)
		r = put_address(o, true, to);
	if (r < 0)
		return fvm_error_set(err, -r, "look at the addresses of a socket");
	put_options(o, family, protocol, to);
	vin_put_u64(to, (uint64_t)vin_sock_option(o->fd, SOL_SOCKET, SO_RCVBUF));
	vin_put_u64(to, (uint64_t)vin_sock_option(o->fd, SOL_SOCKET, SO_SNDBUF));
	vin_put_u64(to, (uint64_t)vin_sock_option(o->fd, SOL_SOCKET, SO_BUF_LOCK));
	ssize_t len = filter ? (ssize_t)filter_len : vin_filter_read(o->fd, &own);
	if (len < 0)
		return fvm_error_set(err, (int)-len, "read the filter of a socket");
	vin_put_blob(to, filter ? filter : own ? own : (const void *)"", (size_t)len);
	vin_put_u64(to, (uint64_t)vin_sock_option(o->fd, SOL_SOCKET, SO_LOCK_FILTER));
	return 0;
}

/* ---- out of the image ---- */

static int get_values(struct vin_payload *p, struct vin_sock *s)
{
	const uint64_t count = vin_get_u64(p);
	size_t len;
	const void *values = vin_get_blob(p, &len);
	if (p->failed || count > VALUES_MAX)
		return -EBADMSG;
	s->values = malloc(len + 1);
	s->list = calloc(count + 1, sizeof(*s->list));
	if (!s->values || !s->list)
		return -ENOMEM;
	memcpy(s->values, values, len);
	struct vin_payload q = { .at = s->values, .end = s->values + len };
	while (s->count < count) {
		const uint64_t level = vin_get_u64(&q), name = vin_get_u64(&q);
		struct vin_sock_value *v = &s->list[s->count];
		v->option = vin_sock_option_find(level, name);
		v->data = vin_get_blob(&q, &v->len);
		if (q.failed || !v->option || v->len > VIN_SOCK_VALUE_MAX ||
		    !vin_sock_option_fits(v->option, s->family, s->protocol))
			return -EBADMSG;
		s->count++;
	}
	return vin_get_done(&q);
}

static int get_filter(struct vin_payload *p, struct vin_sock *s)
{
	const void *filter = vin_get_blob(p, &s->filter_len);
	const uint64_t locked = vin_get_u64(p);
	const size_t one = sizeof(struct sock_filter);
	if (p->failed || locked > 1 || s->filter_len % one || s->filter_len / one > BPF_MAXINSNS)
		return -EBADMSG;
	s->filter_locked = locked;
	s->filter = malloc(s->filter_len + 1);
	if (!s->filter)
		return -ENOMEM;
	memcpy(s->filter, filter, s->filter_len);
	return 0;
}

int vin_sock_get(struct vin_payload *p, struct vin_sock *ret)
{
	const uint64_t family = vin_get_u64(p), type = vin_get_u64(p), protocol = vin_get_u64(p);
	if (p->failed || type > SOCK_PACKET || protocol > INT32_MAX ||
	    (family != AF_INET && family != AF_INET6 && family != AF_PACKET &&
	     family != AF_NETLINK))
		return -EBADMSG;
	ret->family = (int)family;
	ret->type = (int)type;
	ret->protocol = (int)protocol;
	int r = get_address(p, ret->family, &ret->local);
	if (r == 0)
		r = get_address(p, ret->family, &ret->peer);
	if (r == 0)
		r = get_values(p, ret);
	const uint64_t receive = vin_get_u64(p), send = vin_get_u64(p), locks = vin_get_u64(p);
	if (r == 0 && (p->failed || receive > INT32_MAX || send > INT32_MAX || locks > 3))
		r = -EBADMSG;
	ret->receive = (int)receive;
	ret->send = (int)send;
	ret->locks = (int)locks;
	return r < 0 ? r : get_filter(p, ret);
}

void vin_sock_forget(struct vin_sock *s)
{
	free(s->values);
	free(s->list);
	free(s->filter);
}

/* ---- anew ---- */

static int set_value(int fd, const struct vin_sock_value *v, struct fvm_error *err)
{
	unsigned char now[VIN_SOCK_VALUE_MAX];
	socklen_t len = sizeof(now);
	const struct vin_sock_option *o = v->option;
	if (getsockopt(fd, o->level, o->name, now, &len) == 0 && len == v->len &&
	    memcmp(now, v->data, len) == 0)
		return 0;
	if (setsockopt(fd, o->level, o->name, v->data, (socklen_t)v->len) == 0)
		return 0;
	/* another way to share the line is as good */
	if (errno == ENOENT && o->level == SOL_TCP)
		return 0;
	return fvm_error_set(err, errno, "set %s of a socket", o->word);
}

static int set_values(int fd, const struct vin_sock *s, bool late, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < s->count; i++) {
		const struct vin_sock_option *o = s->list[i].option;
		if (late ? !o->once : !o->late)
			r = set_value(fd, &s->list[i], err);
	}
	return r;
}

/* What is told is twice what is set. */
static void set_size(int fd, int name, int forced, int size)
{
	const int half = (size < BUFFER_MAX ? size : BUFFER_MAX) / 2;
	if (vin_sock_option(fd, SOL_SOCKET, name) != size &&
	    setsockopt(fd, SOL_SOCKET, forced, &half, sizeof(half)) < 0)
		(void)setsockopt(fd, SOL_SOCKET, name, &half, sizeof(half));
}

static void set_sizes(int fd, const struct vin_sock *s)
{
	set_size(fd, SO_RCVBUF, SO_RCVBUFFORCE, s->receive);
	set_size(fd, SO_SNDBUF, SO_SNDBUFFORCE, s->send);
	(void)setsockopt(fd, SOL_SOCKET, SO_BUF_LOCK, &s->locks, sizeof(s->locks));
}

/* What lies in a buffer is counted with what it lies in. */
static int room_for(size_t bytes)
{
	return bytes < BUFFER_MAX / 2 ? (int)bytes * 2 + (64 << 10) : BUFFER_MAX;
}

bool vin_sock_room(int fd, size_t receive, size_t send)
{
	if (vin_sock_option(fd, SOL_SOCKET, SO_RCVBUF) < room_for(receive))
		set_size(fd, SO_RCVBUF, SO_RCVBUFFORCE, room_for(receive));
	if (vin_sock_option(fd, SOL_SOCKET, SO_SNDBUF) < room_for(send))
		set_size(fd, SO_SNDBUF, SO_SNDBUFFORCE, room_for(send));
	return vin_sock_option(fd, SOL_SOCKET, SO_SNDBUF) >= room_for(send);
}

int vin_sock_make(const struct vin_sock *s, struct fvm_error *err)
{
	scoped_fd fd = socket(s->family, s->type | SOCK_CLOEXEC, s->protocol);
	if (fd < 0)
		return fvm_error_set(err, errno, "make a socket");
	int r = set_values(fd, s, false, err);
	set_sizes(fd, s);
	return r < 0 ? r : fvm_fd_take(&fd);
}

int vin_sock_value(const struct vin_sock *s, int level, int name)
{
	int value = 0;
	for (size_t i = 0; i < s->count; i++) {
		const struct vin_sock_value *v = &s->list[i];
		if (v->option->level == level && v->option->name == name && v->len == sizeof(value))
			memcpy(&value, v->data, sizeof(value));
	}
	return value;
}

static bool named(const struct sockaddr_storage *a)
{
	const struct sockaddr_in *v4 = (const struct sockaddr_in *)a;
	const struct sockaddr_in6 *v6 = (const struct sockaddr_in6 *)a;
	if (a->ss_family == AF_INET)
		return v4->sin_port || v4->sin_addr.s_addr;
	return a->ss_family != AF_INET6 || v6->sin6_port ||
	       !IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
}

int vin_sock_name(int fd, const struct vin_sock *s, struct fvm_error *err)
{
	struct sockaddr_storage a;
	if (s->local.len == 0 || !named(&s->local.at))
		return 0;
	int r = vin_address_of(fd, &s->local, &a);
	if (r < 0)
		return fvm_error_set(err, -r, "find the device %s", s->local.link);
	if (bind(fd, (struct sockaddr *)&a, s->local.len) == 0)
		return 0;
	r = fvm_error_set(err, errno, "give a socket its address");
	if (r == -EADDRNOTAVAIL)
		fvm_error_hint(err, "addresses come before what is bound to them");
	return r;
}

int vin_sock_finish(int fd, const struct vin_sock *s, struct fvm_error *err)
{
	const int one = 1;
	set_sizes(fd, s);
	int r = set_values(fd, s, true, err);
	if (r < 0)
		return r;
	r = vin_filter_set(fd, s->filter, s->filter_len);
	if (r == 0 && s->filter_locked)
		r = fvm_nerr(setsockopt(fd, SOL_SOCKET, SO_LOCK_FILTER, &one, sizeof(one)));
	return r < 0 ? fvm_error_set(err, -r, "set the filter of a socket") : 0;
}
