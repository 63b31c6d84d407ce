#include "tests/vin/carry.h"

#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/ioctl.h>
#include <sys/mount.h>

#define SET_NEXT _IOW('I', 0, int32_t)

static bool has_overlay;

/* A mount of ours: its files have handles, numbers and devices of their own kind. */
static int inotify_setup(void **state)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    carry_setup(state) < 0)
		return -1;
	/* who seeks there in vain seeks not long */
	mkdir("small", 0755);
	if (mount("tmpfs", "small", "tmpfs", 0, "size=1m") < 0)
		return -1;
	mkdir("lower", 0755);
	mkdir("lower/deep", 0755);
	mkdir("upper", 0755);
	mkdir("work", 0755);
	mkdir("merged", 0755);
	has_overlay = mount("overlay", "merged", "overlay", 0,
			    "lowerdir=lower,upperdir=upper,workdir=work,userxattr") == 0;
	return 0;
}

static int inotify_teardown(void **state)
{
	umount2("small", MNT_DETACH);
	if (has_overlay)
		umount2("merged", MNT_DETACH);
	return carry_teardown(state);
}

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0644);
	CHECK(fd >= 0);
	close(fd);
}

/* One event, told at once; what it is of, and its name. */
static bool tells(int fd, int wd, uint32_t mask, const char *name)
{
	union {
		struct inotify_event e;
		char bytes[sizeof(struct inotify_event) + 256];
	} u;
	struct pollfd p = { .fd = fd, .events = POLLIN };
	/* one that has no name, or it is too small */
	if (poll(&p, 1, 0) != 1 ||
	    (read(fd, &u, sizeof(u.e)) < 0 && read(fd, &u, sizeof(u.e) + 16) < 0))
		return false;
	return u.e.wd == wd && u.e.mask == mask && strcmp(u.e.len ? u.e.name : "", name) == 0;
}

static bool is_silent(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 0) == 0;
}

static bool fdinfo_has(int fd, const char *text)
{
	char path[40];
	scoped_free char *info = NULL;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return fvm_read_file(AT_FDCWD, path, 1 << 16, &info, NULL) == 0 && strstr(info, text);
}

static void fresh(void)
{
	fvm_remove_tree(AT_FDCWD, "d");
	fvm_remove_tree(AT_FDCWD, "e");
	CHECK(mkdir("d", 0755) == 0);
}

static void make_watches(void)
{
	fresh();
	touch("one");
	touch("two");
	touch("three");
	CHECK(inotify_init1(IN_NONBLOCK) == 3);
	CHECK(inotify_add_watch(3, "d", IN_CREATE | IN_DELETE) == 1);
	CHECK(inotify_add_watch(3, "one", IN_OPEN) == 2);
	CHECK(inotify_add_watch(3, "letters", IN_ACCESS) == 3);
	CHECK(inotify_rm_watch(3, 2) == 0 && tells(3, 2, IN_IGNORED, ""));
	CHECK(inotify_add_watch(3, "two", IN_OPEN) == 4 && is_silent(3));
}

static void check_watches(void)
{
	CHECK(fcntl(3, F_GETFL) & O_NONBLOCK && is_silent(3));
	touch("d/new");
	CHECK(tells(3, 1, IN_CREATE, "new") && is_silent(3));
	close(open("one", O_RDONLY));
	close(open("two", O_RDONLY));
	CHECK(tells(3, 4, IN_OPEN, "") && is_silent(3));
	CHECK(inotify_add_watch(3, "letters", IN_OPEN | IN_MASK_ADD) == 3);
	CHECK(inotify_add_watch(3, "three", IN_OPEN) == 5);
	CHECK(inotify_rm_watch(3, 1) == 0 && tells(3, 1, IN_IGNORED, ""));
	CHECK(inotify_rm_watch(3, 2) < 0 && errno == EINVAL);
}

static void watches_have_their_numbers(void **state)
{
	(void)state;
	carried(make_watches, check_watches);
}

static void make_masks(void)
{
	fresh();
	CHECK(inotify_init1(0) == 3);
	CHECK(inotify_add_watch(3, "d", IN_ALL_EVENTS | IN_EXCL_UNLINK | IN_ONLYDIR) == 1);
	CHECK(inotify_add_watch(3, "letters", IN_CLOSE_NOWRITE | IN_ONESHOT) == 2);
}

