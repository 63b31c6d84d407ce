/*
 * /dev/net/tun: the end of a network device that a program has, a tunnel (tun) or a line (tap). The
 * device is one of the network namespace and made again with it (links.c), to stay; here its queue
 * is taken again, and if the device was to go with its last user, it will.
 *
 * Packets that nobody has read yet are lost, as any network may lose them. What is offloaded
 * (TUNSETOFFLOAD) is not told, and off again: who reads gets packets that are whole.
 * Limits: a filter of a queue can't be read, and is refused. A device whose end only somebody
 * outside has stays, without one. Source: Documentation/networking/tuntap.rst.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/rtnl.h"

#define NAPI (IFF_NAPI | IFF_NAPI_FRAGS)

struct tun {
	char *name;		     /* of the file */
	char *device;		     /* "": it has none yet */
	uint64_t flags;		     /* of TUNGETIFF, where IFF_NO_PI has another meaning, too */
	uint64_t room, head, little; /* TUNSETSNDBUF, TUNSETVNETHDRSZ, TUNSETVNETLE */
};

static bool is_tun(const struct stat *st)
{
	return S_ISCHR(st->st_mode) && st->st_rdev == makedev(10, 200);
}

static bool matches(const struct vin_open *o)
{
	return is_tun(&o->st) && !(o->info.flags & O_PATH);
}

/* All are of one inode, and no twins. */
static bool apart(const struct vin_open *o)
{
	return matches(o);
}

/* ---- capture ---- */

/* Return: 0, also if there is none, or negative errno */
static int device_of(const struct vin_open *o, struct ifreq *ret)
{
	memset(ret, 0, sizeof(*ret));
	return ioctl(o->fd, TUNGETIFF, ret) < 0 && errno != EBADFD ? -errno : 0;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	struct ifreq device;
	struct sock_fprog filter = { 0 };
	int r = device_of(o, &device);
	if (r < 0)
		return fvm_error_say(err, EOPNOTSUPP, "its device can't be asked for");
	if (!vin_link_leads(all, o))
		return fvm_error_say(err, EOPNOTSUPP, "its name does not lead to it");
	if (ioctl(o->fd, TUNGETFILTER, &filter) == 0 && filter.len > 0)
		return fvm_error_say(err, EOPNOTSUPP, "it has a filter, which can't be read");
	return 0;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	struct ifreq device;
	int room = 0, head = 0, little = 0;
	(void)all;
	int r = device_of(o, &device);
	if (r == 0 && device.ifr_name[0] &&
	    (ioctl(o->fd, TUNGETSNDBUF, &room) < 0 || ioctl(o->fd, TUNGETVNETHDRSZ, &head) < 0 ||
	     ioctl(o->fd, TUNGETVNETLE, &little) < 0))
		r = -errno;
	vin_put_string(to, o->link);
	vin_put_string(to, device.ifr_name);
	vin_put_u64(to, (uint16_t)device.ifr_flags);
	vin_put_u64(to, (uint64_t)room);
	vin_put_u64(to, (uint64_t)head);
	vin_put_u64(to, little != 0);
	return r < 0 ? fvm_error_set(err, -r, "look at network device %s", device.ifr_name) : 0;
}

/* ---- replay ---- */

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct tun *t = ret;
	t->name = vin_get_string(p);
	t->device = vin_get_string(p);
	t->flags = vin_get_u64(p);
	t->room = vin_get_u64(p);
	t->head = vin_get_u64(p);
	t->little = vin_get_u64(p);
	return p->failed || !first || t->name[0] != '/' || strlen(t->device) >= IFNAMSIZ ||
			       t->flags > UINT16_MAX || t->room > INT32_MAX ||
			       t->head > UINT16_MAX || t->little > 1
		       ? -EBADMSG
		       : 0;
}

static void forget(void *its)
{
	struct tun *t = its;
	free(t->name);
	free(t->device);
}

static int attach(int fd, const struct tun *t)
{
	const int flags = vin_link_tun_flags(t->device);
	struct ifreq want = { .ifr_flags = (short)(flags | (int)(t->flags & NAPI)) };
	const int room = (int)t->room, head = (int)t->head, little = (int)t->little;
	snprintf(want.ifr_name, sizeof(want.ifr_name), "%s", t->device);
	if (flags < 0)
		return flags;
	if (ioctl(fd, TUNSETIFF, &want) < 0 || ioctl(fd, TUNSETSNDBUF, &room) < 0 ||
	    ioctl(fd, TUNSETVNETHDRSZ, &head) < 0 || ioctl(fd, TUNSETVNETLE, &little) < 0)
		return -errno;
	want.ifr_flags = IFF_DETACH_QUEUE;
	return t->flags & IFF_DETACH_QUEUE ? fvm_nerr(ioctl(fd, TUNSETQUEUE, &want)) : 0;
}

static int open_tun(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct tun *its = f->its;
	struct stat st;
	scoped_fd there = vin_name_open(r, its->name);
	if (there < 0) {
		fvm_error_set(err, -there, "find %s", its->name);
		fvm_error_hint(err, "whoever makes the VM again has to give it %s", its->name);
		return there;
	}
	if (fstat(there, &st) < 0)
		return fvm_error_set(err, errno, "look at %s", its->name);
	if (!is_tun(&st))
		return fvm_error_say(err, ENXIO, "%s is another device", its->name);
	scoped_fd fd = vin_again(r, there, f->flags);
	int e = fd < 0 ? fd : its->device[0] ? attach(fd, its) : 0;
	return e < 0 ? fvm_error_set(err, -e, "open the end of network device %s", its->device)
		     : fvm_fd_take(&fd);
}

/* When all its queues are there. */
static int finish(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct tun *its = f->its;
	(void)r;
	if (its->device[0] && !(its->flags & IFF_PERSIST) && ioctl(f->fd, TUNSETPERSIST, 0) < 0)
		return fvm_error_set(err, errno, "let network device %s go with its end",
				     its->device);
	return 0;
}

const struct vin_kind vin_kind_tun = {
	.name = "the end of a network device",
	.nr = VIN_KIND_TUN,
	.matches = matches,
	.apart = apart,
	.check = check,
	.capture = capture,
	.size = sizeof(struct tun),
	.parse = parse,
	.forget = forget,
	.open = open_tun,
	.finish = finish,
};
