/* What the programs of a VM hold: processes, threads, descriptors, mapped files, IPC objects. */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/kcmp.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "fvm/handles.h"
#include "fvm/state.h"
#include "vin/fdinfo.h"
#include "vin/maps.h"
#include "vin/spaces.h"
#include "vin/status.h"

#define NS_PER_S    1000000000LL
#define SAME_MAX    16 /* descriptions of one name that are told apart by who had them first */
#define BUCKETS	    4096
#define SYSVIPC_MAX (16U << 20)

/* A description that somebody had before. */
struct seen {
	char *link;
	const struct fvm_proc *by;
	int number;
	size_t next; /* in the same bucket, plus one; 0: none */
};

struct walk {
	const struct fvm_vm *vm;
	struct fvm_procs procs;
	pid_t init;
	unsigned int types;
	int (*fn)(const struct fvm_handle *h, void *arg);
	void *arg;
	struct fvm_reals *reals;
	int64_t boot_ns;
	struct seen *seen;
	size_t seen_count;
	size_t buckets[BUCKETS]; /* heads of chains, as seen.next */
};

static void walk_free(struct walk *w)
{
	for (size_t i = 0; i < w->seen_count; i++)
		free(w->seen[i].link);
	free(w->seen);
	fvm_procs_free(&w->procs);
	fvm_reals_free(w->reals);
}
#define scoped_walk __attribute__((cleanup(walk_free))) struct walk

const char *fvm_handle_type_name(enum fvm_handle_type type)
{
	static const char *const names[] = { "process", "thread", "descriptor", "map", "ipc" };
	return names[type];
}

static bool wants(const struct walk *w, enum fvm_handle_type type)
{
	return w->types >> type & 1;
}

/* ---- processes ---- */

/* Numbers of nested namespaces are not those that the VM's other programs know. */
static void number_processes(struct fvm_procs *all, pid_t init)
{
	struct fvm_error ignored = { 0 };
	scoped_status first = { 0 };
	if (vin_status_read(init, init, &first, &ignored) < 0)
		return;
	for (size_t i = 0; i < all->count; i++) {
		struct fvm_proc *p = &all->items[i];
		scoped_status s = { 0 };
		if (vin_status_read(p->pid, p->pid, &s, &ignored) == 0 && s.depth >= first.depth)
			p->vm_pid = s.pids[first.depth - 1];
	}
}

int fvm_vm_processes(const struct fvm_vm *vm, struct fvm_procs *ret, pid_t *ret_init,
		     struct fvm_error *err)
{
	scoped_running running = { 0 };
	struct fvm_cgroups g;
	int r = fvm_running_load(vm, &running, err);
	if (r < 0)
		return r;
	r = fvm_cgroup_named(running.cgroup, &g);
	if (r == 0)
		r = fvm_procs_list(&g, running.init_pid, ret);
	if (r < 0)
		return fvm_error_set(err, -r, "list the processes of VM '%s'", vm->config.name);
	number_processes(ret, running.init_pid);
	*ret_init = running.init_pid;
	return 0;
}

const struct fvm_proc *fvm_vm_process(const struct fvm_vm *vm, const struct fvm_procs *all,
				      pid_t pid, struct fvm_error *err)
{
	for (size_t i = 0; i < all->count; i++) {
		if (all->items[i].vm_pid == pid)
			return &all->items[i];
	}
	fvm_error_hint(err, "fvm ps %s shows those there are", vm->config.name);
	fvm_error_say(err, ESRCH, "there is no process %d in VM '%s'", pid, vm->config.name);
	return NULL;
}

static const struct fvm_proc *find_host(const struct walk *w, pid_t pid)
{
	for (size_t i = 0; i < w->procs.count; i++) {
		if (w->procs.items[i].pid == pid)
			return &w->procs.items[i];
	}
	return NULL;
}

static int64_t boot_ns(void)
{
	struct timespec wall, up;
	clock_gettime(CLOCK_REALTIME, &wall);
	clock_gettime(CLOCK_BOOTTIME, &up);
	return (wall.tv_sec - up.tv_sec) * NS_PER_S + wall.tv_nsec - up.tv_nsec;
}

static int64_t began(const struct walk *w, uint64_t ticks)
{
	return w->boot_ns + (int64_t)ticks * (NS_PER_S / sysconf(_SC_CLK_TCK));
}

