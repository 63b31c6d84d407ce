/*
 * Answers over netlink. They come from the kernel; that nobody else's are taken is part of what is
 * tried: the first byte says who sent the rest, and in what pieces.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "fvm/net_state.h"
#include "fvm/nft.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const uint8_t *bytes;
static size_t left, piece;
static bool forged;

/* These two stand in for the C library's: no socket is there. */
ssize_t sendto(int sock, const void *buf, size_t len, int flags, const struct sockaddr *to,
	       socklen_t to_len)
{
	(void)sock, (void)buf, (void)flags, (void)to, (void)to_len;
	return (ssize_t)len;
}

ssize_t recvfrom(int sock, void *restrict buf, size_t len, int flags,
		 struct sockaddr *restrict from, socklen_t *restrict from_len)
{
	(void)sock, (void)flags;
	size_t n = left < piece ? left : piece;
	if (n == 0) {
		errno = EAGAIN;
		return -1;
	}
	if (from) {
		const struct sockaddr_nl who = { .nl_family = AF_NETLINK, .nl_pid = forged };
		memcpy(from, &who, sizeof(who));
		*from_len = sizeof(who);
	}
	memcpy(buf, bytes, n < len ? n : len);
	bytes += n;
	left -= n;
	return (ssize_t)(n < len ? n : len);
}

static void begin(const uint8_t *data, size_t size)
{
	forged = data[0] & 1;
	piece = 64 + 128 * (size_t)(data[0] >> 1);
	bytes = data + 1;
	left = size - 1;
}

/* Its own acknowledgement is all that ends a batch well. */
static void batch(const uint8_t *data, size_t size)
{
	scoped_nl_batch b = { 0 };
	uint32_t failed = 0;
	begin(data, size);
	fvm_nl_link_up(&b, 1);
	fvm_nl_link_up(&b, 2);
	int r = fvm_nl_run(0, &b, &failed);
	if (forged && r == 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct fvm_net_range range;
	scoped_nl_batch b = { 0 };
	uint32_t generation = 0;
	const struct fvm_address a = { AF_INET, { 10, 0, 0, 1 } };
	if (size < 1 + sizeof(struct nlmsghdr))
		return 0;
	batch(data, size);
	begin(data, size);
	(void)fvm_net_range_choose(0, NULL, &range);
	begin(data, size);
	(void)fvm_net_address_is_local(0, &a);
	begin(data, size);
	if (fvm_nft_generation(0, &generation) == 0 && forged && generation)
		abort();
	begin(data, size);
	(void)fvm_firewall_open(0, &b);
	return 0;
}
