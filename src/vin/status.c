#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/dir.h"
#include "vin/status.h"

#define TEXT_LIMIT (1U << 20) /* groups may be 65536 */
#define FIELDS	   52

void vin_status_free(struct vin_status *s)
{
	free(s->groups);
	*s = (struct vin_status){ 0 };
}

/* ---- stat ---- */

/* The numbers from the fourth field on. Return: how many */
static size_t numbers(const char *p, int64_t to[FIELDS])
{
	size_t count = 0;
	while (count < FIELDS && *p == ' ') {
		char *after;
		errno = 0;
		/* masks and addresses need all 64 bits, others a sign */
		int64_t value = p[1] == '-' ? strtoll(p + 1, &after, 10)
					    : (int64_t)strtoull(p + 1, &after, 10);
		if (after == p + 1 || errno != 0)
			break;
		to[count++] = value;
		p = after;
	}
	return *p == '\0' || *p == '\n' ? count : 0;
}

int vin_stat_parse(const char *text, struct vin_stat *ret)
{
	struct vin_stat s = { 0 };
	int64_t n[FIELDS] = { 0 };
	const char *open = strchr(text, '('), *close = strrchr(text, ')');
	if (!open || !close || close < open || close[1] != ' ' || !close[2] ||
	    (size_t)(close - open) > sizeof(s.comm))
		return -EBADMSG;
	memcpy(s.comm, open + 1, (size_t)(close - open) - 1);
	s.state = close[2];
	if (numbers(close + 3, n) < 40)
		return -EBADMSG;
	/* field 4 of proc(5) is n[0] */
	s.parent = (pid_t)n[0];
	s.group = (pid_t)n[1];
	s.session = (pid_t)n[2];
	s.terminal = (int)n[3];
	s.foreground = (pid_t)n[4];
	s.flags = (uint64_t)n[5];
	s.nice = (long)n[15];
	s.threads = (long)n[16];
	s.start_ticks = (uint64_t)n[18];
	s.code_start = (uint64_t)n[22];
	s.code_end = (uint64_t)n[23];
	s.stack_start = (uint64_t)n[24];
	s.exit_signal = (int)n[34];
	s.priority = (int)n[36];
	s.policy = (int)n[37];
	s.data_start = (uint64_t)n[41];
	s.data_end = (uint64_t)n[42];
	s.brk_start = (uint64_t)n[43];
	s.args_start = (uint64_t)n[44];
	s.args_end = (uint64_t)n[45];
	s.env_start = (uint64_t)n[46];
	s.env_end = (uint64_t)n[47];
	s.exit_code = (int)n[48];
	*ret = s;
	return 0;
}

/* ---- status ---- */

typedef bool (*field_fn)(const char *value, void *to);

static bool hexadecimal(const char *value, void *to)
{
	char *after;
	*(uint64_t *)to = strtoull(value, &after, 16);
	return after != value;
}

static bool octal(const char *value, void *to)
{
	char *after;
	*(mode_t *)to = (mode_t)strtoul(value, &after, 8);
	return after != value;
}

static bool number(const char *value, void *to)
{
	char *after;
	*(int *)to = (int)strtol(value, &after, 10);
	return after != value;
}

static bool long_number(const char *value, void *to)
{
	char *after;
	*(long *)to = strtol(value, &after, 10);
	return after != value;
}

static bool yes_or_no(const char *value, void *to)
{
	*(bool *)to = value[0] == '1';
	return value[0] == '0' || value[0] == '1';
}

static bool four_ids(const char *value, void *to)
{
	struct vin_ids *ids = to;
	return sscanf(value, "%u %u %u %u", &ids->real, &ids->effective, &ids->saved, &ids->fs) ==
	       4;
}

static bool in_namespaces(const char *value, void *to)
{
	pid_t *pids = to;
	size_t count = 0;
	for (const char *p = value; *p && *p != '\n';) {
		char *after;
		long pid = strtol(p, &after, 10);
		if (after == p || count == VIN_NAMESPACES_MAX)
			return false;
		pids[count++] = (pid_t)pid;
		p = after + strspn(after, "\t ");
	}
	return count > 0;
}

#define AT(field) offsetof(struct vin_status, field)

static const struct field {
	const char *name;
	field_fn parse;
	size_t at;
} fields[] = {
	{ "Umask", octal, AT(umask) },
	{ "TracerPid", number, AT(tracer) },
	{ "Uid", four_ids, AT(uid) },
	{ "Gid", four_ids, AT(gid) },
	{ "NStgid", in_namespaces, AT(leaders) },
	{ "NSpid", in_namespaces, AT(pids) },
	{ "NSpgid", in_namespaces, AT(process_groups) },
	{ "NSsid", in_namespaces, AT(sessions) },
	{ "SigPnd", hexadecimal, AT(pending) },
	{ "ShdPnd", hexadecimal, AT(process_pending) },
	{ "SigBlk", hexadecimal, AT(blocked) },
	{ "SigIgn", hexadecimal, AT(ignored) },
	{ "SigCgt", hexadecimal, AT(caught) },
	{ "CapInh", hexadecimal, AT(inheritable) },
	{ "CapPrm", hexadecimal, AT(permitted) },
	{ "CapEff", hexadecimal, AT(effective) },
	{ "CapBnd", hexadecimal, AT(bounding) },
	{ "CapAmb", hexadecimal, AT(ambient) },
	{ "NoNewPrivs", yes_or_no, AT(no_new_privs) },
	{ "Seccomp", number, AT(seccomp) },
	{ "Seccomp_filters", long_number, AT(filters) },
};