static int tell_process(struct walk *w, const struct fvm_proc *p)
{
	char number[16], real[32];
	const struct fvm_proc *parent = p->pid == w->init ? NULL : find_host(w, p->parent);
	snprintf(number, sizeof(number), "%d", p->vm_pid);
	snprintf(real, sizeof(real), "process %d", p->pid);
	const struct fvm_handle h = {
		.type = FVM_HANDLE_PROCESS,
		.vm_pid = p->vm_pid,
		.pid = p->pid,
		.number = number,
		.kind = p->state == 'Z' ? "zombie" : "process",
		.name = p->name,
		.real = real,
		.origin_vm_pid = parent ? parent->vm_pid : 0,
		.origin_pid = parent ? parent->pid : 0,
		.since_ns = began(w, p->start),
		.exact = true,
	};
	return w->fn(&h, w->arg);
}

static int tell_thread(struct walk *w, const struct fvm_proc *p, pid_t tid)
{
	char number[16], real[32];
	struct fvm_error ignored = { 0 };
	struct vin_stat stat;
	if (tid == p->pid || vin_stat_read(p->pid, tid, &stat, &ignored) < 0)
		return 0;
	snprintf(number, sizeof(number), "%d", vin_inner_number(tid));
	snprintf(real, sizeof(real), "thread %d", tid);
	const struct fvm_handle h = {
		.type = FVM_HANDLE_THREAD,
		.vm_pid = p->vm_pid,
		.pid = p->pid,
		.number = number,
		.kind = "thread",
		.name = stat.comm,
		.real = real,
		.origin_vm_pid = p->vm_pid,
		.origin_pid = p->pid,
		.since_ns = began(w, stat.start_ticks),
		.exact = true,
	};
	return w->fn(&h, w->arg);
}

static int tell_threads(struct walk *w, const struct fvm_proc *p)
{
	char path[40];
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/task", p->pid);
	scoped_dir d = opendir(path);
	for (struct dirent *e; r == 0 && d && (e = fvm_dir_next(d));)
		r = tell_thread(w, p, (pid_t)strtol(e->d_name, NULL, 10));
	return r;
}

/* ---- descriptors ---- */

static bool is_same(const struct seen *s, const struct fvm_proc *p, int number)
{
	return syscall(SYS_kcmp, s->by->pid, p->pid, KCMP_FILE, s->number, number) == 0;
}

static size_t bucket_of(const char *link)
{
	size_t hash = 5381;
	for (const char *p = link; *p; p++)
		hash = hash * 33 + (unsigned char)*p;
	return hash % BUCKETS;
}

/* Who had this description first; NULL: nobody before. Processes come in the order in which they
 * began. A hostile program may have very many of one name. */
static const struct fvm_proc *first_holder(const struct walk *w, const struct fvm_proc *p,
					   int number, const char *link)
{
	size_t tried = 0;
	for (size_t i = w->buckets[bucket_of(link)]; i && tried < SAME_MAX;
	     i = w->seen[i - 1].next) {
		const struct seen *s = &w->seen[i - 1];
		if (strcmp(s->link, link) != 0)
			continue;
		tried++;
		if (is_same(s, p, number))
			return s->by;
	}
	return NULL;
}

