#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/socket.h>

#include "fvm/net.h"
#include "fvm/net_state.h"
#include "fvm/resolv.h"

#define FILE_BYTES_MAX (64UL * 1024)

/* Where stubs on loopback note whom they ask. */
static const char *const upstream_files[] = {
	"/run/systemd/resolve/resolv.conf",
	"/run/NetworkManager/no-stub-resolv.conf",
	"/run/dnsmasq/resolv.conf",
};

void fvm_resolv_free(struct fvm_resolv *r)
{
	free(r->rest);
	r->rest = NULL;
}

static bool is_loopback(const struct fvm_address *a)
{
	static const uint8_t loop6[16] = { [15] = 1 };
	static const uint8_t any6[16] = { 0 };
	if (a->family == AF_INET)
		return a->bytes[0] == 127 || a->bytes[0] == 0;
	return memcmp(a->bytes, loop6, 16) == 0 || memcmp(a->bytes, any6, 16) == 0;
}

static bool is_link_local(const struct fvm_address *a)
{
	return a->family == AF_INET ? a->bytes[0] == 169 && a->bytes[1] == 254
				    : a->bytes[0] == 0xfe && (a->bytes[1] & 0xc0) == 0x80;
}

static void server_take(struct fvm_resolv *r, int rtnl, const char *text)
{
	struct fvm_address a;
	char copy[64];
	/* "fe80::1%eth0": that link is not the VM's */
	if (sscanf(text, "%63[0-9a-fA-F.:]", copy) != 1 || fvm_address_parse(copy, &a) < 0)
		return;
	bool own = is_loopback(&a) || is_link_local(&a) ||
		   (rtnl >= 0 && fvm_net_address_is_local(rtnl, &a));
	if (own && r->host.family == 0)
		r->host = a;
	if (!own && r->count < FVM_RESOLV_SERVERS)
		r->servers[r->count++] = a;
}

/* Is @line the setting @key? Return: its value, or NULL */
static const char *line_value(const char *line, const char *key)
{
	size_t len = strlen(key);
	if (strncmp(line, key, len) != 0 || (line[len] != ' ' && line[len] != '\t'))
		return NULL;
	return line + len + strspn(line + len, " \t");
}

static int file_read(const char *root, const char *path, int rtnl, struct fvm_resolv *r,
		     struct fvm_buf *rest)
{
	char full[512];
	scoped_free char *text = NULL;
	snprintf(full, sizeof(full), "%s%s", root, path);
	int result = fvm_read_file(AT_FDCWD, full, FILE_BYTES_MAX, &text, NULL);
	if (result < 0)
		return result;
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		const char *server = line_value(line, "nameserver");
		if (server)
			server_take(r, rtnl, server);
		else if (rest && (line_value(line, "search") || line_value(line, "domain") ||
				  line_value(line, "options")))
			fvm_buf_printf(rest, "%s\n", line);
	}
	return 0;
}

int fvm_resolv_read(const char *root, struct fvm_resolv *ret)
{
	struct fvm_resolv r = { 0 };
	scoped_buf rest = { 0 };
	scoped_fd rtnl = fvm_nl_open(NETLINK_ROUTE);
	(void)file_read(root, "/etc/resolv.conf", rtnl, &r, &rest);
	for (size_t i = 0; i < FVM_COUNT(upstream_files) && r.count == 0; i++)
		(void)file_read(root, upstream_files[i], rtnl, &r, NULL);
	if (r.host.family == 0)
		r.host = (struct fvm_address){ AF_INET, { 127, 0, 0, 1 } };
	fvm_buf_puts(&rest, "");
	r.rest = fvm_buf_steal(&rest);
	if (!r.rest)
		return -ENOMEM;
	*ret = r;
	return 0;
}

void fvm_resolv_watch(int inotify)
{
	const uint32_t events = IN_CLOSE_WRITE | IN_MOVED_TO | IN_CREATE | IN_DELETE;
	char path[PATH_MAX];
	(void)inotify_add_watch(inotify, "/etc", events | IN_ONLYDIR);
	/* where a symlink leads, or what is mounted there */
	if (realpath("/etc/resolv.conf", path))
		(void)inotify_add_watch(inotify, path, IN_CLOSE_WRITE);
	for (size_t i = 0; i < FVM_COUNT(upstream_files); i++) {
		snprintf(path, sizeof(path), "%s", upstream_files[i]);
		*strrchr(path, '/') = '\0';
		(void)inotify_add_watch(inotify, path, events | IN_ONLYDIR);
	}
}

bool fvm_resolv_needs_relay(const struct fvm_resolv *r, bool has6)
{
	for (size_t i = 0; i < r->count; i++) {
		if (r->servers[i].family == AF_INET || has6)
			return false;
	}
	return true;
}

int fvm_net_resolv_conf(const struct fvm_net *net, char **ret, struct fvm_error *err)
{
	scoped_resolv r = { 0 };
	scoped_buf text = { 0 };
	char address[46];
	int result = fvm_resolv_read("", &r);
	if (result < 0)
		return fvm_error_set(err, -result, "find the host's name servers");
	for (size_t i = 0; net && i < r.count; i++) {
		fvm_address_print(&r.servers[i], address, sizeof(address));
		if (r.servers[i].family == AF_INET || net->address6[0])
			fvm_buf_printf(&text, "nameserver %s\n", address);
	}
	/* rootless: both helpers pass questions on to the host's resolver, wherever that is */
	if (text.len == 0)
		fvm_buf_printf(&text, "nameserver %s\n",
			       net ? FVM_DNS_ADDRESS : FVM_SLIRP_DNS_ADDRESS);
	fvm_buf_puts(&text, r.rest);
	*ret = fvm_buf_steal(&text);
	return *ret ? 0 : fvm_error_set(err, ENOMEM, "write resolv.conf");
}