static int parse_groups(const char *value, struct vin_status *s)
{
	free(s->groups);
	s->groups = NULL;
	s->group_count = 0;
	for (const char *p = value + strspn(value, " "); *p && *p != '\n';) {
		char *after;
		unsigned long gid = strtoul(p, &after, 10);
		size_t room = fvm_room(s->group_count + 1);
		if (after == p)
			return -EBADMSG;
		uint32_t *more = realloc(s->groups, room * sizeof(*more));
		if (!more)
			return -ENOMEM;
		s->groups = more;
		s->groups[s->group_count++] = (uint32_t)gid;
		p = after + strspn(after, " ");
	}
	return 0;
}

/* One line: "Name:<tab>value". */
static int parse_field(const char *line, struct vin_status *s)
{
	size_t len = strcspn(line, ":\n");
	if (line[len] != ':')
		return -EBADMSG;
	const char *value = line + len + 1 + strspn(line + len + 1, "\t ");
	if (len == 6 && memcmp(line, "Groups", 6) == 0)
		return parse_groups(value, s);
	for (size_t i = 0; i < FVM_COUNT(fields); i++) {
		const struct field *f = &fields[i];
		if (strlen(f->name) == len && memcmp(line, f->name, len) == 0)
			return f->parse(value, (char *)s + f->at) ? 0 : -EBADMSG;
	}
	return 0;
}

/* The first line has the command's name, with its newlines and backslashes escaped. */
int vin_status_parse(const char *text, struct vin_status *ret)
{
	scoped_status s = { 0 };
	if (strncmp(text, "Name:", 5) != 0)
		return -EBADMSG;
	for (const char *p = strchr(text, '\n'); p && p[1]; p = strchr(p + 1, '\n')) {
		int r = parse_field(p + 1, &s);
		if (r < 0)
			return r;
	}
	while (s.depth < VIN_NAMESPACES_MAX && s.pids[s.depth] != 0)
		s.depth++;
	if (s.depth == 0)
		return -EBADMSG;
	*ret = s;
	s.groups = NULL;
	return 0;
}

/* ---- reading ---- */

static int read_text(pid_t pid, pid_t tid, const char *name, char **ret, struct fvm_error *err)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/task/%d/%s", pid, tid, name);
	int r = fvm_read_file(AT_FDCWD, path, TEXT_LIMIT, ret, NULL);
	if (r < 0)
		return fvm_error_set(err, r == -ENOENT ? ESRCH : -r, "read %s", path);
	return 0;
}

int vin_stat_read(pid_t pid, pid_t tid, struct vin_stat *ret, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	int r = read_text(pid, tid, "stat", &text, err);
	if (r < 0)
		return r;
	r = vin_stat_parse(text, ret);
	return r < 0 ? fvm_error_set(err, -r, "understand /proc/%d/task/%d/stat", pid, tid) : 0;
}

int vin_status_read(pid_t pid, pid_t tid, struct vin_status *ret, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	int r = read_text(pid, tid, "status", &text, err);
	if (r < 0)
		return r;
	r = vin_status_parse(text, ret);
	return r < 0 ? fvm_error_set(err, -r, "understand /proc/%d/task/%d/status", pid, tid) : 0;
}

/* linux/nsfs.h of Linux 6.11: what a task is called in the pid namespace that is open, and who is
 * called so there. A number each, where status is a page of text */
#define TASK_OF	   _IOR(0xb7, 0x6, int)
#define PROCESS_OF _IOR(0xb7, 0x7, int)
#define NUMBER_IN  _IOR(0xb7, 0x8, int)

int vin_numbers_open(pid_t task)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", task);
	return open(path, O_RDONLY | O_CLOEXEC);
}

pid_t vin_number_in(int space, pid_t task)
{
	scoped_status s = { 0 };
	const int number = space < 0 ? -1 : ioctl(space, NUMBER_IN, task);
	if (number > 0)
		return number;
	return vin_status_read(task, task, &s, NULL) < 0 ? 0 : s.pids[s.depth - 1];
}

pid_t vin_task_of(int space, pid_t pid, pid_t number)
{
	const int process = ioctl(space, PROCESS_OF, number);
	if (process < 0)
		return -errno;
	return process == pid ? fvm_nerr(ioctl(space, TASK_OF, number)) : -ESRCH;
}

pid_t vin_inner_number(pid_t task)
{
	scoped_fd space = vin_numbers_open(task);
	return vin_number_in(space, task);
}

pid_t vin_living_thread(pid_t pid)
{
	struct vin_stat st;
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	if (vin_stat_read(pid, pid, &st, NULL) < 0 || st.state != 'Z')
		return pid;
	scoped_dir d = opendir(path);
	for (struct dirent *e; d && (e = fvm_dir_next(d));) {
		pid_t tid = (pid_t)strtol(e->d_name, NULL, 10);
		if (tid != pid)
			return tid;
	}
	return pid;
}
