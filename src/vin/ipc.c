#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/securebits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/ipc.h"
#include "vin/kinds.h"
#include "vin/opener.h"
#include "vin/spaces.h"

static const struct vin_ipc_kind *const kinds[VIN_IPC_SORTS] = {
	[VIN_IPC_IS_SEGMENT] = &vin_ipc_segments,
	[VIN_IPC_IS_SEMAPHORES] = &vin_ipc_semaphores,
	[VIN_IPC_IS_MESSAGES] = &vin_ipc_messages,
	[VIN_IPC_IS_MQUEUE] = &vin_ipc_mqueues,
};

/* Below /proc/sys, and as far as each may be raised while objects are made. */
static const struct {
	const char *path;
	const char *most;
} limits[VIN_IPC_LIMITS] = {
	{ "kernel/shmmax", "18446744073692774399" },
	{ "kernel/shmall", "18446744073692774399" },
	{ "kernel/shmmni", "32768" },
	{ "kernel/shm_rmid_forced", "0" },
	{ "kernel/msgmax", "2147483647" },
	{ "kernel/msgmnb", "2147483647" },
	{ "kernel/msgmni", "32768" },
	{ "kernel/sem", "65536 2147483647 500 32768" },
	{ "fs/mqueue/queues_max", "65536" },
	{ "fs/mqueue/msg_max", "65536" },
	{ "fs/mqueue/msgsize_max", "16777216" },
	{ "fs/mqueue/msg_default", "" },
	{ "fs/mqueue/msgsize_default", "" },
};

/* ---- what the kinds share ---- */

void vin_ipc_put_perm(struct fvm_buf *to, const struct vin_ipc_perm *perm)
{
	vin_put_u64(to, (uint64_t)perm->key);
	vin_put_u64(to, (uint64_t)perm->id);
	vin_put_u64(to, perm->uid);
	vin_put_u64(to, perm->gid);
	vin_put_u64(to, perm->creator_uid);
	vin_put_u64(to, perm->creator_gid);
	vin_put_u64(to, perm->mode);
}

int vin_ipc_get_perm(struct vin_payload *p, struct vin_ipc_perm *ret)
{
	const int64_t key = (int64_t)vin_get_u64(p);
	const uint64_t id = vin_get_u64(p);
	uint64_t ids[4];
	bool good = key >= INT32_MIN && key <= INT32_MAX && id <= INT32_MAX;
	for (size_t i = 0; i < FVM_COUNT(ids); i++) {
		ids[i] = vin_get_u64(p);
		good &= ids[i] < UINT32_MAX;
	}
	const uint64_t mode = vin_get_u64(p);
	if (p->failed || !good || mode > 0777)
		return -EBADMSG;
	*ret = (struct vin_ipc_perm){ (int32_t)key,	(int)id,	  (uint32_t)ids[0],
				      (uint32_t)ids[1], (uint32_t)ids[2], (uint32_t)ids[3],
				      (uint32_t)mode };
	return 0;
}

/* "       key      semid perms      nsems ..." and below it numbers */
static size_t parse_line(char *line, int64_t *ret)
{
	size_t n = 0;
	char *save, *word = strtok_r(line, " ", &save);
	for (; word && n < VIN_SYSVIPC_FIELDS; word = strtok_r(NULL, " ", &save)) {
		ret[n] = strtoll(word, NULL, n == 2 ? 8 : 10);
		n++;
	}
	return n;
}

int vin_sysvipc_each(const char *name, struct vin_ipc_visit *v, vin_sysvipc_fn fn,
		     struct fvm_error *err)
{
	char path[40], *save;
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/sysvipc/%s", name);
	int r = fvm_read_file(AT_FDCWD, path, 1 << 24, &text, NULL);
	if (r < 0)
		return fvm_error_set(err, -r, "read %s", path);
	/* the first says what the others are */
	(void)strtok_r(text, "\n", &save);
	for (char *line; r == 0 && (line = strtok_r(NULL, "\n", &save));) {
		int64_t fields[VIN_SYSVIPC_FIELDS] = { 0 };
		if (parse_line(line, fields) >= 10)
			r = fn(v, fields, err);
	}
	return r;
}

static int make_here(const struct vin_ipc_perm *perm, const char *next, int (*get)(const void *arg),
		     const void *arg, bool as_creator)
{
	char path[48], number[16];
	snprintf(path, sizeof(path), "/proc/sys/kernel/%s", next);
	snprintf(number, sizeof(number), "%d", perm->id);
	int r = fvm_write_file(AT_FDCWD, path, number);
	if (r < 0)
		return r;
	/* rights stay when ids change */
	if (as_creator && (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 ||
			   syscall(SYS_setresgid, -1, perm->creator_gid, -1) < 0 ||
			   syscall(SYS_setresuid, -1, perm->creator_uid, -1) < 0))
		return -errno;
	r = get(arg);
	return r < 0 || r == perm->id ? r : -EEXIST;
}

