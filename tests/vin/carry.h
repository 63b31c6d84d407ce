/* Open files carried from a victim into a program that has none: make, capture, kill, open, check.
 * All of it once as we are and, when that is root, once more as an ordinary user in a namespace. */
#ifndef FVM_TESTS_CARRY_H
#define FVM_TESTS_CARRY_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "tests/vin/victim.h"
#include "vin/kinds.h"
#include "vin/status.h"

static char dir[64]; /* of this run, with a file "letters" of a to z */
static bool no_kcmp;

/* In the victim and in the program that follows it: tells the line, to the board and to who reads. */
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x)) {                                                                        \
			board->wrong = __LINE__;                                                   \
			board->seen = (uint64_t)errno;                                             \
			_exit(1);                                                                  \
		}                                                                                  \
	} while (0)

static void (*carry_make)(void);
static void (*carry_after)(void); /* what the victim does at its end; may be NULL */

/* Without O_LARGEFILE, which some ways of opening set. */
__attribute__((unused)) static int flags_of(int fd)
{
	return fcntl(fd, F_GETFL) & ~0100000;
}

static void only_null(void)
{
	int null = open("/dev/null", O_RDWR);
	for (int i = 0; i < 3; i++)
		dup2(null, i);
	fvm_close_range(3, ~0U);
}

static void carry_victim(void)
{
	only_null();
	carry_make();
	board->ready = 1;
	while (!board->end)
		nap(1);
	if (carry_after)
		carry_after();
}

/* The image of what @pids have open; -1: refused, and err says why. */
static int carry_capture(const pid_t *pids, size_t count)
{
	/* victims nap, and leave their queues alone */
	scoped_files files = { .root = -1, .no_kcmp = no_kcmp, .stopped = true };
	struct vin_out *out = NULL;
	int fd = memfd_create("image", MFD_CLOEXEC);
	OK(vin_files_look(pids, count, &files, &err));
	OK(vin_out_open(fd, &out, &err));
	int r = vin_files_ready(&files, &err);
	if (r == 0)
		r = vin_files_capture(&files, out, &err);
	if (r == 0)
		r = vin_out_end(out, &err);
	vin_out_close(out);
	lseek(fd, 0, SEEK_SET);
	if (r == 0)
		return fd;
	close(fd);
	return -1;
}

/* Who is who for the program that follows: it is number 1 itself, others it made before. */
static void (*carry_before)(void);
static pid_t carry_people[64];

static pid_t carry_who(void *arg, pid_t number)
{
	(void)arg;
	return number == 1 ? getpid() : number < 64 ? carry_people[number] : 0;
}

static const struct vin_moved *carry_moved; /* addresses that are others; may be NULL */
static bool carry_apart;		    /* nobody outside can be talked to */

static int carry_read(int image, struct vin_reopen **ret)
{
	struct vin_in *in = NULL;
	enum vin_tag tag = 0;
	uint64_t len;
	struct vin_payload p;
	struct fvm_error why = { 0 };
	scoped_fd root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = vin_in_open(image, &in, &why);
	while (r == 0 && (r = vin_in_next(in, &tag, &len, &why)) == 0 && tag != VIN_TAG_END) {
		r = vin_in_payload(in, &p, &why);
		if (r == 0)
			r = tag == VIN_TAG_FILES ? vin_reopen_begin(root, &p, ret, &why)
						 : vin_reopen_take(*ret, tag, &p, &why);
		if (r == 0 && tag == VIN_TAG_FILES)
			vin_reopen_moved(*ret, carry_moved, carry_apart);
	}
	vin_in_close(in);
	if (r == 0)
		r = vin_reopen_people(*ret, carry_who, NULL, &why);
	if (r == 0)
		r = vin_reopen_finish(*ret, &why);
	if (r == 0)
		r = vin_reopen_owners(*ret, carry_who, NULL, &why);
	if (r < 0)
		fvm_error_print("carry", &why);
	return r;
}

