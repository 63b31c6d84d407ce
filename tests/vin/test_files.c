#include "tests/vin/carry.h"

#include <linux/netlink.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

/* ---- who shares what ---- */

static void family(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_start = 1, .l_len = 1 };
	int p[2];
	only_null();
	CHECK(open("letters", O_RDWR) == 3 && open("letters", O_RDONLY) == 4);
	CHECK(pipe(p) == 0 && p[0] == 5);
	pid_t child = fork();
	if (child == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		CHECK(dup2(3, 30) == 30 && close(5) == 0);
		lock.l_start = 20;
		CHECK(open("letters", O_RDONLY) == 5 && fcntl(3, F_SETLK, &lock) == 0);
		board->rounds = 1;
		for (;;)
			pause();
	}
	CHECK(fcntl(3, F_SETLK, &lock) == 0 && close(6) == 0);
	while (!board->rounds)
		nap(1);
	CHECK(lseek(3, 9, SEEK_SET) == 9 && eventfd(7, 0) == 6);
	board->seen = (uint64_t)child;
	board->ready = 1;
	while (!board->end)
		nap(1);
}

static void check_parent(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_start = 20, .l_len = 1 };
	char got[4] = "";
	board->ready = 1; /* has its locks */
	for (int i = 0; i < 30000 && !board->rounds; i++)
		nap(1);
	CHECK(lseek(3, 0, SEEK_CUR) == 10 && lseek(4, 0, SEEK_CUR) == 0);
	CHECK(read(5, got, 3) == 3 && strcmp(got, "abc") == 0);
	CHECK(fcntl(3, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK);
	lock = (struct flock){ .l_type = F_WRLCK, .l_start = 2 };
	CHECK(fcntl(3, F_GETLK, &lock) == 0 && lock.l_start == 20);
	board->end = 1;
}

static void check_child(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_start = 1, .l_len = 1 };
	char c;
	while (!board->ready)
		nap(1);
	CHECK(lseek(3, 0, SEEK_CUR) == 9 && read(30, &c, 1) == 1 && c == 'j');
	CHECK(lseek(5, 0, SEEK_CUR) == 0 && write(6, "abc", 3) == 3);
	CHECK(fcntl(3, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK);
	board->rounds = 1;
	while (!board->end)
		nap(1);
}

/* Both processes anew, each with its own table, from one pool. */
static void follow_family(int image)
{
	struct vin_reopen *r = NULL;
	int high = fcntl(image, F_DUPFD_CLOEXEC, 500), status;
	fvm_close_range(3, 499);
	CHECK(carry_read(high, &r) == 0);
	if (!r || r->table_count != 2)
		_exit(1);
	close(high);
	board->rounds = 0;
	board->end = board->ready = 0;
	struct vin_table parent = r->tables[0], child = r->tables[1];
	r->table_count = 0;
	pid_t pid = fork();
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	carry_place(r, pid == 0 ? &child : &parent);
	if (pid == 0) {
		check_child();
		_exit(0);
	}
	check_parent();
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	_exit(0);
}

static void processes_share_what_they_did(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		int status;
		no_kcmp = i == 1;
		pid_t pids[2] = { victim(family, false) };
		pids[1] = (pid_t)board->seen;
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		int image = carry_capture(pids, 2);
		no_kcmp = false;
		assert_true(image >= 0);
		victim_kill(NULL);
		/* its locks go with it, and it becomes ours when its parent has ended */
		assert_int_equal(waitpid(pids[1], NULL, 0), pids[1]);
		prctl(PR_SET_CHILD_SUBREAPER, 0);
		board->wrong = 0;
		pid_t pid = fork();
		if (pid == 0)
			follow_family(image);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (board->wrong)
			print_error("line %d: %s\n", (int)board->wrong, strerror((int)board->seen));
		assert_int_equal(status, 0);
		close(image);
	}
}

/* ---- looking ---- */

static void make_many(void)
{
	for (int i = 0; i < 1500; i++)
		CHECK(eventfd((unsigned int)i, 0) == 3 + i);
	for (int i = 0; i < 1500; i++)
		CHECK(dup(3 + i) == 1503 + i);
}

