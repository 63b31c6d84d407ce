/* Multicast groups that a socket has joined. The kernel tells whether it is in one, and lists those
 * that anybody of the namespace is in: each of these is asked for. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "vin/sock.h"

#define SOURCES_MAX 64
#define GROUPS_MAX  1024

struct vin_group {
	char link[IFNAMSIZ];
	struct sockaddr_storage at;
	uint64_t mode; /* MCAST_INCLUDE, MCAST_EXCLUDE */
	struct sockaddr_storage sources[SOURCES_MAX];
	size_t source_count;
};

static int level_of(int family)
{
	return family == AF_INET6 ? SOL_IPV6 : SOL_IP;
}

/* Return: what it listens to there, to free(), or NULL: it is not in the group */
static struct group_filter *filter_of(int fd, int family, unsigned int device,
				      const struct sockaddr_storage *at)
{
	socklen_t len = GROUP_FILTER_SIZE(SOURCES_MAX);
	struct group_filter *f = calloc(1, len);
	if (!f)
		return NULL;
	f->gf_interface = device;
	f->gf_numsrc = SOURCES_MAX;
	memcpy(&f->gf_group, at, sizeof(*at));
	if (getsockopt(fd, level_of(family), MCAST_MSFILTER, f, &len) == 0)
		return f;
	free(f);
	return NULL;
}

static int put_one(const struct vin_open *o, int family, unsigned int device,
		   const struct sockaddr_storage *at, struct fvm_buf *to, uint64_t *count)
{
	struct ifreq name = { .ifr_ifindex = (int)device };
	scoped_free struct group_filter *f = filter_of(o->fd, family, device, at);
	if (!f)
		return 0;
	if (f->gf_numsrc > SOURCES_MAX)
		return -E2BIG;
	if (ioctl(o->fd, SIOCGIFNAME, &name) < 0)
		return -errno;
	vin_put_string(to, name.ifr_name);
	vin_put_blob(to, at, sizeof(*at));
	vin_put_u64(to, f->gf_fmode);
	vin_put_blob(to, f->gf_slist, f->gf_numsrc * sizeof(f->gf_slist[0]));
	++*count;
	return 0;
}

/* "2\teth0 ..." and below it "\t\t\t\t010000E0 ..."; for IPv6 "2 eth0 ff02..01 ..." */
static bool group_in(const char *line, int family, unsigned int *device,
		     struct sockaddr_storage *ret)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)ret;
	char hex[33] = "";
	memset(ret, 0, sizeof(*ret));
	ret->ss_family = (sa_family_t)family;
	if (family == AF_INET6) {
		if (sscanf(line, "%u %*s %32[0-9a-f]", device, hex) != 2 || strlen(hex) != 32)
			return false;
		for (int i = 0; i < 16; i++) {
			unsigned int byte;
			if (sscanf(hex + (ptrdiff_t)2 * i, "%2x", &byte) != 1)
				return false;
			v6->sin6_addr.s6_addr[i] = (unsigned char)byte;
		}
		return true;
	}
	if (line[0] != '\t') {
		*device = (unsigned int)strtoul(line, NULL, 10);
		return false;
	}
	return sscanf(line, "%8x", &v4->sin_addr.s_addr) == 1;
}

int vin_groups_put(const struct vin_open *o, int family, struct fvm_buf *to, struct fvm_error *err)
{
	char path[40], line[256];
	unsigned int device = 0;
	uint64_t count = 0;
	int r = 0;
	struct sockaddr_storage at;
	scoped_buf b = { 0 };
	snprintf(path, sizeof(path), "/proc/%d/net/igmp%s", o->pid, family == AF_INET6 ? "6" : "");
	FILE *file = fopen(path, "re");
	while (file && r == 0 && fgets(line, sizeof(line), file)) {
		if (group_in(line, family, &device, &at))
			r = put_one(o, family, device, &at, &b, &count);
	}
	if (file)
		fclose(file);
	vin_put_u64(to, count);
	vin_put_blob(to, b.data ? b.data : "", b.len);
	to->failed |= b.failed;
	return r < 0 ? fvm_error_set(err, -r, "list the multicast groups of a socket") : 0;
}

/* ---- anew ---- */

static int get_one(struct vin_payload *p, int family, struct vin_group *g)
{
	size_t at_len, sources_len;
	scoped_free char *link = vin_get_string(p);
	const void *at = vin_get_blob(p, &at_len);
	g->mode = vin_get_u64(p);
	const void *sources = vin_get_blob(p, &sources_len);
	if (p->failed || strlen(link) >= sizeof(g->link) || !link[0] || at_len != sizeof(g->at) ||
	    g->mode > MCAST_INCLUDE || sources_len > sizeof(g->sources) ||
	    sources_len % sizeof(g->sources[0]))
		return -EBADMSG;
	strcpy(g->link, link);
	memcpy(&g->at, at, at_len);
	memcpy(g->sources, sources, sources_len);
	g->source_count = sources_len / sizeof(g->sources[0]);
	return g->at.ss_family == family ? 0 : -EBADMSG;
}

int vin_groups_get(struct vin_payload *p, int family, struct vin_groups *ret)
{
	const uint64_t count = vin_get_u64(p);
	size_t len;
	const void *all = vin_get_blob(p, &len);
	if (p->failed || count > GROUPS_MAX)
		return -EBADMSG;
	ret->list = calloc((size_t)count + 1, sizeof(*ret->list));
	if (!ret->list)
		return -ENOMEM;
	struct vin_payload q = { .at = all, .end = (const unsigned char *)all + len };
	int r = 0;
	while (r == 0 && ret->count < count)
		r = get_one(&q, family, &ret->list[ret->count++]);
	return r < 0 ? r : vin_get_done(&q);
}

void vin_groups_free(struct vin_groups *g)
{
	free(g->list);
	*g = (struct vin_groups){ 0 };
}

static int join(int fd, int family, const struct vin_group *g)
{
	struct ifreq name = { 0 };
	strcpy(name.ifr_name, g->link);
	if (ioctl(fd, SIOCGIFINDEX, &name) < 0)
		return -errno;
	struct group_req whole = { .gr_interface = (uint32_t)name.ifr_ifindex, .gr_group = g->at };
	struct group_source_req one = { .gsr_interface = whole.gr_interface, .gsr_group = g->at };
	if (g->mode == MCAST_EXCLUDE &&
	    setsockopt(fd, level_of(family), MCAST_JOIN_GROUP, &whole, sizeof(whole)) < 0)
		return -errno;
	for (size_t i = 0; i < g->source_count; i++) {
		one.gsr_source = g->sources[i];
		if (setsockopt(fd, level_of(family),
			       g->mode == MCAST_EXCLUDE ? MCAST_BLOCK_SOURCE
							: MCAST_JOIN_SOURCE_GROUP,
			       &one, sizeof(one)) < 0)
			return -errno;
	}
	return 0;
}

int vin_groups_join(int fd, int family, const struct vin_groups *g, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < g->count; i++)
		r = join(fd, family, &g->list[i]);
	return r < 0 ? fvm_error_set(err, -r, "join a multicast group") : 0;
}
