/*
 * Small programs, one per resource (small/small.h), in four ways:
 *
 *   resume   they are captured, and go on
 *   clone    that image becomes a second world while the first one lives: both go on from there
 *   restore  they are captured, ended, and made again in a new world
 *   hops     nine times more
 *
 * A world is a process of ours with namespaces of its own (mount, net, IPC, UTS; as an ordinary
 * user also a user namespace), which captures and replays what runs in it and takes orders by a
 * line: PID 1 of the programs is its child. What is in the world's directory is copied for the
 * clone while all stand still, as a VM's layers are. All cases of a family are in one world. If
 * something goes wrong that names nobody, each is tried once more alone.
 *
 *   test_small PROGRAM FAMILY [WORDS]    WORDS: only cases that say so
 *   test_small PROGRAM count             how many cases there are; fails below 200
 */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/futex.h>
#include <linux/sched.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "small/small_board.h"
#include "vin/capture.h"
#include "vin/replay.h"
#include "vin/status.h"

#define HOPS	   10
#define PATIENCE   60000 /* ms that one step of a world may take */
#define SPACES	   (CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS)
#define NEEDS_ROOT 1U /* SMALL_ROOT */
#define CASES_MAX  400
#define TEXT	   640

enum way { RESUME, CLONE, RESTORE, HOP, WAYS };
static const char *const way_names[WAYS] = { "resume in place", "live clone", "restore",
					     "ten hops" };

struct item {
	char *family, *says;
	unsigned int flags;
	int number; /* in its family */
	bool skipped, wrong[WAYS];
	char why[TEXT];
};

static struct item items[CASES_MAX];
static size_t item_count;
static const char *program;
static char directory[40], here[64]; /* of this run; where each world has its own */
static const char *who;
static struct vin_watch watch;
static int failures, numbered;

struct world {
	pid_t pid;
	int line, dir; /* which of the directories is its */
	struct small_board *board;
	uint32_t turn;
};

struct answer {
	int r;
	char text[TEXT - 8];
};

static void nap(int ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000L };
	clock_nanosleep(CLOCK_MONOTONIC, 0, &t, NULL);
}

/* ---- a world ---- */

static pid_t first;

static int put(const char *path, const char *text)
{
	return fvm_write_file(AT_FDCWD, path, text);
}

static int own_users(void)
{
	char line[40];
	const uid_t uid = geteuid();
	const gid_t gid = getegid();
	if (unshare(CLONE_NEWUSER) < 0)
		return -errno;
	snprintf(line, sizeof(line), "%u %u 1", uid, uid);
	int r = put("/proc/self/setgroups", "deny");
	if (r == 0)
		r = put("/proc/self/uid_map", line);
	snprintf(line, sizeof(line), "%u %u 1", gid, gid);
	return r < 0 ? r : put("/proc/self/gid_map", line);
}

static int loopback_up(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	scoped_fd fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &lo) < 0 ? -errno : 0;
}

static int worlds = -1; /* their directories, which are not to be seen in them */

/* The directory's place is the same in all worlds, and its only one; what is shared by name lies in
 * it, too. */
