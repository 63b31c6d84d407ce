#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "fvm/plan.h"

/* Places that are made anew in every VM. */
static const char *const fresh_places[] = { "/proc", "/sys", "/dev", "/run" };

static const struct type_rule {
	const char *type; /* ends with '*': a prefix */
	enum fvm_mount_class class;
	bool network;
	const char *why;
} type_rules[] = {
	{ "nsfs", FVM_MOUNT_LEFT_OUT, false, "holds a namespace of the host" },
	{ "autofs", FVM_MOUNT_LEFT_OUT, false, "looking at it would mount something" },
	{ "proc", FVM_MOUNT_LEFT_OUT, false, "shows the host's processes" },
	{ "sysfs", FVM_MOUNT_LEFT_OUT, false, "shows the host's devices" },
	{ "devtmpfs", FVM_MOUNT_LEFT_OUT, false, "holds the host's devices" },
	{ "devpts", FVM_MOUNT_LEFT_OUT, false, "holds the host's terminals" },
	{ "cgroup", FVM_MOUNT_LEFT_OUT, false, "shows the host's cgroups" },
	{ "cgroup2", FVM_MOUNT_LEFT_OUT, false, "shows the host's cgroups" },
	{ "mqueue", FVM_MOUNT_LEFT_OUT, false, "holds the host's message queues" },
	{ "debugfs", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "tracefs", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "securityfs", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "bpf", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "binfmt_misc", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "rpc_pipefs", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "nfsd", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "fusectl", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "configfs", FVM_MOUNT_LEFT_OUT, false, "belongs to the kernel" },
	{ "overlay", FVM_MOUNT_LEFT_OUT, false, "belongs to a container" },
	{ "fuse.portal", FVM_MOUNT_LEFT_OUT, false, "belongs to a user's session" },
	{ "fuse.gvfsd-fuse", FVM_MOUNT_LEFT_OUT, false, "belongs to a user's session" },
	{ "fuse.snapfuse", FVM_MOUNT_READ_ONLY, false, NULL },
	{ "fuseblk", FVM_MOUNT_OVERLAY, false, NULL },
	{ "fuse.*", FVM_MOUNT_LEFT_OUT, true, "a user's FUSE file system may hang" },
	{ "fuse", FVM_MOUNT_LEFT_OUT, true, "a user's FUSE file system may hang" },
	{ "nfs", FVM_MOUNT_OVERLAY, true, NULL },
	{ "nfs4", FVM_MOUNT_OVERLAY, true, NULL },
	{ "cifs", FVM_MOUNT_OVERLAY, true, NULL },
	{ "smb3", FVM_MOUNT_OVERLAY, true, NULL },
	{ "ceph", FVM_MOUNT_OVERLAY, true, NULL },
	{ "9p", FVM_MOUNT_OVERLAY, true, NULL },
};

void fvm_plan_free(struct fvm_plan *plan)
{
	for (size_t i = 0; i < plan->count; i++) {
		free(plan->mounts[i].path);
		free(plan->mounts[i].fstype);
	}
	free(plan->mounts);
	*plan = (struct fvm_plan){ 0 };
}

bool fvm_path_below(const char *path, const char *top)
{
	size_t n = strlen(top);
	if (n == 1 && top[0] == '/')
		return path[0] == '/';
	return strncmp(path, top, n) == 0 && (path[n] == '/' || path[n] == '\0');
}

static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);
	for (const char *p = list; (p = strstr(p, word)); p += n) {
		if ((p == list || p[-1] == ',') && (p[n] == ',' || p[n] == '\0'))
			return true;
	}
	return false;
}

static unsigned long parse_flags(const char *options)
{
	unsigned long flags = 0;
	flags |= has_word(options, "ro") ? MS_RDONLY : 0;
	flags |= has_word(options, "nosuid") ? MS_NOSUID : 0;
	flags |= has_word(options, "nodev") ? MS_NODEV : 0;
	flags |= has_word(options, "noexec") ? MS_NOEXEC : 0;
	return flags;
}

/* A FUSE file system that is the system's own: root's, and for whoever we are. */
static bool is_systems(const char *super)
{
	return has_word(super, "user_id=0") && (geteuid() == 0 || has_word(super, "allow_other"));
}

