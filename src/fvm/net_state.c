#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/net_state.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

#define RUN_DIR "/run/fvm"

static const char state_magic[6] = { 'f', 'v', 'm', 'n', 'e', 't' };

static int state_paths(struct net_lock *lock)
{
	uint64_t cookie;
	socklen_t len = sizeof(cookie);
	scoped_fd sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (sock < 0 || getsockopt(sock, SOL_SOCKET, SO_NETNS_COOKIE, &cookie, &len) < 0)
		return -errno;
	snprintf(lock->path, sizeof(lock->path), RUN_DIR "/net-%" PRIu64, cookie);
	snprintf(lock->names, sizeof(lock->names), RUN_DIR "/names-%" PRIu64, cookie);
	return 0;
}

static int state_open(const char *path, bool make)
{
	const int flags = O_RDWR | O_NOFOLLOW | O_CLOEXEC | (make ? O_CREAT : 0);
	int fd = open(path, flags, 0600);
	if (fd < 0 && errno == ENOENT && make) {
		int r = fvm_mkdir_p(AT_FDCWD, RUN_DIR, 0755);
		if (r < 0)
			return r;
		fd = open(path, flags, 0600);
	}
	return fd < 0 ? -errno : fd;
}

/* Open and lock the file that bears the name: the last VM's end may unlink it in between. */
static int state_lock(const char *path, bool make)
{
	for (;;) {
		struct stat held, named;
		scoped_fd fd = state_open(path, make);
		if (fd < 0)
			return fd;
		while (flock(fd, LOCK_EX) < 0) {
			if (errno != EINTR)
				return -errno;
		}
		if (fstat(fd, &held) < 0)
			return -errno;
		if (stat(path, &named) == 0 && named.st_ino == held.st_ino &&
		    named.st_dev == held.st_dev)
			return fvm_fd_take(&fd);
	}
}

static int state_map(struct net_lock *lock)
{
	struct stat st;
	const off_t size = sizeof(struct net_state);
	if (fstat(lock->fd, &st) < 0)
		return -errno;
	if (st.st_size == 0 && ftruncate(lock->fd, size) < 0)
		return -errno;
	if (st.st_size != 0 && st.st_size != size)
		return -EPROTONOSUPPORT;
	void *at = mmap(NULL, (size_t)size, PROT_READ | PROT_WRITE, MAP_SHARED, lock->fd, 0);
	if (at == MAP_FAILED)
		return -errno;
	lock->state = at;
	/* all zero: made, but whoever made it was killed before he had filled it */
	struct net_state *state = lock->state;
	if (state->magic[0] && (memcmp(state->magic, state_magic, sizeof(state_magic)) != 0 ||
				state->format != NET_FORMAT))
		return -EPROTONOSUPPORT;
	memcpy(state->magic, state_magic, sizeof(state_magic));
	state->format = NET_FORMAT;
	return 0;
}

/* Without a table there is no VM: what a version of another format left is nobody's. */
static bool is_left_over(void)
{
	scoped_fd sock = fvm_nl_open(NETLINK_NETFILTER);
	return sock >= 0 && fvm_nft_table_find(sock) == 0;
}

static int state_map_anew(struct net_lock *lock)
{
	if (lock->state)
		munmap(lock->state, sizeof(*lock->state));
	lock->state = NULL;
	return ftruncate(lock->fd, 0) < 0 ? -errno : state_map(lock);
}

void fvm_net_unlock(struct net_lock *lock)
{
	if (lock->state)
		munmap(lock->state, sizeof(*lock->state));
	lock->state = NULL;
	if (lock->fd >= 0)
		close(fvm_fd_take(&lock->fd));
}

int fvm_net_lock(bool make, struct net_lock *ret, struct fvm_error *err)
{
	scoped_net_lock lock = { .fd = -1 };
	int r = state_paths(&lock);
	if (r == 0) {
		lock.fd = state_lock(lock.path, make);
		r = lock.fd < 0 ? lock.fd : state_map(&lock);
	}
	if (r == -EPROTONOSUPPORT && make && is_left_over())
		r = state_map_anew(&lock);
	if (r == -ENOENT && !make)
		return r;
	if (r < 0) {
		fvm_error_set(err, -r, "read the network's state %s", lock.path);
		if (r == -EPROTONOSUPPORT)
			fvm_error_hint(err, "VMs of an fvm that keeps it in another form run: stop "
					    "them first, or start this one with --net none");
		return r;
	}
	*ret = lock;
	lock = (struct net_lock){ .fd = -1 };
	return 0;
}

void fvm_net_forget(struct net_lock *lock)
{
	(void)unlink(lock->names);
	(void)unlink(lock->path);
	fvm_net_unlock(lock);
}

static void range_address(const struct fvm_net_range *range, uint8_t family, uint32_t host,
			  struct fvm_address *ret)
{
	*ret = (struct fvm_address){ .family = family };
	const size_t prefix = family == AF_INET ? sizeof(range->base4) : sizeof(range->base6);
	memcpy(ret->bytes, family == AF_INET ? range->base4 : range->base6, prefix);
	const size_t end = fvm_address_len(ret);
	ret->bytes[end - 2] = (uint8_t)(host >> 8);
	ret->bytes[end - 1] = (uint8_t)host;
}

/* A slot has two addresses: the even one is the gateway's, the odd one the VM's. */
_Static_assert(FVM_SLOTS * 2 + 3 < 65536, "the range is a /16");

void fvm_net_gateway(const struct fvm_net_range *range, uint8_t family, uint32_t slot,
		     struct fvm_address *ret)
{
	range_address(range, family, slot * 2 + 2, ret);
}

struct net_owner *fvm_net_owner(struct net_state *state, uint32_t slot)
{
	for (uint32_t i = 0; i < state->owner_count; i++) {
		if (state->owners[i].slot == slot)
			return &state->owners[i];
	}
	return NULL;
}

void fvm_net_guest(const struct net_state *state, uint32_t slot, struct fvm_nft_guest *ret)
{
	*ret = (struct fvm_nft_guest){ 0 };
	snprintf(ret->link, sizeof(ret->link), "fvm%u", slot);
	range_address(&state->range, AF_INET, slot * 2 + 3, &ret->a4);
	range_address(&state->range, AF_INET6, slot * 2 + 3, &ret->a6);
}
