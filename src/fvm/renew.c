/*
 * What a running VM is told anew: the name servers of a host that has moved.
 *
 * A child of PID 1 does it, as any path of the VM's may be a file system that never answers. It has
 * no more rights than the VM's root, whose file it is. The file is written in place where it lies
 * on a tmpfs (/run, or what names.c mounted); elsewhere that would be a change that nobody made, so
 * another is mounted over it. Who has put a file of his own there keeps it.
 */
#include <fcntl.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fvm/init_priv.h"

#define RESOLV_CONF "/etc/resolv.conf"
#define OVER	    "/run/fvm-resolv.conf"

static bool says(int fd, const char *text)
{
	char have[FVM_NAMES_BYTES + 1];
	ssize_t n = pread(fd, have, sizeof(have), 0);
	return n >= 0 && (size_t)n == strlen(text) && memcmp(have, text, (size_t)n) == 0;
}

static void mount_over(const char *text)
{
	scoped_fd fd = open(OVER, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
	if (fd >= 0 && fvm_write_all(fd, text, strlen(text)) == 0)
		(void)mount(OVER, RESOLV_CONF, NULL, MS_BIND, NULL);
}

static void renew(const char *before, const char *now)
{
	struct stat st;
	struct statfs fs;
	scoped_fd fd = open(RESOLV_CONF, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0 || !S_ISREG(st.st_mode) || !says(fd, before) ||
	    fstatfs(fd, &fs) < 0)
		return;
	if (fs.f_type != TMPFS_MAGIC) {
		mount_over(now);
		return;
	}
	scoped_fd in_place = open(RESOLV_CONF, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	struct stat there;
	if (in_place < 0 || fstat(in_place, &there) < 0 || there.st_ino != st.st_ino ||
	    there.st_dev != st.st_dev || fvm_write_all(in_place, now, strlen(now)) < 0)
		return;
	(void)!ftruncate(in_place, (off_t)strlen(now));
}

void renew_names(struct init *init)
{
	char now[FVM_NAMES_BYTES];
	ssize_t n = pread(init->args.names, now, sizeof(now) - 1, 0);
	if (n <= 0 || init->ending)
		return;
	now[n] = '\0';
	pid_t child = fork();
	if (child == 0) {
		renew(init->resolv, now);
		_exit(0);
	}
	if (child > 0)
		strcpy(init->resolv, now);
}
