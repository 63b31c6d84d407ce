/* Mounts of a world that were made inside. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "vin/spaces.h"

#define MOUNTINFO_MAX (64U << 20)

/* ---- mountinfo ---- */

/* The mount point and type in a line, which is taken apart. Return: whether they are there */
static bool parse_line(char *line, char **ret_point, char **ret_type)
{
	char *save, *type = strstr(line, " - ");
	if (!type)
		return false;
	*type = '\0';
	*ret_type = type + 3;
	(*ret_type)[strcspn(*ret_type, " ")] = '\0';
	char *word = strtok_r(line, " ", &save);
	for (int i = 0; word && i < 4; i++)
		word = strtok_r(NULL, " ", &save);
	if (!word)
		return false;
	fvm_unoctal(word);
	*ret_point = word;
	return true;
}

/* ---- in the world's mount namespace ---- */

/* Whether what is seen at @point was made inside. Held by us, it does not expire. */
static bool is_made_inside(int self, const char *point)
{
	char name[16];
	scoped_fd held = open(point, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (held < 0 || fchdir(self) < 0)
		return false;
	snprintf(name, sizeof(name), "%d", held);
	return umount2(name, MNT_EXPIRE) < 0 && errno == EBUSY;
}

static int check_each(char *text, int self, struct fvm_error *err)
{
	char *save;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char *point, *type;
		if (parse_line(line, &point, &type) && is_made_inside(self, point))
			return fvm_error_say(err, EOPNOTSUPP,
					     "the mount on %s (%s) can't be captured: it was made "
					     "inside",
					     point, type);
	}
	return 0;
}

struct look {
	char *text; /* of mountinfo */
	int proc;   /* ours, which is out of reach there */
};

static int check_there(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	const struct look *l = arg;
	(void)to;
	scoped_fd self = openat(l->proc, "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return self < 0 ? fvm_error_set(err, errno, "open /proc/self/fd")
			: check_each(l->text, self, err);
}

int vin_mounts_check(pid_t within, struct fvm_error *err)
{
	char path[40];
	scoped_free char *text = NULL;
	scoped_fd proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", within);
	int r = proc < 0 ? -errno : fvm_read_file(AT_FDCWD, path, MOUNTINFO_MAX, &text, NULL);
	if (r < 0)
		return fvm_error_set(err, -r, "read %s", path);
	struct look l = { text, proc };
	return vin_space_visit(within, CLONE_NEWNS, check_there, &l, NULL, err);
}
