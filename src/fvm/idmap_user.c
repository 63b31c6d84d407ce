#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <pwd.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/doctor_fix.h"
#include "fvm/idmap_user.h"
#include "fvm/sys.h"

#define UID_HELPER  "/usr/bin/newuidmap"
#define GID_HELPER  "/usr/bin/newgidmap"
#define LEAST	    65535U /* fewer would leave out nobody's */
#define MOST	    0x7fffffffU
#define STACK_BYTES (64 * 1024)

uint32_t fvm_subid_parse(const char *text, const char *name, uid_t uid, uint32_t *ret_first)
{
	uint32_t best = 0;
	char number[16];
	snprintf(number, sizeof(number), "%u", uid);
	for (const char *line = text; *line;) {
		size_t n = strcspn(line, "\n"), user = strcspn(line, ":\n");
		unsigned long first, count;
		int end = 0;
		bool ours = (strlen(name) == user && memcmp(line, name, user) == 0) ||
			    (strlen(number) == user && memcmp(line, number, user) == 0);
		/* digits at once: sscanf() would pass over blanks and line ends, and take "-1" */
		if (ours && user > 0 && user < n && isdigit((unsigned char)line[user + 1]) &&
		    sscanf(line + user, ":%9lu:%n", &first, &end) == 1 && end > 0 &&
		    isdigit((unsigned char)line[user + (size_t)end]) &&
		    sscanf(line + user + end, "%10lu", &count) == 1 && first > 0 && first <= MOST &&
		    count <= MOST && count > best) {
			best = (uint32_t)count;
			*ret_first = (uint32_t)first;
		}
		line += n + (line[n] == '\n');
	}
	return best;
}

static uint32_t find_range(const char *file, const char *name, uid_t uid, uint32_t *ret_first)
{
	scoped_free char *text = NULL;
	if (fvm_read_file(AT_FDCWD, file, 16 << 20, &text, NULL) < 0)
		return 0;
	return fvm_subid_parse(text, name, uid, ret_first);
}

/* How many ids from 0 on the namespace we are in has, the same for us as for who made it or not. */
static uint32_t ids_here(const char *map)
{
	scoped_free char *text = NULL;
	unsigned long first, outside, count;
	if (fvm_read_file(AT_FDCWD, map, 65536, &text, NULL) < 0 ||
	    sscanf(text, "%lu %lu %lu", &first, &outside, &count) != 3 || first != 0)
		return 0;
	/* in the first namespace they are the host's: who has no other right to them gets none */
	if (count == UINT32_MAX)
		return 0;
	if (count > 1)
		return count > MOST ? MOST : (uint32_t)count;
	/* "0 UID 1" and then the rest, as our own VMs have it */
	const char *next = strchr(text, '\n');
	if (!next || sscanf(next, "%lu %lu %lu", &first, &outside, &count) != 3 || first != 1)
		return 0;
	return count > MOST - 1 ? MOST : (uint32_t)count + 1;
}

static bool may_map(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2] = { 0 };
	const unsigned int both = 1U << CAP_SETUID | 1U << CAP_SETGID;
	return syscall(SYS_capget, &head, caps) == 0 && (caps[0].effective & both) == both;
}

static bool find_own(struct fvm_user_ids *ret)
{
	if (ret->uid != 0 || ret->gid != 0 || !may_map())
		return false;
	uint32_t uids = ids_here("/proc/self/uid_map"), gids = ids_here("/proc/self/gid_map");
	uint32_t both = uids < gids ? uids : gids;
	if (both <= LEAST)
		return false;
	/* a line must lie within one of the namespace above */
	ret->count = LEAST;
	ret->sub_uid = ret->sub_gid = 1;
	ret->own = true;
	return true;
}

void fvm_user_ids_find(struct fvm_user_ids *ret)
{
	*ret = (struct fvm_user_ids){ .uid = geteuid(), .gid = getegid() };
	if (find_own(ret))
		return;
	if (access(UID_HELPER, X_OK) < 0 || access(GID_HELPER, X_OK) < 0)
		return;
	const struct passwd *pw = getpwuid(ret->uid);
	const char *name = pw ? pw->pw_name : "";
	uint32_t uids = find_range("/etc/subuid", name, ret->uid, &ret->sub_uid);
	uint32_t gids = find_range("/etc/subgid", name, ret->uid, &ret->sub_gid);
	uint32_t both = uids < gids ? uids : gids;
	ret->count = both < LEAST ? 0 : both;
}

void fvm_user_ids_maps(const struct fvm_user_ids *ids, struct fvm_buf *ret)
{
	fvm_buf_printf(ret, "map u 0 %u 1\nmap u 1 %u %u\n", ids->uid, ids->sub_uid, ids->count);
	fvm_buf_printf(ret, "map g 0 %u 1\nmap g 1 %u %u\n", ids->gid, ids->sub_gid, ids->count);
}

/* ---- the helpers ---- */

struct range {
	uint32_t own, sub, count; /* of the host */
	bool same;
};

/* Return: its pid, or negative errno */
static pid_t helper_start(const char *program, pid_t target, const struct range *r)
{
	char words[6][16], one[] = "1";
	snprintf(words[0], sizeof(words[0]), "%d", (int)target);
	snprintf(words[1], sizeof(words[1]), "%u", r->same ? r->own : 0);
	snprintf(words[2], sizeof(words[2]), "%u", r->own);
	snprintf(words[3], sizeof(words[3]), "%u", r->same ? r->sub : 1);
	snprintf(words[4], sizeof(words[4]), "%u", r->sub);
	snprintf(words[5], sizeof(words[5]), "%u", r->count);
	char *const argv[] = { (char *)(uintptr_t)program,
			       words[0],
			       words[1],
			       words[2],
			       one,
			       words[3],
			       words[4],
			       words[5],
			       NULL };
	char *const env[] = { NULL };
	/* not fork(2): our memory is a starter's, whose other thread may hold a lock */
	pid_t pid = vfork(); /* NOLINT: all that its child does is execve(2) */
	if (pid == 0) {
		execve(program, argv, env);
		_exit(127);
	}
	return pid < 0 ? -errno : pid;
}