static int remember(struct walk *w, const struct fvm_proc *p, int number, const char *link)
{
	struct seen *more = realloc(w->seen, fvm_room(w->seen_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	w->seen = more;
	char *copy = strdup(link);
	if (!copy)
		return -ENOMEM;
	size_t *head = &w->buckets[bucket_of(link)];
	w->seen[w->seen_count++] = (struct seen){ copy, p, number, *head };
	*head = w->seen_count;
	return 0;
}

static const struct kind_name {
	const char *link, *kind;
} kind_names[] = {
	{ "pipe:[", "pipe" },
	{ "anon_inode:[eventpoll]", "epoll" },
	{ "anon_inode:[eventfd", "eventfd" },
	{ "anon_inode:[timerfd]", "timerfd" },
	{ "anon_inode:[signalfd]", "signalfd" },
	{ "anon_inode:[pidfd]", "pidfd" },
	{ "anon_inode:inotify", "inotify" },
	{ "anon_inode:[fanotify]", "fanotify" },
	{ "anon_inode:[io_uring]", "io_uring" },
	{ "anon_inode:[userfaultfd]", "userfaultfd" },
	{ "anon_inode:", "other" },
	{ "pidfd:", "pidfd" },
	{ "/memfd:", "memfd" },
	{ "/dev/shm/", "file" },
	{ "/dev/pts/", "terminal" },
	{ "/dev/console", "terminal" },
	{ "/dev/tty", "terminal" },
	{ "/dev/", "device" },
	{ "/proc/", "procfs" },
	{ "/", "file" },
};

static const char *kind_of(const char *link)
{
	for (size_t i = 0; i < FVM_COUNT(kind_names); i++) {
		const struct kind_name *k = &kind_names[i];
		if (strncmp(link, k->link, strlen(k->link)) == 0)
			return k->kind;
	}
	return "other"; /* "net:[4026531840]" */
}

/* The process that a pidfd leads to. */
static void real_pidfd(const struct walk *w, const struct vin_fdinfo *info, struct fvm_buf *real,
		       struct fvm_buf *name)
{
	const struct fvm_proc *p = info->pid > 0 ? find_host(w, info->pid) : NULL;
	if (info->pid > 0)
		fvm_buf_printf(real, "process %d", info->pid);
	if (p)
		fvm_buf_printf(name, " of process %d", p->vm_pid);
	else if (info->is_pidfd && info->pid < 0)
		fvm_buf_puts(name, " of one that has ended");
}

struct shown {
	const char *kind;
	struct fvm_buf name, real;
};

static void shown_free(struct shown *s)
{
	fvm_buf_free(&s->name);
	fvm_buf_free(&s->real);
}

static void look_descriptor(const struct walk *w, const char *link, const struct vin_fdinfo *info,
			    struct shown *s)
{
	static const char *const ways[] = { "", " (write)", " (read, write)", "" };
	uint64_t inode;
	s->kind = kind_of(link);
	if (sscanf(link, "socket:[%" SCNu64 "]", &inode) == 1) {
		s->kind = fvm_reals_socket(w->reals, inode, &s->name);
		fvm_buf_puts(&s->real, link);
		return;
	}
	fvm_buf_puts(&s->name, link);
	if (strcmp(s->kind, "pidfd") == 0)
		real_pidfd(w, info, &s->real, &s->name);
	else if (link[0] == '/' && strcmp(s->kind, "memfd") != 0)
		fvm_reals_file(w->reals, info->mnt_id, link, &s->real);
	else
		fvm_buf_puts(&s->real, link);
	if (link[0] == '/' || strcmp(s->kind, "pipe") == 0)
		fvm_buf_puts(&s->name, ways[info->flags & O_ACCMODE]);
}

static int tell_descriptor(struct walk *w, const struct fvm_proc *p, int dir, const char *number)
{
	char link[PATH_MAX + 32];
	const int fd = (int)strtol(number, NULL, 10);
	struct fvm_error ignored = { 0 };
	scoped_fdinfo info = { 0 };
	__attribute__((cleanup(shown_free))) struct shown s = { 0 };
	ssize_t n = readlinkat(dir, number, link, sizeof(link) - 1);
	if (n < 0 || vin_fdinfo_read(p->pid, fd, &info, &ignored) == -ENOENT)
		return 0; /* closed meanwhile */
	link[n] = '\0';
	look_descriptor(w, link, &info, &s);
	const struct fvm_proc *before = first_holder(w, p, fd, link), *from = before ?: p;
	const struct fvm_handle h = {
		.type = FVM_HANDLE_DESCRIPTOR,
		.vm_pid = p->vm_pid,
		.pid = p->pid,
		.number = number,
		.kind = s.kind,
		.name = s.name.data ?: "",
		.real = s.real.data ?: "",
		.origin_vm_pid = from->vm_pid,
		.origin_pid = from->pid,
		.since_ns = began(w, from->start),
	};
	if (s.name.failed || s.real.failed)
		return -ENOMEM;
	int r = before ? 0 : remember(w, p, fd, link);
	return r < 0 ? r : w->fn(&h, w->arg);
}

static int by_number(const struct dirent **a, const struct dirent **b)
{
	return atoi((*a)->d_name) - atoi((*b)->d_name);
}

static int is_number(const struct dirent *e)
{
	return isdigit((unsigned char)e->d_name[0]);
}

static int each_descriptor(struct walk *w, const struct fvm_proc *p)
{
	char path[40];
	struct dirent **list = NULL;
	int r = 0;
	snprintf(path, sizeof(path), "/proc/%d/fd", p->pid);
	scoped_fd dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int count = dir < 0 ? 0 : scandirat(dir, ".", &list, is_number, by_number);
	for (int i = 0; i < count; i++) {
		if (r == 0)
			r = tell_descriptor(w, p, dir, list[i]->d_name);
		free(list[i]);
	}
	free(list);
	return r;
}

/* ---- memory ---- */

/* Areas of one file that stand together are one map to the program. */
static bool continues(const struct vin_vma *before, const struct vin_vma *v)
{
	return before->end == v->start && before->ino == v->ino && before->dev == v->dev &&
	       before->shared == v->shared && strcmp(before->name, v->name) == 0;
}

static const char *map_kind(const struct vin_vma *v)
{
	if (strncmp(v->name, "/SYSV", 5) == 0)
		return "segment";
	if (strncmp(v->name, "/memfd:", 7) == 0)
		return "memfd";
	if (v->ino && v->name[0] == '/')
		return v->shared ? "shared file" : "file";
	return v->shared ? "shared memory" : "memory";
}

static int tell_map(struct walk *w, const struct fvm_proc *p, const struct vin_vma *v, uint64_t end)
{
	char number[48];
	scoped_buf real = { 0 };
	const char *kind = map_kind(v);
	snprintf(number, sizeof(number), "%" PRIx64 "-%" PRIx64, v->start, end);
	if (strcmp(kind, "segment") == 0)
		fvm_buf_printf(&real, "segment %" PRIu64, (uint64_t)v->ino);
	else if (strstr(kind, "file"))
		fvm_reals_file(w->reals, 0, v->name, &real);
	else if (v->ino)
		fvm_buf_printf(&real, "inode %" PRIu64, (uint64_t)v->ino);
	const struct fvm_handle h = {
		.type = FVM_HANDLE_MAP,
		.vm_pid = p->vm_pid,
		.pid = p->pid,
		.number = number,
		.kind = kind,
		.name = v->name,
		.real = real.data ?: "",
		.origin_vm_pid = p->vm_pid,
		.origin_pid = p->pid,
		.since_ns = began(w, p->start),
	};
	return real.failed ? -ENOMEM : w->fn(&h, w->arg);
}

static int tell_maps(struct walk *w, const struct fvm_proc *p)
{
	struct fvm_error ignored = { 0 };
	scoped_maps maps = { 0 };
	int r = vin_maps_read(p->pid, false, &maps, &ignored);
	if (r < 0)
		return r == -ENOMEM ? r : 0; /* it has ended */
	for (size_t i = 0; r == 0 && i < maps.count;) {
		size_t last = i;
		while (last + 1 < maps.count && continues(&maps.vmas[last], &maps.vmas[last + 1]))
			last++;
		r = tell_map(w, p, &maps.vmas[i], maps.vmas[last].end);
		i = last + 1;
	}
	return r;
}

/* ---- IPC ---- */

/* Who makes it known: each file's lines begin with key, id, mode, then come numbers of its own. */
static const struct ipc_file {
	const char *file, *kind;
	int maker; /* field of who made it; -1: the kernel does not keep that */
	int time;  /* field of when that was, or its permissions were changed */
} ipc_files[] = {
	{ "shm", "segment", 4, 13 },
	{ "sem", "semaphores", -1, 9 },
	{ "msg", "messages", -1, 13 },
};

static int tell_object(struct walk *w, const struct ipc_file *f, char *line)
{
	long long fields[20] = { 0 };
	int count = 0;
	for (char *at = line, *end; count < 20; at = end) {
		fields[count] = strtoll(at, &end, 10);
		if (end == at)
			break;
		count++;
	}
	if (count < f->time + 1)
		return 0; /* the heading */
	char number[24], name[40], real[64];
	snprintf(number, sizeof(number), "%lld", fields[1]);
	snprintf(name, sizeof(name), "key 0x%08x", (unsigned int)fields[0]);
	snprintf(real, sizeof(real), "%s %lld of the VM's IPC namespace", f->kind, fields[1]);
	pid_t maker = f->maker < 0 ? 0 : (pid_t)fields[f->maker];
	const struct fvm_proc *p = maker > 0 ? find_host(w, maker) : NULL;
	const struct fvm_handle h = {
		.type = FVM_HANDLE_IPC,
		.number = number,
		.kind = f->kind,
		.name = name,
		.real = real,
		.origin_vm_pid = p ? p->vm_pid : 0,
		.origin_pid = p ? p->pid : 0,
		.since_ns = fields[f->time] * NS_PER_S,
		.exact = true,
	};
	return w->fn(&h, w->arg);
}

/* Our /proc shows the namespace of who reads: a child that has entered the VM's. */
static int read_objects(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	(void)arg, (void)err;
	for (size_t i = 0; i < FVM_COUNT(ipc_files); i++) {
		char path[32];
		size_t len = 0;
		scoped_free char *text = NULL;
		snprintf(path, sizeof(path), "/proc/sysvipc/%s", ipc_files[i].file);
		if (fvm_read_file(AT_FDCWD, path, SYSVIPC_MAX, &text, &len) < 0)
			len = 0; /* a kernel without them */
		fvm_buf_add(to, text ?: "", len);
		fvm_buf_add(to, "", 1);
	}
	return 0;
}

static int tell_objects(struct walk *w)
{
	scoped_buf text = { 0 };
	struct fvm_error ignored = { 0 };
	int r = vin_space_visit(w->init, CLONE_NEWIPC, read_objects, NULL, &text, &ignored);
	char *at = text.data;
	if (text.failed || r == -ENOMEM || r == -EAGAIN)
		return r ?: -ENOMEM;
	if (r < 0)
		return 0; /* it has none of its own that we could enter */
	for (size_t i = 0; r == 0 && at && i < FVM_COUNT(ipc_files); i++) {
		char *next = at + strlen(at) + 1;
		for (char *line; r == 0 && (line = strsep(&at, "\n"));)
			r = tell_object(w, &ipc_files[i], line);
		at = next < text.data + text.len ? next : NULL;
	}
	return r;
}

/* ---- all of it ---- */

static int tell_all(struct walk *w, const struct fvm_proc *p)
{
	int r = wants(w, FVM_HANDLE_PROCESS) ? tell_process(w, p) : 0;
	if (p->pid == w->init) /* ours: it holds what keeps the VM, not what its programs see */
		return r;
	if (r == 0)
		r = fvm_reals_process(w->reals, p->pid);
	if (r == 0 && wants(w, FVM_HANDLE_THREAD))
		r = tell_threads(w, p);
	if (r == 0 && wants(w, FVM_HANDLE_DESCRIPTOR))
		r = each_descriptor(w, p);
	return r == 0 && wants(w, FVM_HANDLE_MAP) ? tell_maps(w, p) : r;
}

static int drop(const struct fvm_handle *h, void *arg)
{
	(void)h, (void)arg;
	return 0;
}

/* Those that began before @p may have had its descriptions before. */
static int look_at_elders(struct walk *w, const struct fvm_proc *p)
{
	int (*fn)(const struct fvm_handle *h, void *arg) = w->fn;
	int r = 0;
	w->fn = drop;
	for (size_t i = 0; r == 0 && &w->procs.items[i] != p; i++) {
		if (w->procs.items[i].pid != w->init)
			r = each_descriptor(w, &w->procs.items[i]);
	}
	w->fn = fn;
	return r;
}

static int by_start(const void *a, const void *b)
{
	const struct fvm_proc *x = a, *y = b;
	if (x->start != y->start)
		return x->start < y->start ? -1 : 1;
	return (x->vm_pid > y->vm_pid) - (x->vm_pid < y->vm_pid);
}

static int walk(struct walk *w, pid_t pid, struct fvm_error *err)
{
	const struct fvm_proc *only = NULL;
	int r = 0;
	if (w->procs.count)
		qsort(w->procs.items, w->procs.count, sizeof(*w->procs.items), by_start);
	if (pid)
		only = fvm_vm_process(w->vm, &w->procs, pid, err);
	if (pid && !only)
		return -ESRCH;
	if (only && wants(w, FVM_HANDLE_DESCRIPTOR))
		r = look_at_elders(w, only);
	for (size_t i = 0; r == 0 && i < w->procs.count; i++) {
		if (!only || only == &w->procs.items[i])
			r = tell_all(w, &w->procs.items[i]);
	}
	if (r == 0 && !only && wants(w, FVM_HANDLE_IPC))
		r = tell_objects(w);
	return r < 0 ? fvm_error_set(err, -r, "list what VM '%s' holds", w->vm->config.name) : r;
}

int fvm_handles(const struct fvm_vm *vm, pid_t pid, unsigned int types,
		int (*fn)(const struct fvm_handle *h, void *arg), void *arg, struct fvm_error *err)
{
	scoped_walk w = { .vm = vm, .types = types, .fn = fn, .arg = arg, .boot_ns = boot_ns() };
	int r = fvm_vm_processes(vm, &w.procs, &w.init, err);
	if (r < 0)
		return r;
	w.reals = fvm_reals_open(vm);
	if (!w.reals)
		return fvm_error_set(err, ENOMEM, "list what VM '%s' holds", vm->config.name);
	return walk(&w, pid, err);
}
