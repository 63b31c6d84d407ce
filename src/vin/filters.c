/*
 * Seccomp: strict mode, filters with their flags, and no_new_privs. Only root of the machine, and
 * one without filters of his own, is shown another one's filters, and can have them sleep while he
 * works (PTRACE_O_SUSPEND_SECCOMP): everybody else is refused before anything is stopped.
 *
 * Where the world's are known by their number (vin/capture), these are left out at once: so an
 * ordinary user, too, may capture programs that have no others.
 *
 * A new process may have filters already, those of its VM. They are the oldest ones of the program
 * too, and are not put on again. A filter with a listener can't be put on at all; it is captured,
 * since the VM's own may have one, and refused at replay if the new process does not have it.
 */
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/traits.h"

#define FILTERS_MAX 1024
#define OPTIONS                                                                                    \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |    \
	 PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC | PTRACE_O_SUSPEND_SECCOMP)
#define INIT_USERNS "user:[4026531837]"

enum { NONE, STRICT, FILTERS };

/* ---- check ---- */

static bool may_see_filters(void)
{
	scoped_status me = { 0 };
	char ns[40] = { 0 };
	if (vin_status_read(getpid(), getpid(), &me, NULL) < 0 || me.seccomp != NONE)
		return false;
	return me.effective >> CAP_SYS_ADMIN & 1 &&
	       readlink("/proc/self/ns/user", ns, sizeof(ns) - 1) > 0 &&
	       strcmp(ns, INIT_USERNS) == 0;
}

static int refuse(pid_t pid, int code, struct fvm_error *err)
{
	fvm_error_say(err, code,
		      "process %d has seccomp filters, which only root of the machine is shown",
		      pid);
	fvm_error_hint(err, "do it as root");
	return -code;
}

static int check(pid_t pid, pid_t tid, uint64_t filters, struct fvm_error *err)
{
	scoped_status status = { 0 };
	int r = vin_status_read(pid, tid, &status, err);
	if (r < 0 || status.seccomp == NONE || may_see_filters())
		return r;
	/* a world that is known by its number need not be shown */
	if (status.seccomp == FILTERS && (uint64_t)status.filters == filters)
		return 0;
	return refuse(pid, ENOTSUP, err);
}

/* ---- capture ---- */

struct filter {
	uint64_t flags;
	struct sock_filter code[BPF_MAXINSNS];
	size_t count;
};

/* Return: 1, 0 (there is none with this number), or negative errno */
static int get_filter(pid_t tid, unsigned int number, struct filter *ret)
{
	struct __ptrace_seccomp_metadata meta = { .filter_off = number };
	long n = ptrace(PTRACE_SECCOMP_GET_FILTER, tid, number, ret->code);
	if (n < 0)
		return errno == ENOENT ? 0 : -errno;
	if (ptrace(PTRACE_SECCOMP_GET_METADATA, tid, sizeof(meta), &meta) < 0)
		return -errno;
	ret->flags = meta.flags;
	ret->count = (size_t)n;
	return 1;
}

static int put_filters(pid_t tid, long first, long end, struct fvm_buf *to)
{
	scoped_free struct filter *f = malloc(sizeof(*f));
	int r = f ? 0 : -ENOMEM;
	/* number 0 is the oldest */
	for (long i = first; r >= 0 && i < end; i++) {
		r = get_filter(tid, (unsigned int)i, f);
		if (r == 0)
			r = -ENOENT;
		if (r < 0)
			break;
		vin_put_u64(to, f->flags);
		vin_put_blob(to, f->code, f->count * sizeof(f->code[0]));
	}
	return r < 0 ? r : 0;
}

static int put(struct vin_steps *s, const struct vin_call *told, struct fvm_buf *to,
	       struct fvm_error *err)
{
	(void)told;
	const long end = s->status.seccomp == FILTERS ? s->status.filters : 0;
	const long first = (long)s->filters < end ? (long)s->filters : end;
	vin_put_u64(to, s->status.no_new_privs);
	vin_put_u64(to, s->status.seccomp == STRICT);
	vin_put_u64(to, (uint64_t)(end - first));
	int r = put_filters(s->t->tid, first, end, to);
	if (r == -EACCES || r == -EPERM)
		return refuse(s->t->pid, ENOTSUP, err);
	return r < 0 ? fvm_error_set(err, -r, "read the filters of process %d", s->t->pid) : 0;
}