static void look_at_many(const pid_t *pid)
{
	scoped_files files = { .root = -1, .no_kcmp = no_kcmp };
	OK(vin_files_look(pid, 1, &files, &err));
	assert_int_equal(files.count, 1501);
	assert_int_equal(files.tables[0].count, 3003);
	for (size_t i = 3; i < 1503; i++) {
		const struct vin_entry *a = &files.tables[0].entries[i];
		assert_int_equal(a->file, files.tables[0].entries[i + 1500].file);
		assert_int_equal(files.opens[a->file].info.eventfd_count, i - 3);
		assert_int_equal(files.opens[a->file].twin, a->file);
	}
}

static void thousands_are_told_apart_at_once(void **state)
{
	(void)state;
	carry_make = make_many;
	pid_t pid = victim(carry_victim, true);
	int64_t start = fvm_clock_ns();
	look_at_many(&pid);
	assert_true(fvm_clock_ns() - start < 10000000000);
}

static void comes_and_goes(void)
{
	only_null();
	board->ready = 1;
	while (!board->end) {
		int fds[50];
		for (int i = 0; i < 50; i++)
			fds[i] = i % 2 ? eventfd(0, 0) : open("letters", O_RDONLY);
		for (int i = 0; i < 50; i++)
			close(fds[i]);
	}
}

static void a_running_program_is_looked_at(void **state)
{
	(void)state;
	pid_t pid = victim(comes_and_goes, true);
	for (int i = 0; i < 50; i++) {
		scoped_files files = { .root = -1 };
		OK(vin_files_look(&pid, 1, &files, &err));
		OK(vin_files_check(&files, NULL, NULL, &err));
	}
	pid_t nobody = 0x3fffffff;
	scoped_files files = { .root = -1 };
	assert_int_equal(vin_files_look(&nobody, 1, &files, &err), -ESRCH);
}

/* ---- refusals ---- */

static void make_refused(void)
{
	CHECK(socket(AF_NETLINK, SOCK_RAW, NETLINK_AUDIT) == 3);
	CHECK(open("/proc/1/status", O_RDONLY) == 4 && open("letters", O_RDONLY) == 5);
}

static void count_refusals(void *arg, const struct vin_open *o, const struct fvm_error *why)
{
	char want[60];
	snprintf(want, sizeof(want), "process %d, descriptor %d", o->pid, o->number);
	assert_non_null(strstr(why->text, want));
	++*(int *)arg;
}

static void all_that_is_refused_is_told(void **state)
{
	(void)state;
	int count = 0;
	carry_make = make_refused;
	pid_t pid = victim(carry_victim, true);
	scoped_files files = { .root = -1 };
	OK(vin_files_look(&pid, 1, &files, &err));
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_files_check(&files, count_refusals, &count, &err), -EOPNOTSUPP);
	assert_int_equal(count, 2);
	assert_non_null(strstr(err.text, "descriptor 3 (socket:["));
}

/* ---- records that somebody made up ---- */

/* Of an eventfd: all that FILE has, with two numbers behind. */
static void put_event(struct fvm_buf *b, uint64_t id, uint64_t kind, uint64_t twin)
{
	const uint64_t fields[] = { id, kind, twin, O_RDWR, 0, 0, 0, 0, 0, 1, 0 };
	for (size_t i = 0; i < FVM_COUNT(fields); i++)
		vin_put_u64(b, fields[i]);
}

static int take(struct vin_reopen *r, enum vin_tag tag, const struct fvm_buf *b)
{
	struct vin_payload p = { .at = (unsigned char *)b->data,
				 .end = (unsigned char *)b->data + b->len };
	return vin_reopen_take(r, tag, &p, NULL);
}

static struct vin_reopen *begin(uint64_t count, uint64_t highest, int want)
{
	struct vin_reopen *r = NULL;
	scoped_buf b = { 0 };
	vin_put_u64(&b, count);
	vin_put_u64(&b, highest);
	struct vin_payload p = { .at = (unsigned char *)b.data,
				 .end = (unsigned char *)b.data + b.len };
	assert_int_equal(vin_reopen_begin(-1, &p, &r, NULL), want);
	return r;
}