/* As replay does, by the process itself. */
static void carry_place(struct vin_reopen *r, const struct vin_table *t)
{
	struct vin_inside *calls = NULL;
	for (size_t i = 0; i < t->count; i++) {
		const struct vin_entry *e = &t->entries[i];
		CHECK(dup3(vin_reopen_fd(r, e->file), e->number, e->cloexec ? O_CLOEXEC : 0) ==
		      e->number);
	}
	ssize_t count = vin_reopen_inside(t, &calls);
	CHECK(count >= 0);
	vin_reopen_close(r);
	for (ssize_t i = 0; i < count; i++) {
		struct vin_inside *c = &calls[i];
		if (c->data_len)
			c->args[c->data_arg] = (uint64_t)c->data;
		CHECK(syscall((long)c->nr, c->args[0], c->args[1], c->args[2], c->args[3],
			      c->args[4], c->args[5]) >= 0);
	}
	free(calls);
}

/* What was said of the last connection that was lost, and how many there were. */
static int carry_lost;
static char carry_lost_text[100];

static void carry_hear_lost(void *arg, pid_t pid, int number, const char *peer)
{
	(void)arg;
	carry_lost++;
	snprintf(carry_lost_text, sizeof(carry_lost_text), "%d: %d: %s", pid, number, peer);
}

static void carry_restore(int image, void (*check)(void))
{
	struct vin_reopen *r = NULL;
	/* out of the way of the programs' numbers; errors are still to be read */
	int high = fcntl(image, F_DUPFD_CLOEXEC, 500), err_fd = fcntl(2, F_DUPFD_CLOEXEC, 501);
	fvm_close_range(3, 499);
	if (carry_before)
		carry_before();
	CHECK(carry_read(high, &r) == 0);
	if (!r)
		_exit(1);
	vin_reopen_lost(r, carry_hear_lost, NULL);
	close(high);
	struct vin_table *t = r->tables;
	CHECK(r->table_count > 0);
	carry_place(r, t);
	close(err_fd);
	check();
	_exit(0);
}