/* ---- replay ---- */

/* Whether a filter asks somebody; one that computes its answer is not seen through. */
static bool listens(const unsigned char *code, size_t len)
{
	struct sock_filter f; /* those of a payload lie anywhere */
	for (size_t at = 0; at < len; at += sizeof(f)) {
		memcpy(&f, code + at, sizeof(f));
		if (f.code == (BPF_RET | BPF_K) &&
		    (f.k & SECCOMP_RET_ACTION_FULL) == SECCOMP_RET_USER_NOTIF)
			return true;
	}
	return false;
}

static void put_on(struct vin_steps *s, uint64_t flags, const void *code, size_t len)
{
	struct {
		struct {
			uint64_t count, at; /* the kernel's sock_fprog */
		} prog;
		struct sock_filter code[BPF_MAXINSNS];
	} given = { { len / sizeof(struct sock_filter), 0 }, { { 0 } } };
	memcpy(given.code, code, len);
	uint64_t at = vin_steps_data(s, &given, sizeof(given.prog) + len);
	if (at == 0)
		return;
	given.prog.at = at + sizeof(given.prog);
	memcpy(vin_steps_told(s, at), &given.prog, sizeof(given.prog));
	VIN_STEP(s, "seccomp", SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		 flags & SECCOMP_FILTER_FLAG_LOG, at);
}

/* Whether the new process has, as its @number'th oldest of @there, this filter. */
static bool has_already(struct vin_steps *s, long there, uint64_t number, const void *code,
			size_t len)
{
	scoped_free struct filter *f = malloc(sizeof(*f));
	if (!s->post || !f || (long)number >= there ||
	    get_filter(s->t->tid, (unsigned int)number, f) != 1)
		return false;
	return f->count * sizeof(f->code[0]) == len && memcmp(f->code, code, len) == 0;
}

static int replay_filters(struct vin_steps *s, struct vin_payload *from, uint64_t count,
			  struct fvm_error *err)
{
	long there = s->status.seccomp == FILTERS ? s->status.filters : 0;
	bool same = true;
	for (uint64_t i = 0; i < count; i++) {
		size_t len;
		uint64_t flags = vin_get_u64(from);
		const void *code = vin_get_blob(from, &len);
		if (!code || len == 0 || len % sizeof(struct sock_filter) != 0 ||
		    len > BPF_MAXINSNS * sizeof(struct sock_filter))
			return -EBADMSG;
		same = same && has_already(s, there, i, code, len);
		if (same)
			continue;
		if (s->post && listens(code, len))
			return fvm_error_say(err, ENOTSUP,
					     "a seccomp filter of process %d has a listener",
					     s->t->pid);
		put_on(s, flags, code, len);
	}
	return 0;
}

/* Filters that are awake would judge what we have yet to do. A process that is half made ends with
 * us, as vin/blank has it. */
static int put_to_sleep(struct vin_steps *s, struct fvm_error *err)
{
	if (!s->post || ptrace(PTRACE_SETOPTIONS, s->t->tid, 0, OPTIONS) == 0)
		return 0;
	return refuse(s->t->pid, EPERM, err);
}

static int replay(struct vin_steps *s, const struct vin_call *told, struct vin_payload *from,
		  struct fvm_error *err)
{
	(void)told;
	uint64_t no_new_privs = vin_get_u64(from), strict = vin_get_u64(from);
	uint64_t count = vin_get_u64(from);
	if (from->failed || no_new_privs > 1 || strict > 1 || count > FILTERS_MAX)
		return -EBADMSG;
	if (no_new_privs && !s->status.no_new_privs)
		VIN_STEP(s, "prctl(PR_SET_NO_NEW_PRIVS)", SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0,
			 0);
	int r = strict || count > 0 ? put_to_sleep(s, err) : 0;
	if (r == 0)
		r = replay_filters(s, from, count, err);
	if (r == 0 && strict)
		VIN_STEP(s, "seccomp", SYS_seccomp, SECCOMP_SET_MODE_STRICT, 0, 0);
	return r;
}

const struct vin_trait vin_filters = {
	.name = "filters", .check = check, .put = put, .replay = replay
};