static int enter_world(int dir, struct fvm_error *e)
{
	char from[64], shm[80], all[64], none[64];
	snprintf(from, sizeof(from), "%s/worlds/%d", directory, dir);
	snprintf(shm, sizeof(shm), "%s/shm", from);
	snprintf(all, sizeof(all), "%s/worlds", directory);
	snprintf(none, sizeof(none), "%s/none", directory);
	worlds = open(all, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = geteuid() != 0 ? own_users() : 0;
	if (r < 0)
		return fvm_error_set(e, -r, "make a user namespace");
	if (unshare(SPACES) < 0)
		return fvm_error_set(e, errno, "make namespaces");
	if (mount("", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount(shm, "/dev/shm", NULL, MS_BIND, NULL) < 0 ||
	    mount(from, here, NULL, MS_BIND, NULL) < 0 || mount(none, all, NULL, MS_BIND, NULL) < 0)
		return fvm_error_set(e, errno, "mount the world's directory");
	if (mount("devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC,
		  "newinstance,ptmxmode=0666") < 0 ||
	    (access("/dev/ptmx", F_OK) == 0 &&
	     mount("/dev/pts/ptmx", "/dev/ptmx", NULL, MS_BIND, NULL) < 0))
		return fvm_error_set(e, errno, "mount the world's terminals");
	r = loopback_up();
	return r < 0 ? fvm_error_set(e, -r, "start the loopback device") : 0;
}

static _Noreturn void be_program(const struct item *item, int slot)
{
	char path[64], own[80], number[16], place[16];
	snprintf(path, sizeof(path), "%s/small", directory);
	snprintf(number, sizeof(number), "%d", item->number);
	snprintf(place, sizeof(place), "%d", slot);
	snprintf(own, sizeof(own), "%s/%d", here, slot);
	int null = open("/dev/null", O_RDWR);
	if (null < 0 || dup2(null, 0) < 0 || dup2(null, 1) < 0 || dup2(null, 2) < 0 ||
	    close_range(3, ~0U, 0) < 0 || chdir(own) < 0 || setsid() < 0)
		_exit(99);
	umask(022);
	execl(path, "small", item->family, number, place, NULL);
	_exit(98);
}

/* A process of an image, as a VM's PID 1 makes it. */
static void take_guest(int orders)
{
	pid_t number;
	int fd;
	size_t count;
	if (fvm_recv_fds(orders, &number, sizeof(number), &fd, 1, &count) != sizeof(number) ||
	    count != 1)
		_exit(1);
	struct clone_args args = { .exit_signal = SIGCHLD,
				   .set_tid = (uint64_t)(uintptr_t)&number,
				   .set_tid_size = 1 };
	if (syscall(SYS_clone3, &args, sizeof(args)) == 0)
		vin_become(fd, true);
	close(fd);
}

/* Starts @list, takes guests, and reaps until it is ended. */
static _Noreturn void be_first(int orders, struct item *const *list, int count)
{
	struct pollfd p = { .fd = orders, .events = POLLIN };
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	vin_watch_end(&watch);
	for (int i = 0; i < count; i++) {
		if (fork() == 0)
			be_program(list[i], i);
	}
	for (;;) {
		if (poll(&p, 1, 5) == 1)
			take_guest(orders);
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
	}
}

static int to_first = -1; /* where PID 1 takes orders */

static int begin_first(struct item *const *list, int count, struct fvm_error *e)
{
	struct clone_args args = { .flags = CLONE_NEWPID, .exit_signal = SIGCHLD };
	int line[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) < 0)
		return fvm_error_set(e, errno, "make a line to PID 1");
	fflush(NULL);
	first = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (first == 0)
		be_first(line[1], list, count);
	close(line[1]);
	to_first = line[0];
	return first < 0 ? fvm_error_set(e, errno, "start PID 1") : 0;
}

static int start_guest(void *arg, int line, pid_t number, struct fvm_error *e)
{
	(void)arg;
	(void)e;
	return fvm_send_fds(to_first, &number, sizeof(number), &line, 1);
}

/* Root's programs get a PID 1 of vin's, others are guests of one of ours. */
static int world_again(int image, struct fvm_error *e)
{
	const bool guests = geteuid() != 0;
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	const struct vin_replay_options options = { .root = root,
						    .spaces = CLONE_NEWUTS | CLONE_NEWNET,
						    .ipc = true,
						    .start = guests ? start_guest : NULL };
	struct vin_replay *r = NULL;
	struct vin_in *in = NULL;
	int error = guests ? begin_first(NULL, 0, e) : 0;
	(void)lseek(image, 0, SEEK_SET);
	if (error == 0)
		error = vin_in_open(image, &in, e);
	if (error == 0)
		error = vin_replay_build(in, &options, &r, e);
	vin_in_close(in);
	if (error == 0 && !guests)
		first = vin_replay_init(r);
	if (error == 0)
		error = vin_replay_go(r, e);
	vin_replay_close(r);
	return error;
}

/* What the clone gets. */
static int copy_directory(int to)
{
	char source[80], target[64];
	int status = 1;
	snprintf(source, sizeof(source), "%s/.", here);
	pid_t pid = fork();
	if (pid == 0) {
		vin_watch_end(&watch);
		snprintf(target, sizeof(target), "/proc/self/fd/%d/%d", dup(worlds), to);
		execlp("cp", "cp", "-a", source, target, NULL);
		_exit(1);
	}
	while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
		;
	return pid < 0 || status != 0 ? -EIO : 0;
}

static size_t children(pid_t *ret, size_t room)
{
	char path[64];
	size_t count = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", first, first);
	FILE *f = fopen(path, "re");
	while (f && count < room && fscanf(f, "%d", &ret[count]) == 1)
		count++;
	if (f)
		fclose(f);
	return count;
}

static int stop_all(struct vin_capture **ret, struct fvm_error *e)
{
	static const struct vin_capture_options options = { .root = -1,
							    .spaces = CLONE_NEWUTS | CLONE_NEWNET };
	pid_t roots[4 * SMALL_SLOTS];
	struct vin_capture *c = NULL;
	int r = vin_capture_open(roots, children(roots, sizeof(roots) / sizeof(roots[0])), &options,
				 &c, e);
	if (r == 0)
		r = vin_capture_stop(c, 30000, e);
	if (r < 0)
		vin_capture_close(c);
	else
		*ret = c;
	return r;
}

/* @copy_to: the directory is copied there while all stand still, and they go on; < 0: they end. */
static int capture(int image, int copy_to, struct fvm_error *e)
{
	struct vin_capture *c = NULL;
	struct vin_out *out = NULL;
	int r = -ESRCH;
	/* who has found something wrong, or is nobody's child any more, ends while we look */
	for (int i = 0; i < 100 && (r == -ESRCH || r == -EAGAIN); i++) {
		*e = (struct fvm_error){ 0 };
		r = stop_all(&c, e);
	}
	if (r == 0 && copy_to >= 0 && copy_directory(copy_to) < 0)
		r = fvm_error_say(e, EIO, "the directory could not be copied");
	if (r == 0)
		r = vin_out_open(image, &out, e);
	if (r == 0)
		r = vin_capture_write(c, out, e);
	if (r == 0)
		r = vin_out_end(out, e);
	vin_out_close(out);
	if (r == 0 && copy_to < 0)
		vin_capture_kill(c);
	vin_capture_close(c);
	return r;
}

static void tell(int line, int r, const struct fvm_error *e)
{
	struct answer a = { .r = r };
	snprintf(a.text, sizeof(a.text), "%s%s%s", e->text, r < 0 && e->text[0] ? ": " : "",
		 r < 0 ? strerror(-r) : "");
	(void)!send(line, &a, sizeof(a), MSG_NOSIGNAL);
}

/* Whoever is left goes with PID 1. */
static void end_first(void)
{
	if (first > 0 && kill(first, SIGKILL) == 0)
		while (waitpid(first, NULL, 0) < 0 && errno == EINTR)
			;
	first = 0;
}

/* Orders: 'c' is captured, and copied to directory 1; 'k' is captured and ends; anything else:
 * ends. */
static _Noreturn void be_world(int line, int dir, int image, bool again, struct item *const *list,
			       int count)
{
	struct fvm_error e = { 0 };
	char order = 0;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	vin_watch_begin(&watch);
	int r = enter_world(dir, &e);
	if (r == 0)
		r = again ? world_again(image, &e) : begin_first(list, count, &e);
	/* what is in a namespace of ours is the machine's, not the programs' */
	if (r == 0 && unshare(CLONE_NEWIPC) < 0)
		r = fvm_error_set(&e, errno, "leave the world's IPC namespace");
	tell(line, r, &e);
	while (r == 0 && recv(line, &order, 1, 0) == 1 && (order == 'c' || order == 'k')) {
		e = (struct fvm_error){ 0 };
		if (ftruncate(image, 0) < 0 || lseek(image, 0, SEEK_SET) < 0)
			r = -errno;
		if (r == 0)
			r = capture(image, order == 'c' ? 1 : -1, &e);
		if (order == 'k')
			end_first();
		tell(line, r, &e);
	}
	end_first();
	vin_watch_end(&watch);
	_exit(0);
}

/* ---- from outside ---- */

static int hear(const struct world *w, char why[TEXT])
{
	struct pollfd p = { .fd = w->line, .events = POLLIN };
	struct answer a = { 0 };
	if (poll(&p, 1, PATIENCE) != 1 || recv(w->line, &a, sizeof(a), 0) != sizeof(a)) {
		snprintf(why, TEXT, "the world did not answer");
		return -1;
	}
	if (a.r < 0)
		snprintf(why, TEXT, "%s", a.text);
	return a.r;
}

static int command(const struct world *w, char order, char why[TEXT])
{
	if (send(w->line, &order, 1, MSG_NOSIGNAL) != 1) {
		snprintf(why, TEXT, "the world has ended");
		return -1;
	}
	return hear(w, why);
}

static void kill_all_below(pid_t pid)
{
	char path[64];
	pid_t child;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	(void)kill(pid, SIGSTOP);
	FILE *f = fopen(path, "re");
	while (f && fscanf(f, "%d", &child) == 1)
		kill_all_below(child);
	if (f)
		fclose(f);
	(void)kill(pid, SIGKILL);
}

static void world_end(struct world *w)
{
	struct pollfd p = { .fd = w->line, .events = POLLIN };
	if (w->pid <= 0)
		return;
	/* it ends by itself, or is ended */
	(void)shutdown(w->line, SHUT_WR);
	char rest[sizeof(struct answer)];
	ssize_t got = 1;
	while (got > 0 && poll(&p, 1, PATIENCE) == 1)
		got = recv(w->line, rest, sizeof(rest), 0);
	if (got != 0)
		kill_all_below(w->pid);
	(void)waitpid(w->pid, NULL, 0);
	close(w->line);
	munmap(w->board, SMALL_BYTES);
	*w = (struct world){ 0 };
}

static struct small_board *map_board(int dir)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/worlds/%d/board", directory, dir);
	scoped_fd fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, SMALL_BYTES) < 0)
		return MAP_FAILED;
	return mmap(NULL, SMALL_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
}

