/* Programs that go on before their memory has come. What nobody asks for comes when the test says
 * so (vin_lazy_options.after), so that each test knows what has come when. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "lazies.h"

/* Numbers of the two that hold userfaultfds: helper first. */
static void find_helpers(pid_t ret[2])
{
	char path[64], name[32] = "";
	pid_t child, at = getpid();
	for (int i = 0; i < 2; i++) {
		ret[i] = 0;
		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", at, at);
		FILE *children = fopen(path, "r");
		assert_non_null(children);
		while (!ret[i] && fscanf(children, "%d", &child) == 1) {
			snprintf(path, sizeof(path), "/proc/%d/comm", child);
			FILE *comm = fopen(path, "r");
			if (comm && fgets(name, sizeof(name), comm) &&
			    strcmp(name, "fvm-pages\n") == 0)
				ret[i] = child;
			if (comm)
				fclose(comm);
		}
		fclose(children);
		assert_true(ret[i] > 0);
		at = ret[i];
	}
}

/* ---- pages ---- */

static void touch_all(void)
{
	CHECK(is_page(memory + 700 * PAGE, 700));
	CHECK(is_page(memory + (PAGES - 1) * PAGE, PAGES - 1));
	CHECK(all_pages(memory));
	memory[5 * PAGE] ^= 1;
	CHECK(!is_page(memory + 5 * PAGE, 5));
	memory[5 * PAGE] ^= 1;
	CHECK(all_pages(memory));
}

static void pages_come_when_they_are_touched(void **state)
{
	(void)state;
	without_memory(touch_all);
}

static void touch_after(void)
{
	memory[9 * PAGE + 50] = 7;
	board->seen = 1;
	await_stage(1);
	CHECK(memory[9 * PAGE + 50] == 7);
	memory[9 * PAGE + 50] = 0;
	CHECK(all_pages(memory));
}

/* Whether @pid has memory whose faults somebody serves. */
static bool is_watched(pid_t pid)
{
	scoped_maps maps = { 0 };
	OK(vin_maps_read(pid, true, &maps, &err));
	for (size_t i = 0; i < maps.count; i++) {
		if (vin_vma_is(&maps.vmas[i], VIN_VMA_UFFD_MISSING))
			return true;
	}
	return false;
}

static void the_rest_comes_by_itself_and_leaves_nothing(void **state)
{
	(void)state;
	FILE *image = image_of(touch_after);
	replay_lazily(image);
	reach(1);
	const pid_t child = child_of(last_init);
	assert_true(is_watched(child));
	assert_true(still_to_come());
	let_come();
	await_all();
	assert_false(is_watched(child));
	board->stage = 1;
	end_well();
	fclose(image);
}

/* Whether it is in no network namespace of ours, and has no right but one. */
static bool has_left(pid_t pid)
{
	char path[64], net[64] = "", ours[64] = "";
	scoped_free char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
	assert_true(readlink(path, net, sizeof(net) - 1) > 0);
	assert_true(readlink("/proc/self/ns/net", ours, sizeof(ours) - 1) > 0);
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 65536, &text, NULL), 0);
	return strcmp(net, ours) != 0 && strstr(text, "\nCapPrm:\t0000000000000020\n") &&
	       strstr(text, "\nCapEff:\t0000000000000020\n");
}

static void who_waits_for_pages_keeps_one_right_and_no_namespace(void **state)
{
	(void)state;
	pid_t helpers[2];
	FILE *image = image_of(touch_after);
	entered = true;
	replay_lazily(image);
	entered = false;
	reach(1);
	find_helpers(helpers);
	for (int i = 0; i < WAIT_MS && !(has_left(helpers[0]) && has_left(helpers[1])); i++)
		nap(1);
	assert_true(has_left(helpers[0]) && has_left(helpers[1]));
	let_come();
	await_all();
	board->stage = 1;
	end_well();
	fclose(image);
}

