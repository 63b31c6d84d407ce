#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "fvm/net.h"
#include "fvm/netlink.h"

#define EXAMPLE "write it like 8080:80, 127.0.0.1:8080:80 or [::1]:5353:53/udp"

static int bad(struct fvm_error *err, const char *text, const char *why)
{
	fvm_error_set(err, EINVAL, "publish '%.80s': %s", text, why);
	fvm_error_hint(err, EXAMPLE);
	return -EINVAL;
}

/* Decimal digits only, 1 to 65535. */
static int number_parse(const char *text, uint16_t *ret)
{
	unsigned int value = 0;
	size_t len = strlen(text);
	if (len == 0 || len > 5 || strspn(text, "0123456789") != len)
		return -EINVAL;
	for (const char *c = text; *c; c++)
		value = value * 10 + (unsigned int)(*c - '0');
	if (value == 0 || value > 65535)
		return -ERANGE;
	*ret = (uint16_t)value;
	return 0;
}

static int protocol_parse(char *text, bool *ret_udp)
{
	char *slash = strchr(text, '/');
	*ret_udp = false;
	if (!slash)
		return 0;
	*slash = '\0';
	*ret_udp = strcmp(slash + 1, "udp") == 0;
	return *ret_udp || strcmp(slash + 1, "tcp") == 0 ? 0 : -EINVAL;
}

/* Cuts "ADDR:" or "[ADDR]:" off the front of @text. */
static int host_address_parse(char *text, char *ret, size_t size, char **ret_rest)
{
	struct fvm_address a;
	char *end = text[0] == '[' ? strchr(text, ']') : strchr(text, ':');
	if (!end || (*end == ']' && end[1] != ':'))
		return -EINVAL;
	*ret_rest = *end == ']' ? end + 2 : end + 1;
	const char *address = *end == ']' ? text + 1 : text;
	*end = '\0';
	if (fvm_address_parse(address, &a) < 0 || (a.family == AF_INET6) != (address != text))
		return -EINVAL;
	fvm_address_print(&a, ret, size);
	/* "any" is said in one way only */
	if (strcmp(ret, "0.0.0.0") == 0 || strcmp(ret, "::") == 0)
		ret[0] = '\0';
	return 0;
}

int fvm_port_parse(const char *text, struct fvm_port *ret, struct fvm_error *err)
{
	struct fvm_port port = { 0 };
	char copy[80], *rest = copy;
	if (strlen(text) >= sizeof(copy))
		return bad(err, text, "is too long");
	strcpy(copy, text);
	if (protocol_parse(copy, &port.udp) < 0)
		return bad(err, text, "the protocol is tcp or udp");
	char *last = strrchr(copy, ':');
	if (!last)
		return bad(err, text, "two ports are needed, the host's and the VM's");
	char *first = strchr(copy, ':');
	if ((copy[0] == '[' || first != last) &&
	    host_address_parse(copy, port.host_address, sizeof(port.host_address), &rest) < 0)
		return bad(err, text, "the address is neither IPv4 nor [IPv6]");
	char *colon = strchr(rest, ':');
	if (!colon)
		return bad(err, text, "two ports are needed, the host's and the VM's");
	*colon = '\0';
	if (number_parse(rest, &port.host_port) < 0)
		return bad(err, text, "the host's port is no number from 1 to 65535");
	if (number_parse(colon + 1, &port.guest_port) < 0)
		return bad(err, text, "the VM's port is no number from 1 to 65535");
	*ret = port;
	return 0;
}
