/* Mounts of a world that were made inside: which these are, and how they are written down. */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/mounts.h"
#include "vin/spaces.h"
#include "vin/unix.h"

static int refuse(const struct vin_mount *m, const char *why, struct fvm_error *err)
{
	return fvm_error_say(err, EOPNOTSUPP, "the mount on %s (%s) can't be captured: %s",
			     m->point, m->type, why);
}

/* ---- a first look, in the world's mount namespace ---- */

/* Whether what is seen at @point was made inside. Held by us, it does not expire. */
static bool is_made_inside(int self, const char *point)
{
	char name[16];
	scoped_fd held = open(point, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (held < 0 || fchdir(self) < 0)
		return false;
	snprintf(name, sizeof(name), "%d", held);
	return umount2(name, MNT_EXPIRE) < 0 && errno == EBUSY;
}

struct look {
	pid_t within;
	struct vin_mount_table *table;
	int proc;			     /* ours, which is out of reach there */
	int pids;			     /* the programs' pid namespace */
	const struct vin_mount_table *world; /* of which it has a copy; NULL: it is the world's */
	int line;			     /* gets what is to be written down */
};

/* Adds a byte if there is any. */
static int look_for_any(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	const struct look *l = arg;
	scoped_fd self = openat(l->proc, "self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (self < 0)
		return fvm_error_set(err, errno, "open /proc/self/fd");
	for (size_t i = 0; i < l->table->count && to->len == 0; i++) {
		if (is_made_inside(self, l->table->list[i].point))
			fvm_buf_puts(to, "y");
	}
	return 0;
}

/* ---- a closer one, in a copy of it ---- */

static int find_changed(const struct vin_mount *m, struct fvm_error *err)
{
	return refuse(m, "it changes while one looks at it", err);
}

/* All that was made after it is away already. */
static int take_away(struct vin_mount *m, struct fvm_error *err)
{
	struct statx x;
	scoped_fd fd = open(m->point, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || statx(fd, "", AT_EMPTY_PATH, STATX_TYPE, &x) < 0 ||
	    !(x.stx_attributes & STATX_ATTR_MOUNT_ROOT))
		return find_changed(m, err);
	m->inside = umount2(m->point, UMOUNT_NOFOLLOW | MNT_DETACH) == 0;
	if (!m->inside && errno != EINVAL)
		return fvm_error_set(err, errno, "look at the mount on %s", m->point);
	if (m->inside)
		m->fd = fvm_fd_take(&fd);
	return 0;
}

static bool is_gone(const char *path)
{
	static const char mark[] = "//deleted";
	const size_t len = strlen(path);
	return len >= sizeof(mark) && strcmp(path + len + 1 - sizeof(mark), mark) == 0;
}

int vin_mounts_uncover(struct vin_mount_table *t, struct fvm_error *err)
{
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return fvm_error_set(err, errno, "copy the mounts of the programs");
	int r = 0;
	for (size_t i = t->count; r == 0 && i-- > 0;) {
		struct vin_mount *m = &t->list[i];
		if (m->parent == VIN_MOUNT_NONE)
			continue;
		r = is_gone(m->point) ? refuse(m, "the directory below it was deleted", err)
				      : take_away(m, err);
	}
	/* what came along with one that was bound is locked, too */
	for (size_t i = 0; i < t->count; i++) {
		struct vin_mount *m = &t->list[i];
		m->inside |= m->parent != VIN_MOUNT_NONE && t->list[m->parent].inside;
	}
	return r;
}

/* ---- what is the world's, too ---- */

static const char *check_common(const struct vin_mount *own, const struct vin_mount *world)
{
	static const uint64_t kept =
		MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
	return world->attributes & ~own->attributes & kept
		       ? "it has fewer restrictions than in the VM's mount namespace"
		       : NULL;
}

/* One hears of the other's mounts. */
static bool is_group_of(const struct vin_mount_table *world, uint64_t group)
{
	for (size_t i = 0; group && i < world->count; i++) {
		if (world->list[i].shared == group || world->list[i].master == group)
			return true;
	}
	return false;
}

static bool is_same(const struct vin_mount *a, const struct vin_mount *b)
{
	return a->device == b->device && strcmp(a->root, b->root) == 0 &&
	       strcmp(a->point, b->point) == 0 && strcmp(a->type, b->type) == 0;
}

/* @was: for each before @i which of the world's it is, or VIN_MOUNT_NONE */
static size_t find_common(const struct look *l, const size_t *was, size_t i)
{
	const struct vin_mount *m = &l->table->list[i];
	const size_t up = m->parent == VIN_MOUNT_NONE ? VIN_MOUNT_NONE : was[m->parent];
	if (m->parent != VIN_MOUNT_NONE && up == VIN_MOUNT_NONE)
		return VIN_MOUNT_NONE;
	for (size_t j = 0; j < l->world->count; j++) {
		if (l->world->list[j].parent == up && is_same(m, &l->world->list[j]))
			return j;
	}
	return VIN_MOUNT_NONE;
}

/* Of who has another root directory the table begins there; we are at that of the namespace. */
static int check_root(const struct look *l, struct fvm_error *err)
{
	struct statx x;
	if (statx(AT_FDCWD, "/", 0, STATX_MNT_ID, &x) < 0)
		return fvm_error_set(err, errno, "look at /");
	if (l->table->count && l->table->list[0].id == (int)x.stx_mnt_id)
		return 0;
	return fvm_error_say(err, EOPNOTSUPP,
			     "process %d has a mount namespace of its own and is not at its root",
			     l->within);
}

static int take_common_out(const struct look *l, struct fvm_error *err)
{
	scoped_free size_t *was = calloc(l->table->count + 1, sizeof(*was));
	if (!was)
		return fvm_error_set(err, ENOMEM, "list mounts");
	for (size_t i = 0; i < l->table->count; i++) {
		struct vin_mount *m = &l->table->list[i];
		was[i] = find_common(l, was, i);
		const char *why =
			is_group_of(l->world, m->shared) || is_group_of(l->world, m->master)
				? "it shares what is mounted on it with the VM's mount namespace"
			: was[i] != VIN_MOUNT_NONE    ? check_common(m, &l->world->list[was[i]])
			: m->parent == VIN_MOUNT_NONE ? "it is another root than that of the VM"
						      : NULL;
		if (why)
			return refuse(m, why, err);
		m->inside = was[i] == VIN_MOUNT_NONE;
		if (!m->inside)
			fvm_fd_closep(&m->fd);
	}
	return 0;
}

/* ---- what can't be made again ---- */

static const char *check_layers(const char *paths)
{
	/* a colon in a name has a backslash before it */
	for (const char *at = paths; at; at = strchr(at, ':')) {
		at += *at == ':';
		if (*at != '/' && *at != ':' && !(at > paths + 1 && at[-2] == '\\'))
			return "its layers were named relative to somewhere";
	}
	return NULL;
}

static const char *check_overlay(const struct vin_mount *m)
{
	scoped_free char *options = strdup(m->options);
	char *at = options, *value;
	const char *why = options ? NULL : "there is no memory";
	for (char *word; !why && (word = vin_mount_option(&at, &value));) {
		if (strcmp(word, "volatile") == 0 || strcmp(value, "volatile") == 0)
			why = "it is a volatile one";
		else if (strncmp(word, "lowerdir", 8) == 0 || strcmp(word, "upperdir") == 0 ||
			 strcmp(word, "workdir") == 0)
			why = check_layers(value);
	}
	return why;
}

struct proc_look {
	int fd, pids;
	bool ours;
};

/* Who is of another pid namespace has no number there. */
static int look_at_self(void *arg)
{
	struct proc_look *l = arg;
	char text[16] = "", number[16];
	(void)!readlinkat(l->fd, "self", text, sizeof(text) - 1);
	snprintf(number, sizeof(number), "%d", getpid());
	l->ours = strcmp(text, number) == 0;
	return 0;
}

/* PID 1 lets nobody there look at it: its namespace was opened before. */
static int go_among(void *arg)
{
	const struct proc_look *l = arg;
	return setns(l->pids, CLONE_NEWPID) < 0 ? -errno : unix_beside(look_at_self, arg);
}

static const char *check_proc(const struct look *look, const struct vin_mount *m)
{
	struct proc_look l = { .fd = m->fd, .pids = look->pids };
	(void)unix_beside(go_among, &l);
	return l.ours ? NULL : "it shows the processes of another pid namespace";
}

static const char *check_new(const struct look *look, const struct vin_mount *m)
{
	static const char *const plain[] = { "tmpfs", "sysfs", "devpts", "mqueue", "cgroup2" };
	for (size_t i = 0; i < FVM_COUNT(plain); i++) {
		if (strcmp(m->type, plain[i]) == 0)
			return strstr(m->options, "gid=?") ? "it has a group that nobody here has"
							   : NULL;
	}
	if (strcmp(m->type, "overlay") == 0)
		return check_overlay(m);
	if (strcmp(m->type, "proc") == 0)
		return check_proc(look, m);
	return "it is of a kind that can't be made again";
}

static const char *check_bound(const struct vin_mount_table *t, size_t i)
{
	const struct vin_mount *m = &t->list[i];
	if (strcmp(m->type, "nsfs") == 0)
		return "it holds a namespace";
	if (is_gone(m->root))
		return "what it shows was deleted";
	if (strcmp(m->type, "proc") == 0 && isdigit((unsigned char)m->root[1]))
		return "it shows a process";
	return vin_mount_source(t, i, 0) == VIN_MOUNT_NONE
		       ? "what it shows is mounted nowhere as a whole"
		       : NULL;
}

static int check_each(const struct look *l, struct fvm_error *err)
{
	const struct vin_mount_table *t = l->table;
	for (size_t i = 0; i < t->count; i++) {
		const char *why = !t->list[i].inside	   ? NULL
				  : vin_mount_is_new(t, i) ? check_new(l, &t->list[i])
							   : check_bound(t, i);
		if (why)
			return refuse(&t->list[i], why, err);
	}
	return 0;
}

static int check_there(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	const struct look *l = arg;
	(void)to;
	int r = l->world ? check_root(l, err) : 0;
	if (r == 0)
		r = vin_mounts_uncover(l->table, err);
	if (r == 0 && l->world)
		r = take_common_out(l, err);
	return r < 0 ? r : check_each(l, err);
}

/* ---- from outside ---- */

/* The kernel tells groups as the machine counts them. */
static int translate_group(pid_t within, struct vin_mount *m)
{
	scoped_free char *text = strdup(m->options);
	scoped_buf all = { 0 };
	char *at = text;
	for (char *word; text && (word = strsep(&at, ","));) {
		uint64_t uid, gid;
		fvm_buf_puts(&all, all.len ? "," : "");
		if (strncmp(word, "gid=", 4) != 0) {
			fvm_buf_puts(&all, word);
			continue;
		}
		vin_inner_pair(within, 0, strtoul(word + 4, NULL, 10), &uid, &gid);
		if (gid == UINT32_MAX)
			fvm_buf_puts(&all, "gid=?");
		else
			fvm_buf_printf(&all, "gid=%llu", (unsigned long long)gid);
	}
	char *options = text ? fvm_buf_steal(&all) : NULL;
	if (!options)
		return -ENOMEM;
	free(m->options);
	m->options = options;
	return 0;
}

static int read_table(pid_t within, struct vin_mount_table *ret, struct fvm_error *err)
{
	int r = vin_mount_table_read(within, ret, err);
	for (size_t i = 0; r == 0 && i < ret->count; i++) {
		if (strcmp(ret->list[i].type, "devpts") == 0 ||
		    strcmp(ret->list[i].type, "proc") == 0)
			r = translate_group(within, &ret->list[i]);
	}
	return r < 0 && !(err && err->code) ? fvm_error_set(err, -r, "list mounts") : r;
}

/* Return: whether any was made inside, or negative errno */
static int look(struct look *l, struct fvm_error *err)
{
	scoped_buf any = { 0 };
	int r = read_table(l->within, l->table, err);
	if (r == 0)
		r = vin_space_visit(l->within, CLONE_NEWNS, look_for_any, l, &any, err);
	return r < 0 ? r : any.len > 0;
}

static int open_look_at(struct look *l, struct fvm_error *err)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/ns/pid", l->within);
	l->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
	l->pids = open(path, O_RDONLY | O_CLOEXEC);
	if (l->proc < 0 || l->pids < 0)
		return fvm_error_set(err, errno, "open %s", path);
	return 0;
}

static int open_look(struct look *l, struct fvm_error *err)
{
	int r = open_look_at(l, err);
	return r < 0 ? r : look(l, err);
}

static void close_look(struct look *l)
{
	fvm_fd_closep(&l->proc);
	fvm_fd_closep(&l->pids);
}

int vin_mounts_check(pid_t within, struct fvm_error *err)
{
	scoped_mounts table = { 0 };
	struct look l = { .within = within, .table = &table, .proc = -1, .pids = -1 };
	const int any = open_look(&l, err);
	int r = any > 0 ? vin_space_visit(within, CLONE_NEWUSER | CLONE_NEWNS, check_there, &l,
					  NULL, err)
			: any;
	close_look(&l);
	return r < 0 ? r : any;
}

static int send_piece(void *arg, const struct fvm_buf *payload)
{
	const struct look *l = arg;
	return vin_space_send(l->line, payload);
}

static int tell(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	struct look *l = arg;
	scoped_buf list = { 0 }, done = { 0 };
	const struct vin_mount_table *t = l->table;
	int r = check_there(l, to, err);
	if (r < 0)
		return r;
	vin_put_u64(&list, VIN_MOUNT_LIST);
	vin_mount_table_put(&list, t);
	r = send_piece(l, &list);
	for (size_t i = 0; r == 0 && i < t->count; i++) {
		if (vin_mount_has_content(t, i))
			r = vin_mount_tree_write(t->list[i].fd, i, send_piece, l, err);
	}
	vin_put_u64(&done, VIN_MOUNT_DONE);
	if (r == 0)
		r = send_piece(l, &done);
	return r < 0 && !(err && err->code) ? fvm_error_set(err, -r, "write mounts down") : r;
}

static int take_piece(void *arg, const struct fvm_buf *piece, struct fvm_error *err)
{
	return vin_out_record(arg, VIN_TAG_MOUNT, piece, err);
}

int vin_mounts_capture(pid_t within, struct vin_out *out, struct fvm_error *err)
{
	scoped_mounts table = { 0 };
	struct look l = { .within = within, .table = &table, .proc = -1, .pids = -1 };
	const struct vin_space_teller t = { tell, &l, &l.line, take_piece, out };
	int r = open_look(&l, err);
	if (r > 0)
		r = vin_space_stream(within, CLONE_NEWUSER | CLONE_NEWNS, &t, err);
	close_look(&l);
	return r;
}

/* ---- of one that only some programs have ---- */

static int open_own(const struct vin_mounts_own *o, struct look *l, struct vin_mount_table *world,
		    struct fvm_error *err)
{
	l->within = o->within;
	l->world = world;
	int r = read_table(o->within, l->table, err);
	if (r == 0)
		r = read_table(o->world, world, err);
	return r < 0 ? r : open_look_at(l, err);
}

int vin_mounts_own_check(const struct vin_mounts_own *o, struct fvm_error *err)
{
	scoped_mounts table = { 0 }, world = { 0 };
	struct look l = { .table = &table, .proc = -1, .pids = -1 };
	int r = open_own(o, &l, &world, err);
	if (r == 0)
		r = vin_space_visit(o->within, CLONE_NEWUSER | CLONE_NEWNS, check_there, &l, NULL,
				    err);
	close_look(&l);
	return r;
}

int vin_mounts_own_capture(const struct vin_mounts_own *o,
			   int (*take)(void *arg, const struct fvm_buf *piece,
				       struct fvm_error *err),
			   void *arg, struct fvm_error *err)
{
	scoped_mounts table = { 0 }, world = { 0 };
	struct look l = { .table = &table, .proc = -1, .pids = -1 };
	const struct vin_space_teller t = { tell, &l, &l.line, take, arg };
	int r = open_own(o, &l, &world, err);
	if (r == 0)
		r = vin_space_stream(o->within, CLONE_NEWUSER | CLONE_NEWNS, &t, err);
	close_look(&l);
	return r;
}
