#include <errno.h>
#include <fcntl.h>
#include <linux/nsfs.h>
#include <linux/sockios.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "vin/namespaces.h"
#include "vin/spaces.h"

#define LIST_MAX 4096

/* What a record is. Values stand in images. */
enum { OF_LIST = 1, OF_SETTING = 2, OF_FILES = 3, OF_MOUNT = 4 };

static const struct {
	const char *file, *title;
	int flag;
} sorts[VIN_NAMESPACE_SORTS] = {
	[VIN_NAMESPACE_UTS] = { "uts", "UTS", CLONE_NEWUTS },
	[VIN_NAMESPACE_IPC] = { "ipc", "IPC", CLONE_NEWIPC },
	[VIN_NAMESPACE_NET] = { "net", "network", CLONE_NEWNET },
	[VIN_NAMESPACE_MOUNT] = { "mnt", "mount", CLONE_NEWNS },
};

int vin_namespace_flag(const struct vin_namespace *n)
{
	return sorts[n->sort].flag;
}

static size_t sort_of(int flag)
{
	size_t i = 1;
	while (i < VIN_NAMESPACE_SORTS && sorts[i].flag != flag)
		i++;
	return i;
}

bool vin_namespaces_held(int flag)
{
	return flag && sort_of(flag) < VIN_NAMESPACE_SORTS;
}

static int open_of(pid_t pid, size_t sort)
{
	char path[48];
	snprintf(path, sizeof(path), "/proc/%d/ns/%s", pid, sorts[sort].file);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	return fd < 0 && errno == ENOENT ? -ESRCH : fd < 0 ? -errno : fd;
}

void vin_namespaces_free(struct vin_namespaces *n)
{
	for (size_t i = 0; i < n->count; i++) {
		struct vin_namespace *one = &n->list[i];
		fvm_fd_closep(&one->root);
		free(one->mounts);
		vin_mounts_forget(&one->made);
		/* without a descriptor it is a program, and no holder of ours */
		if (one->fd < 0)
			continue;
		if (one->via > 0 && kill(one->via, SIGKILL) == 0)
			(void)waitpid(one->via, NULL, 0);
		fvm_fd_closep(&one->fd);
	}
	free(n->list);
	free(n->members);
	free(n->files);
	*n = (struct vin_namespaces){ 0 };
}

static struct vin_namespace *add_one(struct vin_namespaces *n)
{
	struct vin_namespace *more =
		n->count < LIST_MAX ? realloc(n->list, fvm_room(n->count + 1) * sizeof(*more))
				    : NULL;
	if (!more)
		return NULL;
	n->list = more;
	more[n->count] = (struct vin_namespace){ .fd = -1, .root = -1 };
	return &more[n->count++];
}