int vin_ipc_make(const struct vin_ipc_perm *perm, const char *next, int (*get)(const void *arg),
		 const void *arg)
{
	int status;
	if (perm->creator_uid == geteuid() && perm->creator_gid == getegid())
		return make_here(perm, next, get, arg, false);
	pid_t pid = fork();
	if (pid == 0) {
		int r = make_here(perm, next, get, arg, true);
		_exit(r < 0 ? -r : 0);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid)
		return -errno;
	return !WIFEXITED(status) ? -EINTR : WEXITSTATUS(status) ? -WEXITSTATUS(status) : perm->id;
}

/* ---- limits ---- */

static int read_limit(size_t n, char ret[64])
{
	char path[64];
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/sys/%s", limits[n].path);
	int r = fvm_read_file(AT_FDCWD, path, 63, &text, NULL);
	if (r < 0)
		return r;
	text[strcspn(text, "\n")] = '\0';
	snprintf(ret, 64, "%s", text);
	return 0;
}

static int write_limit(size_t n, const char *value)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/sys/%s", limits[n].path);
	return fvm_write_file(AT_FDCWD, path, value);
}

/* One that this kernel does not have is empty. */
static void put_limits(struct fvm_buf *to)
{
	scoped_buf one = { 0 };
	vin_put_u64(&one, VIN_IPC_IS_LIMITS);
	for (size_t i = 0; i < VIN_IPC_LIMITS; i++) {
		char value[64] = "";
		(void)read_limit(i, value);
		vin_put_string(&one, value);
	}
	vin_put_blob(to, one.data, one.len);
	to->failed |= one.failed;
}

static int get_limits(struct vin_payload *p, struct vin_ipc_new *n)
{
	for (size_t i = 0; i < VIN_IPC_LIMITS; i++) {
		scoped_free char *value = vin_get_string(p);
		if (!value || strlen(value) >= sizeof(n->limits[i]) ||
		    strspn(value, "0123456789 \t") != strlen(value))
			return -EBADMSG;
		snprintf(n->limits[i], sizeof(n->limits[i]), "%s", value);
	}
	return vin_get_done(p);
}

/* As far as it goes: if that is not enough, an object can't be made, and says so. */
static void raise_limits(void)
{
	for (size_t i = 0; i < VIN_IPC_LIMITS; i++) {
		if (*limits[i].most)
			(void)write_limit(i, limits[i].most);
	}
}

int vin_ipc_finish(const struct vin_ipc_new *n, struct vin_objects *objects, struct fvm_error *err)
{
	for (size_t i = 0; i < objects->count; i++)
		vin_segment_leave(&objects->list[i]);
	for (size_t i = 0; n->begun && i < VIN_IPC_LIMITS; i++) {
		char now[64] = "";
		(void)read_limit(i, now);
		if (strcmp(now, n->limits[i]) == 0 || !*n->limits[i])
			continue;
		int r = write_limit(i, n->limits[i]);
		if (r < 0)
			return fvm_error_set(err, -r, "set /proc/sys/%s to %s", limits[i].path,
					     n->limits[i]);
	}
	return 0;
}

int vin_ipc_take(struct vin_ipc_new *n, struct vin_payload *p, struct fvm_error *err)
{
	const uint64_t sort = vin_get_u64(p);
	int r = -EBADMSG;
	if (sort == VIN_IPC_IS_LIMITS && !n->begun) {
		r = get_limits(p, n);
		n->begun = r == 0;
		if (r == 0 && !n->look)
			raise_limits();
	} else if (n->begun && sort < VIN_IPC_SORTS && kinds[sort] && kinds[sort]->make) {
		r = kinds[sort]->make(p, n->look, err);
	}
	return r == -EBADMSG ? fvm_error_say(err, EBADMSG,
					     "the image is damaged: no part of an IPC namespace")
			     : r;
}

/* ---- the child ---- */

struct visit {
	struct vin_ipc_visit v;
	int space, users; /* the namespaces; users: -1 if it is ours */
	int report;
	int ready; /* a byte is written when all is in the report */
	int go;	   /* until its end the child stays */
};

static int enter(const struct visit *v)
{
	if (v->users >= 0 && setns(v->users, CLONE_NEWUSER) < 0)
		return -errno;
	return setns(v->space, CLONE_NEWIPC) < 0 ? -errno : 0;
}

