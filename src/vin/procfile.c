/*
 * Files and directories of /proc/PID, and namespaces (/proc/PID/ns): of processes that are captured
 * too. They are opened anew when these are born, as which they have their old numbers.
 *
 * Some are bound to the memory that the process had when they were opened; it may have executed
 * another program since, and they show nothing any more. Whether they do is tried.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/nsfs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/status.h"

struct of_process {
	uint64_t number;
	char *proc; /* where /proc is */
	char *rest; /* behind the number: "", "fd", "task/7/comm" */
};

struct namespace
{
	uint64_t number; /* of a process that is in it */
	uint64_t type;	 /* place in types[] */
};

static bool is_of(const struct vin_open *o, uint32_t magic)
{
	struct statfs fs;
	return fstatfs(o->fd, &fs) == 0 && (uint32_t)fs.f_type == magic;
}

/* Others of /proc have numbers in their names, too. */
static bool is_apart(const char *name)
{
	static const char *const parts[] = { "irq", "bus", "driver", "sys", "fs", "tty", "scsi" };
	for (size_t i = 0; i < FVM_COUNT(parts); i++) {
		size_t len = strlen(parts[i]);
		if (strncmp(name, parts[i], len) == 0 && name[len] == '/')
			return true;
	}
	return false;
}

/* Takes "/proc/25/task/7" apart at its first number. Return: that, or 0: it has none. */
static pid_t number_in(const char *link, size_t *ret_proc, const char **ret_rest)
{
	*ret_proc = 0;
	*ret_rest = "";
	for (const char *p = link; (p = strchr(p, '/')); p++) {
		char *after;
		if (is_apart(p + 1))
			return 0;
		if (p[1] < '1' || p[1] > '9')
			continue;
		long n = strtol(p + 1, &after, 10);
		if (n > INT_MAX || (*after && *after != '/'))
			continue;
		*ret_proc = (size_t)(p - link);
		*ret_rest = *after ? after + 1 : after;
		return (pid_t)n;
	}
	return 0;
}

static bool file_matches(const struct vin_open *o)
{
	size_t proc;
	const char *rest;
	return o->link[0] == '/' && is_of(o, PROC_SUPER_MAGIC) &&
	       (S_ISREG(o->st.st_mode) || S_ISDIR(o->st.st_mode)) &&
	       number_in(o->link, &proc, &rest) > 0;
}

/* ---- whose it is ---- */

/* The innermost number in what status says. */
static pid_t number_at(int dir)
{
	scoped_free char *text = NULL;
	scoped_status s = { 0 };
	if (fvm_read_file(dir, "status", 1 << 16, &text, NULL) < 0 ||
	    vin_status_parse(text, &s) < 0 || s.depth == 0)
		return 0;
	return s.pids[s.depth - 1];
}

static bool same_namespace(int a, const char *a_name, int b, const char *b_name)
{
	struct stat x, y;
	return fstatat(a, a_name, &x, 0) == 0 && fstatat(b, b_name, &y, 0) == 0 &&
	       vin_same_inode(&x, &y);
}

/* /proc/PID, readable: who holds it by O_PATH only can't look names up in it when it is another
 * mount's. */
static int open_own(pid_t pid)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d", pid);
	return fvm_nerr(open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC));
}

/* Whether @dir, of any /proc, is of process @pid, as this process counts. */
static bool is_process(int dir, pid_t pid)
{
	scoped_fd own = open_own(pid);
	return own >= 0 && number_at(dir) == vin_inner_number(pid) &&
	       same_namespace(dir, "ns/pid", own, "ns/pid");
}

/* The process of the tree that a directory of /proc is of, as we count; 0: none of them. */
static pid_t process_of(const struct vin_files *all, const struct vin_open *o)
{
	size_t len;
	const char *rest;
	char path[PATH_MAX];
	pid_t shown = number_in(o->link, &len, &rest);
	snprintf(path, sizeof(path), "%.*s/%d", (int)len, o->link, shown);
	scoped_fd place = vin_name_look(all, path);
	scoped_fd dir = place < 0 ? -1 : vin_again_here(place, O_RDONLY | O_DIRECTORY);
	for (size_t i = 0; dir >= 0 && i < all->table_count; i++) {
		if (is_process(dir, all->tables[i].pid))
			return all->tables[i].pid;
	}
	return 0;
}

/* ---- what it is bound to ---- */