/* @list is started in directory @dir, or what is in @image goes on there. */
static int world_begin(struct world *w, int dir, int image, bool again, struct item *const *list,
		       int count, char why[TEXT])
{
	int line[2];
	*w = (struct world){ .dir = dir, .board = map_board(dir) };
	if (w->board == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line)) {
		snprintf(why, TEXT, "no board or no line: %s", strerror(errno));
		return -1;
	}
	w->turn = w->board->turn;
	fflush(NULL);
	w->pid = fork();
	if (w->pid == 0) {
		close(line[0]);
		be_world(line[1], dir, image, again, list, count);
	}
	close(line[1]);
	w->line = line[0];
	return hear(w, why);
}

static int make_directory(int dir, int slots)
{
	char path[80];
	snprintf(path, sizeof(path), "%s/worlds/%d", directory, dir);
	if (mkdir(path, 0755) < 0)
		return -1;
	for (int i = -1; i < slots; i++) {
		snprintf(path, sizeof(path), i < 0 ? "%s/worlds/%d/shm" : "%s/worlds/%d/%d",
			 directory, dir, i);
		if (mkdir(path, i < 0 ? 0777 : 0755) < 0)
			return -1;
	}
	return 0;
}

/* ---- a family ---- */

static bool told(const struct small_slot *s, struct item *item, enum way way)
{
	if (s->state == SMALL_SKIPPED)
		item->skipped = true;
	else if (s->state == SMALL_WRONG)
		item->wrong[way] = true;
	else
		return false;
	snprintf(item->why, sizeof(item->why), "%s", s->text);
	return true;
}

