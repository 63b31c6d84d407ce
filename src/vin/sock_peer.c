/* Whom a socket talks to where getpeername(2) does not tell: one that is still connecting, and one
 * that is connected to no port. The lists in /proc/PID/net do. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "vin/sock.h"

#define FOUR_FORMAT "%*d: %*[0-9A-F]:%*x %8x:%x %x %*s %*s %*s %*u %*u %llu"
#define SIX_FORMAT  "%*d: %*[0-9A-F]:%*x %8x%8x%8x%8x:%x %x %*s %*s %*s %*u %*u %llu"

/* A line of the list; addresses are told as the processor holds them, ports as numbers. */
static bool take_line(const char *line, bool is6, ino_t ino, struct vin_address *ret)
{
	unsigned int ip[4] = { 0 }, port, state;
	unsigned long long there;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&ret->at;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)&ret->at;
	int n = is6 ? sscanf(line, SIX_FORMAT, &ip[0], &ip[1], &ip[2], &ip[3], &port, &state,
			     &there)
		    : sscanf(line, FOUR_FORMAT, &ip[0], &port, &state, &there);
	if (n != (is6 ? 7 : 4) || there != ino)
		return false;
	*ret = (struct vin_address){ .len = is6 ? sizeof(*v6) : sizeof(*v4) };
	if (is6) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons((uint16_t)port);
		memcpy(&v6->sin6_addr, ip, sizeof(ip));
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons((uint16_t)port);
		memcpy(&v4->sin_addr, ip, sizeof(v4->sin_addr));
	}
	if (state == 7 && port == 0 && !(ip[0] | ip[1] | ip[2] | ip[3]))
		ret->len = 0;
	return true;
}

int vin_sock_find_peer(const struct vin_open *o, const char *list, struct vin_address *ret)
{
	char path[48], line[512];
	const bool is6 = vin_sock_option(o->fd, SOL_SOCKET, SO_DOMAIN) == AF_INET6;
	snprintf(path, sizeof(path), "/proc/%d/net/%s%s", o->pid, list, is6 ? "6" : "");
	FILE *file = fopen(path, "re");
	bool found = false;
	while (file && !found && fgets(line, sizeof(line), file))
		found = take_line(line, is6, o->st.st_ino, ret);
	if (file)
		fclose(file);
	return found ? 0 : -ENOENT;
}
