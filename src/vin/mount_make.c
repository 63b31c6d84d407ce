/* Mounts that programs had made, made anew in the world's mount namespace. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/pidfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "vin/mounts.h"
#include "vin/unix.h"

#ifndef MOUNT_ATTR_NOSYMFOLLOW
#define MOUNT_ATTR_NOSYMFOLLOW 0x00200000
#endif
#ifndef MOVE_MOUNT_SET_GROUP
#define MOVE_MOUNT_SET_GROUP 0x00000100
#endif
#define RESTRICTIONS                                                                               \
	(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC |            \
	 MOUNT_ATTR_NOSYMFOLLOW)
#define VALUE_MAX 255 /* of fsconfig(2) */

static int say(const struct vin_mount *m, int r, struct fvm_error *err)
{
	return fvm_error_set(err, -r, "make the mount on %s (%s)", m->point, m->type);
}

/* ---- somebody there, with our memory and descriptors ---- */

struct job {
	struct vin_mounts_new *n;
	size_t i;
	const struct vin_mount_table *now;
	int (*fn)(struct job *j);
	int pidfd, holder, r;
	struct fvm_error *err;
};

/* What file systems show is that of who opens them; where we may not go we are, or need not be. */
static int go_there(void *arg)
{
	struct job *j = arg;
	(void)setns(j->pidfd, CLONE_NEWCGROUP);
	(void)setns(j->pidfd, CLONE_NEWNET);
	(void)setns(j->pidfd, CLONE_NEWIPC);
	if (setns(j->holder, CLONE_NEWNS) < 0)
		return j->r = fvm_error_set(j->err, errno, "enter the programs' mounts");
	return j->r = j->fn(j);
}

/* Who is where they are mounted. */
static pid_t whose(const struct vin_mounts_new *n)
{
	return n->holder ? n->holder : n->first;
}

static int have_done(struct job j)
{
	scoped_fd pidfd = pidfd_open(j.n->first, 0);
	scoped_fd holder = pidfd_open(whose(j.n), 0);
	j.pidfd = pidfd;
	j.holder = holder;
	j.r = -EPIPE;
	int r = pidfd < 0 || holder < 0 ? -errno : unix_beside(go_there, &j);
	return r < 0 ? fvm_error_set(j.err, -r, "enter the programs' mounts") : j.r;
}

static int id_of(int fd)
{
	struct statx x;
	return statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &x) < 0 ? -1 : (int)x.stx_mnt_id;
}

/* ---- what the new world has ---- */

/* @was: for each of the list which it is in the table of now, or VIN_MOUNT_NONE */
static size_t find_now(const struct vin_mount_table *now, const struct vin_mount_table *t,
		       const size_t *was, size_t i)
{
	const struct vin_mount *m = &t->list[i];
	const size_t parent = m->parent == VIN_MOUNT_NONE ? VIN_MOUNT_NONE : was[m->parent];
	if (m->parent != VIN_MOUNT_NONE && parent == VIN_MOUNT_NONE)
		return VIN_MOUNT_NONE;
	for (size_t j = 0; j < now->count; j++) {
		if (now->list[j].parent == parent && strcmp(now->list[j].point, m->point) == 0 &&
		    strcmp(now->list[j].type, m->type) == 0)
			return j;
	}
	return VIN_MOUNT_NONE;
}

/* What is covered there is not held, and nothing can be made on it. */
static void hold(const struct vin_mounts_new *n, struct vin_mount *m, const struct vin_mount *now)
{
	scoped_fd fd = fvm_open_nofollow(n->root, m->point[1] ? m->point + 1 : ".", O_PATH);
	m->there = true;
	if (fd < 0 || id_of(fd) != now->id)
		return;
	m->fd = fvm_fd_take(&fd);
	m->id = now->id;
	/* of what programs had restricted that is kept which is not so here */
	m->attributes &= ~now->attributes & RESTRICTIONS;
}

static bool is_met(const struct vin_mount_table *t, const size_t *was, size_t now)
{
	for (size_t i = 0; i < t->count; i++) {
		if (was[i] == now)
			return true;
	}
	return false;
}

/* It lies on top: those on it have gone before. */
static int take_away(struct job *j)
{
	const struct vin_mount *m = &j->now->list[j->i];
	scoped_fd fd = fvm_open_nofollow(j->n->root, m->point[1] ? m->point + 1 : ".", O_PATH);
	int r = fd < 0 ? fd : id_of(fd) != m->id ? -EBUSY : fvm_nerr(fchdir(fd));
	if (r == 0)
		r = fvm_nerr(umount2(".", MNT_DETACH));
	return r < 0 ? fvm_error_set(j->err, -r, "take the mount on %s away", m->point) : 0;
}