static void check_masks(void)
{
	CHECK(!(fcntl(3, F_GETFL) & O_NONBLOCK) && fdinfo_has(3, "mask:4000fff "));
	close(open("letters", O_RDONLY));
	CHECK(tells(3, 2, IN_CLOSE_NOWRITE, "") && tells(3, 2, IN_IGNORED, ""));
	close(open("letters", O_RDONLY));
	CHECK(is_silent(3));
	int fd = open("d/x", O_RDWR | O_CREAT, 0600);
	CHECK(tells(3, 1, IN_CREATE, "x") && tells(3, 1, IN_OPEN, "x"));
	CHECK(unlink("d/x") == 0 && tells(3, 1, IN_DELETE, "x"));
	CHECK(write(fd, "x", 1) == 1 && is_silent(3)); /* IN_EXCL_UNLINK */
}

static void masks_and_their_flags_are_kept(void **state)
{
	(void)state;
	carried(make_masks, check_masks);
}

static void make_moved(void)
{
	fresh();
	CHECK(mkdir("d/in", 0755) == 0 && inotify_init1(0) == 3);
	CHECK(inotify_add_watch(3, "d/in", IN_CREATE | IN_MOVE_SELF) == 1);
	CHECK(rename("d", "e") == 0 && rename("e/in", "e/out") == 0);
	CHECK(tells(3, 1, IN_MOVE_SELF, ""));
}

static void check_moved(void)
{
	touch("e/out/here");
	CHECK(tells(3, 1, IN_CREATE, "here"));
	CHECK(unlink("e/out/here") == 0 && is_silent(3));
}

static void what_was_moved_is_watched_where_it_is(void **state)
{
	(void)state;
	carried(make_moved, check_moved);
}

static void make_unlinked(void)
{
	touch("gone");
	CHECK(open("gone", O_RDWR) == 3 && inotify_init1(0) == 4);
	CHECK(inotify_add_watch(4, "gone", IN_MODIFY | IN_DELETE_SELF) == 1);
	CHECK(unlink("gone") == 0);
}

static void check_unlinked(void)
{
	CHECK(is_silent(4) && write(3, "x", 1) == 1 && tells(4, 1, IN_MODIFY, ""));
	close(3);
	CHECK(tells(4, 1, IN_DELETE_SELF, "") && tells(4, 1, IN_IGNORED, ""));
}

static void an_open_file_without_a_name_is_watched(void **state)
{
	(void)state;
	carried(make_unlinked, check_unlinked);
}

static void make_symlink(void)
{
	unlink("link");
	CHECK(symlink("letters", "link") == 0 && inotify_init1(0) == 3);
	CHECK(inotify_add_watch(3, "link", IN_DELETE_SELF | IN_ATTRIB | IN_DONT_FOLLOW) == 1);
	CHECK(inotify_add_watch(3, "link", IN_ACCESS) == 2);
}

static void check_symlink(void)
{
	char c;
	int fd = open("letters", O_RDONLY);
	CHECK(read(fd, &c, 1) == 1 && tells(3, 2, IN_ACCESS, "") && is_silent(3));
	CHECK(rename("link", "link2") == 0 && symlink("letters", "link") == 0);
	CHECK(unlink("link2") == 0 && tells(3, 1, IN_ATTRIB, "") &&
	      tells(3, 1, IN_DELETE_SELF, ""));
}

static void a_symlink_itself_is_watched(void **state)
{
	(void)state;
	carried(make_symlink, check_symlink);
}

static void make_large(void)
{
	CHECK(inotify_init1(0) == 3);
	CHECK(inotify_add_watch(3, "letters", IN_OPEN) == 1);
	CHECK(ioctl(3, SET_NEXT, 1234567890L) == 0);
	CHECK(inotify_add_watch(3, ".", IN_ATTRIB) == 1234567890);
}

static void check_large(void)
{
	CHECK(inotify_add_watch(3, "letters", IN_OPEN) == 1);
	CHECK(inotify_add_watch(3, ".", IN_ATTRIB) == 1234567890);
	CHECK(inotify_add_watch(3, "/", IN_DELETE_SELF) == 1234567891);
}

static void a_large_number_takes_no_time(void **state)
{
	(void)state;
	carried(make_large, check_large);
}