static int list_here(struct vin_ipc_visit *v, struct fvm_error *err)
{
	int r = 0;
	put_limits(v->to);
	for (size_t i = 0; r == 0 && i < VIN_IPC_SORTS; i++) {
		if (kinds[i])
			r = kinds[i]->capture(v, err);
	}
	return r == 0 && v->to->failed ? fvm_error_set(err, ENOMEM, "list an IPC namespace") : r;
}

static int list_all(struct visit *v, struct fvm_error *err)
{
	int r = enter(v);
	return r < 0 ? fvm_error_set(err, -r, "enter an IPC namespace") : list_here(&v->v, err);
}

static _Noreturn void be_visitor(struct visit *v)
{
	struct fvm_error why = { 0 };
	struct fvm_buf all = { 0 };
	char byte;
	v->v.to = &all;
	int r = list_all(v, &why);
	if (fvm_write_all(v->report, &why, sizeof(why)) < 0 ||
	    (r == 0 && fvm_write_all(v->report, all.data, all.len) < 0) ||
	    fvm_write_all(v->ready, "r", 1) < 0)
		_exit(1);
	(void)fvm_read_full(v->go, &byte, 1);
	_exit(0);
}

/* The namespaces of @pid. Return: 1, or 0: it is ours */
static int find_spaces(pid_t pid, int *ret_space, int *ret_users, struct fvm_error *err)
{
	char path[40];
	struct stat theirs, ours;
	snprintf(path, sizeof(path), "/proc/%d/ns/ipc", pid);
	scoped_fd space = open(path, O_RDONLY | O_CLOEXEC);
	if (space < 0 || fstat(space, &theirs) < 0 || stat("/proc/self/ns/ipc", &ours) < 0)
		return fvm_error_set(err, errno == ENOENT ? ESRCH : errno, "open %s", path);
	if (vin_same_inode(&theirs, &ours))
		return 0;
	scoped_fd users = ioctl(space, NS_GET_USERNS);
	if (users >= 0 && fstat(users, &theirs) == 0 && stat("/proc/self/ns/user", &ours) == 0 &&
	    vin_same_inode(&theirs, &ours))
		fvm_fd_closep(&users);
	*ret_space = fvm_fd_take(&space);
	*ret_users = fvm_fd_take(&users);
	return 1;
}