static void let_the_kernel_touch(void)
{
	static unsigned char copy[4 * PAGE];
	int ends[2];
	CHECK(pipe(ends) == 0);
	CHECK(write(ends[1], memory + 100 * PAGE, 4 * PAGE) == 4 * PAGE);
	CHECK(read(ends[0], copy, sizeof(copy)) == sizeof(copy));
	for (uint64_t i = 0; i < 4; i++)
		CHECK(is_page(copy + i * PAGE, 100 + i));
	/* over the border of two pages, neither of which has come */
	CHECK(write(ends[1], copy, 16) == 16);
	CHECK(read(ends[0], memory + 201 * PAGE - 8, 16) == 16);
	CHECK(memcmp(memory + 201 * PAGE - 8, copy, 16) == 0);
	write_page(memory + 200 * PAGE, 200);
	write_page(memory + 201 * PAGE, 201);
	CHECK(all_pages(memory));
}

static void the_kernel_waits_for_pages_too(void **state)
{
	(void)state;
	without_memory(let_the_kernel_touch);
}

/* ---- what programs do meanwhile ---- */

static void wait_well(pid_t pid)
{
	int status;
	CHECK(pid > 0 && waitpid(pid, &status, 0) == pid && status == 0);
}

static void have_children(void)
{
	memory[3 * PAGE + 60] = 9;
	pid_t pid = fork();
	if (pid == 0) {
		CHECK(memory[3 * PAGE + 60] == 9);
		memory[3 * PAGE + 60] = 0;
		pid_t grandchild = fork();
		if (grandchild == 0) {
			CHECK(all_pages(memory));
			_exit(0);
		}
		write_page(memory + 40 * PAGE, 41);
		wait_well(grandchild);
		CHECK(is_page(memory + 40 * PAGE, 41));
		_exit(0);
	}
	wait_well(pid);
	CHECK(memory[3 * PAGE + 60] == 9);
	memory[3 * PAGE + 60] = 0;
	CHECK(all_pages(memory));
}

static void children_have_what_had_not_come(void **state)
{
	(void)state;
	without_memory(have_children);
}