static void make_many(void)
{
	fresh();
	CHECK(inotify_init1(0) == 3);
	CHECK(inotify_init1(0) == 4);
	for (int i = 0; i < 400; i++) {
		char name[20];
		snprintf(name, sizeof(name), "d/%d", i);
		CHECK(mkdir(name, 0755) == 0);
		CHECK(inotify_add_watch(3 + i % 2, name, IN_CREATE) == i / 2 + 1);
	}
}

static void check_many(void)
{
	for (int i = 0; i < 400; i++) {
		char name[20];
		snprintf(name, sizeof(name), "d/%d/x", i);
		touch(name);
		CHECK(tells(3 + i % 2, i / 2 + 1, IN_CREATE, "x"));
		unlink(name);
	}
	CHECK(is_silent(3) && is_silent(4));
}

static void hundreds_are_found_in_one_walk(void **state)
{
	(void)state;
	carried(make_many, check_many);
}

static void make_in_epoll(void)
{
	struct epoll_event e = { .events = EPOLLIN, .data.u64 = 5 };
	fresh();
	CHECK(inotify_init1(0) == 3 && inotify_add_watch(3, "d", IN_CREATE) == 1);
	CHECK(epoll_create1(0) == 4 && epoll_ctl(4, EPOLL_CTL_ADD, 3, &e) == 0);
}

static void check_in_epoll(void)
{
	struct epoll_event e;
	CHECK(epoll_wait(4, &e, 1, 0) == 0);
	touch("d/new");
	CHECK(epoll_wait(4, &e, 1, 1000) == 1 && e.data.u64 == 5);
	CHECK(tells(3, 1, IN_CREATE, "new") && epoll_wait(4, &e, 1, 0) == 0);
	unlink("d/new");
}

static void an_epoll_waits_for_events(void **state)
{
	(void)state;
	carried(make_in_epoll, check_in_epoll);
}

/* ---- events that nobody has read ---- */

static void make_queued(void)
{
	fresh();
	CHECK(inotify_init1(0) == 3 && inotify_add_watch(3, "d", IN_CREATE | IN_DELETE) == 1);
	touch("d/a");
	CHECK(unlink("d/a") == 0);
}

static void check_queued(void)
{
	CHECK(tells(3, -1, IN_Q_OVERFLOW, "") && is_silent(3));
	touch("d/b");
	CHECK(tells(3, 1, IN_CREATE, "b") && inotify_add_watch(3, "d", IN_OPEN) == 1);
	unlink("d/b");
}

static void events_not_read_yet_are_told_to_be_lost(void **state)
{
	(void)state;
	carried(make_queued, check_queued);
}

static void reads_in_the_end(void)
{
	only_null();
	make_queued();
	board->ready = 1;
	while (!board->end)
		nap(1);
	CHECK(tells(3, 1, IN_CREATE, "a") && tells(3, 1, IN_DELETE, "a") && is_silent(3));
	touch("d/c");
	CHECK(tells(3, 1, IN_CREATE, "c") && is_silent(3));
}

static void who_is_captured_keeps_his_events(void **state)
{
	(void)state;
	pid_t pid = victim(reads_in_the_end, true);
	close(carry_capture(&pid, 1));
	victim_end(pid);
}

/* ---- where it is ---- */

/* What others do there is not told. */
static void make_elsewhere(void)
{
	CHECK(inotify_init1(0) == 3);
	CHECK(inotify_add_watch(3, "/proc/sys/kernel", IN_DELETE_SELF) == 1);
	CHECK(inotify_add_watch(3, "small", IN_CREATE) == 2);
	CHECK(inotify_add_watch(3, "/", IN_DELETE_SELF) == 3);
	CHECK(inotify_add_watch(3, "/etc", IN_DELETE_SELF) == 4);
	CHECK(inotify_add_watch(3, "/dev/null", IN_DELETE_SELF) == 5);
}

static void check_elsewhere(void)
{
	CHECK(inotify_add_watch(3, "/etc", IN_DELETE_SELF) == 4);
	CHECK(inotify_add_watch(3, "/", IN_DELETE_SELF) == 3);
	CHECK(inotify_add_watch(3, "/dev/null", IN_DELETE_SELF) == 5);
	CHECK(inotify_add_watch(3, "/proc/sys/kernel", IN_DELETE_SELF) == 1);
	touch("small/new");
	CHECK(tells(3, 2, IN_CREATE, "new") && is_silent(3));
	unlink("small/new");
}

static void other_file_systems_have_watches(void **state)
{
	(void)state;
	carried(make_elsewhere, check_elsewhere);
}