static bool helper_ended_well(pid_t pid)
{
	int status = 1;
	return pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status) &&
	       WEXITSTATUS(status) == 0;
}

/* Both at once: neither needs what the other does. */
static int run_helpers(const struct fvm_user_ids *i, pid_t target)
{
	const struct range users = { i->uid, i->sub_uid, i->count, i->same };
	const struct range groups = { i->gid, i->sub_gid, i->count, i->same };
	pid_t first = helper_start(UID_HELPER, target, &users);
	pid_t second = helper_start(GID_HELPER, target, &groups);
	bool mapped = helper_ended_well(first);
	return helper_ended_well(second) && mapped ? 0 : -EPERM;
}

static int write_own(const char *which, pid_t target, uint32_t count)
{
	char path[48], text[48];
	snprintf(path, sizeof(path), "/proc/%d/%s", (int)target, which);
	snprintf(text, sizeof(text), "0 0 1\n1 1 %u\n", count);
	return fvm_write_file(AT_FDCWD, path, text);
}

/* In a child that stays in the first namespace. It shares the memory of who waits for it, and what
 * is a thread's own: it may not allocate. */
static int map_child(void *arg)
{
	const struct fvm_user_mapping *m = arg;
	char byte;
	signal(SIGCHLD, SIG_DFL); /* ignored, there would be no status to wait for */
	(void)dup2(m->go, 3);
	fvm_null_stdio();
	fvm_close_range(4, ~0U);
	(void)fcntl(3, F_SETFD, FD_CLOEXEC);
	if (read(3, &byte, 1) != 1)
		return 1;
	const struct fvm_user_ids *i = m->ids;
	if (i->own)
		return write_own("uid_map", m->target, i->count) < 0 ||
		       write_own("gid_map", m->target, i->count) < 0;
	return run_helpers(i, m->target) < 0;
}

static int map_one(const char *name, uint32_t id, bool same)
{
	char path[40], text[32];
	snprintf(path, sizeof(path), "/proc/self/%s", name);
	snprintf(text, sizeof(text), "%u %u 1\n", same ? id : 0, id);
	return fvm_write_file(AT_FDCWD, path, text);
}

static bool has_map(const char *path)
{
	scoped_free char *text = NULL;
	return fvm_read_file(AT_FDCWD, path, 65536, &text, NULL) == 0 && text[0];
}

static bool is_mapped(void)
{
	return has_map("/proc/self/uid_map") && has_map("/proc/self/gid_map");
}

static int map_only_one(struct fvm_user_ids *ids, struct fvm_error *err)
{
	ids->count = 0;
	/* EPERM: one of the helpers has written its own, when the other refused */
	int r = fvm_write_file(AT_FDCWD, "/proc/self/setgroups", "deny");
	if (r == 0 || r == -EPERM)
		r = map_one("uid_map", ids->uid, ids->same);
	if (r == 0 || r == -EPERM)
		r = map_one("gid_map", ids->gid, ids->same);
	if (r == -EPERM && is_mapped())
		r = 0;
	return r < 0 ? fvm_error_set(err, -r, "map the user's id") : 0;
}

static int unshare_user(struct fvm_error *err)
{
	if (unshare(CLONE_NEWUSER) == 0)
		return 0;
	int r = fvm_error_set(err, errno, "make a user namespace");
	fvm_userns_hint(-r, err);
	return r;
}

static int begin_helpers(const struct fvm_user_ids *ids, struct fvm_user_mapping *m,
			 struct fvm_error *err)
{
	int go[2];
	if (pipe2(go, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	m->ids = ids;
	m->target = getpid();
	m->go = go[0];
	m->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
			MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	m->pid = m->stack == MAP_FAILED
			 ? -1
			 : clone(map_child, (char *)m->stack + STACK_BYTES, CLONE_VM | SIGCHLD, m);
	int r = m->pid < 0 ? fvm_error_set(err, errno, "start a process") : unshare_user(err);
	close(go[0]);
	if (r == 0)
		(void)!write(go[1], "g", 1);
	close(go[1]);
	return r;
}

int fvm_user_ids_begin(struct fvm_user_ids *ids, struct fvm_user_mapping *ret,
		       struct fvm_error *err)
{
	*ret = (struct fvm_user_mapping){ .stack = MAP_FAILED };
	int r = ids->count ? begin_helpers(ids, ret, err) : unshare_user(err);
	return r == 0 && !ids->count ? map_only_one(ids, err) : r;
}

int fvm_user_ids_end(struct fvm_user_ids *ids, struct fvm_user_mapping *m, struct fvm_error *err)
{
	bool helped = m->pid > 0;
	while (m->pid > 0 && waitpid(m->pid, NULL, 0) < 0 && errno == EINTR)
		;
	if (m->stack != MAP_FAILED)
		munmap(m->stack, STACK_BYTES);
	*m = (struct fvm_user_mapping){ .stack = MAP_FAILED };
	return !helped || is_mapped() ? 0 : map_only_one(ids, err);
}

int fvm_user_ids_enter(struct fvm_user_ids *ids, struct fvm_error *err)
{
	struct fvm_user_mapping m;
	int r = fvm_user_ids_begin(ids, &m, err);
	int end = fvm_user_ids_end(ids, &m, r < 0 ? NULL : err);
	return r < 0 ? r : end;
}