static int take_others_away(struct vin_mounts_new *n, const struct vin_mount_table *now,
			    const size_t *was, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = now->count; r == 0 && n->holder && i-- > 0;) {
		if (!is_met(&n->table, was, i))
			r = have_done((struct job){
				.n = n, .i = i, .now = now, .fn = take_away, .err = err });
	}
	return r;
}

static int meet(struct vin_mounts_new *n, struct fvm_error *err)
{
	scoped_mounts now = { 0 };
	struct vin_mount_table *t = &n->table;
	scoped_free size_t *was = calloc(t->count + 1, sizeof(*was));
	int r = was ? vin_mount_table_read(whose(n), &now, err) : -ENOMEM;
	for (size_t i = 0; r == 0 && i < t->count; i++) {
		const struct vin_mount *m = &t->list[i];
		was[i] = m->inside ? VIN_MOUNT_NONE : find_now(&now, t, was, i);
	}
	if (r == 0)
		r = take_others_away(n, &now, was, err);
	for (size_t i = 0; r == 0 && i < t->count; i++) {
		if (was[i] != VIN_MOUNT_NONE)
			hold(n, &t->list[i], &now.list[was[i]]);
	}
	return r == -ENOMEM && !(err && err->code) ? fvm_error_set(err, ENOMEM, "list mounts") : r;
}

/* ---- a new file system ---- */

struct opening {
	const char *type;
	int fd;
};

static int open_type(void *arg)
{
	struct opening *o = arg;
	o->fd = fvm_nerr(fsopen(o->type, FSOPEN_CLOEXEC));
	return o->fd;
}

/* proc shows the pid namespace of who opens it. */
static int open_driver(const struct vin_mounts_new *n, const char *type)
{
	struct opening o = { .type = type, .fd = -ESRCH };
	enum unix_view view;
	if (strcmp(type, "proc") != 0)
		return open_type(&o);
	int r = unix_among(n->first, open_type, &o, &view);
	if (r == 0 && view != UNIX_NOTHING)
		return o.fd;
	if (r == 0)
		fvm_fd_closep(&o.fd);
	return r < 0 ? r : -EPERM;
}

static bool is_kept(const char *type, const char *name)
{
	static const struct {
		const char *type, *names;
	} kept[] = {
		{ "tmpfs", " size nr_blocks nr_inodes huge inode64 inode32 mpol noswap " },
		{ "devpts", " mode gid ptmxmode max " },
		{ "proc", " hidepid subset gid " },
	};
	static const char *const left[] = { "rw", "ro", "uuid", "seclabel" };
	char word[40];
	snprintf(word, sizeof(word), " %.30s ", name);
	if (strcmp(type, "overlay") == 0) {
		for (size_t i = 0; i < FVM_COUNT(left); i++) {
			if (strcmp(left[i], name) == 0)
				return false;
		}
		return true;
	}
	for (size_t i = 0; i < FVM_COUNT(kept); i++) {
		if (strcmp(kept[i].type, type) == 0)
			return strstr(kept[i].names, word);
	}
	return false;
}

/* Many layers are too long for one value, and are given one by one where the kernel can (6.7). */
static int set_layers(int fs, const char *layers)
{
	scoped_free char *all = strdup(layers);
	char *at = all;
	int r = all ? 0 : -ENOMEM;
	for (char *one; r == 0 && (one = strsep(&at, ":"));)
		r = fvm_nerr(fsconfig(fs, FSCONFIG_SET_STRING, "lowerdir+", one, 0));
	return r;
}

static int set_option(int fs, const char *name, const char *value)
{
	if (strlen(value) > VALUE_MAX)
		return strcmp(name, "lowerdir") == 0 ? set_layers(fs, value) : -ENAMETOOLONG;
	if (*value)
		return fvm_nerr(fsconfig(fs, FSCONFIG_SET_STRING, name, value, 0));
	return fvm_nerr(fsconfig(fs, FSCONFIG_SET_FLAG, name, NULL, 0));
}

static bool is_read_only(const struct vin_mount *m)
{
	return strncmp(m->options, "ro", 2) == 0 && (!m->options[2] || m->options[2] == ',');
}

