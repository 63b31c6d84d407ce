/*
 * The other end of a connection whose program has closed it, when its FIN was heard and
 * acknowledged (FIN_WAIT2; the kernel keeps a minute's memory of it). Nobody has it, so it is not
 * in an image; but without it a loopback's end that is left would hear RST to whatever it says
 * next, be it an ACK.
 */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "vin/tcp.h"

/* It has said what the end that is left has in its queue, and heard what that one knows it has. */
static int begin(int fd, const struct vin_stream *left, struct fvm_error *err)
{
	const struct vin_stream mine = { .send_seq = left->receive_seq + (uint32_t)left->in_len,
					 .receive_seq = left->send_seq };
	int r = vin_repair(fd, TCP_REPAIR_ON);
	return r < 0 ? r : vin_stream_begin(fd, &mine, err);
}

int vin_tcp_gone(int left_fd, const struct sockaddr_storage *peer, const struct vin_stream *left)
{
	struct sockaddr_storage left_at = { 0 };
	socklen_t len = sizeof(left_at);
	const struct vin_stream nothing = { 0 };
	scoped_fd fd = socket(peer->ss_family, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_TCP);
	int r = fd < 0 || getsockname(left_fd, (struct sockaddr *)&left_at, &len) < 0 ? -errno : 0;
	if (r == 0)
		r = begin(fd, left, NULL);
	/* where it is not ours to have it is another host's; where it is there it was not closed */
	if (r == 0 && (bind(fd, (const struct sockaddr *)peer, vin_sock_len(peer->ss_family)) < 0 ||
		       connect(fd, (struct sockaddr *)&left_at, len) < 0))
		return errno == EADDRNOTAVAIL || errno == EADDRINUSE ? 0 : -errno;
	if (r == 0)
		r = vin_tcp_say_fin(fd);
	if (r == 0)
		r = vin_tcp_hear(fd, &left_at, VIN_TCP_ACK, &nothing);
	if (r == 0)
		r = vin_tcp_await(fd, TCP_FIN_WAIT2);
	/* closed in repair it would be gone at once */
	if (r == 0)
		r = vin_repair(fd, TCP_REPAIR_OFF_NO_WP);
	return r;
}