/* All of @list in @w check themselves. Return: whether all did, or said why not */
static bool take_turn(struct world *w, struct item *const *list, int count, enum way way)
{
	bool all = true;
	w->board->turn = ++w->turn;
	for (int i = 0; i < count; i++) {
		const struct small_slot *s = &w->board->slots[i];
		for (int ms = 0; ms < PATIENCE && s->turn != w->turn && s->state <= SMALL_READY;
		     ms++) {
			(void)syscall(SYS_futex, &w->board->turn, FUTEX_WAKE, INT32_MAX, NULL, NULL,
				      0);
			nap(1);
		}
		if (s->turn == w->turn || told(s, list[i], way))
			continue;
		all = false;
		list[i]->wrong[way] = true;
		snprintf(list[i]->why, sizeof(list[i]->why), "it did not go on");
	}
	return all;
}

static bool await_start(struct world *w, struct item *const *list, int count)
{
	for (int i = 0; i < count; i++) {
		const struct small_slot *s = &w->board->slots[i];
		for (int ms = 0; ms < PATIENCE && s->state == SMALL_STARTS; ms++)
			nap(1);
		if (s->state == SMALL_STARTS) {
			snprintf(list[i]->why, sizeof(list[i]->why), "it did not start");
			return false;
		}
		(void)told(s, list[i], RESUME);
	}
	/* what is wrong before anything was done is the case's own fault */
	const bool all = take_turn(w, list, count, RESUME);
	for (int i = 0; i < count; i++) {
		for (enum way way = CLONE; way < WAYS; way++)
			list[i]->wrong[way] = list[i]->wrong[RESUME];
	}
	return all;
}

