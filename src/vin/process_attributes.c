/*
 * What a process has by prctl(2) and by small files of /proc: whether orphans come to it, huge
 * pages, merged pages, whether memory that was written to may be run, what a core dump holds, how
 * willingly it is killed for memory, nice value of its session. The files are written by us, with
 * our rights: so only in the direction for which nobody needs any, unless the process is in our own
 * user namespace.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include "vin/traits.h"

#ifndef PR_SET_MEMORY_MERGE
#define PR_SET_MEMORY_MERGE 67
#define PR_GET_MEMORY_MERGE 68
#endif

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_GET_MDWE 66
#endif

enum { SUBREAPER, THP, MERGE, MDWE, ASKED };

static int ask(struct vin_steps *s, struct fvm_error *err)
{
	(void)err;
	uint64_t at = vin_steps_data(s, NULL, 8);
	VIN_STEP(s, "prctl(PR_GET_CHILD_SUBREAPER)", SYS_prctl, PR_GET_CHILD_SUBREAPER, at);
	VIN_STEP(s, "prctl(PR_GET_THP_DISABLE)", SYS_prctl, PR_GET_THP_DISABLE, 0, 0, 0, 0);
	VIN_STEP(s, NULL, SYS_prctl, PR_GET_MEMORY_MERGE, 0, 0, 0, 0);
	VIN_STEP(s, NULL, SYS_prctl, PR_GET_MDWE, 0, 0, 0, 0);
	return 0;
}

static void numbers(struct vin_steps *s, const struct vin_call *told, int64_t to[ASKED])
{
	int subreaper;
	memcpy(&subreaper, vin_steps_told(s, told[SUBREAPER].args[1]), sizeof(subreaper));
	to[SUBREAPER] = subreaper;
	to[THP] = told[THP].result;
	to[MERGE] = told[MERGE].result;
	to[MDWE] = told[MDWE].result;
}

/* ---- files of /proc ---- */

static const struct file {
	const char *name;
	const char *before; /* what stands in front of the number */
	int base;
	bool guarded; /* a smaller number is an advantage */
	int64_t least, most;
} files[] = {
	{ "coredump_filter", "", 16, false, 0, 0x1ff },
	{ "oom_score_adj", "", 10, true, -1000, 1000 },
	{ "autogroup", "nice ", 10, true, -20, 19 },
};

/* -ENOENT where the kernel has no such file. */
static int read_number(pid_t pid, const struct file *f, int64_t *ret)
{
	char path[48];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, f->name);
	int r = fvm_read_file(AT_FDCWD, path, 4096, &text, NULL);
	if (r < 0)
		return r;
	const char *at = strstr(text, f->before);
	if (!at)
		return -ENOENT;
	*ret = strtoll(at + strlen(f->before), NULL, f->base);
	return 0;
}

static bool in_our_userns(pid_t pid)
{
	char path[40];
	struct stat ours, its;
	snprintf(path, sizeof(path), "/proc/%d/ns/user", pid);
	return stat("/proc/self/ns/user", &ours) == 0 && stat(path, &its) == 0 &&
	       ours.st_ino == its.st_ino;
}

/* An autogroup is a session's: its leader speaks for it. */
static bool concerns(const struct vin_steps *s, const struct file *f)
{
	return f->before[0] == '\0' || s->stat.session == s->t->pid;
}

static int write_number(struct vin_steps *s, const struct file *f, int64_t want,
			struct fvm_error *err)
{
	int64_t now;
	pid_t pid = s->post ? s->t->pid : 0;
	if (!s->post || read_number(pid, f, &now) < 0 || now == want || !concerns(s, f))
		return 0;
	if (f->guarded && want < now && !in_our_userns(pid))
		return fvm_error_say(err, EPERM,
				     "process %d may not lower its %s from %lld to %lld", pid,
				     f->name, (long long)now, (long long)want);
	char path[48], text[24];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, f->name);
	snprintf(text, sizeof(text), f->base == 16 ? "0x%llx" : "%lld", (long long)want);
	int r = fvm_write_file(AT_FDCWD, path, text);
	return r < 0 ? fvm_error_set(err, -r, "write %s to %s", text, path) : 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)err;
	int64_t n[ASKED];
	numbers(s, told, n);
	for (int i = 0; i < ASKED; i++)
		vin_put_u64(to, (uint64_t)n[i]);
	for (size_t i = 0; i < FVM_COUNT(files); i++) {
		int64_t number = 0;
		bool there =
			concerns(s, &files[i]) && read_number(s->t->pid, &files[i], &number) == 0;
		vin_put_u64(to, there);
		vin_put_u64(to, (uint64_t)number);
	}
	return 0;
}

static void set(struct vin_steps *s, int what, uint64_t want)
{
	if (what == SUBREAPER)
		VIN_STEP(s, "prctl(PR_SET_CHILD_SUBREAPER)", SYS_prctl, PR_SET_CHILD_SUBREAPER,
			 want, 0, 0, 0);
	else if (what == THP) /* a flag beside it: but where it was advised */
		VIN_STEP(s, "prctl(PR_SET_THP_DISABLE)", SYS_prctl, PR_SET_THP_DISABLE, want & 1,
			 want & 2, 0, 0);
	else if (what == MDWE)
		VIN_STEP(s, "prctl(PR_SET_MDWE)", SYS_prctl, PR_SET_MDWE, want, 0, 0, 0);
	else
		VIN_STEP(s, "prctl(PR_SET_MEMORY_MERGE)", SYS_prctl, PR_SET_MEMORY_MERGE, want, 0,
			 0, 0);
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	int64_t now[ASKED];
	int r = 0;
	numbers(s, told, now);
	for (int i = 0; i < ASKED; i++) {
		int64_t want = (int64_t)vin_get_u64(from);
		if (want != now[i] && want >= 0 && !from->failed)
			set(s, i, (uint64_t)want);
	}
	for (size_t i = 0; r == 0 && i < FVM_COUNT(files); i++) {
		uint64_t there = vin_get_u64(from);
		int64_t want = (int64_t)vin_get_u64(from);
		if (from->failed || there > 1 || want < files[i].least || want > files[i].most)
			return -EBADMSG;
		if (there)
			r = write_number(s, &files[i], want, err);
	}
	return r;
}

const struct vin_trait vin_process_attributes = {
	.name = "process attributes", .ask = ask, .put = put, .replay = replay
};