static const char *const of_memory[] = { "mem",	    "maps",    "smaps", "smaps_rollup",
					 "environ", "pagemap", "auxv",	"numa_maps" };

static bool is_of_memory(const char *rest)
{
	const char *last = strrchr(rest, '/');
	last = last ? last + 1 : rest;
	for (size_t i = 0; i < FVM_COUNT(of_memory); i++) {
		if (strcmp(last, of_memory[i]) == 0)
			return true;
	}
	return false;
}

/* One that is of memory that has gone gives nothing. What its reader has read is apart. */
static bool shows_something(const struct vin_open *o, pid_t pid)
{
	struct vin_stat st;
	char byte[8];
	off_t at = 0;
	if (vin_stat_read(pid, pid, &st, NULL) < 0)
		return false;
	if (strstr(o->link, "/mem"))
		at = (off_t)st.code_start;
	else if (strstr(o->link, "/pagemap"))
		at = (off_t)(st.code_start / 4096 * 8);
	return pread(o->fd, byte, strstr(o->link, "/pagemap") ? 8 : 1, at) > 0;
}

static int check_file(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	size_t len;
	const char *rest;
	pid_t shown = number_in(o->link, &len, &rest), pid = process_of(all, o);
	if (pid == 0)
		return fvm_error_say(err, EOPNOTSUPP,
				     "it tells of a process that is gone or outside");
	if (!vin_link_leads(all, o))
		return fvm_error_say(err, EOPNOTSUPP, "it tells of what has gone since");
	if (strncmp(rest, "task/", 5) == 0 && shown != vin_inner_number(pid))
		return fvm_error_say(err, EOPNOTSUPP,
				     "it tells of a thread as another namespace counts");
	if (is_of_memory(rest) &&
	    ((o->info.flags & O_ACCMODE) == O_WRONLY || !shows_something(o, pid)))
		return fvm_error_say(err, EOPNOTSUPP,
				     "it tells of a process's memory, which may have gone");
	return vin_place_check(all, o, err);
}

static int capture_file(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
			struct fvm_error *err)
{
	size_t len;
	const char *rest;
	pid_t pid = process_of(all, o);
	(void)number_in(o->link, &len, &rest);
	if (pid == 0)
		return fvm_error_set(err, ESRCH, "find whose %s is", o->link);
	vin_put_u64(to, (uint64_t)vin_inner_number(pid));
	vin_put_blob(to, o->link, len);
	vin_put_string(to, rest);
	return 0;
}

/* No way out of the process's directory. */
static bool climbs(const char *rest)
{
	for (const char *p = rest; p; p = strchr(p, '/')) {
		p += *p == '/';
		if (strncmp(p, "..", 2) == 0 && (p[2] == '/' || !p[2]))
			return true;
	}
	return rest[0] == '/';
}

static int parse_file(struct vin_payload *p, bool first, void *ret)
{
	struct of_process *f = ret;
	(void)first;
	f->number = vin_get_u64(p);
	f->proc = vin_get_string(p);
	f->rest = vin_get_string(p);
	return p->failed || f->number == 0 || f->number > INT_MAX || f->proc[0] != '/' ||
			       strlen(f->proc) + strlen(f->rest) > PATH_MAX - 32 || climbs(f->rest)
		       ? -EBADMSG
		       : 0;
}

static void forget_file(void *its)
{
	struct of_process *f = its;
	free(f->proc);
	free(f->rest);
}

static int open_late(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	(void)r;
	return vin_late_open(f, err);
}

/* The directory of process @pid: a /proc counts as the programs do, or as we do. */
static int find_directory(const struct vin_reopen *r, const struct of_process *f, pid_t pid)
{
	const pid_t numbers[] = { (pid_t)f->number, pid };
	for (size_t i = 0; i < FVM_COUNT(numbers); i++) {
		char path[PATH_MAX];
		struct statfs fs;
		snprintf(path, sizeof(path), "%s/%d", f->proc, numbers[i]);
		scoped_fd place = vin_name_open(r, path);
		if (place < 0 || fstatfs(place, &fs) < 0 || fs.f_type != PROC_SUPER_MAGIC)
			continue;
		scoped_fd dir = vin_again(r, place, O_RDONLY | O_DIRECTORY);
		if (dir >= 0 && is_process(dir, pid))
			return fvm_fd_take(&dir);
	}
	return -ENOENT;
}