static bool hop(struct world *w, int image, struct item *const *list, int count, enum way way,
		char why[TEXT])
{
	if (command(w, 'k', why) < 0)
		return false;
	world_end(w);
	return world_begin(w, 0, image, true, NULL, 0, why) == 0 && take_turn(w, list, count, way);
}

/* Nobody of them runs any more: there is nothing to capture. */
static bool nobody(struct item *const *list, int count)
{
	for (int i = 0; i < count; i++) {
		if (!list[i]->skipped && !list[i]->wrong[RESUME])
			return false;
	}
	return true;
}

/* Return: WAYS, or the one at which something went wrong that is nobody's own */
static enum way go_all_ways(struct item *const *list, int count, int image, char why[TEXT])
{
	struct world w = { 0 }, clone = { 0 };
	enum way at = RESUME;
	bool begun = world_begin(&w, 0, image, false, list, count, why) == 0 &&
		     await_start(&w, list, count);
	if (begun && nobody(list, count)) {
		world_end(&w);
		return WAYS;
	}
	if (begun && command(&w, 'c', why) == 0 && take_turn(&w, list, count, RESUME)) {
		at = CLONE;
		if (world_begin(&clone, 1, image, true, NULL, 0, why) == 0 &&
		    take_turn(&clone, list, count, CLONE) && take_turn(&w, list, count, CLONE))
			at = RESTORE;
	}
	world_end(&clone);
	for (int i = 0; i < HOPS && at >= RESTORE && at < WAYS; i++) {
		if (!hop(&w, image, list, count, at, why))
			break;
		at = i == HOPS - 1 ? WAYS : HOP;
	}
	world_end(&w);
	return at;
}

