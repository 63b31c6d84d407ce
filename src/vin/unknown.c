/*
 * What can't be captured, by its name: anonymous inodes, devices, and files of file systems that
 * only look like files. Whoever is asked to do without a thing wants to know which.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/status.h"

#ifndef SECRETMEM_MAGIC
#define SECRETMEM_MAGIC 0x5345434d
#endif
#ifndef DMA_BUF_MAGIC
#define DMA_BUF_MAGIC 0x444d4142
#endif
#define MQUEUE_MAGIC 0x19800202

struct words {
	const char *name; /* begins the anonymous inode's */
	const char *text;
};

static const struct words anonymous[] = {
	{ "[userfaultfd]", "it serves faults of memory (userfaultfd)" },
	{ "[io_uring]", "it is a ring of system calls (io_uring)" },
	{ "[perf_event]", "it counts what the processor does (perf_event)" },
	{ "bpf-", "it is the kernel's program or map (bpf)" },
	{ "bpf_", "it is the kernel's program or map (bpf)" },
	{ "btf", "it is the kernel's program or map (bpf)" },
	{ "seccomp notify", "it answers for others' system calls (seccomp)" },
	{ "[landlock-ruleset]", "it is a ruleset of Landlock that is not in force yet" },
	{ "[fscontext]", "it is a mount that is about to be made" },
	{ "[timens]", "it is a namespace" },
	{ "kvm-", "it is a virtual machine (kvm)" },
	{ "[vfio", "it is a device of the machine (vfio)" },
	{ "sync_file", "it waits for a graphics card" },
	{ "[pidfd]", "it leads to a process outside" },
};

static const struct device {
	unsigned int major, minor; /* UINT32_MAX: all of them */
	const char *text;
} devices[] = {
	{ 1, 11, "it reads the kernel's log" },
	{ 5, 1, "it is the machine's console" },
	{ 10, 229, "it serves a file system (fuse)" },
	{ 10, 232, "it makes virtual machines (kvm)" },
	{ 1, UINT32_MAX, "it is memory or a port of the machine" },
	{ 4, UINT32_MAX, "it is a terminal of the machine" },
	{ 5, UINT32_MAX, "it is a terminal that another program has" },
	{ 13, UINT32_MAX, "it is a keyboard, a mouse or the like" },
	{ 116, UINT32_MAX, "it is a sound card" },
	{ 195, UINT32_MAX, "it is a graphics card" },
	{ 226, UINT32_MAX, "it is a graphics card" },
};

static const struct {
	uint32_t magic;
	const char *text;
} file_systems[] = {
	{ NSFS_MAGIC, "it is a namespace that no process of these is in" },
	{ MQUEUE_MAGIC, "it is a message queue" },
	{ SECRETMEM_MAGIC, "it is secret memory, which the kernel shows to nobody" },
	{ DMA_BUF_MAGIC, "it is memory of a device" },
	{ HUGETLBFS_MAGIC, "it has huge pages and no name" },
};

static const char *device_text(const struct stat *st)
{
	if (S_ISBLK(st->st_mode))
		return "it is a disk";
	for (size_t i = 0; i < FVM_COUNT(devices); i++) {
		if (major(st->st_rdev) == devices[i].major &&
		    (devices[i].minor == UINT32_MAX || minor(st->st_rdev) == devices[i].minor))
			return devices[i].text;
	}
	return "it is a device that keeps a state of its own";
}

static const char *file_system_text(const struct vin_open *o)
{
	struct statfs fs;
	for (size_t i = 0; fstatfs(o->fd, &fs) == 0 && i < FVM_COUNT(file_systems); i++) {
		if ((uint32_t)fs.f_type == file_systems[i].magic)
			return file_systems[i].text;
	}
	return NULL;
}

int vin_unknown_say(const struct vin_open *o, struct fvm_error *err)
{
	const char *text = NULL, *name = o->link + strlen("anon_inode:");
	if (S_ISSOCK(o->st.st_mode))
		text = "it is a socket of a kind that can't be captured";
	else if (S_ISCHR(o->st.st_mode) || S_ISBLK(o->st.st_mode))
		text = device_text(&o->st);
	else
		text = file_system_text(o);
	for (size_t i = 0; i < FVM_COUNT(anonymous) && strncmp(o->link, "anon_inode:", 11) == 0;
	     i++) {
		if (strncmp(name, anonymous[i].name, strlen(anonymous[i].name)) == 0)
			text = anonymous[i].text;
	}
	return fvm_error_say(err, EOPNOTSUPP, "%s",
			     text ? text : "it is of a kind that can't be captured");
}

/* ---- files that are no files ---- */

static bool has_mount(pid_t pid, int mnt_id)
{
	char path[40], line[4096];
	bool there = false;
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", pid);
	FILE *file = fopen(path, "re");
	for (int id; !there && file && fgets(line, sizeof(line), file);)
		there = sscanf(line, "%d ", &id) == 1 && id == mnt_id;
	if (file)
		fclose(file);
	return there;
}

/* Its own mounts or its forebears': who went into a namespace of his own kept what he had open. */
static bool is_mounted(const struct vin_open *o)
{
	struct vin_stat st;
	pid_t pid = o->pid;
	for (int i = 0; i < 100 && pid > 0; i++) {
		if (has_mount(pid, o->info.mnt_id))
			return true;
		pid = vin_stat_read(pid, pid, &st, NULL) == 0 ? st.parent : 0;
	}
	return has_mount(getpid(), o->info.mnt_id);
}

/* Of two mounts of one thing, the name may lead to the other one. */
static bool name_has_its_mount(const struct vin_files *all, const struct vin_open *o)
{
	struct statx x;
	scoped_fd fd = vin_link_open(all, o);
	return fd >= 0 && statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) == 0 &&
	       x.stx_mask & STATX_MNT_ID && (int)x.stx_mnt_id == o->info.mnt_id;
}

int vin_place_check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	struct statfs fs;
	const char *text = file_system_text(o);
	/* a file of huge pages that has a name is one like others */
	if (text &&
	    !(fstatfs(o->fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC && vin_link_leads(all, o)))
		return fvm_error_say(err, EOPNOTSUPP, "%s", text);
	if (o->info.mnt_id > 0 && vin_link_leads(all, o) && !name_has_its_mount(all, o) &&
	    !is_mounted(o))
		return fvm_error_say(err, EOPNOTSUPP, "it is of a mount that is nowhere");
	return 0;
}
