/*
 * What is sent by way of loopback (and of veth) lies in a queue of the processor that sent it,
 * until that has time for it: where it has much else to do (ksoftirqd), milliseconds later. The
 * queue is emptied in order and is the same for all namespaces, so when a packet of ours has come
 * through, all before it have.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "vin/netlock.h"

#define PROCESSORS_MAX 8192
#define PATIENCE_MS    50 /* for one of them */

/* A socket that is connected to itself. */
static int open_loop(void)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(at);
	scoped_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&at, len) < 0 ||
	    getsockname(fd, (struct sockaddr *)&at, &len) < 0 ||
	    connect(fd, (struct sockaddr *)&at, len) < 0)
		return -1;
	return fvm_fd_take(&fd);
}

static void pass_through(int fd, size_t processor, cpu_set_t *only, size_t size)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	char byte = 0;
	CPU_ZERO_S(size, only);
	CPU_SET_S(processor, size, only);
	if (sched_setaffinity(0, size, only) == 0 && send(fd, &byte, 1, 0) == 1 &&
	    poll(&p, 1, PATIENCE_MS) == 1)
		(void)!recv(fd, &byte, 1, 0);
}

void vin_netlock_drain(void)
{
	const size_t size = CPU_ALLOC_SIZE(PROCESSORS_MAX);
	scoped_free cpu_set_t *ours = calloc(1, size), *only = calloc(1, size);
	scoped_fd fd = open_loop();
	if (!ours || !only || fd < 0 || sched_getaffinity(0, size, ours) < 0)
		return;
	for (size_t i = 0; i < PROCESSORS_MAX; i++) {
		if (CPU_ISSET_S(i, size, ours))
			pass_through(fd, i, only, size);
	}
	(void)sched_setaffinity(0, size, ours);
}