static int add_member(struct vin_namespaces *n, struct vin_namespace_member member)
{
	struct vin_namespace_member *more =
		realloc(n->members, fvm_room(n->member_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	n->members = more;
	more[n->member_count++] = member;
	return 0;
}

/* ---- at the source ---- */

int vin_namespaces_add(struct vin_namespaces *n, pid_t tid, int flag, struct fvm_error *err)
{
	const size_t sort = sort_of(flag);
	struct stat st;
	size_t i = 0;
	scoped_fd fd = open_of(tid, sort);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 ? fd : -errno;
	while (i < n->count && n->list[i].ino != st.st_ino)
		i++;
	struct vin_namespace *one = i < n->count ? &n->list[i] : add_one(n);
	if (one && !one->ino)
		*one = (struct vin_namespace){ .sort = (enum vin_namespace_sort)sort,
					       .ino = st.st_ino,
					       .via = tid,
					       .root = -1,
					       .fd = -1 };
	if (!one || add_member(n, (struct vin_namespace_member){ .pid = tid, .which = i }) < 0)
		return fvm_error_set(err, ENOMEM, "list namespaces");
	return 0;
}

bool vin_namespaces_has(const struct vin_namespaces *n, pid_t tid, int flag)
{
	for (size_t i = 0; i < n->member_count; i++) {
		if (n->members[i].pid == tid &&
		    vin_namespace_flag(&n->list[n->members[i].which]) == flag)
			return true;
	}
	return false;
}

static int add_file(struct vin_namespaces *n, uint64_t id, size_t which)
{
	struct vin_namespace_file *more =
		realloc(n->files, fvm_room(n->file_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	n->files = more;
	more[n->file_count++] = (struct vin_namespace_file){ id, which };
	return 0;
}

static int find_socket(struct vin_namespaces *n, const struct vin_open *o, ino_t world)
{
	struct stat st;
	scoped_fd net = fvm_nerr(ioctl(o->fd, SIOCGSKNS));
	if (net < 0 || fstat(net, &st) < 0)
		return net < 0 ? net : -errno;
	if (st.st_ino == world)
		return 0;
	for (size_t i = 0; i < n->count; i++) {
		if (n->list[i].ino == st.st_ino)
			return add_file(n, o->id, i);
	}
	return -ENXIO;
}

/* Files of a mount. */
static int find_place(struct vin_namespaces *n, const struct vin_open *o)
{
	const int root = o->info.mnt_id > 0 ? vin_namespaces_root(n, o->info.mnt_id) : -1;
	for (size_t i = 0; root >= 0 && i < n->count; i++) {
		if (n->list[i].root == root)
			return add_file(n, o->id, i);
	}
	return 0;
}

static bool has_sort(const struct vin_namespaces *n, enum vin_namespace_sort sort)
{
	size_t i = 0;
	while (i < n->count && n->list[i].sort != sort)
		i++;
	return i < n->count;
}

int vin_namespaces_files(struct vin_namespaces *n, const struct vin_files *f, pid_t world,
			 struct fvm_error *err)
{
	struct stat st = { 0 };
	const bool nets = has_sort(n, VIN_NAMESPACE_NET);
	n->file_count = 0;
	if (n->count == 0)
		return 0;
	scoped_fd net = world ? open_of(world, VIN_NAMESPACE_NET) : -1;
	if (net >= 0 && fstat(net, &st) < 0)
		return fvm_error_set(err, errno, "look at network namespaces");
	for (size_t i = 0; i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		int r = !S_ISSOCK(o->st.st_mode) ? find_place(n, o)
			: nets			 ? find_socket(n, o, st.st_ino)
						 : 0;
		if (r == -ENXIO)
			return fvm_error_say(err, EOPNOTSUPP,
					     "process %d: descriptor %d (%s) can't be captured: it "
					     "is of a network namespace that none of the programs "
					     "is in",
					     o->pid, o->number, o->link);
		if (r < 0)
			return fvm_error_set(err, -r, "look at the network namespace of %s",
					     o->link);
	}
	return 0;
}

/* Whoever is in it can tell whose it is. @u: NULL only to look */
static int find_owner(const struct vin_namespace *one, struct vin_users *u, uint64_t *ret,
		      struct fvm_error *err)
{
	scoped_fd fd = open_of(one->via, one->sort);
	int r = fd < 0 ? fd : vin_users_owner(u, one->via, fd);
	if (r == -ESRCH || r == -ENOMEM)
		return fvm_error_set(err, -r, "look at the %s namespace of process %d",
				     sorts[one->sort].title, one->via);
	if (r < 0)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d can't be captured: its %s namespace belongs to a "
				     "user namespace outside (%s)",
				     one->via, sorts[one->sort].title, strerror(-r));
	*ret = (uint64_t)r;
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const int *x = a, *y = b;
	return (*x > *y) - (*x < *y);
}

/* What tells whether a file is of it. */
static int note_mounts(struct vin_namespace *one, struct fvm_error *err)
{
	char path[40];
	scoped_mounts t = { 0 };
	snprintf(path, sizeof(path), "/proc/%d/root", one->via);
	fvm_fd_closep(&one->root);
	free(one->mounts);
	one->mounts = NULL;
	int r = vin_mount_table_read(one->via, &t, err);
	if (r < 0)
		return r;
	one->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	one->mounts = calloc(t.count + 1, sizeof(*one->mounts));
	if (one->root < 0 || !one->mounts)
		return fvm_error_set(err, errno, "open %s", path);
	for (size_t i = 0; i < t.count; i++)
		one->mounts[i] = t.list[i].id;
	one->mount_count = t.count;
	qsort(one->mounts, t.count, sizeof(*one->mounts), by_number);
	return 0;
}

static int check_mounts(struct vin_namespace *one, pid_t world, struct fvm_error *err)
{
	const struct vin_mounts_own own = { one->via, world };
	struct stat st, its;
	scoped_fd space = open_of(one->via, VIN_NAMESPACE_MOUNT), users = vin_users_open(world);
	scoped_fd owner = space < 0 ? space : fvm_nerr(ioctl(space, NS_GET_USERNS));
	/* one that is not ours to look at is around us, and the world's */
	if (owner >= 0 && users >= 0 && fstat(owner, &its) == 0 && fstat(users, &st) == 0 &&
	    st.st_ino != its.st_ino)
		return fvm_error_say(err, EOPNOTSUPP,
				     "process %d can't be captured: it has a mount namespace that "
				     "belongs to a user namespace of its own",
				     one->via);
	int r = vin_mounts_own_check(&own, err);
	return r < 0 ? r : note_mounts(one, err);
}

int vin_namespaces_names_of(const struct vin_namespaces *n, pid_t tid, int world)
{
	for (size_t i = 0; i < n->member_count; i++) {
		if (n->members[i].pid == tid && n->list[n->members[i].which].root >= 0)
			return n->list[n->members[i].which].root;
	}
	return world;
}

int vin_namespaces_root(const struct vin_namespaces *n, int id)
{
	for (size_t i = 0; i < n->count; i++) {
		const struct vin_namespace *one = &n->list[i];
		if (one->mounts &&
		    bsearch(&id, one->mounts, one->mount_count, sizeof(*one->mounts), by_number))
			return one->root;
	}
	return -1;
}

int vin_namespaces_check(struct vin_namespaces *n, pid_t world, struct fvm_error *err)
{
	uint64_t owner;
	int r = 0;
	for (size_t i = 0; r == 0 && i < n->count; i++) {
		struct vin_namespace *one = &n->list[i];
		r = find_owner(one, NULL, &owner, err);
		if (r == 0 && one->sort == VIN_NAMESPACE_MOUNT)
			r = check_mounts(one, world, err);
		else if (r == 0)
			r = vin_spaces_settings_check(one->via, vin_namespace_flag(one), true, err);
		if (r == -EOPNOTSUPP)
			r = fvm_error_wrap(err, r, "the %s namespace of process %d",
					   sorts[one->sort].title, one->via);
	}
	return r;
}

int vin_namespaces_owners(struct vin_namespaces *n, struct vin_users *u, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < n->count; i++)
		r = find_owner(&n->list[i], u, &n->list[i].owner, err);
	return r;
}

void vin_namespaces_put(struct fvm_buf *to, const struct vin_namespaces *n)
{
	vin_put_u64(to, OF_LIST);
	vin_put_u64(to, n->count);
	for (size_t i = 0; i < n->count; i++) {
		vin_put_u64(to, n->list[i].sort);
		vin_put_u64(to, n->list[i].owner);
	}
	vin_put_u64(to, n->member_count);
	for (size_t i = 0; i < n->member_count; i++) {
		vin_put_u64(to, (uint64_t)n->members[i].number);
		vin_put_u64(to, n->members[i].which);
	}
}

void vin_namespaces_put_files(struct fvm_buf *to, const struct vin_namespaces *n)
{
	vin_put_u64(to, OF_FILES);
	vin_put_u64(to, n->file_count);
	for (size_t i = 0; i < n->file_count; i++) {
		vin_put_u64(to, n->files[i].id);
		vin_put_u64(to, n->files[i].which);
	}
}

struct writing {
	struct vin_out *out;
	size_t which;
};

static int write_piece(const struct writing *w, uint64_t what, const struct fvm_buf *piece,
		       struct fvm_error *err)
{
	scoped_buf payload = { 0 };
	vin_put_u64(&payload, what);
	vin_put_u64(&payload, w->which);
	fvm_buf_add(&payload, piece->data, piece->len);
	return vin_out_record(w->out, VIN_TAG_NAMESPACE, &payload, err);
}

static int write_setting(void *arg, const struct fvm_buf *setting, struct fvm_error *err)
{
	return write_piece(arg, OF_SETTING, setting, err);
}

static int write_mount(void *arg, const struct fvm_buf *mount, struct fvm_error *err)
{
	return write_piece(arg, OF_MOUNT, mount, err);
}

int vin_namespaces_capture(const struct vin_namespaces *n, pid_t world, struct vin_out *out,
			   struct fvm_error *err)
{
	scoped_buf list = { 0 };
	vin_namespaces_put(&list, n);
	int r = vin_out_record(out, VIN_TAG_NAMESPACE, &list, err);
	for (size_t i = 0; r == 0 && i < n->count; i++) {
		struct writing w = { out, i };
		const struct vin_mounts_own own = { n->list[i].via, world };
		r = n->list[i].sort == VIN_NAMESPACE_MOUNT
			    ? vin_mounts_own_capture(&own, write_mount, &w, err)
			    : vin_spaces_tell(n->list[i].via, vin_namespace_flag(&n->list[i]),
					      write_setting, &w, err);
	}
	if (r == 0 && n->file_count) {
		scoped_buf files = { 0 };
		vin_namespaces_put_files(&files, n);
		r = vin_out_record(out, VIN_TAG_NAMESPACE, &files, err);
	}
	return r;
}

/* ---- in the new world ---- */

static int get_list(struct vin_payload *p, struct vin_namespaces *n)
{
	const uint64_t count = vin_get_u64(p);
	if (p->failed || count == 0 || count > LIST_MAX)
		return -EBADMSG;
	for (uint64_t i = 0; i < count; i++) {
		const uint64_t sort = vin_get_u64(p), owner = vin_get_u64(p);
		struct vin_namespace *one = p->failed ? NULL : add_one(n);
		if (!one)
			return p->failed ? -EBADMSG : -ENOMEM;
		if (sort == 0 || sort >= VIN_NAMESPACE_SORTS)
			return -EBADMSG;
		one->sort = (enum vin_namespace_sort)sort;
		one->owner = owner;
	}
	return 0;
}

/* One of each sort. */
static bool is_in_another(const struct vin_namespaces *n, pid_t number, size_t which)
{
	for (size_t i = 0; i < n->member_count; i++) {
		if (n->members[i].number == number &&
		    n->list[n->members[i].which].sort == n->list[which].sort)
			return true;
	}
	return false;
}

static int get_members(struct vin_payload *p, struct vin_namespaces *n)
{
	const uint64_t count = vin_get_u64(p);
	for (uint64_t i = 0; i < count; i++) {
		const uint64_t number = vin_get_u64(p), which = vin_get_u64(p);
		if (p->failed || number == 0 || number > INT32_MAX || which >= n->count ||
		    is_in_another(n, (pid_t)number, (size_t)which))
			return -EBADMSG;
		int r = add_member(n, (struct vin_namespace_member){ .number = (pid_t)number,
								     .which = (size_t)which });
		if (r < 0)
			return r;
	}
	return vin_get_done(p);
}

int vin_namespaces_get(struct vin_payload *p, struct vin_namespaces *ret)
{
	struct vin_namespaces n = { 0 };
	int r = vin_get_u64(p) == OF_LIST ? get_list(p, &n) : -EBADMSG;
	if (r == 0)
		r = get_members(p, &n);
	if (r < 0)
		vin_namespaces_free(&n);
	else
		*ret = n;
	return r;
}

int vin_namespaces_get_files(struct vin_payload *p, struct vin_namespaces *n)
{
	const uint64_t what = vin_get_u64(p), count = vin_get_u64(p);
	if (p->failed || what != OF_FILES || n->file_count)
		return -EBADMSG;
	for (uint64_t i = 0; i < count; i++) {
		const uint64_t id = vin_get_u64(p), which = vin_get_u64(p);
		if (p->failed || which >= n->count ||
		    (n->list[which].sort != VIN_NAMESPACE_NET &&
		     n->list[which].sort != VIN_NAMESPACE_MOUNT) ||
		    (i > 0 && id <= n->files[i - 1].id))
			return -EBADMSG;
		if (add_file(n, id, (size_t)which) < 0)
			return -ENOMEM;
	}
	return vin_get_done(p);
}

struct making {
	int flag;
	int owner;  /* user namespace */
	int mounts; /* those to copy, or -1 */
};

/* Says how it went, and stays. */
static _Noreturn void be_holder(const struct making *m, pid_t maker, int line)
{
	int r = vin_users_enter(m->owner);
	if (r == 0 && m->mounts >= 0 && setns(m->mounts, CLONE_NEWNS) < 0)
		r = -errno;
	if (r == 0 && unshare(m->flag) < 0)
		r = -errno;
	if (r == 0 && m->mounts >= 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		r = -errno;
	/* forgotten whenever ids change */
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	(void)!write(line, &r, sizeof(r));
	close(line);
	while (r == 0 && getppid() == maker)
		pause();
	_exit(0);
}

static int make_one(struct vin_namespace *one, pid_t first, int owner)
{
	int line[2], said = -EIO;
	char path[40];
	const bool mounts = one->sort == VIN_NAMESPACE_MOUNT;
	scoped_fd from = mounts ? open_of(first, VIN_NAMESPACE_MOUNT) : -1;
	const struct making m = { vin_namespace_flag(one), owner, from };
	if (mounts && from < 0)
		return from;
	if (pipe2(line, O_CLOEXEC) < 0)
		return -errno;
	const pid_t maker = getpid(), pid = fork();
	if (pid == 0) {
		close(line[0]);
		be_holder(&m, maker, line[1]);
	}
	int r = pid < 0 ? -errno : 0;
	close(line[1]);
	if (r == 0 && fvm_read_full(line[0], &said, sizeof(said)) == sizeof(said) && said == 0)
		one->fd = open_of(pid, one->sort);
	close(line[0]);
	if (r == 0)
		r = said < 0 ? said : one->fd < 0 ? one->fd : 0;
	snprintf(path, sizeof(path), "/proc/%d/root", pid);
	if (r == 0 && mounts)
		r = one->root = fvm_nerr(open(path, O_PATH | O_DIRECTORY | O_CLOEXEC));
	r = r > 0 ? 0 : r;
	if (r == 0) {
		one->via = pid;
	} else if (pid > 0) {
		(void)kill(pid, SIGKILL);
		(void)waitpid(pid, NULL, 0);
	}
	return r;
}

static int make_all(struct vin_namespaces *n, pid_t first, const struct vin_users *u,
		    struct fvm_error *err)
{
	scoped_fd world = vin_users_open(first);
	int r = world < 0 ? world : 0;
	for (size_t i = 0; r == 0 && i < n->count; i++) {
		struct vin_namespace *one = &n->list[i];
		r = one->owner > u->count
			    ? -EBADMSG
			    : make_one(one, first, one->owner ? u->list[one->owner - 1].fd : world);
		if (r < 0 && r != -EBADMSG)
			return fvm_error_set(err, -r, "make a %s namespace of the programs' own",
					     sorts[one->sort].title);
	}
	return r;
}

struct set_job {
	struct vin_payload *p;
	int flag;
};

/* Whoever is in one of their own has nothing of the world's own addresses. */
static int set_there(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	const struct set_job *j = arg;
	struct vin_moved moved = { 0 };
	(void)to;
	return vin_space_take(j->p, j->flag, &moved, err);
}

static int take_setting(const struct vin_namespaces *n, struct vin_payload *p,
			struct fvm_error *err)
{
	const uint64_t which = vin_get_u64(p);
	if (p->failed || which >= n->count || n->list[which].via <= 0)
		return -EBADMSG;
	struct set_job j = { p, vin_namespace_flag(&n->list[which]) };
	return vin_space_visit(n->list[which].via, CLONE_NEWUSER | j.flag, set_there, &j, NULL,
			       err);
}

struct mount_job {
	struct vin_namespace *one;
	pid_t first;
	struct vin_payload *p;
	struct fvm_error *err;
};

static int make_mounts(void *arg)
{
	const struct mount_job *j = arg;
	j->one->made.holder = j->one->via;
	return vin_mounts_take(&j->one->made, j->first, j->one->root, j->p, j->err);
}

static int take_mount(struct vin_namespaces *n, pid_t first, struct vin_opener *opener,
		      struct vin_payload *p, struct fvm_error *err)
{
	const uint64_t which = vin_get_u64(p);
	if (p->failed || which >= n->count || n->list[which].sort != VIN_NAMESPACE_MOUNT ||
	    n->list[which].via <= 0)
		return -EBADMSG;
	struct mount_job j = { &n->list[which], first, p, err };
	return vin_opener_do(opener, make_mounts, &j);
}

int vin_namespaces_take(struct vin_namespaces *n, pid_t first, const struct vin_users *u,
			struct vin_opener *opener, struct vin_payload *p, struct fvm_error *err)
{
	struct vin_payload begin = *p;
	const uint64_t what = vin_get_u64(p);
	int r = -EBADMSG;
	if (what == OF_LIST && n->count == 0) {
		r = vin_namespaces_get(&begin, n);
		if (r == 0)
			r = make_all(n, first, u, err);
	} else if (what == OF_SETTING) {
		r = take_setting(n, p, err);
	} else if (what == OF_FILES) {
		r = vin_namespaces_get_files(&begin, n);
	} else if (what == OF_MOUNT) {
		r = take_mount(n, first, opener, p, err);
	}
	if (r == -EBADMSG)
		return fvm_error_say(err, EBADMSG, "the image is damaged: no namespaces");
	return r == -ENOMEM ? fvm_error_set(err, ENOMEM, "read namespaces") : r;
}

int vin_namespaces_names(const struct vin_namespaces *n, pid_t number, int world)
{
	for (size_t i = vin_namespaces_of(n, number, 0); i < n->member_count;
	     i = vin_namespaces_of(n, number, i + 1)) {
		const struct vin_namespace *one = &n->list[n->members[i].which];
		if (one->root >= 0)
			return one->root;
	}
	return world;
}

const struct vin_namespace *vin_namespaces_file(const struct vin_namespaces *n, uint64_t file)
{
	size_t first = 0, end = n->file_count;
	while (first < end) {
		const size_t middle = first + (end - first) / 2;
		if (n->files[middle].id == file)
			return &n->list[n->files[middle].which];
		if (n->files[middle].id < file)
			first = middle + 1;
		else
			end = middle;
	}
	return NULL;
}

size_t vin_namespaces_of(const struct vin_namespaces *n, pid_t number, size_t from)
{
	for (size_t i = from; i < n->member_count; i++) {
		if (n->members[i].number == number)
			return i;
	}
	return n->member_count;
}