static int set_options(int fs, const struct vin_mount *m, bool later)
{
	scoped_free char *options = strdup(m->options);
	char *at = options, *value;
	int r = options ? 0 : -ENOMEM;
	if (r == 0 && *m->source && strlen(m->source) <= VALUE_MAX)
		r = set_option(fs, "source", m->source);
	for (char *word; r == 0 && (word = vin_mount_option(&at, &value));) {
		if (is_kept(m->type, word))
			r = set_option(fs, word, value);
	}
	return r == 0 && is_read_only(m) && !later ? set_option(fs, "ro", "") : r;
}

/* What is to be filled is read-only when that is done. */
static int make_new(const struct vin_mounts_new *n, size_t i)
{
	const struct vin_mount *m = &n->table.list[i];
	const bool later = vin_mount_has_content(&n->table, i);
	scoped_fd fs = open_driver(n, m->type);
	int r = fs < 0 ? fs : set_options(fs, m, later);
	if (r == 0)
		r = fvm_nerr(fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0));
	return r < 0 ? r
		     : fvm_nerr(fsmount(fs, FSMOUNT_CLOEXEC,
					(unsigned int)m->attributes &
						~(later ? MOUNT_ATTR_RDONLY : 0U)));
}

/* ---- one that shows what is there ---- */

/* Return: descriptor of the tree, or negative errno; @ret_all: with all that is mounted below */
static int bind_one(const struct vin_mount *from, const char *root, bool *ret_all)
{
	const char *below = vin_mount_below(root, from->root);
	scoped_fd place = from->fd < 0 || !below ? -ENOENT
			  : *below		 ? fvm_open_same_mount(from->fd, below, O_PATH)
						 : fvm_nerr(fcntl(from->fd, F_DUPFD_CLOEXEC, 0));
	if (place < 0)
		return place;
	int fd =
		fvm_nerr(open_tree(place, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH));
	*ret_all = fd == -EINVAL;
	if (*ret_all)
		fd = fvm_nerr(open_tree(place, "",
					OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH |
						AT_RECURSIVE));
	return fd;
}

static int bind_any(const struct vin_mounts_new *n, size_t i, bool *ret_all)
{
	const struct vin_mount_table *t = &n->table;
	int fd = -ENOENT;
	for (size_t j = vin_mount_source(t, i, 0); fd < 0 && j != VIN_MOUNT_NONE;
	     j = vin_mount_source(t, i, j + 1))
		fd = bind_one(&t->list[j], t->list[i].root, ret_all);
	return fd;
}

/* ---- where it is mounted ---- */

static int make_place(int above, const char *path, bool directory)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	scoped_free char *up = slash ? strndup(path, (size_t)(slash - path)) : strdup(".");
	if (!up)
		return -ENOMEM;
	scoped_fd dir = slash ? fvm_mkdir_nofollow(above, up, 0755)
			      : fvm_open_nofollow(above, ".", O_PATH | O_DIRECTORY);
	if (dir < 0)
		return dir;
	if (directory)
		return mkdirat(dir, name, 0755) < 0 && errno != EEXIST ? -errno : 0;
	scoped_fd file = openat(dir, name, O_RDONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0644);
	return file < 0 ? -errno : 0;
}

static int open_place(const struct vin_mount *above, const struct vin_mount *m, bool directory)
{
	const char *below = vin_mount_below(m->point, above->point);
	if (!below || above->fd < 0)
		return -ENOENT;
	if (!*below)
		return fvm_nerr(fcntl(above->fd, F_DUPFD_CLOEXEC, 0));
	int fd = fvm_open_same_mount(above->fd, below, O_PATH);
	if (fd != -ENOENT)
		return fd;
	int r = make_place(above->fd, below, directory);
	return r < 0 ? r : fvm_open_same_mount(above->fd, below, O_PATH);
}

/* ---- what came along ---- */

static size_t find_child(const struct vin_mount_table *t, size_t above, const struct vin_mount *now)
{
	for (size_t i = above + 1; i < t->count; i++) {
		const struct vin_mount *m = &t->list[i];
		if (m->parent == above && m->inside && !m->there &&
		    strcmp(m->point, now->point) == 0 && strcmp(m->type, now->type) == 0)
			return i;
	}
	return VIN_MOUNT_NONE;
}