static void carry_follow(int image, void (*check)(void))
{
	int status;
	board->wrong = 0;
	pid_t pid = fork_below();
	if (pid == 0)
		carry_restore(image, check);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (board->wrong)
		print_error("the program that follows: line %d: %s\n", (int)board->wrong,
			    strerror((int)board->seen));
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* @pid and its children, who are captured with it. */
static size_t carry_family(pid_t pid, pid_t pids[64])
{
	char path[60];
	scoped_free char *text = NULL;
	size_t count = 0;
	pids[count++] = pid;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", pid, pid);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 4096, &text, NULL), 0);
	for (char *p = text, *after; count < 64; p = after) {
		struct vin_stat st;
		pid_t child = (pid_t)strtol(p, &after, 10);
		if (after == p)
			break;
		if (vin_stat_read(child, child, &st, NULL) == 0 && st.state != 'Z')
			pids[count++] = child;
	}
	return count;
}

/* The thing that @make makes is found by @check in another process; twice, the image is not used up.
 */
__attribute__((unused)) static void carried(void (*make)(void), void (*check)(void))
{
	carry_make = make;
	pid_t pids[64], pid = victim(carry_victim, true);
	err = (struct fvm_error){ 0 };
	int image = carry_capture(pids, carry_family(pid, pids));
	if (image < 0)
		fvm_error_print("carry", &err);
	assert_true(image >= 0);
	victim_kill(NULL);
	carry_follow(image, check);
	close(image);
}

/* As carried(); and the victim, too, finds by @check what it has made, after the capture. */
__attribute__((unused)) static void kept_and_carried(void (*make)(void), void (*check)(void))
{
	int status;
	carry_make = make;
	carry_after = check;
	pid_t pid = victim(carry_victim, true);
	err = (struct fvm_error){ 0 };
	int image = carry_capture(&pid, 1);
	carry_after = NULL;
	if (image < 0)
		fvm_error_print("carry", &err);
	assert_true(image >= 0);
	board->end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	last_victim = 0;
	if (board->wrong)
		print_error("the program itself: line %d: %s\n", (int)board->wrong,
			    strerror((int)board->seen));
	assert_int_equal(status, 0);
	carry_follow(image, check);
	close(image);
}

/* What @make makes is refused, and the message says @word. */
__attribute__((unused)) static void refused(void (*make)(void), const char *word)
{
	carry_make = make;
	pid_t pid = victim(carry_victim, true);
	err = (struct fvm_error){ 0 };
	assert_int_equal(carry_capture(&pid, 1), -1);
	victim_kill(NULL);
	if (!strstr(err.text, word))
		print_error("'%s' does not say '%s'\n", err.text, word);
	assert_non_null(strstr(err.text, word));
	assert_non_null(strstr(err.text, "process"));
	assert_non_null(strstr(err.text, "descriptor"));
}

static int carry_setup(void **state)
{
	snprintf(dir, sizeof(dir), "/tmp/vinfd-test-XXXXXX");
	if (!mkdtemp(dir) || chdir(dir) < 0)
		return -1;
	int fd = open("letters", O_WRONLY | O_CREAT | O_CLOEXEC, 0644);
	int r = fvm_write_all(fd, "abcdefghijklmnopqrstuvwxyz", 26);
	close(fd);
	return r < 0 ? -1 : victims_setup(state);
}

static int carry_teardown(void **state)
{
	scoped_fd tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = chdir("/") < 0 ? -errno : fvm_remove_tree(tmp, dir + strlen("/tmp/"));
	int ended = victims_teardown(state);
	return r < 0 ? r : ended;
}

/* Somebody who has @stdio (-1: /dev/null) three times, and @third (-1: nothing) as 3, whose other
 * ends are ours: captured without us he is refused, and err says why. He is left to victim_kill(). */
__attribute__((unused)) static void bystander_refused(int stdio, int third)
{
	board->ready = 0;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		const int std = stdio < 0 ? open("/dev/null", O_RDWR) : stdio;
		for (int i = 0; i < 3; i++)
			dup2(std, i);
		if (third >= 0)
			dup2(third, 3);
		fvm_close_range(third >= 0 ? 4 : 3, ~0U);
		board->ready = 1;
		for (;;)
			pause();
	}
	last_victim = pid;
	for (int i = 0; i < 30000 && !board->ready; i++)
		nap(1);
	assert_int_equal(board->ready, 1);
	err = (struct fvm_error){ 0 };
	assert_int_equal(carry_capture(&pid, 1), -1);
}

static int put(const char *path, const char *text)
{
	scoped_fd fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -1 : fvm_write_all(fd, text, strlen(text));
}

/* Nobody of the host, root of his own namespace. */
static void become_user(void)
{
	if (setgid(65534) < 0 || setuid(65534) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0 ||
	    unshare(CLONE_NEWUSER) < 0 || put("/proc/self/setgroups", "deny") < 0 ||
	    put("/proc/self/uid_map", "0 65534 1") < 0 || put("/proc/self/gid_map", "0 65534 1") < 0) {
		print_message("no user namespaces here: not tried as an ordinary user\n");
		_exit(0);
	}
}

/* @run runs the group. Return: for main() */
static int carry_main(int (*run)(void))
{
	int failed = run(), status = 0;
	if (geteuid() != 0)
		return failed;
	fflush(NULL);
	pid_t pid = fork();
	if (pid == 0) {
		become_user();
		exit(run() != 0);
	}
	return waitpid(pid, &status, 0) == pid && status == 0 ? failed : 1;
}

#define CARRY(name) cmocka_unit_test_teardown(name, victim_kill)

#endif
