/*
 * Tries to take every mount of a VM apart, as its root: from where it is, from a copy of the mount
 * namespace, and from a user namespace inside. Prints what gave way; the status is their number.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* of sys/mount.h, which fights with linux/mount.h */
extern int mount(const char *, const char *, const char *, unsigned long, const void *);
extern int umount2(const char *, int);

struct attributes {
	uint64_t set, clear, propagation, userns;
};

static int bad;

static void gave(const char *where, const char *how, const char *path)
{
	printf("%s: %s %s\n", where, how, path);
	bad++;
}

static int has(const char *options, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = options; (p = strstr(p, word)); p += n) {
		if ((p == options || p[-1] == ',') && (p[n] == ',' || !p[n]))
			return 1;
	}
	return 0;
}

static void try_flags(const char *where, const char *path, const char *options)
{
	static const struct {
		const char *word;
		uint64_t attribute;
		unsigned long flag;
	} flags[] = { { "ro", 1, 1 }, { "nosuid", 2, 2 }, { "nodev", 4, 4 }, { "noexec", 8, 8 } };
	unsigned long all = 0;
	for (size_t i = 0; i < 4; i++)
		all |= has(options, flags[i].word) ? flags[i].flag : 0;
	for (size_t i = 0; i < 4; i++) {
		struct attributes a = { 0, flags[i].attribute, 0, 0 };
		if (!has(options, flags[i].word))
			continue;
		if (syscall(SYS_mount_setattr, AT_FDCWD, path, 0, &a, sizeof(a)) == 0)
			gave(where, flags[i].word, path);
		/* MS_REMOUNT | MS_BIND with all its flags but one */
		if (mount(NULL, path, NULL, 32 | 4096 | (all & ~flags[i].flag), NULL) == 0)
			gave(where, "remount without a flag:", path);
	}
	if (has(options, "ro") && mount(NULL, path, NULL, 32 | (all & ~1UL), NULL) == 0)
		gave(where, "remount of the file system:", path);
}

static void try_cover(const char *where, const char *path)
{
	/* a copy without what is mounted on it would show what lies below */
	int tree = (int)syscall(SYS_open_tree, AT_FDCWD, path, 1 | O_CLOEXEC);
	char below[600];
	if (tree >= 0 && strcmp(path, "/") == 0)
		gave(where, "clone without submounts:", path);
	if (tree >= 0)
		close(tree);
	snprintf(below, sizeof(below), "%s/..", path);
	int moved = (int)syscall(SYS_move_mount, AT_FDCWD, path, AT_FDCWD, "/tmp", 0);
	if (moved == 0)
		gave(where, "move:", path);
}

static void try_all(const char *where)
{
	char line[4096], path[512], options[512];
	FILE *f = fopen("/proc/self/mountinfo", "r");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%*s %*s %*s %*s %511s %511s", path, options) != 2)
			continue;
		try_flags(where, path, options);
		try_cover(where, path);
		if (strcmp(path, "/") && (umount2(path, 2) == 0 || umount2(path, 0) == 0))
			gave(where, "umount", path);
	}
	if (f)
		fclose(f);
}

static void in_child(const char *where, int flags)
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		bad = 0;
		if (unshare(flags) == 0)
			try_all(where);
		fflush(stdout);
		_exit(bad > 100 ? 100 : bad);
	}
	if (waitpid(pid, &status, 0) == pid)
		bad += WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

int main(void)
{
	in_child("a copy", CLONE_NEWNS);
	in_child("a user namespace inside", CLONE_NEWUSER | CLONE_NEWNS);
	try_all("the VM itself");
	return bad > 100 ? 100 : bad;
}