/* Nobody but who is there can tell what is mounted now: @now is of him. */
static void take_children(struct vin_mounts_new *n, size_t above, const struct vin_mount_table *now)
{
	const struct vin_mount *up = &n->table.list[above];
	for (size_t j = 0; j < now->count; j++) {
		const struct vin_mount *c = &now->list[j];
		if (c->parent == VIN_MOUNT_NONE || now->list[c->parent].id != up->id)
			continue;
		const size_t i = find_child(&n->table, above, c);
		const char *below = vin_mount_below(c->point, up->point);
		scoped_fd fd = below && *below ? fvm_open_nofollow(up->fd, below, O_PATH) : -1;
		if (fd < 0 || id_of(fd) != c->id)
			continue;
		if (i == VIN_MOUNT_NONE) {
			if (fchdir(fd) == 0)
				(void)umount2(".", MNT_DETACH); /* a locked one stays */
			continue;
		}
		n->table.list[i].fd = fvm_fd_take(&fd);
		n->table.list[i].id = c->id;
		n->table.list[i].there = true;
		take_children(n, i, now);
	}
}

/* ---- one after the other ---- */

static int make(struct job *j)
{
	struct vin_mounts_new *n = j->n;
	struct vin_mount *m = &n->table.list[j->i];
	const struct vin_mount *above = &n->table.list[m->parent];
	struct stat st;
	bool all = false;
	scoped_fd fd =
		vin_mount_is_new(&n->table, j->i) ? make_new(n, j->i) : bind_any(n, j->i, &all);
	if (fd == -EINVAL && strcmp(m->type, "overlay") == 0)
		return fvm_error_say(j->err, EOPNOTSUPP,
				     "the overlay on %s can't be made: the kernel stacks two, and "
				     "its layers may lie on the VM's own",
				     m->point);
	if (fd < 0 || fstat(fd, &st) < 0)
		return say(m, fd < 0 ? fd : -errno, j->err);
	scoped_fd place = open_place(above, m, S_ISDIR(st.st_mode));
	int r = place;
	if (r >= 0)
		r = fvm_nerr(move_mount(fd, "", place, "",
					MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH));
	if (r < 0)
		return say(m, r, j->err);
	m->fd = fvm_fd_take(&fd);
	m->id = id_of(m->fd);
	m->there = true;
	return all;
}

static int take_all(struct job *j)
{
	take_children(j->n, j->i, j->now);
	return 0;
}

/* What is mounted now is read where /proc is ours. */
static int take_along(struct vin_mounts_new *n, size_t i, struct fvm_error *err)
{
	scoped_mounts now = { 0 };
	int r = vin_mount_table_read(whose(n), &now, err);
	return r < 0 ? r
		     : have_done((struct job){
			       .n = n, .i = i, .now = &now, .fn = take_all, .err = err });
}

/* All before @end. */
static int advance(struct vin_mounts_new *n, size_t end, struct fvm_error *err)
{
	int r = 0;
	for (; r == 0 && n->next < end; n->next++) {
		const struct vin_mount *m = &n->table.list[n->next];
		if (!m->inside || m->there)
			continue;
		r = have_done((struct job){ .n = n, .i = n->next, .fn = make, .err = err });
		if (r > 0)
			r = take_along(n, n->next, err);
	}
	return r;
}

/* ---- when all are there ---- */

static int set(const struct vin_mount *m, struct mount_attr attr)
{
	return fvm_nerr(mount_setattr(m->fd, "", AT_EMPTY_PATH, &attr, sizeof(attr)));
}

static int set_flags(const struct vin_mounts_new *n, size_t i)
{
	const struct vin_mount *m = &n->table.list[i];
	if (!m->inside)
		return m->attributes & RESTRICTIONS
			       ? set(m, (struct mount_attr){ .attr_set =
								     m->attributes & RESTRICTIONS })
			       : 0;
	if (vin_mount_has_content(&n->table, i) && is_read_only(m)) {
		scoped_fd fs = fspick(m->fd, "", FSPICK_CLOEXEC | FSPICK_EMPTY_PATH);
		if (fs < 0 || fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0) < 0 ||
		    fsconfig(fs, FSCONFIG_CMD_RECONFIGURE, NULL, NULL, 0) < 0)
			return -errno;
	}
	return set(m, (struct mount_attr){ .attr_set = m->attributes,
					   .attr_clr = RESTRICTIONS | MOUNT_ATTR_NODIRATIME |
						       MOUNT_ATTR__ATIME });
}

/* One that is in group @group already, and shows at least what @m does. */
static const struct vin_mount *find_peer(const struct vin_mount_table *t, const bool *set_already,
					 uint64_t group, const struct vin_mount *m)
{
	for (size_t i = 0; group && i < t->count; i++) {
		const struct vin_mount *p = &t->list[i];
		if (set_already[i] && p->shared == group && p->device == m->device &&
		    vin_mount_below(m->root, p->root))
			return p;
	}
	return NULL;
}

