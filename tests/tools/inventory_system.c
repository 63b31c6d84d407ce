/* What is on a machine besides files. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "common/common.h"
#include "tests/tools/inventory.h"

/* A line of each mount, without the numbers that every mount gets anew. */
static void print_mounts(void)
{
	FILE *f = fopen("/proc/self/mountinfo", "re");
	char *line = NULL;
	size_t size = 0;
	while (f && getline(&line, &size, f) > 0) {
		char *at = line;
		for (int field = 0; field < 3 && at; field++) {
			at = strchr(at, ' ');
			at = at ? at + 1 : NULL;
		}
		if (at)
			printf("mount %s", at);
	}
	free(line);
	if (f)
		fclose(f);
}

static int by_string(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Names in @path without dots, sorted; empty when there is no such directory. */
static void list_dir(const char *path, struct fvm_strv *ret)
{
	DIR *d = opendir(path);
	if (!d)
		return;
	for (struct dirent *e; (e = readdir(d));) {
		if (e->d_name[0] != '.')
			fvm_strv_add(ret, e->d_name);
	}
	closedir(d);
	if (ret->count)
		qsort(ret->items, ret->count, sizeof(*ret->items), by_string);
}

static void print_file(const char *what, const char *path)
{
	scoped_free char *text = NULL;
	if (fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL) == 0)
		printf("%s %s", what, text);
}

static void print_network(void)
{
	scoped_strv links = { 0 }, spaces = { 0 };
	list_dir("/sys/class/net", &links);
	fvm_strv_each(&links, i)
		printf("link %s\n", links.items[i]);
	list_dir("/run/netns", &spaces);
	fvm_strv_each(&spaces, i)
		printf("netns %s\n", spaces.items[i]);
	print_file("route", "/proc/net/route");
	print_file("ip_forward", "/proc/sys/net/ipv4/ip_forward");
	print_file("ip6_forward", "/proc/sys/net/ipv6/conf/all/forwarding");
}

static void print_cgroups(const char *path)
{
	DIR *d = opendir(path);
	scoped_strv below = { 0 };
	for (struct dirent *e; d && (e = readdir(d));) {
		if (e->d_type == DT_DIR && e->d_name[0] != '.')
			fvm_strv_add(&below, e->d_name);
	}
	if (d)
		closedir(d);
	if (below.count)
		qsort(below.items, below.count, sizeof(*below.items), by_string);
	fvm_strv_each(&below, i) {
		scoped_buf child = { 0 };
		fvm_buf_printf(&child, "%s/%s", path, below.items[i]);
		if (!child.data)
			return;
		printf("cgroup %s\n", child.data);
		print_cgroups(child.data);
	}
}

/* Processes come and go; those in a namespace other than ours are what a VM would leave. */
static void print_namespaces(void)
{
	static const char *const kinds[] = { "pid", "user", "net", "mnt", "ipc", "uts" };
	scoped_strv all = { 0 }, lines = { 0 };
	list_dir("/proc", &all);
	fvm_strv_each(&all, i) {
		char path[64], ours[64], theirs[64];
		for (size_t k = 0; isdigit((unsigned char)*all.items[i]) && k < FVM_COUNT(kinds);
		     k++) {
			snprintf(path, sizeof(path), "/proc/self/ns/%s", kinds[k]);
			ssize_t n = readlink(path, ours, sizeof(ours) - 1);
			snprintf(path, sizeof(path), "/proc/%.20s/ns/%s", all.items[i], kinds[k]);
			ssize_t m = readlink(path, theirs, sizeof(theirs) - 1);
			if (n <= 0 || m <= 0)
				continue;
			ours[n] = theirs[m] = '\0';
			if (strcmp(ours, theirs) != 0 && !fvm_strv_has(&lines, theirs))
				fvm_strv_add(&lines, theirs);
		}
	}
	if (lines.count)
		qsort(lines.items, lines.count, sizeof(*lines.items), by_string);
	fvm_strv_each(&lines, i)
		printf("namespace %s\n", lines.items[i]);
}

/* Key, id and mode; the rest of the line counts uses. */
static void print_sysv(const char *kind)
{
	char path[64], line[512], key[32], id[32], perms[32];
	snprintf(path, sizeof(path), "/proc/sysvipc/%s", kind);
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		if (sscanf(line, "%31s %31s %31s", key, id, perms) == 3 && strcmp(key, "key") != 0)
			printf("ipc %s %s %s %s\n", kind, key, id, perms);
	}
	if (f)
		fclose(f);
}

/* Of POSIX, by a file system of our own that is mounted nowhere. */
static void print_queues(void)
{
	scoped_fd fs = fsopen("mqueue", FSOPEN_CLOEXEC);
	if (fs < 0 || fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
		return;
	scoped_fd top = fsmount(fs, FSMOUNT_CLOEXEC, 0);
	scoped_dir d = top < 0 ? NULL : fvm_dir_open(top, ".");
	scoped_strv names = { 0 };
	for (struct dirent *e; d && (e = readdir(d));) {
		if (*e->d_name != '.')
			fvm_strv_add(&names, e->d_name);
	}
	if (names.count)
		qsort(names.items, names.count, sizeof(*names.items), by_string);
	fvm_strv_each(&names, i)
		printf("ipc queue %s\n", names.items[i]);
}

static void print_loops(void)
{
	scoped_strv blocks = { 0 };
	list_dir("/sys/block", &blocks);
	fvm_strv_each(&blocks, i) {
		char path[320], what[300];
		snprintf(path, sizeof(path), "/sys/block/%.255s/loop/backing_file",
			 blocks.items[i]);
		snprintf(what, sizeof(what), "loop %s", blocks.items[i]);
		print_file(what, path);
	}
}

int inventory_system(void)
{
	print_mounts();
	print_network();
	inventory_nft();
	print_cgroups("/sys/fs/cgroup");
	print_namespaces();
	print_sysv("msg");
	print_sysv("sem");
	print_sysv("shm");
	print_queues();
	print_loops();
	return 0;
}