static int take_event(struct vin_reopen *r, uint64_t id, uint64_t kind, uint64_t twin)
{
	scoped_buf b = { 0 };
	put_event(&b, id, kind, twin);
	return take(r, VIN_TAG_FILE, &b);
}

static void made_up_numbers_are_refused(void **state)
{
	(void)state;
	begin(VIN_FILES_MAX + 1ULL, 5, -EBADMSG);
	begin(1, VIN_FILES_MAX, -EBADMSG);
	begin(1, VIN_FILES_MAX - 1, -EMFILE);
	struct vin_reopen *r = begin(2, 5, 0);
	assert_int_equal(take_event(r, 1, VIN_KIND_EVENTFD, 1), -EBADMSG);
	assert_int_equal(take_event(r, 0, VIN_KIND_EVENTFD, 1), -EBADMSG);
	assert_int_equal(take_event(r, 0, 99, 0), -EBADMSG);
	assert_int_equal(take_event(r, 0, 0, 0), -EBADMSG);
	assert_int_equal(take_event(r, 0, VIN_KIND_PIPE, 0), -EBADMSG);
	assert_int_equal(vin_reopen_finish(r, NULL), -EBADMSG);
	assert_int_equal(take_event(r, 0, VIN_KIND_EVENTFD, 0), 0);
	assert_true(vin_reopen_fd(r, 0) > 5);
	assert_int_equal(vin_reopen_fd(r, 1), -1);
	assert_int_equal(take_event(r, 0, VIN_KIND_EVENTFD, 0), -EBADMSG);
	/* twins are of one kind */
	scoped_buf b = { 0 };
	const uint64_t timer[] = { 1, VIN_KIND_TIMERFD, 0, O_RDWR, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0 };
	for (size_t i = 0; i < FVM_COUNT(timer); i++)
		vin_put_u64(&b, timer[i]);
	assert_int_equal(take(r, VIN_TAG_FILE, &b), -EBADMSG);
	assert_int_equal(take_event(r, 1, VIN_KIND_EVENTFD, 1), 0);
	assert_int_equal(take_event(r, 2, VIN_KIND_EVENTFD, 2), -EBADMSG);
	assert_int_equal(vin_reopen_finish(r, NULL), 0);
	vin_reopen_close(r);
}

static int take_entry(struct vin_reopen *r, uint64_t number, uint64_t file, uint64_t directory)
{
	scoped_buf b = { 0 };
	const uint64_t table[] = { 1, 1, number, 0, file, 0, directory };
	for (size_t i = 0; i < FVM_COUNT(table); i++)
		vin_put_u64(&b, table[i]);
	return take(r, VIN_TAG_FDS, &b);
}

static void made_up_descriptors_are_refused(void **state)
{
	(void)state;
	struct vin_reopen *r = begin(1, 5, 0);
	assert_int_equal(take_entry(r, 3, 1, 0), -EBADMSG);
	assert_int_equal(take_entry(r, 6, 0, 0), -EBADMSG); /* where the pool is */
	assert_int_equal(take_entry(r, ~0ULL, 0, 0), -EBADMSG);
	assert_int_equal(take_entry(r, 5, 0, 2), -EBADMSG);
	assert_int_equal(take_entry(r, 5, 0, 0), 0);
	assert_non_null(vin_reopen_table(r, 1));
	assert_null(vin_reopen_table(r, 2));
	/* content for what has none */
	scoped_buf data = { 0 };
	vin_put_u64(&data, 0);
	vin_put_u64(&data, 0);
	vin_put_blob(&data, "x", 1);
	assert_int_equal(take(r, VIN_TAG_DATA, &data), -EBADMSG);
	assert_int_equal(take_event(r, 0, VIN_KIND_EVENTFD, 0), 0);
	assert_int_equal(take(r, VIN_TAG_DATA, &data), -EBADMSG);
	assert_int_equal(take(r, VIN_TAG_PAGES, &data), -EBADMSG);
	vin_reopen_close(r);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(processes_share_what_they_did),  CARRY(thousands_are_told_apart_at_once),
		CARRY(a_running_program_is_looked_at), CARRY(all_that_is_refused_is_told),
		CARRY(made_up_numbers_are_refused),    CARRY(made_up_descriptors_are_refused),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
