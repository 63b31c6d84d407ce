/*
 * Descriptions whose other end is with somebody outside of the tree who will have one for the new
 * world, too: PID 1 of a VM, which holds its sessions' terminals and reads their output. Whoever
 * captures says which they are (struct vin_files, given), and gives others by the same names to
 * replay (vin_reopen_given()). What is queued in them is the outsider's. Of a terminal, settings
 * and size are kept.
 */
#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "vin/kinds.h"

struct given {
	char *name;
	uint64_t terminal;
	struct winsize size;
	struct termios2 settings;
};

const struct vin_given *vin_given_find(const struct vin_files *all, const struct vin_open *o)
{
	for (size_t i = 0; i < all->given_count; i++) {
		struct stat st;
		if (fstat(all->given[i].fd, &st) == 0 && vin_same_inode(&st, &o->st))
			return &all->given[i];
	}
	return NULL;
}

/* Only who was given away is found, by vin_given_find(). */
static bool matches(const struct vin_open *o)
{
	(void)o;
	return false;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	const struct vin_given *g = vin_given_find(all, o);
	struct given its = { .terminal = 0 };
	if (!g)
		return fvm_error_set(err, ENXIO, "find what was given for %s", o->link);
	its.terminal = ioctl(o->fd, TCGETS2, &its.settings) == 0;
	if (its.terminal && ioctl(o->fd, TIOCGWINSZ, &its.size) < 0)
		return fvm_error_set(err, errno, "look at the terminal %s", o->link);
	vin_put_string(to, g->name);
	vin_put_u64(to, its.terminal);
	vin_put_blob(to, &its.size, sizeof(its.size));
	vin_put_blob(to, &its.settings, sizeof(its.settings));
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct given *its = ret;
	size_t size_len, settings_len;
	(void)first;
	its->name = vin_get_string(p);
	its->terminal = vin_get_u64(p);
	const void *size = vin_get_blob(p, &size_len);
	const void *settings = vin_get_blob(p, &settings_len);
	if (p->failed || its->terminal > 1 || size_len != sizeof(its->size) ||
	    settings_len != sizeof(its->settings))
		return -EBADMSG;
	memcpy(&its->size, size, sizeof(its->size));
	memcpy(&its->settings, settings, sizeof(its->settings));
	return 0;
}

static void forget(void *its)
{
	free(((struct given *)its)->name);
}

int vin_given_fd(const struct vin_reopen *r, const char *name)
{
	for (size_t i = 0; i < r->given_count; i++) {
		if (strcmp(r->given[i].name, name) == 0)
			return r->given[i].fd;
	}
	return -1;
}

static int open_again(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct given *its = f->its;
	int from = vin_given_fd(r, its->name);
	if (from < 0)
		return fvm_error_say(err, ENXIO, "nobody gives the programs their '%s'", its->name);
	if (its->terminal &&
	    (ioctl(from, TCSETS2, &its->settings) < 0 || ioctl(from, TIOCSWINSZ, &its->size) < 0))
		return fvm_error_set(err, errno, "set the terminal '%s'", its->name);
	int fd = vin_again(r, from, f->flags | O_NOCTTY);
	return fd < 0 ? fvm_error_set(err, -fd, "open '%s'", its->name) : fd;
}

const struct vin_kind vin_kind_given = {
	.name = "what was given",
	.nr = VIN_KIND_GIVEN,
	.matches = matches,
	.capture = capture,
	.size = sizeof(struct given),
	.parse = parse,
	.forget = forget,
	.open = open_again,
};
