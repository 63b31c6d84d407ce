/*
 * vin/sock - what sockets of the internet's kinds share: what they are, addresses, options, filters
 *
 * Theory of operation
 *   A socket is told by its family, type and protocol. Options are one table of levels and names;
 *   all that getsockopt(2) tells of a socket at the source goes into the image, and what a new
 *   socket has otherwise is set: where nothing differs nothing is asked for, so that an ordinary
 *   user can restore what he could make. Options are set twice: before bind(2), since some of them
 *   say what may be bound, and at the end, since some are changed by what comes between.
 *   Sizes of buffers are set in any case, above the system's limit if we may; that the program never
 *   chose them (SO_BUF_LOCK) is set back.
 *
 *   Devices are named in the image: their numbers may be others in the new world. Options that hold
 *   such a number (IP_UNICAST_IF, IPV6_MULTICAST_IF) and those of link-local addresses excepted by
 *   name keep it, so who makes a network namespace again gives devices their numbers again, too.
 *
 *   All is made in the network namespace that we are in, with our rights there: who opens needs
 *   CAP_NET_ADMIN and CAP_NET_RAW over the namespace for what has more than a name.
 * Limits, which are refused: filters in eBPF; errors that the program was not told yet.
 * Limits that can't be seen: keys of TCP-MD5 and TCP-AO, programs of SO_REUSEPORT groups.
 * Sources: socket(7), ip(7), ipv6(7), tcp(7), udp(7), raw(7), packet(7), netlink(7).
 */
#ifndef VIN_SOCK_H
#define VIN_SOCK_H

#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "vin/kinds.h"

#define VIN_SOCK_VALUE_MAX 1024 /* bytes of an option */

/* len is 0 where there is none. */
struct vin_address {
	struct sockaddr_storage at;
	socklen_t len;
	char link[IFNAMSIZ]; /* the device that it is an address of; "" */
};

struct vin_sock_value {
	const struct vin_sock_option *option;
	const unsigned char *data; /* in .values */
	size_t len;
};

/* As an image has it. */
struct vin_sock {
	int family, type, protocol;
	struct vin_address local, peer;
	unsigned char *values;
	struct vin_sock_value *list;
	size_t count;
	int receive, send; /* buffers, as getsockopt(2) tells */
	int locks;	   /* of their sizes */
	unsigned char *filter;
	size_t filter_len; /* bytes */
	bool filter_locked;
};

/** vin_sock_is() - whether @o is a socket; @ret_*: what it is */
bool vin_sock_is(const struct vin_open *o, int *ret_family, int *ret_type, int *ret_protocol);

/** vin_sock_option() - an option that is a number; 0 where there is none */
int vin_sock_option(int fd, int level, int name);

/** vin_sock_check() - whether its filter can be captured. Return: 0 or -EOPNOTSUPP */
int vin_sock_check(const struct vin_open *o, struct fvm_error *err);

/** vin_sock_ready() - whether the program was told of all errors. Return: 0 or -EAGAIN */
int vin_sock_ready(const struct vin_open *o, struct fvm_error *err);

/**
 * vin_sock_put() - all of it but what is queued
 * Its filter is not that of the program while the network is cut: @filter is, of @filter_len bytes;
 * NULL asks the socket. Return: 0 or negative errno
 */
int vin_sock_put(const struct vin_open *o, const void *filter, size_t filter_len,
		 struct fvm_buf *to, struct fvm_error *err);

/** vin_sock_get() - the reverse, not to the end of the payload. Return: 0, -EBADMSG or -ENOMEM */
int vin_sock_get(struct vin_payload *p, struct vin_sock *ret);
void vin_sock_forget(struct vin_sock *s);

/** vin_sock_make() - a new socket with its options, without a name. Return: descriptor or -errno */
int vin_sock_make(const struct vin_sock *s, struct fvm_error *err);

/** vin_sock_value() - an option of the image that is a number; 0 where there is none */
int vin_sock_value(const struct vin_sock *s, int level, int name);

/** vin_sock_name() - bind it to its address, if it has one */
int vin_sock_name(int fd, const struct vin_sock *s, struct fvm_error *err);

/** vin_sock_room() - let queues of so many bytes in, until vin_sock_finish(). Return: whether the
 * send buffer is as large as that now */
bool vin_sock_room(int fd, size_t receive, size_t send);

/** vin_sock_finish() - options again, and its filter: nothing is to change after that */
int vin_sock_finish(int fd, const struct vin_sock *s, struct fvm_error *err);

/** vin_address_of() - an address with the number that its device has here. Return: 0 or -errno */
int vin_address_of(int fd, const struct vin_address *a, struct sockaddr_storage *ret);

/** vin_sock_find_peer() - whom it talks to by @list, "tcp" or "raw", where getpeername(2) does not
 *  tell; len is 0 if to nobody. Return: 0, or -ENOENT (it is not in the list) */
int vin_sock_find_peer(const struct vin_open *o, const char *list, struct vin_address *ret);

/* Multicast groups of a socket. */
struct vin_groups { /* starts as { 0 } */
	struct vin_group *list;
	size_t count;
};

/** vin_groups_put() - those that it is in. Return: 0, -E2BIG (one has more than 64 sources), -errno */
int vin_groups_put(const struct vin_open *o, int family, struct fvm_buf *to, struct fvm_error *err);
int vin_groups_get(struct vin_payload *p, int family, struct vin_groups *ret);
void vin_groups_free(struct vin_groups *g);
int vin_groups_join(int fd, int family, const struct vin_groups *g, struct fvm_error *err);

/* What lies in a packet. */
struct vin_segment {
	int protocol;
	unsigned char *data; /* its header, and what is behind */
	size_t len, sum_at;  /* where its checksum goes */
};

#define VIN_SEGMENT_MAX (65535 - 20)

/**
 * vin_sock_say() - send a packet to an address of our own, as if another had
 * @fd:       who is to hear it: a device that it is bound to is the packet's
 * @from, @to: of one family on the line
 * Return: 0, -EPERM (no CAP_NET_RAW), -EADDRNOTAVAIL (@to is not ours), or another negative errno
 */
int vin_sock_say(int fd, const struct sockaddr_storage *from, const struct sockaddr_storage *to,
		 const struct vin_segment *s);

/** vin_sock_len() - bytes of an address of AF_INET, AF_INET6 or AF_NETLINK; the least, of AF_PACKET */
socklen_t vin_sock_len(int family);

/** vin_sock_port() - of an address, as on the line */
uint16_t vin_sock_port(const struct sockaddr_storage *a);

/** vin_sock_set_port() - the inverse */
void vin_sock_set_port(struct sockaddr_storage *a, uint16_t port);

/** vin_sock_ip() - where the bytes are that are on the line: IPv4 in the clothes of IPv6 is IPv4
 *  Return: how many; 0: of another family */
size_t vin_sock_ip(struct sockaddr_storage *a, unsigned char **ret);

/** vin_sock_is_here() - whether it is an address of this world, whatever its port */
bool vin_sock_is_here(const struct sockaddr_storage *a);

/** vin_filter_read() - a socket's filter, to free(). Return: bytes (0: none), -EACCES (it can't be
 * read), or another negative errno */
ssize_t vin_filter_read(int fd, unsigned char **ret);

/** vin_filter_set() - @len bytes of it; 0 takes away what there is. Return: 0 or negative errno */
int vin_filter_set(int fd, const void *filter, size_t len);

/** vin_filter_deaf() - a filter that lets nothing in. Return: 0 or negative errno */
int vin_filter_deaf(int fd);

#endif
