#include <errno.h>
#include <linux/kcmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/sharing.h"
#include "vin/status.h"

static const struct what {
	int type;
	unsigned flag; /* enum vin_shares; 0: can't be made again */
	const char *name, *how;
} whats[] = {
	{ KCMP_VM, 0, "memory", "CLONE_VM" },
	{ KCMP_SIGHAND, 0, "handlers of signals", "CLONE_SIGHAND" },
	{ KCMP_FILES, VIN_SHARES_FILES, "descriptors", "CLONE_FILES" },
	{ KCMP_FS, VIN_SHARES_DIRS, "directories", "CLONE_FS" },
};

/* ---- the order of kcmp ---- */

/* -1, 0, 1; or -2: it is not told, or one of them is gone */
static int order(pid_t a, pid_t b, int type)
{
	long r = syscall(SYS_kcmp, a, b, type, 0, 0);
	return r == 0 ? 0 : r == 1 ? -1 : r == 2 ? 1 : -2;
}

/* Who ended has nothing, and that is the same for all who did. */
static bool lives(const struct vin_sharer *s)
{
	struct vin_stat st;
	return vin_stat_read(s->pid, s->via, &st, NULL) == 0 && st.state != 'Z' && st.state != 'X';
}

static bool same(const struct vin_sharer *a, const struct vin_sharer *b, int type)
{
	return order(a->via, b->via, type) == 0 && lives(a) && lives(b);
}

/* @group: for each, the first of those that it shares with; its own number if it is alone. */
static int find_groups(const struct vin_sharer *list, size_t count, int type, size_t *group)
{
	scoped_free size_t *sorted = calloc(count + 1, sizeof(*sorted));
	size_t there = 0;
	if (!sorted)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++) {
		size_t from = 0, to = there;
		group[i] = i;
		while (from < to) {
			const size_t at = from + (to - from) / 2;
			const int o = order(list[i].via, list[sorted[at]].via, type);
			if (o == 0 && same(&list[i], &list[sorted[at]], type))
				group[i] = sorted[at];
			if (o == 0)
				break;
			if (o == 1)
				from = at + 1;
			else
				to = at;
		}
		if (from < to) /* with that one, or it is gone */
			continue;
		memmove(sorted + from + 1, sorted + from, (there - from) * sizeof(*sorted));
		sorted[from] = i;
		there++;
	}
	return 0;
}

/* ---- what is done about it ---- */

static bool waits(pid_t pid)
{
	struct vin_stat st;
	return vin_stat_read(pid, pid, &st, NULL) == 0 && st.state == 'D';
}

/* Both of them have one memory: for a moment, unless it stays so. */
static int wait_for_exec(const struct vin_sharer *a, const struct vin_sharer *b,
			 unsigned int patience_ms, struct fvm_error *err)
{
	for (unsigned int ms = 0; same(a, b, KCMP_VM); ms++) {
		const bool a_waits = waits(a->pid), b_waits = waits(b->pid);
		if (ms >= patience_ms || !(a_waits || b_waits))
			return fvm_error_say(err, EOPNOTSUPP,
					     "process %d can't be captured: it has its memory "
					     "together with process %d (%s)",
					     b->pid, a->pid,
					     a_waits || b_waits ? "vfork, which waits until it "
								  "executes a program"
								: "CLONE_VM");
		fvm_sleep_ms(1);
	}
	return 0;
}

/* Replay makes it by who is its parent, in the session that that one is in at last. */
static bool is_given_by_parent(const struct vin_sharer *list, size_t count, const size_t *group,
			       size_t of)
{
	struct vin_stat st, up;
	if (vin_stat_read(list[of].pid, list[of].pid, &st, NULL) < 0)
		return false;
	for (size_t i = 0; i < count; i++) {
		if (list[i].pid == st.parent)
			return group[i] == group[of] &&
			       vin_stat_read(st.parent, st.parent, &up, NULL) == 0 &&
			       (st.session == up.session || st.session == list[of].pid);
	}
	return false;
}

static int settle_group(struct vin_sharer *list, size_t count, const size_t *group, size_t first,
			const struct what *w, struct fvm_error *err)
{
	size_t strangers = 0, members = 0, other = first;
	for (size_t i = 0; i < count; i++) {
		if (group[i] != first)
			continue;
		members++;
		other = i != first ? i : other;
		if (is_given_by_parent(list, count, group, i))
			list[i].shares |= w->flag;
		else
			strangers++;
	}
	if (members > 1 && (strangers > 1 || w->flag == 0))
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d can't be captured: it has its %s together with "
				     "process %d, which %s (%s)",
				     list[other].pid, w->name, list[first].pid,
				     w->flag ? "is not the parent of all who have"
					     : "can't be made",
				     w->how);
	return 0;
}

static int look_at(struct vin_sharer *list, size_t count, const struct what *w, size_t *group,
		   unsigned int patience_ms, struct fvm_error *err)
{
	int r = find_groups(list, count, w->type, group);
	if (r < 0)
		return fvm_error_set(err, -r, "list processes");
	for (size_t i = 0; r == 0 && i < count; i++) {
		if (w->type == KCMP_VM && group[i] != i)
			r = wait_for_exec(&list[group[i]], &list[i], patience_ms, err);
		if (w->type != KCMP_VM && group[i] == i)
			r = settle_group(list, count, group, i, w, err);
	}
	return r;
}

/* ---- threads ---- */

static int look_at_threads(const struct vin_sharer *s, struct fvm_error *err)
{
	char path[40];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", s->pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));) {
		const struct vin_sharer t = { s->pid, (pid_t)strtol(e->d_name, NULL, 10), 0 };
		if (t.via != s->via && order(t.via, s->via, KCMP_FILES) > -2 &&
		    order(t.via, s->via, KCMP_FILES) != 0 && lives(&t) && lives(s))
			r = fvm_error_say(err, EOPNOTSUPP,
					  "thread %d of process %d can't be captured: it has "
					  "descriptors of its own",
					  t.via, s->pid);
	}
	return r;
}

int vin_sharing_look(struct vin_sharer *list, size_t count, unsigned int patience_ms,
		     struct fvm_error *err)
{
	scoped_free size_t *group = calloc(count + 1, sizeof(*group));
	int r = 0;
	if (!group)
		return fvm_error_set(err, ENOMEM, "list processes");
	for (size_t i = 0; i < count; i++)
		list[i].shares = 0;
	for (size_t i = 0; r == 0 && i < FVM_COUNT(whats); i++)
		r = look_at(list, count, &whats[i], group, patience_ms, err);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = look_at_threads(&list[i], err);
	return r;
}
