/*
 * What others sent before, written by ourselves: headers of IP and what is in it, from a raw socket
 * to an address of our own. The kernel takes it by way of loopback, whatever address it comes from;
 * no device sees it.
 */
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip6.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "vin/sock.h"

/* Return: bytes of an address on the line */
static size_t ip_of(const struct sockaddr_storage *a, unsigned char ret[16])
{
	struct sockaddr_storage copy = *a;
	unsigned char *ip = NULL;
	const size_t len = vin_sock_ip(&copy, &ip);
	memset(ret, 0, 16);
	if (len > 0)
		memcpy(ret, ip, len);
	return len;
}

static uint32_t sum_of(uint32_t sum, const unsigned char *p, size_t len)
{
	for (size_t i = 0; i + 1 < len; i += 2)
		sum += (uint32_t)p[i] << 8 | p[i + 1];
	if (len % 2)
		sum += (uint32_t)p[len - 1] << 8;
	return (sum & 0xffff) + (sum >> 16);
}

/* Of RFC 9293 and 768: addresses, length and number of the protocol, and all of the segment. */
static void put_checksum(const struct vin_segment *s, const unsigned char *from,
			 const unsigned char *to, size_t ip_len)
{
	uint16_t sum16;
	memset(s->data + s->sum_at, 0, sizeof(sum16));
	uint32_t sum = sum_of(0, from, ip_len) + sum_of(0, to, ip_len) +
		       sum_of(0, s->data, s->len) + (uint32_t)s->len + (uint32_t)s->protocol;
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum & 0xffff;
	sum16 = htons((uint16_t)(sum ? sum : 0xffff));
	memcpy(s->data + s->sum_at, &sum16, sizeof(sum16));
}

static size_t put_head(const struct vin_segment *s, const unsigned char *from,
		       const unsigned char *to, size_t ip_len, unsigned char *packet)
{
	struct iphdr v4 = { .version = 4, .ihl = 5, .ttl = 64 };
	struct ip6_hdr v6 = { .ip6_vfc = 6 << 4 };
	if (ip_len == 4) {
		v4.protocol = (uint8_t)s->protocol;
		v4.tot_len = htons((uint16_t)(sizeof(v4) + s->len));
		memcpy(&v4.saddr, from, 4);
		memcpy(&v4.daddr, to, 4);
		memcpy(packet, &v4, sizeof(v4));
		return sizeof(v4);
	}
	v6.ip6_plen = htons((uint16_t)s->len);
	v6.ip6_nxt = (uint8_t)s->protocol;
	v6.ip6_hlim = 64;
	memcpy(&v6.ip6_src, from, 16);
	memcpy(&v6.ip6_dst, to, 16);
	memcpy(packet, &v6, sizeof(v6));
	return sizeof(v6);
}

/* Who is bound to a device hears what comes from there only. */
static void bind_like(int raw, int fd)
{
	char device[IFNAMSIZ];
	socklen_t len = sizeof(device);
	if (getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &len) == 0 && len > 0)
		(void)setsockopt(raw, SOL_SOCKET, SO_BINDTODEVICE, device, len);
}

static int send_raw(int fd, const struct sockaddr_storage *to, const unsigned char *ip,
		    size_t ip_len, const unsigned char *packet, size_t len)
{
	struct sockaddr_in v4 = { .sin_family = AF_INET };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6 };
	const bool is4 = ip_len == 4;
	scoped_fd raw = socket(is4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	if (raw < 0)
		return -errno;
	bind_like(raw, fd);
	if (is4) {
		memcpy(&v4.sin_addr, ip, 4);
	} else {
		memcpy(&v6.sin6_addr, ip, 16);
		v6.sin6_scope_id = ((const struct sockaddr_in6 *)to)->sin6_scope_id;
	}
	ssize_t n = sendto(raw, packet, len, 0, is4 ? (struct sockaddr *)&v4 : (void *)&v6,
			   is4 ? sizeof(v4) : sizeof(v6));
	return n < 0 ? -errno : 0;
}

int vin_sock_say(int fd, const struct sockaddr_storage *from, const struct sockaddr_storage *to,
		 const struct vin_segment *s)
{
	unsigned char from_ip[16], to_ip[16];
	const size_t ip_len = ip_of(from, from_ip);
	if (ip_of(to, to_ip) != ip_len || s->len > VIN_SEGMENT_MAX)
		return -EINVAL;
	/* an image may name any address; what is not ours would leave */
	if (!vin_sock_is_here(to))
		return -EADDRNOTAVAIL;
	scoped_free unsigned char *packet = malloc(sizeof(struct ip6_hdr) + s->len);
	if (!packet)
		return -ENOMEM;
	put_checksum(s, from_ip, to_ip, ip_len);
	const size_t head = put_head(s, from_ip, to_ip, ip_len, packet);
	memcpy(packet + head, s->data, s->len);
	return send_raw(fd, to, to_ip, ip_len, packet, head + s->len);
}