/* Whether we may open what others have mapped, by /proc. */
static bool opens_maps(void)
{
	char path[80];
	void *at = mmap(NULL, 4096, PROT_READ, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (at == MAP_FAILED)
		return false;
	snprintf(path, sizeof(path), "/proc/self/map_files/%lx-%lx", (unsigned long)at,
		 (unsigned long)at + 4096);
	scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	munmap(at, 4096);
	return fd >= 0;
}

static int take_report(const struct visit *v, pid_t child, struct vin_objects *objects,
		       struct vin_out *out, struct fvm_error *err)
{
	struct fvm_error why;
	struct stat st;
	if (pread(v->report, &why, sizeof(why), 0) != sizeof(why) || fstat(v->report, &st) < 0)
		return fvm_error_say(err, EIO, "who lists an IPC namespace has died");
	if (why.code) {
		if (err)
			*err = why;
		return -why.code;
	}
	const size_t len = (size_t)st.st_size - sizeof(why);
	scoped_free unsigned char *all = malloc(len + 1);
	if (!all || pread(v->report, all, len, sizeof(why)) != (ssize_t)len)
		return fvm_error_set(err, all ? EIO : ENOMEM, "list an IPC namespace");
	struct vin_payload p = { .at = all, .end = all + len };
	int r = 0;
	while (r == 0 && p.at < p.end) {
		struct fvm_buf one = { 0 };
		one.data = (char *)(uintptr_t)vin_get_blob(&p, &one.len);
		struct vin_payload in = { .at = (unsigned char *)one.data,
					  .end = (unsigned char *)one.data + one.len };
		if (p.failed)
			return fvm_error_say(err, EIO, "an IPC namespace was listed wrongly");
		const bool segment = vin_get_u64(&in) == VIN_IPC_IS_SEGMENT;
		if (v->v.look && segment)
			vin_segment_known(&in, objects);
		else if (!segment)
			r = out ? vin_out_record(out, VIN_TAG_IPC, &one, err) : 0;
		else if ((r = vin_segment_take(&in, child, v->v.stash, objects)) < 0)
			fvm_error_set(err, -r, "read a segment of shared memory");
	}
	return r;
}

/* @out: NULL to look only */
static int visit(struct visit *v, struct vin_objects *objects, struct vin_out *out,
		 struct fvm_error *err)
{
	int ready[2], go[2], status;
	char byte;
	if (pipe2(ready, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	scoped_fd ready_read = ready[0], ready_write = ready[1];
	if (pipe2(go, O_CLOEXEC) < 0)
		return fvm_error_set(err, errno, "make a pipe");
	scoped_fd go_read = go[0], go_write = go[1];
	scoped_fd report = memfd_create("ipc", MFD_CLOEXEC);
	scoped_fd stash = memfd_create("segments", MFD_CLOEXEC);
	v->v.look = !out;
	v->v.copy = !opens_maps();
	v->v.stash = stash;
	v->report = report;
	v->ready = ready_write;
	v->go = go_read;
	pid_t pid = report < 0 || stash < 0 ? -1 : fork();
	if (pid == 0) {
		fvm_fd_closep(&go_write);
		be_visitor(v);
	}
	if (pid < 0)
		return fvm_error_set(err, errno, "list an IPC namespace");
	fvm_fd_closep(&ready_write);
	(void)fvm_read_full(ready_read, &byte, 1);
	int r = take_report(v, pid, objects, out, err);
	fvm_fd_closep(&go_write);
	(void)waitpid(pid, &status, 0);
	return r;
}

/* ---- capture ---- */

static const struct vin_object *strange_segment(const struct vin_objects *o)
{
	for (size_t i = 0; i < o->count; i++) {
		if (o->list[i].kind == VIN_OBJECT_SEGMENT && !o->list[i].segment.known)
			return &o->list[i];
	}
	return NULL;
}

static int refuse_strange(const struct vin_objects *objects, struct fvm_error *err)
{
	const struct vin_object *o = strange_segment(objects);
	if (!o)
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d: memory at %llx can't be captured: it is the SysV segment "
			     "%d of another IPC namespace, or of the machine's",
			     o->sights[0].pid, (unsigned long long)o->sights[0].start,
			     o->segment.id);
}

int vin_ipc_check(pid_t pid, struct vin_objects *objects, struct fvm_error *err)
{
	struct visit v = { 0 };
	int there = find_spaces(pid, &v.space, &v.users, err);
	if (there <= 0)
		return there < 0 ? there : refuse_strange(objects, err);
	scoped_fd space = v.space, users = v.users;
	(void)space, (void)users;
	int r = visit(&v, objects, NULL, err);
	return r < 0 ? r : refuse_strange(objects, err);
}

int vin_ipc_capture(pid_t pid, struct vin_objects *objects, struct vin_out *out,
		    struct fvm_error *err)
{
	struct visit v = { 0 };
	int r = find_spaces(pid, &v.space, &v.users, err);
	if (r > 0) {
		scoped_fd space = v.space, users = v.users;
		(void)space, (void)users;
		r = visit(&v, objects, out, err);
	}
	return r < 0 ? r : refuse_strange(objects, err);
}

/* ---- one of programs' own (vin/namespaces), without segments ---- */

static bool has_segments(const struct fvm_buf *all)
{
	struct vin_payload p = { .at = (unsigned char *)all->data,
				 .end = (unsigned char *)all->data + all->len };
	while (!p.failed && p.at < p.end) {
		size_t len = 0;
		const unsigned char *one = vin_get_blob(&p, &len);
		struct vin_payload in = { .at = one, .end = one + len };
		if (one && vin_get_u64(&in) == VIN_IPC_IS_SEGMENT)
			return true;
	}
	return false;
}

static int check_own(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	scoped_buf all = { 0 };
	struct vin_ipc_visit v = { .look = true, .to = &all };
	(void)arg, (void)to;
	int r = list_here(&v, err);
	return r < 0 || !has_segments(&all)
		       ? r
		       : fvm_error_say(err, EOPNOTSUPP,
				       "its SysV segments of shared memory can't be captured");
}

static int capture_own(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	struct vin_ipc_visit v = { .to = to };
	int r = check_own(arg, NULL, err);
	return r < 0 ? r : list_here(&v, err);
}

static int make_own(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err)
{
	struct vin_ipc_new n = { 0 };
	struct vin_objects none = { 0 };
	int r = vin_be_root();
	(void)moved;
	if (r < 0)
		return fvm_error_set(err, -r, "become root of an IPC namespace");
	while (r == 0 && p->at < p->end) {
		size_t len = 0;
		const unsigned char *one = vin_get_blob(p, &len);
		struct vin_payload in = { .at = one, .end = one + len };
		r = one ? vin_ipc_take(&n, &in, err) : -EBADMSG;
	}
	return r == 0 ? vin_ipc_finish(&n, &none, err) : r;
}

const struct vin_space_kind vin_space_ipc = {
	.space = CLONE_NEWIPC, .check = check_own, .capture = capture_own, .make = make_own
};