/* "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue" */
static int parse_line(char *line, struct fvm_mount *m)
{
	char *save = NULL, *words[6] = { 0 };
	char *tail = strstr(line, " - ");
	if (!tail)
		return -EBADMSG;
	*tail = '\0';
	char *word = strtok_r(line, " ", &save);
	for (size_t i = 0; i < 6; i++, word = strtok_r(NULL, " ", &save)) {
		if (!word)
			return -EBADMSG;
		words[i] = word;
	}
	char *type = strtok_r(tail + 3, " ", &save);
	char *source = strtok_r(NULL, " ", &save);
	char *super = strtok_r(NULL, " ", &save);
	if (!type || !source || words[4][0] != '/')
		return -EBADMSG;
	fvm_unoctal(words[4]);
	*m = (struct fvm_mount){
		.id = atoi(words[0]),
		.parent = atoi(words[1]),
		.path = strdup(words[4]),
		.fstype = strdup(type),
		.flags = parse_flags(words[5]),
		.super_read_only = super && has_word(super, "ro"),
		.ours = strcmp(source, "fvm") == 0,
		.systems = super && is_systems(super),
	};
	if (m->path && m->fstype)
		return 0;
	free(m->path);
	free(m->fstype);
	return -ENOMEM;
}

static const struct type_rule *find_rule(const char *type)
{
	for (size_t i = 0; i < FVM_COUNT(type_rules); i++) {
		const char *want = type_rules[i].type;
		size_t n = strlen(want);
		if (want[n - 1] == '*' ? strncmp(type, want, n - 1) == 0 : strcmp(type, want) == 0)
			return &type_rules[i];
	}
	return NULL;
}

static void classify(struct fvm_mount *m)
{
	for (size_t i = 0; i < FVM_COUNT(fresh_places); i++) {
		if (!fvm_path_below(m->path, fresh_places[i]))
			continue;
		m->class = FVM_MOUNT_FRESH;
		/* somebody's disk below /run is missed by a user, the rest is not */
		if (strcmp(m->path, "/run") != 0 && fvm_path_below(m->path, "/run/media")) {
			m->class = FVM_MOUNT_LEFT_OUT;
			m->why = "/run is made anew";
		}
		return;
	}
	bool read_only = (m->flags & MS_RDONLY) || m->super_read_only;
	m->class = read_only ? FVM_MOUNT_READ_ONLY : FVM_MOUNT_OVERLAY;
	if (strcmp(m->path, "/") == 0) {
		m->class = FVM_MOUNT_OVERLAY;
		return;
	}
	/* a VM's own, seen from inside it: the system is made of them there */
	const struct type_rule *rule = m->ours ? NULL : find_rule(m->fstype);
	if (!rule)
		return;
	m->network = rule->network;
	m->why = rule->why;
	if (rule->class != FVM_MOUNT_OVERLAY)
		m->class = rule->class;
	if (m->systems && strncmp(m->fstype, "fuse", 4) == 0) {
		m->class = read_only ? FVM_MOUNT_READ_ONLY : FVM_MOUNT_OVERLAY;
		m->why = NULL;
	}
}

static void cover(struct fvm_plan *p, size_t at)
{
	struct fvm_mount *m = &p->mounts[at];
	for (size_t i = 0; i < p->count; i++) {
		const struct fvm_mount *o = &p->mounts[i];
		if (o->id == m->id)
			continue;
		if (o->id == m->parent && o->covered && strcmp(o->path, m->path) != 0)
			m->covered = true; /* it hangs below something that can't be seen */
		if (o->parent == m->id && strcmp(o->path, m->path) == 0)
			m->covered = true; /* another one on top */
		if (o->parent == m->parent && strcmp(o->path, m->path) != 0 &&
		    fvm_path_below(m->path, o->path))
			m->covered = true; /* a later mount over a directory above it */
	}
}

static int compare_mounts(const void *a, const void *b)
{
	return strcmp(((const struct fvm_mount *)a)->path, ((const struct fvm_mount *)b)->path);
}

