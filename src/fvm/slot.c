#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/lock.h"
#include "fvm/slot.h"

#define SLOT_DIR "/run/fvm/slots"

static int open_dir(struct fvm_error *err)
{
	int dir = open(SLOT_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir >= 0)
		return dir;
	int r = fvm_mkdir_p(AT_FDCWD, SLOT_DIR, 0700);
	if (r == 0)
		dir = open(SLOT_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (r < 0 || dir < 0)
		return fvm_error_set(err, r < 0 ? -r : errno, "make %s", SLOT_DIR);
	return dir;
}

/* Return: descriptor, or -EWOULDBLOCK when taken */
static int try_slot(int dir, uint32_t slot)
{
	char name[16];
	snprintf(name, sizeof(name), "%u", slot);
	scoped_fd fd = openat(dir, name, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : fvm_lock_named(fd, dir, name, LOCK_EX);
	return r < 0 ? r : fvm_fd_take(&fd);
}

int fvm_slot_take(const char *vm_id, int wish, uint32_t *ret_slot, int *ret_fd,
		  struct fvm_error *err)
{
	scoped_fd dir = open_dir(err);
	if (dir < 0)
		return dir;
	char head[9];
	snprintf(head, sizeof(head), "%.8s", vm_id);
	uint32_t first = wish >= 0 ? (uint32_t)wish : (uint32_t)strtoul(head, NULL, 16);
	first %= FVM_SLOTS_GIVEN;
	for (uint32_t i = 0; i < FVM_SLOTS_GIVEN; i++) {
		uint32_t slot = (first + i) % FVM_SLOTS_GIVEN;
		int fd = try_slot(dir, slot);
		if (fd == -EWOULDBLOCK)
			continue;
		if (fd < 0)
			return fvm_error_set(err, -fd, "take %s/%u", SLOT_DIR, slot);
		*ret_slot = slot;
		*ret_fd = fd;
		return 0;
	}
	return fvm_error_set(err, EBUSY, "find a free uid range: all %u are in use",
			     FVM_SLOTS_GIVEN);
}

void fvm_slot_drop(uint32_t slot)
{
	scoped_fd dir = open(SLOT_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return;
	scoped_fd fd = try_slot(dir, slot);
	char name[16];
	snprintf(name, sizeof(name), "%u", slot);
	if (fd >= 0)
		(void)unlinkat(dir, name, 0);
}