static int remove_directories(void)
{
	char path[64];
	int r = 0;
	snprintf(path, sizeof(path), "%s/worlds", directory);
	scoped_fd dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 2 && r == 0; i++) {
		r = fvm_remove_tree(dir, i ? "1" : "0");
		r = r == -ENOENT ? 0 : r;
	}
	return r;
}

static enum way run_together(struct item *const *list, int count, char why[TEXT])
{
	scoped_fd image = memfd_create("image", MFD_CLOEXEC);
	enum way at = RESUME;
	if (image < 0 || make_directory(0, count) < 0 || mkdirat(AT_FDCWD, here, 0755) < 0 ||
	    make_directory(1, 0) < 0)
		snprintf(why, TEXT, "no directory: %s", strerror(errno));
	else
		at = go_all_ways(list, count, image, why);
	if (remove_directories() < 0 || rmdir(here) < 0) {
		snprintf(why, TEXT, "what was left could not be removed: %s", strerror(errno));
		return RESUME;
	}
	return at;
}

/* ---- all of it ---- */

__attribute__((format(printf, 2, 3))) static void report(bool ok, const char *format, ...)
{
	va_list list;
	va_start(list, format);
	printf("%s %d - ", ok ? "ok" : "not ok", ++numbered);
	vprintf(format, list);
	putchar('\n');
	va_end(list);
	failures += !ok;
}

static void report_item(const struct item *item)
{
	for (enum way w = 0; w < WAYS; w++) {
		report(!item->wrong[w], "%s, %s, %s%s%s", item->says, who, way_names[w],
		       item->skipped ? " # SKIP " : "", item->skipped ? item->why : "");
		if (item->wrong[w])
			printf("# %s\n", item->why);
	}
}

/* Those after the way that failed were not tried. */
static void wrong_from(struct item *item, enum way at, const char *why)
{
	for (; at < WAYS; at++)
		item->wrong[at] = true;
	if (!item->why[0])
		snprintf(item->why, sizeof(item->why), "%s", why);
}

static bool is_wrong(const struct item *item)
{
	for (enum way w = 0; w < WAYS; w++) {
		if (item->wrong[w])
			return true;
	}
	return false;
}

/* Each once more by itself: who is it? */
static void run_alone(struct item *const *list, int count, enum way at, const char *why)
{
	bool found = false;
	for (int i = 0; i < count; i++) {
		char own[TEXT] = "";
		const bool was_wrong = is_wrong(list[i]);
		memset(list[i]->wrong, 0, sizeof(list[i]->wrong));
		list[i]->skipped = false;
		list[i]->why[0] = '\0';
		const enum way its = run_together(&list[i], 1, own);
		if (its < WAYS)
			wrong_from(list[i], its, own);
		found = found || is_wrong(list[i]);
		if (was_wrong && !is_wrong(list[i]))
			printf("# alone it is right: %s\n", list[i]->says);
	}
	report(found, "all of them in one world, %s", who);
	printf("# %s: %s\n", way_names[at], why);
}

static void run_family(struct item *const *list, int count)
{
	char why[TEXT] = "";
	const enum way at = count ? run_together(list, count, why) : WAYS;
	if (at < WAYS)
		run_alone(list, count, at, why[0] ? why : "somebody did not go on");
	for (int i = 0; i < count; i++)
		report_item(list[i]);
	fflush(stdout);
}

static int read_items(void)
{
	char command_line[4200], line[512];
	snprintf(command_line, sizeof(command_line), "'%s' --list", program);
	FILE *f = popen(command_line, "re"); /* NOLINT(bugprone-command-processor): a test's own */
	while (f && item_count < CASES_MAX && fgets(line, sizeof(line), f)) {
		struct item *i = &items[item_count];
		char *save, *family = strtok_r(line, "\t", &save),
			    *flags = strtok_r(NULL, "\t", &save),
			    *says = strtok_r(NULL, "\n", &save);
		if (!says)
			break;
		const bool same = item_count > 0 && strcmp(i[-1].family, family) == 0;
		*i = (struct item){ .family = strdup(family),
				    .says = strdup(says),
				    .flags = (unsigned int)strtoul(flags, NULL, 10),
				    .number = same ? i[-1].number + 1 : 0 };
		item_count++;
	}
	return f && pclose(f) == 0 && item_count > 0 ? 0 : -1;
}