static void move_some(void)
{
	elsewhere = mmap(NULL, PAGES * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(elsewhere != MAP_FAILED);
	/* a piece away, and back to another place of a smaller one */
	CHECK(mremap(memory + 500 * PAGE, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     elsewhere) == elsewhere);
	for (uint64_t i = 0; i < 100; i++)
		CHECK(is_page(elsewhere + i * PAGE, 500 + i));
	CHECK(mremap(memory + 600 * PAGE, 8 * PAGE, 16 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     elsewhere + 200 * PAGE) == elsewhere + 200 * PAGE);
	for (uint64_t i = 0; i < 8; i++)
		CHECK(is_page(elsewhere + (200 + i) * PAGE, 600 + i));
	for (uint64_t i = 8; i < 16; i++)
		CHECK(is_zeros(elsewhere + (200 + i) * PAGE));
	CHECK(is_page(memory + 499 * PAGE, 499) && is_page(memory + 608 * PAGE, 608));
}

static void pages_come_to_where_they_were_moved(void **state)
{
	(void)state;
	without_memory(move_some);
}

static void drop_some(void)
{
	CHECK(is_page(memory + 10 * PAGE, 10));
	CHECK(madvise(memory + 8 * PAGE, 8 * PAGE, MADV_DONTNEED) == 0);
	CHECK(munmap(memory + 300 * PAGE, 50 * PAGE) == 0);
	CHECK(mmap(memory + 300 * PAGE, 50 * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + 300 * PAGE);
	CHECK(mmap(memory + 400 * PAGE, 10 * PAGE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == memory + 400 * PAGE);
	board->seen = 1;
	await_stage(1);
	for (uint64_t i = 0; i < PAGES; i++) {
		const bool gone =
			(i >= 8 && i < 16) || (i >= 300 && i < 350) || (i >= 400 && i < 410);
		CHECK(gone ? is_zeros(memory + i * PAGE) : is_page(memory + i * PAGE, i));
	}
}

static void what_is_dropped_does_not_come_back(void **state)
{
	(void)state;
	for (int way = 0; way < 2; way++) {
		FILE *image = image_of(drop_some);
		replay_lazily(image);
		reach(1);
		if (way == 0) {
			let_come();
			await_all();
		}
		board->stage = 1;
		end_well();
		let_come();
		if (way == 1)
			await_all();
		fclose(image);
	}
}

static void protect_some(void)
{
	for (uint64_t i = 0; i < PAGES; i += 3)
		CHECK(mprotect(memory + i * PAGE, PAGE, i % 2 ? PROT_NONE : PROT_READ) == 0);
	board->seen = 1;
	await_stage(1);
	CHECK(mprotect(memory, PAGES * PAGE, PROT_READ | PROT_WRITE) == 0);
	CHECK(all_pages(memory));
}

static void areas_in_pieces_are_filled(void **state)
{
	(void)state;
	FILE *image = image_of(protect_some);
	replay_lazily(image);
	reach(1);
	let_come();
	await_all();
	board->stage = 1;
	end_well();
	fclose(image);
}

static void become_another(void)
{
	char *args[] = { (char *)"true", NULL };
	CHECK(is_page(memory, 0));
	execv("/bin/true", args);
	CHECK(false);
}

static void who_becomes_another_program_needs_none(void **state)
{
	(void)state;
	without_memory(become_another);
}

static void lock_some(void)
{
	CHECK(mlock(memory, 16 * PAGE) == 0);
	CHECK(all_pages(memory));
}

static void who_locks_memory_gets_it_at_once(void **state)
{
	(void)state;
	without_memory(lock_some);
}

/* ---- ends ---- */

static void look_until_killed(void)
{
	CHECK(is_page(memory, 0));
	board->seen = 1;
	await_stage(1);
	for (uint64_t i = PAGES; i-- > 0;)
		CHECK(is_page(memory + i * PAGE, i));
	await_stage(2);
}

/* Never zeros: they wait, and are killed. */
static void programs_end_with_their_helper(void **state)
{
	pid_t helpers[2];
	(void)state;
	FILE *image = image_of(look_until_killed);
	replay_lazily(image);
	reach(1);
	find_helpers(helpers);
	assert_int_equal(kill(helpers[0], SIGKILL), 0);
	board->stage = 1;
	int status = await_end();
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(board->wrong, 0);
	await_all();
	fclose(image);
}

static void await_other_second(pid_t helper, pid_t old)
{
	pid_t now[2] = { 0 };
	for (int i = 0; i < WAIT_MS && (now[1] == 0 || now[1] == old); i++) {
		char path[64];
		nap(1);
		snprintf(path, sizeof(path), "/proc/%d/task/%d/children", helper, helper);
		FILE *children = fopen(path, "r");
		if (!children || fscanf(children, "%d", &now[1]) != 1)
			now[1] = 0;
		if (children)
			fclose(children);
	}
	assert_true(now[1] > 0 && now[1] != old);
}

static void a_helper_makes_another_second(void **state)
{
	pid_t helpers[2];
	(void)state;
	FILE *image = image_of(look_until_killed);
	replay_lazily(image);
	reach(1);
	for (int i = 0; i < 3; i++) {
		find_helpers(helpers);
		assert_int_equal(kill(helpers[1], SIGKILL), 0);
		await_other_second(helpers[0], helpers[1]);
	}
	let_come();
	await_all();
	board->stage = 2;
	end_well();
	fclose(image);
}

/* Nothing is as if it were zeros. */
static void programs_end_when_the_file_can_not_be_read(void **state)
{
	(void)state;
	FILE *image = image_of(look_until_killed);
	replay_lazily(image);
	reach(1);
	assert_int_equal(ftruncate(fileno(image), 4096), 0);
	board->stage = 1;
	int status = await_end();
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_int_equal(board->wrong, 0);
	await_all();
	fclose(image);
}

static void helpers_end_with_the_programs(void **state)
{
	(void)state;
	FILE *image = image_of(look_until_killed);
	replay_lazily(image);
	reach(1);
	assert_int_equal(kill(last_init, SIGKILL), 0);
	(void)await_end();
	let_come();
	await_all();
	fclose(image);
}

static void who_stops_meanwhile_goes_on(void **state)
{
	(void)state;
	FILE *image = image_of(look_until_killed);
	replay_lazily(image);
	reach(1);
	const pid_t child = child_of(last_init);
	assert_int_equal(kill(child, SIGSTOP), 0);
	for (int i = 0; i < WAIT_MS && process_state(child) != 'T'; i++)
		nap(1);
	let_come();
	await_all();
	board->stage = 2;
	assert_int_equal(kill(child, SIGCONT), 0);
	end_well();
	fclose(image);
}

/* ---- captured again ---- */

static void only_whole_programs_are_captured(void **state)
{
	struct vin_capture *c;
	(void)state;
	FILE *image = image_of(look_until_killed);
	for (int hop = 0; hop < 3; hop++) {
		replay_lazily(image);
		reach(1);
		pid_t child = child_of(last_init);
		err = (struct fvm_error){ 0 };
		assert_int_equal(vin_capture_open(&child, 1, &bare, &c, &err), -EOPNOTSUPP);
		assert_non_null(strstr(err.text, "userfaultfd"));
		let_come();
		await_all();
		fclose(image);
		image = image_capture(child, &bare, false);
		(void)await_end();
	}
	replay_lazily(image);
	board->stage = 2;
	end_well();
	let_come();
	await_all();
	fclose(image);
}

/* ---- from one process into another ---- */

static pid_t old_one(void *arg, pid_t number)
{
	(void)number;
	return *(const pid_t *)arg;
}

/* @then: when all has come; or NULL */
static void from_process_to_process(void (*fn)(void), void (*then)(void))
{
	struct vin_capture *c;
	struct vin_out *out;
	int wait[2], end[2];
	FILE *image = tmpfile();
	const struct vin_capture_options how = { .root = -1, .bare = true, .late = true };
	pid_t pid = victim(fn);
	assert_non_null(image);
	OK(vin_capture_open(&pid, 1, &how, &c, &err));
	OK(vin_capture_stop(c, 30000, &err));
	OK(vin_out_open(fileno(image), &out, &err));
	OK(vin_capture_write(c, out, &err));
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	/* its memory is not in there */
	assert_true(lseek(fileno(image), 0, SEEK_END) < (off_t)(PAGES * PAGE / 2));
	assert_int_equal(pipe2(wait, O_CLOEXEC), 0);
	assert_int_equal(pipe2(end, O_CLOEXEC), 0);
	const struct vin_lazy_options lazy = {
		.ends = -1, .held = end[1], .after = wait[0], .source = old_one, .arg = &pid
	};
	const struct vin_replay_options options = { .root = outside, .lazy = &lazy };
	struct vin_replay *r = image_build_with(image, &options);
	close(wait[0]);
	close(end[1]);
	after = wait[1];
	held = end[0];
	last_init = vin_replay_init(r);
	OK(vin_replay_go(r, &err));
	vin_replay_close(r);
	board->go = 1;
	reach(1);
	let_come();
	await_all();
	vin_capture_kill(c);
	vin_capture_close(c);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	last_victim = 0;
	if (then)
		then();
	board->stage = 1;
	end_well();
	fclose(image);
}

static void have_a_child_and_more(void)
{
	CHECK(is_page(memory + 9 * PAGE, 9));
	CHECK(madvise(memory + 8 * PAGE, 8 * PAGE, MADV_DONTNEED) == 0);
	elsewhere = mmap(NULL, 100 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(mremap(memory + 500 * PAGE, 100 * PAGE, 100 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED,
		     elsewhere) == elsewhere);
	pid_t pid = fork();
	if (pid == 0) {
		board->seen = 1;
		await_stage(1);
	} else {
		wait_well(pid);
	}
	for (uint64_t i = 0; i < PAGES; i++) {
		if (i < 500 || i >= 600)
			CHECK(i >= 8 && i < 16 ? is_zeros(memory + i * PAGE)
					       : is_page(memory + i * PAGE, i));
	}
	for (uint64_t i = 0; i < 100; i++)
		CHECK(is_page(elsewhere + i * PAGE, 500 + i));
}

static void memory_goes_from_process_to_process(void **state)
{
	(void)state;
	from_process_to_process(touch_after, NULL);
	from_process_to_process(drop_some, NULL);
	from_process_to_process(have_a_child_and_more, NULL);
}

/* Most of an area was never touched, and is zeros without having been anywhere. */
static void look_at_sparse(void)
{
	board->at = (uint64_t)elsewhere;
	board->seen = 1;
	await_stage(1);
	for (uint64_t i = 0; i < SPARSE; i++)
		CHECK(is_page(elsewhere + i * 1024 * PAGE, i));
	CHECK(is_zeros(elsewhere + PAGE));
}

static void only_touched_pages_are_there(void)
{
	scoped_maps maps = { 0 };
	OK(vin_maps_read(child_of(last_init), true, &maps, &err));
	const struct vin_vma *v = vin_maps_find(&maps, board->at);
	assert_non_null(v);
	assert_int_equal(v->present_kb, SPARSE * PAGE / 1024);
}

static void holes_stay_holes(void **state)
{
	(void)state;
	with_sparse = true;
	from_process_to_process(look_at_sparse, only_touched_pages_are_there);
	with_sparse = false;
}

static void without_its_source_it_is_refused(void **state)
{
	struct vin_capture *c;
	struct vin_out *out;
	struct vin_in *in;
	struct vin_replay *r;
	(void)state;
	FILE *image = tmpfile();
	const struct vin_capture_options how = { .root = -1, .bare = true, .late = true };
	const struct vin_replay_options options = { .root = outside };
	pid_t pid = victim(touch_all);
	assert_non_null(image);
	OK(vin_capture_open(&pid, 1, &how, &c, &err));
	OK(vin_capture_stop(c, 30000, &err));
	OK(vin_out_open(fileno(image), &out, &err));
	OK(vin_capture_write(c, out, &err));
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	assert_int_equal(lseek(fileno(image), 0, SEEK_SET), 0);
	OK(vin_in_open(fileno(image), &in, &err));
	err = (struct fvm_error){ 0 };
	assert_int_equal(vin_replay_build(in, &options, &r, &err), -EOPNOTSUPP);
	vin_in_close(in);
	vin_capture_kill(c);
	vin_capture_close(c);
	fclose(image);
}

/* ---- what may not be late ---- */

/* The program says where: memory of cmocka's, which it has too, may be late. */
static void look_at_locked(void)
{
	board->at = (uint64_t)memory;
	board->seen = 1;
	await_stage(1);
	CHECK(all_pages(memory));
}

static void locked_memory_is_there_before(void **state)
{
	(void)state;
	lock_it = true;
	FILE *image = image_of(look_at_locked);
	lock_it = false;
	replay_lazily(image);
	reach(1);
	scoped_maps maps = { 0 };
	OK(vin_maps_read(child_of(last_init), true, &maps, &err));
	const struct vin_vma *v = vin_maps_find(&maps, board->at);
	assert_non_null(v);
	assert_true(vin_vma_is(v, VIN_VMA_LOCKED));
	assert_false(vin_vma_is(v, VIN_VMA_UFFD_MISSING));
	board->stage = 1;
	end_well();
	let_come();
	await_all();
	fclose(image);
}

/* Of every other page it is known where it is, and then of all others. */
static void many_pages_by_turns_are_listed(void **state)
{
	(void)state;
	const uint64_t base = 1ULL << 32, count = 200000, bytes = count * PAGE;
	struct vin_area area = {
		.kind = VIN_AREA_ANON, .start = base, .end = base + 2 * bytes, .prot = PROT_READ
	};
	const struct vin_mem mem = { .areas = &area, .area_count = 1 };
	struct vin_pieces kept = { 0 };
	scoped_runs others = { 0 };
	struct vin_out_place place;
	struct vin_out *out;
	struct vin_in *in;
	enum vin_tag tag;
	uint64_t len, number = 7;
	FILE *image = tmpfile();
	assert_non_null(image);
	for (uint64_t i = 0; i < count; i++) {
		const uint64_t at = base + 2 * i * PAGE;
		OK(vin_pieces_add(&kept, at, at + PAGE, i * PAGE));
		OK(vin_runs_add(&others, at + PAGE, at + 2 * PAGE));
	}
	const uint64_t head[2] = { number, count }, table = count * sizeof(*others.runs);
	OK(vin_out_open(fileno(image), &out, &err));
	OK(vin_out_begin(out, VIN_TAG_PAGES, sizeof(head) + table + bytes, &err));
	OK(vin_out_piece(out, head, sizeof(head), &err));
	OK(vin_out_piece(out, others.runs, table, &err));
	OK(vin_out_mark(out, &place, &err));
	vin_out_close(out);
	/* the bytes are holes, and nobody reads them */
	const off_t end = lseek(fileno(image), 0, SEEK_CUR);
	assert_int_equal(ftruncate(fileno(image), end + (off_t)(bytes + sizeof(uint64_t))), 0);
	rewind(image);
	struct vin_blocks blocks = VIN_NO_BLOCKS;
	struct vin_lazy *l = vin_lazy_new(&blocks);
	assert_non_null(l);
	OK(vin_lazy_keep(l, (pid_t)number, &kept, &err));
	OK(vin_in_open(fileno(image), &in, &err));
	OK(vin_in_next(in, &tag, &len, &err));
	OK(vin_in_piece(in, &number, sizeof(number), &err));
	OK(vin_lazy_take(l, (pid_t)number, &mem, in, &err));
	vin_in_close(in);
	vin_lazy_free(l);
	vin_blocks_free(&blocks);
	vin_pieces_free(&kept);
	fclose(image);
}

static void an_ordinary_user_is_told_why_not(void **state)
{
	int status;
	(void)state;
	pid_t pid = fork();
	if (pid == 0) {
		struct fvm_error why = { 0 };
		if (setgid(65534) < 0 || setuid(65534) < 0)
			_exit(9);
		int r = vin_lazy_can(&why);
		_exit(r == -EOPNOTSUPP && strstr(why.text, "no right") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

int main(void)
{
#define LAZY(name) cmocka_unit_test_teardown(name, each_teardown)
	const struct CMUnitTest tests[] = {
		LAZY(pages_come_when_they_are_touched),
		LAZY(the_rest_comes_by_itself_and_leaves_nothing),
		LAZY(who_waits_for_pages_keeps_one_right_and_no_namespace),
		LAZY(the_kernel_waits_for_pages_too),
		LAZY(children_have_what_had_not_come),
		LAZY(pages_come_to_where_they_were_moved),
		LAZY(what_is_dropped_does_not_come_back),
		LAZY(areas_in_pieces_are_filled),
		LAZY(who_becomes_another_program_needs_none),
		LAZY(who_locks_memory_gets_it_at_once),
		LAZY(programs_end_with_their_helper),
		LAZY(a_helper_makes_another_second),
		LAZY(programs_end_when_the_file_can_not_be_read),
		LAZY(helpers_end_with_the_programs),
		LAZY(who_stops_meanwhile_goes_on),
		LAZY(only_whole_programs_are_captured),
		LAZY(memory_goes_from_process_to_process),
		LAZY(holes_stay_holes),
		LAZY(without_its_source_it_is_refused),
		LAZY(locked_memory_is_there_before),
		LAZY(many_pages_by_turns_are_listed),
		LAZY(an_ordinary_user_is_told_why_not),
	};
	if (!lazies_can())
		return 77;
	return cmocka_run_group_tests(tests, setup, teardown);
}