static void make_overlay(void)
{
	unlink("merged/deep/new");
	CHECK(inotify_init1(0) == 3 && inotify_add_watch(3, "merged/deep", IN_CREATE) == 1);
	CHECK(inotify_add_watch(3, "merged", IN_CREATE) == 2);
}

static void check_overlay(void)
{
	touch("merged/deep/new");
	CHECK(tells(3, 1, IN_CREATE, "new") && is_silent(3));
	touch("merged/top");
	CHECK(tells(3, 2, IN_CREATE, "top") && unlink("merged/top") == 0);
	CHECK(unlink("merged/deep/new") == 0);
}

static void an_overlay_has_watches(void **state)
{
	(void)state;
	if (!has_overlay) {
		print_message("no overlay can be mounted here\n");
		skip();
	}
	carried(make_overlay, check_overlay);
}

/* What is mapped lives on. */
static void make_lost(void)
{
	int fd = open("small/f", O_CREAT | O_RDWR, 0600);
	CHECK(fd == 3 && ftruncate(fd, 4096) == 0);
	CHECK(mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0) != MAP_FAILED && close(fd) == 0);
	CHECK(inotify_init1(0) == 3 && inotify_add_watch(3, "small/f", IN_MODIFY) == 1);
	CHECK(unlink("small/f") == 0);
}

static void what_has_no_name_any_more_is_refused(void **state)
{
	(void)state;
	refused(make_lost, "no name leads to what its watch 1 is of");
}

/* ---- records that somebody made up ---- */

static int parsed(uint64_t lost, uint64_t count, uint64_t wd, uint64_t mask, const char *name)
{
	scoped_buf b = { 0 };
	unsigned char its[64] = { 0 };
	vin_put_u64(&b, lost);
	vin_put_u64(&b, count);
	vin_put_u64(&b, wd);
	vin_put_u64(&b, mask);
	vin_put_string(&b, name);
	vin_put_u64(&b, 0);
	struct vin_payload p = { .at = (unsigned char *)b.data,
				 .end = (unsigned char *)b.data + b.len };
	assert_true(vin_kind_inotify.size <= sizeof(its));
	int r = vin_kind_inotify.parse(&p, true, its);
	vin_kind_inotify.forget(its);
	return r;
}

static void made_up_watches_are_refused(void **state)
{
	(void)state;
	assert_int_equal(parsed(0, 1, 1, IN_OPEN, "/x"), 0);
	assert_int_equal(parsed(0, 1, 1, IN_OPEN, ""), 0);
	assert_int_equal(parsed(2, 1, 1, IN_OPEN, "/x"), -EBADMSG);
	assert_int_equal(parsed(0, 1, 0, IN_OPEN, "/x"), -EBADMSG);
	assert_int_equal(parsed(0, 1, 1ULL << 31, IN_OPEN, "/x"), -EBADMSG);
	assert_int_equal(parsed(0, 1, 1, 0, "/x"), -EBADMSG);
	assert_int_equal(parsed(0, 1, 1, IN_OPEN | IN_MASK_ADD, "/x"), -EBADMSG);
	assert_int_equal(parsed(0, 1, 1, IN_OPEN, "x"), -EBADMSG);
	assert_int_equal(parsed(0, 2, 1, IN_OPEN, "/x"), -EBADMSG);
	assert_int_equal(parsed(0, UINT64_MAX, 1, IN_OPEN, "/x"), -EBADMSG);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(watches_have_their_numbers),
		CARRY(masks_and_their_flags_are_kept),
		CARRY(what_was_moved_is_watched_where_it_is),
		CARRY(an_open_file_without_a_name_is_watched),
		CARRY(a_symlink_itself_is_watched),
		CARRY(a_large_number_takes_no_time),
		CARRY(hundreds_are_found_in_one_walk),
		CARRY(an_epoll_waits_for_events),
		CARRY(events_not_read_yet_are_told_to_be_lost),
		CARRY(who_is_captured_keeps_his_events),
		CARRY(other_file_systems_have_watches),
		CARRY(an_overlay_has_watches),
		CARRY(what_has_no_name_any_more_is_refused),
		CARRY(made_up_watches_are_refused),
	};
	return cmocka_run_group_tests(tests, inotify_setup, inotify_teardown);
}

int main(void)
{
	return carry_main(run);
}