static void drop_covered(struct fvm_plan *p)
{
	for (size_t i = 0; i < p->count; i++)
		cover(p, i);
	size_t kept = 0;
	for (size_t i = 0; i < p->count; i++) {
		if (p->mounts[i].covered) {
			free(p->mounts[i].path);
			free(p->mounts[i].fstype);
		} else {
			p->mounts[kept++] = p->mounts[i];
		}
	}
	p->count = kept;
}

static int add_line(struct fvm_plan *p, char *line, struct fvm_error *err)
{
	struct fvm_mount m, *more = realloc(p->mounts, fvm_room(p->count + 2) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "read the mounts");
	p->mounts = more;
	int r = parse_line(line, &m);
	if (r < 0)
		return fvm_error_set(err, -r, "read mount %zu of /proc/self/mountinfo",
				     p->count + 1);
	classify(&m);
	p->mounts[p->count++] = m;
	return 0;
}

/* In a chroot the root may be no mount point; it is still what a VM starts from. */
static int add_root(struct fvm_plan *p)
{
	if (p->count && strcmp(p->mounts[0].path, "/") == 0)
		return 0;
	struct fvm_mount root = { .id = -1,
				  .parent = -1,
				  .path = strdup("/"),
				  .fstype = strdup("unknown"),
				  .class = FVM_MOUNT_OVERLAY };
	struct fvm_mount *more = realloc(p->mounts, fvm_room(p->count + 1) * sizeof(*more));
	p->mounts = more ? more : p->mounts;
	if (!more || !root.path || !root.fstype) {
		free(root.path);
		free(root.fstype);
		return -ENOMEM;
	}
	memmove(more + 1, more, p->count * sizeof(*more));
	more[0] = root;
	p->count++;
	return 0;
}

int fvm_plan_parse(const char *mountinfo, struct fvm_plan *ret, struct fvm_error *err)
{
	scoped_plan p = { 0 };
	scoped_free char *text = strdup(mountinfo);
	char *save = NULL;
	if (!text)
		return fvm_error_set(err, ENOMEM, "read the mounts");
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		int r = add_line(&p, line, err);
		if (r < 0)
			return r;
	}
	drop_covered(&p);
	if (p.count)
		qsort(p.mounts, p.count, sizeof(*p.mounts), compare_mounts);
	if (add_root(&p) < 0)
		return fvm_error_set(err, ENOMEM, "read the mounts");
	*ret = p;
	p = (struct fvm_plan){ 0 };
	return 0;
}

void fvm_plan_want_home(struct fvm_plan *p, const char *home)
{
	struct fvm_mount *best = NULL;
	for (size_t i = 0; i < p->count; i++) {
		if (fvm_path_below(home, p->mounts[i].path))
			best = &p->mounts[i];
	}
	if (!best || best->class != FVM_MOUNT_LEFT_OUT || strncmp(best->fstype, "fuse", 4) != 0)
		return;
	bool read_only = (best->flags & MS_RDONLY) || best->super_read_only;
	best->class = read_only ? FVM_MOUNT_READ_ONLY : FVM_MOUNT_OVERLAY;
	best->why = NULL;
}

int fvm_plan_make(struct fvm_plan *ret, struct fvm_error *err)
{
	scoped_free char *text = NULL;
	const char *home = getenv("HOME");
	int r = fvm_read_file(AT_FDCWD, "/proc/self/mountinfo", 64 << 20, &text, NULL);
	if (r < 0)
		return fvm_error_set(err, -r, "read /proc/self/mountinfo");
	r = fvm_plan_parse(text, ret, err);
	if (r == 0 && home && home[0] == '/')
		fvm_plan_want_home(ret, home);
	return r;
}

bool fvm_plan_changed(const struct fvm_plan *plan)
{
	scoped_plan now = { 0 };
	if (fvm_plan_make(&now, NULL) < 0 || now.count != plan->count)
		return true;
	for (size_t i = 0; i < now.count; i++) {
		if (now.mounts[i].id != plan->mounts[i].id ||
		    strcmp(now.mounts[i].path, plan->mounts[i].path) != 0)
			return true;
	}
	return false;
}