static int meet_file(struct vin_reopen *r, struct vin_file *f, const struct vin_who *who,
		     struct fvm_error *err)
{
	const struct of_process *its = f->its;
	struct stat st;
	pid_t pid = who->fn(who->arg, (pid_t)its->number);
	scoped_fd dir = pid > 0 ? find_directory(r, its, pid) : -ESRCH;
	if (dir < 0)
		return fvm_error_set(err, -dir, "find %s/%d", its->proc, (int)its->number);
	scoped_fd place = its->rest[0] ? fvm_open_beneath(dir, its->rest, O_PATH | O_NOFOLLOW)
				       : fcntl(dir, F_DUPFD_CLOEXEC, 0);
	if (place < 0 || fstat(place, &st) < 0)
		return fvm_error_set(err, place < 0 ? -place : errno, "find %s of process %d",
				     its->rest, (int)its->number);
	if (!S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode))
		return fvm_error_say(err, ENXIO, "%s of process %d is no file", its->rest,
				     (int)its->number);
	int fd = vin_again(r, place, f->flags);
	return fd < 0 ? fvm_error_set(err, -fd, "open %s of process %d", its->rest,
				      (int)its->number)
		      : fd;
}

const struct vin_kind vin_kind_procfile = {
	.name = "a file of /proc",
	.nr = VIN_KIND_PROCFILE,
	.seeks = true,
	.matches = file_matches,
	.check = check_file,
	.capture = capture_file,
	.size = sizeof(struct of_process),
	.parse = parse_file,
	.forget = forget_file,
	.open = open_late,
	.meet = meet_file,
};

/* ---- namespaces ---- */

/* Values stand in images. */
static const char *const types[] = { "cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts" };

static bool namespace_matches(const struct vin_open *o)
{
	return !(o->info.flags & O_PATH) && is_of(o, NSFS_MAGIC);
}

/* Of one that many are in, the first. */
static pid_t member_of(const struct vin_files *all, const struct vin_open *o, size_t *ret_type)
{
	for (size_t i = 0; i < all->table_count; i++) {
		for (size_t t = 0; t < FVM_COUNT(types); t++) {
			char path[60];
			struct stat st;
			snprintf(path, sizeof(path), "/proc/%d/ns/%s", all->tables[i].pid,
				 types[t]);
			if (stat(path, &st) == 0 && vin_same_inode(&st, &o->st)) {
				*ret_type = t;
				return vin_inner_number(all->tables[i].pid);
			}
		}
	}
	return 0;
}

static int check_namespace(const struct vin_files *all, const struct vin_open *o,
			   struct fvm_error *err)
{
	size_t type;
	if (member_of(all, o, &type) > 0)
		return 0;
	return fvm_error_say(err, EOPNOTSUPP, "it is a namespace that none of the programs is in");
}

static int capture_namespace(const struct vin_files *all, const struct vin_open *o,
			     struct fvm_buf *to, struct fvm_error *err)
{
	size_t type = 0;
	pid_t number = member_of(all, o, &type);
	if (number == 0)
		return fvm_error_set(err, ESRCH, "find who is in %s", o->link);
	vin_put_u64(to, (uint64_t)number);
	vin_put_u64(to, type);
	return 0;
}

static int parse_namespace(struct vin_payload *p, bool first, void *ret)
{
	struct namespace *n = ret;
	(void)first;
	n->number = vin_get_u64(p);
	n->type = vin_get_u64(p);
	return p->failed || n->number == 0 || n->number > INT_MAX || n->type >= FVM_COUNT(types)
		       ? -EBADMSG
		       : 0;
}

static int meet_namespace(struct vin_reopen *r, struct vin_file *f, const struct vin_who *who,
			  struct fvm_error *err)
{
	const struct namespace *its = f->its;
	char path[60];
	pid_t pid = who->fn(who->arg, (pid_t)its->number);
	(void)r;
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, types[its->type]);
	int fd = pid > 0 ? fvm_nerr(open(path, O_RDONLY | O_CLOEXEC)) : -ESRCH;
	return fd < 0 ? fvm_error_set(err, -fd, "open the %s namespace of process %d",
				      types[its->type], (int)its->number)
		      : fd;
}

const struct vin_kind vin_kind_namespace = {
	.name = "a namespace",
	.nr = VIN_KIND_NAMESPACE,
	.matches = namespace_matches,
	.check = check_namespace,
	.capture = capture_namespace,
	.size = sizeof(struct namespace),
	.parse = parse_namespace,
	.open = open_late,
	.meet = meet_namespace,
};