static int select_items(const char *family, const char *words, struct item **ret)
{
	int count = 0;
	for (size_t i = 0; i < item_count && count < SMALL_SLOTS; i++) {
		if (strcmp(items[i].family, family) == 0 &&
		    (!words || strstr(items[i].says, words)) &&
		    (geteuid() == 0 || !(items[i].flags & NEEDS_ROOT)))
			ret[count++] = &items[i];
	}
	return count;
}

/* A copy of the program where worlds of ordinary users find it, too. */
static int make_place(int from)
{
	char path[64];
	struct stat st;
	off_t at = 0;
	snprintf(directory, sizeof(directory), "/tmp/vin-small-XXXXXX");
	if (!mkdtemp(directory))
		return -1;
	snprintf(here, sizeof(here), "%s/here", directory);
	snprintf(path, sizeof(path), "%s/worlds", directory);
	if (mkdir(path, 0755) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/none", directory);
	if (mkdir(path, 0755) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/small", directory);
	scoped_fd to = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755);
	if (to < 0 || fstat(from, &st) < 0 || fchmod(to, 0755) < 0)
		return -1;
	while (sendfile(to, from, &at, (size_t)st.st_size) > 0)
		;
	return at == st.st_size ? 0 : -1;
}

static int run_as(const char *name, int from, const char *family, const char *words)
{
	struct item *list[SMALL_SLOTS];
	who = name;
	if (make_place(from) < 0) {
		report(false, "a directory for %s: %s", name, strerror(errno));
		return -1;
	}
	run_family(list, select_items(family, words, list));
	scoped_fd tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	const int r = fvm_remove_tree(tmp, directory + strlen("/tmp/"));
	if (r < 0)
		report(false, "the directory of %s is removed: %s", name, strerror(-r));
	return r;
}

static int become_user(void)
{
	int status = 1;
	if (setgroups(0, NULL) < 0 || setgid(65534) < 0 || setuid(65534) < 0 ||
	    prctl(PR_SET_DUMPABLE, 1) < 0)
		return -errno;
	pid_t pid = fork();
	if (pid == 0)
		_exit(unshare(CLONE_NEWUSER) < 0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && status == 0 ? 0 : -EPERM;
}

static int tell_count(void)
{
	report(item_count >= 200, "there are %zu small programs, 200 at least", item_count);
	return failures != 0;
}

/* What was seen of an item as root is nothing of the user's. */
static void forget_results(void)
{
	for (size_t i = 0; i < item_count; i++) {
		items[i].skipped = false;
		memset(items[i].wrong, 0, sizeof(items[i].wrong));
		items[i].why[0] = '\0';
	}
}

int main(int argc, char **argv)
{
	program = argv[1];
	scoped_fd from = argc > 2 ? open(program, O_RDONLY | O_CLOEXEC) : -1;
	if (from < 0 || read_items() < 0 || chdir("/") < 0) {
		fprintf(stderr, "usage: test_small PROGRAM FAMILY|count [WORDS]\n");
		return 2;
	}
	if (strcmp(argv[2], "count") == 0)
		return tell_count();
	umask(022);
	if (geteuid() == 0) {
		run_as("root", from, argv[2], argv[3]);
		forget_results();
	}
	if (geteuid() != 0 || become_user() == 0)
		run_as("an ordinary user", from, argv[2], argv[3]);
	else
		report(true, "%s as an ordinary user # SKIP no user namespaces here", argv[2]);
	printf("1..%d\n", numbered);
	return failures != 0;
}