static bool has_group(const struct vin_mount_table *t, uint64_t group)
{
	for (size_t i = 0; i < t->count; i++) {
		if (t->list[i].fd >= 0 && t->list[i].shared == group)
			return true;
	}
	return false;
}

static int join(const struct vin_mount *from, const struct vin_mount *m)
{
	return fvm_nerr(move_mount(from->fd, "", m->fd, "",
				   MOVE_MOUNT_SET_GROUP | MOVE_MOUNT_F_EMPTY_PATH |
					   MOVE_MOUNT_T_EMPTY_PATH));
}

/* Return: 0, 1 (its master is not there yet), or negative errno */
static int set_group(const struct vin_mount_table *t, const bool *already, size_t i)
{
	const struct vin_mount *m = &t->list[i];
	const struct vin_mount *peer = find_peer(t, already, m->shared, m);
	const struct vin_mount *master = find_peer(t, already, m->master, m);
	int r = 0;
	if (peer)
		return join(peer, m);
	if (m->master && !master && has_group(t, m->master))
		return 1;
	if (master)
		r = join(master, m);
	if (r == 0 && master)
		r = set(m, (struct mount_attr){ .propagation = MS_SLAVE });
	if (r == 0 && m->shared)
		r = set(m, (struct mount_attr){ .propagation = MS_SHARED });
	if (r == 0 && m->unbindable)
		r = set(m, (struct mount_attr){ .propagation = MS_UNBINDABLE });
	return r;
}

static int set_groups(const struct vin_mounts_new *n, struct fvm_error *err)
{
	const struct vin_mount_table *t = &n->table;
	scoped_free bool *already = calloc(t->count + 1, sizeof(*already));
	bool more = true;
	if (!already)
		return fvm_error_set(err, ENOMEM, "list mounts");
	while (more) {
		more = false;
		for (size_t i = 0; i < t->count; i++) {
			if (already[i] || t->list[i].fd < 0)
				continue;
			int r = set_group(t, already, i);
			if (r < 0)
				return say(&t->list[i], r, err);
			already[i] = r == 0;
			more |= r == 0;
		}
	}
	return 0;
}

static int settle(struct job *j)
{
	const struct vin_mounts_new *n = j->n;
	int r = 0;
	for (size_t i = 0; r == 0 && i < n->table.count; i++) {
		if (n->table.list[i].fd >= 0)
			r = set_flags(n, i);
		if (r < 0)
			return say(&n->table.list[i], r, j->err);
	}
	return set_groups(n, j->err);
}

/* ---- records ---- */

static int take_list(struct vin_mounts_new *n, struct vin_payload *p, struct fvm_error *err)
{
	if (n->begun)
		return -EBADMSG;
	int r = vin_mount_table_get(p, &n->table);
	n->begun = r == 0;
	return r < 0 ? r : meet(n, err);
}

static int take_content(struct vin_mounts_new *n, struct vin_payload *p, struct fvm_error *err)
{
	const uint64_t i = vin_get_u64(p);
	if (p->failed || i >= n->table.count || i + 1 < n->next ||
	    !vin_mount_has_content(&n->table, (size_t)i))
		return -EBADMSG;
	int r = advance(n, (size_t)i + 1, err);
	return r < 0 ? r : vin_mount_tree_take(n->table.list[i].fd, p, err);
}

static int take_done(struct vin_mounts_new *n, struct vin_payload *p, struct fvm_error *err)
{
	int r = n->begun ? vin_get_done(p) : -EBADMSG;
	if (r == 0)
		r = advance(n, n->table.count, err);
	if (r == 0)
		r = have_done((struct job){ .n = n, .fn = settle, .err = err });
	n->done = true;
	return r;
}

int vin_mounts_take(struct vin_mounts_new *n, pid_t first, int root, struct vin_payload *p,
		    struct fvm_error *err)
{
	struct fvm_error mine = { 0 };
	const uint64_t sort = vin_get_u64(p);
	n->first = first;
	n->root = root;
	int r = p->failed || n->done	    ? -EBADMSG
		: sort == VIN_MOUNT_LIST    ? take_list(n, p, &mine)
		: sort == VIN_MOUNT_CONTENT ? take_content(n, p, &mine)
		: sort == VIN_MOUNT_DONE    ? take_done(n, p, &mine)
					    : -EBADMSG;
	if (r == -EBADMSG)
		return fvm_error_say(err, EBADMSG, "the image is damaged: no mounts");
	if (r < 0 && err)
		*err = mine;
	return r;
}

void vin_mounts_forget(struct vin_mounts_new *n)
{
	vin_mount_table_free(&n->table);
}
