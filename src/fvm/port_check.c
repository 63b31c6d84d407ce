/*
 * Is a port of the host free, and if not, who has it? Asked by binding to it. Whoever has it is
 * found as ss(8) does: the socket's inode from /proc/net, then the process that has it open; slow,
 * but only for an error message.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fvm/net.h"
#include "fvm/netlink.h"

#define PROC_NET_BYTES_MAX (16UL * 1024 * 1024)

static int try_bind(uint8_t family, const struct fvm_address *at, uint16_t port, bool udp)
{
	const int on = 1;
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_port = htons(port) };
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
	scoped_fd fd = socket(family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return 0; /* a family this host does not have */
	if (at->family == AF_INET)
		memcpy(&v4.sin_addr, at->bytes, 4);
	else if (at->family == AF_INET6)
		memcpy(&v6.sin6_addr, at->bytes, 16);
	if (!udp) /* connections that are over do not count */
		(void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	(void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	int r = family == AF_INET ? bind(fd, (struct sockaddr *)&v4, sizeof(v4))
				  : bind(fd, (struct sockaddr *)&v6, sizeof(v6));
	/* bound twice is fine with SO_REUSEADDR as long as only one listens: so listen */
	if (r == 0 && !udp)
		r = listen(fd, 1);
	return r < 0 ? -errno : 0;
}

/* Inode of a socket bound to @port in a table of /proc/net; 0 when there is none. */
static uint64_t inode_of(const char *table, uint16_t port, bool listening)
{
	scoped_free char *text = NULL;
	char *save = NULL;
	if (fvm_read_file(AT_FDCWD, table, PROC_NET_BYTES_MAX, &text, NULL) < 0)
		return 0;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		unsigned int local, state;
		uint64_t inode;
		if (sscanf(line,
			   " %*[^:]: %*[0-9A-F]:%x %*[0-9A-F]:%*x %x %*s %*s %*s %*u %*u %" SCNu64,
			   &local, &state, &inode) == 3 &&
		    local == port && (!listening || state == 0x0a))
			return inode;
	}
	return 0;
}

static bool has_socket(const char *pid, uint64_t inode)
{
	char path[64], want[64], link[64];
	snprintf(path, sizeof(path), "/proc/%.16s/fd", pid);
	snprintf(want, sizeof(want), "socket:[%" PRIu64 "]", inode);
	DIR *dir = opendir(path);
	bool found = false;
	if (!dir)
		return false;
	for (const struct dirent *e = readdir(dir); e && !found; e = readdir(dir)) {
		ssize_t n = readlinkat(dirfd(dir), e->d_name, link, sizeof(link) - 1);
		link[n > 0 ? n : 0] = '\0';
		found = strcmp(link, want) == 0;
	}
	closedir(dir);
	return found;
}

/* "nginx (pid 812)", or nothing */
static void process_with(uint64_t inode, char *ret, size_t size)
{
	DIR *proc = opendir("/proc");
	ret[0] = '\0';
	if (!proc)
		return;
	for (const struct dirent *e = readdir(proc); e && !ret[0]; e = readdir(proc)) {
		char path[64];
		scoped_free char *name = NULL;
		if (e->d_name[0] < '1' || e->d_name[0] > '9' || !has_socket(e->d_name, inode))
			continue;
		snprintf(path, sizeof(path), "/proc/%.16s/comm", e->d_name);
		if (fvm_read_file(AT_FDCWD, path, 64, &name, NULL) == 0)
			snprintf(ret, size, "%.*s (pid %.16s)", (int)strcspn(name, "\n"), name,
				 e->d_name);
	}
	closedir(proc);
}

static int taken(const struct fvm_port *port, int r, struct fvm_error *err)
{
	static const char *const tables[2][2] = { { "/proc/net/tcp", "/proc/net/tcp6" },
						  { "/proc/net/udp", "/proc/net/udp6" } };
	char who[96] = "";
	const char *protocol = port->udp ? "udp" : "tcp";
	if (r == -EADDRNOTAVAIL)
		return fvm_error_set(err, EADDRNOTAVAIL,
				     "publish port %u: %s is no address of "
				     "this host",
				     port->host_port, port->host_address);
	for (int i = 0; i < 2 && r == -EADDRINUSE && !who[0]; i++) {
		uint64_t inode = inode_of(tables[port->udp][i], port->host_port, !port->udp);
		if (inode)
			process_with(inode, who, sizeof(who));
	}
	fvm_error_set(err, -r, "publish port %u/%s%s%s", port->host_port, protocol,
		      who[0] ? ", which belongs to " : "", who);
	if (r == -EADDRINUSE)
		fvm_error_hint(err, "choose another port of the host");
	return r;
}

int fvm_ports_check(const struct fvm_port *ports, size_t count, struct fvm_error *err)
{
	static const uint8_t families[] = { AF_INET, AF_INET6 };
	for (size_t i = 0; i < count; i++) {
		struct fvm_address at = { .family = 0 };
		if (ports[i].host_address[0])
			(void)fvm_address_parse(ports[i].host_address, &at);
		for (size_t k = 0; k < FVM_COUNT(families); k++) {
			if (at.family != 0 && at.family != families[k])
				continue;
			int r = try_bind(families[k], &at, ports[i].host_port, ports[i].udp);
			if (r < 0)
				return taken(&ports[i], r, err);
		}
	}
	return 0;
}
