/*
 * A file system of a VM's own, which lies and does not answer:
 *
 *   hostile_fuse DIR   mount it over DIR and serve it until killed; prints "ready"
 *
 * It has "node", the machine's memory as a device; "set-id", root's, which everybody may run;
 * whatever else is looked for is not answered, ever.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

static int dev;

static void reply(uint64_t unique, int error, const void *body, size_t len)
{
	struct fuse_out_header head = { sizeof(head) + len, error, unique };
	struct iovec v[2] = { { &head, sizeof(head) }, { (void *)body, len } };
	(void)!writev(dev, v, 2);
}

static struct fuse_attr attributes(uint64_t node)
{
	struct fuse_attr a = { .ino = node, .nlink = 1, .mode = S_IFDIR | 0777 };
	if (node == 2) {
		a.mode = S_IFCHR | 0666;
		a.rdev = makedev(1, 1);
	} else if (node == 3) {
		a.mode = S_IFREG | 04755;
	}
	return a;
}

static void look_up(const struct fuse_in_header *in, const char *name)
{
	uint64_t node = strcmp(name, "node") == 0 ? 2 : strcmp(name, "set-id") == 0 ? 3 : 0;
	struct fuse_entry_out out = { .nodeid = node, .attr = attributes(node) };
	if (node)
		reply(in->unique, 0, &out, sizeof(out));
}

static void serve(const struct fuse_in_header *in, const char *body)
{
	struct fuse_init_out init = { .major = 7, .minor = 31, .max_write = 4096 };
	struct fuse_attr_out attr = { .attr = attributes(in->nodeid) };
	struct fuse_open_out open = { 0 };
	switch (in->opcode) {
	case FUSE_INIT:
		reply(in->unique, 0, &init, sizeof(init));
		break;
	case FUSE_GETATTR:
		reply(in->unique, 0, &attr, sizeof(attr));
		break;
	case FUSE_LOOKUP:
		look_up(in, body);
		break;
	case FUSE_OPENDIR:
	case FUSE_OPEN:
		reply(in->unique, 0, &open, sizeof(open));
		break;
	case FUSE_ACCESS:
		reply(in->unique, 0, NULL, 0);
		break;
	default: /* READDIR among them: it hangs */
		break;
	}
}

int main(int argc, char **argv)
{
	static char room[1 << 18] __attribute__((aligned(8)));
	char options[128];
	dev = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	snprintf(options, sizeof(options), "fd=%d,rootmode=40777,user_id=0,group_id=0,allow_other",
		 dev);
	if (argc != 2 || dev < 0 || mount("hostile", argv[1], "fuse", 0, options) < 0) {
		perror("mount");
		return 2;
	}
	puts("ready");
	fflush(stdout);
	for (;;) {
		ssize_t n = read(dev, room, sizeof(room));
		if (n < 0 && errno != EINTR && errno != EAGAIN)
			return 1;
		if (n >= (ssize_t)sizeof(struct fuse_in_header))
			serve((const struct fuse_in_header *)room,
			      room + sizeof(struct fuse_in_header));
	}
}
