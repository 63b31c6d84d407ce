/*
 * Forwarding is the host's own setting, so it is touched as little as may be:
 * - what was off is noted before it is turned on, and put back with the last VM;
 * - links between which the host did not forward stay so (set "quiet" of the table): nobody gets
 *   a router because a VM was started;
 * - IPv6 forwarding makes the kernel forget routes that came by router advertisement, unless
 *   accept_ra is 2: it is made 2 first where it is 1, on every link there is;
 * - a link that came later (docker0, virbr0, a VPN) may be of somebody who saw forwarding on and
 *   now relies on it: then it stays on.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fvm/net_state.h"

#define FORWARD4 "/proc/sys/net/ipv4/ip_forward"
#define FORWARD6 "/proc/sys/net/ipv6/conf/all/forwarding"

static int sysctl_get(const char *path)
{
	char c;
	scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return read(fd, &c, 1) == 1 ? c - '0' : -EIO;
}

static int sysctl_set(const char *path, int value)
{
	const char text = (char)('0' + value);
	scoped_fd fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	return write(fd, &text, 1) == 1 ? 0 : -errno;
}

static int ra_path(const char *link, char *ret, size_t size)
{
	int n = snprintf(ret, size, "/proc/sys/net/ipv6/conf/%s/accept_ra", link);
	return n > 0 && (size_t)n < size ? 0 : -ENAMETOOLONG;
}

static struct net_link *link_find(struct net_state *state, const char *name)
{
	for (uint32_t i = 0; i < state->link_count; i++) {
		if (strcmp(state->links[i].name, name) == 0)
			return &state->links[i];
	}
	return NULL;
}

static bool link_is_ours(const char *name)
{
	return strcmp(name, "lo") == 0 || strcmp(name, "all") == 0 ||
	       strcmp(name, "default") == 0 || strncmp(name, "fvm", 3) == 0;
}

/* Calls @each for every link but lo and ours. Return: sum of what it returned */
static int links_each(struct net_state *state, int (*each)(struct net_state *, const char *))
{
	int sum = 0;
	DIR *dir = opendir("/proc/sys/net/ipv4/conf");
	if (!dir)
		return 0;
	for (const struct dirent *e = readdir(dir); e; e = readdir(dir)) {
		if (e->d_name[0] != '.' && !link_is_ours(e->d_name))
			sum += each(state, e->d_name);
	}
	closedir(dir);
	return sum;
}

static int link_note(struct net_state *state, const char *name)
{
	if (link_find(state, name) || state->link_count == NET_LINKS_MAX ||
	    strlen(name) >= sizeof(state->links[0].name))
		return 0;
	struct net_link *link = &state->links[state->link_count];
	*link = (struct net_link){ .accept_ra = 0 };
	strcpy(link->name, name);
	state->link_count++;
	return 1;
}

static int link_keep_ra(struct net_state *state, const char *name)
{
	char path[96];
	struct net_link *link = link_find(state, name);
	if (!link || ra_path(name, path, sizeof(path)) < 0 || sysctl_get(path) != 1)
		return 0;
	link->accept_ra = 1;
	return sysctl_set(path, 2);
}

static int link_is_new(struct net_state *state, const char *name)
{
	return !link_find(state, name);
}

static void link_ra_back(const struct net_link *link)
{
	char path[96];
	if (link->accept_ra == 1 && ra_path(link->name, path, sizeof(path)) == 0 &&
	    sysctl_get(path) == 2)
		(void)sysctl_set(path, 1);
}

bool fvm_net_forward_note(struct net_state *state, uint8_t family)
{
	uint8_t *ours = family == AF_INET6 ? &state->forward6 : &state->forward4;
	if (*ours || sysctl_get(family == AF_INET6 ? FORWARD6 : FORWARD4) > 0)
		return false;
	if (!state->forward4 && !state->forward6)
		links_each(state, link_note);
	*ours = 1;
	return true;
}

int fvm_net_forward_on(struct net_state *state, uint8_t family, struct fvm_error *err)
{
	const char *path = family == AF_INET6 ? FORWARD6 : FORWARD4;
	int r = sysctl_get(path);
	if (r > 0)
		return 0;
	if (family == AF_INET6)
		links_each(state, link_keep_ra);
	if (r == 0)
		r = sysctl_set(path, 1);
	if (r == 0)
		return 0;
	fvm_error_set(err, -r, "let the kernel forward packets of VMs (%s)", path);
	fvm_error_hint(err, "set it to 1 from outside, or use --net none");
	return r;
}

void fvm_net_forward_back(struct net_state *state)
{
	if (!state->forward4 && !state->forward6)
		return;
	if (state->link_count < NET_LINKS_MAX && links_each(state, link_is_new) > 0)
		return;
	if (state->forward4)
		(void)sysctl_set(FORWARD4, 0);
	if (state->forward6)
		(void)sysctl_set(FORWARD6, 0);
	for (uint32_t i = 0; i < state->link_count; i++)
		link_ra_back(&state->links[i]);
}
