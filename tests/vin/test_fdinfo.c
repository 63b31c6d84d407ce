#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/sysmacros.h>

#include <cmocka.h>

#include "vin/fdinfo.h"

#define HEAD "pos:\t7\nflags:\t02100002\nmnt_id:\t15\nino:\t99\n"

static void what_all_have_is_read(void **state)
{
	(void)state;
	scoped_fdinfo info = { 0 };
	assert_int_equal(vin_fdinfo_parse(HEAD "something-new: 5\n", &info), 0);
	assert_int_equal(info.pos, 7);
	assert_int_equal(info.flags, 02100002);
	assert_int_equal(info.eventfd_semaphore, -1);
	assert_int_equal(info.lock_count + info.item_count, 0);
}

static void each_kind_has_its_lines(void **state)
{
	(void)state;
	scoped_fdinfo event = { 0 }, timer = { 0 }, sig = { 0 };
	assert_int_equal(vin_fdinfo_parse(HEAD "eventfd-count:               2a\neventfd-id: 1\n"
					       "eventfd-semaphore: 1\n",
					  &event),
			 0);
	assert_true(event.is_eventfd && event.eventfd_count == 42 && event.eventfd_semaphore == 1);
	assert_int_equal(vin_fdinfo_parse(HEAD "clockid: 7\nticks: 3\nsettime flags: 01\n"
					       "it_value: (4, 5)\nit_interval: (0, 0)\n",
					  &timer),
			 0);
	assert_true(timer.is_timerfd && timer.clock == 7 && timer.ticks == 3 &&
		    timer.settime_flags == 1);
	assert_int_equal(vin_fdinfo_parse(HEAD "sigmask:\t8000000000000200\n", &sig), 0);
	assert_true(sig.is_signalfd && sig.sigmask == 0x8000000000000200);
}

static void epoll_items_are_read(void **state)
{
	(void)state;
	scoped_fdinfo info = { 0 };
	assert_int_equal(
		vin_fdinfo_parse(
			HEAD
			"tfd:        5 events:       19 data: ffffffffffffffff  pos:-1 ino:61af "
			"sdev:fe00007\n"
			"tfd:        6 events: 80000019 data:                1  pos:0 ino:1 "
			"sdev:7\n",
			&info),
		0);
	assert_int_equal(info.item_count, 2);
	assert_int_equal(info.items[0].fd, 5);
	assert_int_equal(info.items[0].events, 0x19);
	assert_true(info.items[0].data == UINT64_MAX && info.items[0].ino == 0x61af);
	assert_true(info.items[0].dev == makedev(0xfe, 7) && info.items[1].events == 0x80000019);
}

static void marks_are_read(void **state)
{
	(void)state;
	scoped_fdinfo info = { 0 }, fan = { 0 };
	assert_int_equal(
		vin_fdinfo_parse(HEAD
				 "inotify wd:3 ino:9e7e sdev:800013 mask:80000fce ignored_mask:0 "
				 "fhandle-bytes:8 fhandle-type:f8 f_handle:7e9e0000640d1b6d\n"
				 "inotify wd:a ino:1 sdev:6 mask:20 ignored_mask:0\n",
				 &info),
		0);
	assert_int_equal(info.mark_count, 2);
	assert_int_equal(info.mnt_id, 15);
	assert_true(info.marks[0].wd == 3 && info.marks[0].mask == 0x80000fce);
	assert_true(info.marks[0].dev == makedev(8, 0x13) && info.marks[0].ino == 0x9e7e);
	assert_true(info.marks[0].handle_type == 0xf8 && info.marks[0].handle_len == 8);
	assert_memory_equal(info.marks[0].handle, "\x7e\x9e\0\0\x64\x0d\x1b\x6d", 8);
	assert_true(info.marks[1].wd == 10 && info.marks[1].handle_len == 0);
	assert_int_equal(
		vin_fdinfo_parse(HEAD
				 "fanotify flags:4 event-flags:8000\n"
				 "fanotify sdev:fe00000 mflags:0 mask:20 ignored_mask:1\n"
				 "fanotify mnt_id:1b mflags:40 mask:20 ignored_mask:0\n"
				 "fanotify ino:a7 sdev:6 mflags:0 mask:40000020 ignored_mask:0 "
				 "fhandle-bytes:1 fhandle-type:1 f_handle:e2\n",
				 &fan),
		0);
	assert_true(fan.is_fanotify && fan.fanotify_flags == 4 &&
		    fan.fanotify_event_flags == 0x8000 && fan.mark_count == 3);
	assert_true(fan.marks[0].kind == VIN_MARK_FILESYSTEM && fan.marks[0].ignored == 1);
	assert_true(fan.marks[1].kind == VIN_MARK_MOUNT && fan.marks[1].mnt_id == 27);
	assert_true(fan.marks[1].flags == 0x40 && fan.marks[2].kind == VIN_MARK_INODE);
	assert_true(fan.marks[2].ino == 0xa7 && fan.marks[2].handle[0] == 0xe2);
}

static void pidfds_are_read(void **state)
{
	(void)state;
	scoped_fdinfo info = { 0 }, gone = { 0 }, one = { 0 };
	assert_int_equal(vin_fdinfo_parse(HEAD "Pid:\t4711\nNSpid:\t4711\t12\t5\n", &info), 0);
	assert_true(info.is_pidfd && info.pid == 4711 && info.inner_pid == 5);
	assert_int_equal(vin_fdinfo_parse(HEAD "Pid:\t-1\nNSpid:\t-1\n", &gone), 0);
	assert_true(gone.is_pidfd && gone.pid == -1 && gone.inner_pid == 0);
	assert_int_equal(vin_fdinfo_parse(HEAD "Pid:\t7\nNSpid:\t7\n", &one), 0);
	assert_true(one.pid == 7 && one.inner_pid == 7);
}

static void made_up_marks_are_refused(void **state)
{
	static const char *const texts[] = {
		"inotify wd:0 ino:1 sdev:6 mask:20 ignored_mask:0\n",
		"inotify wd:80000000 ino:1 sdev:6 mask:20 ignored_mask:0\n",
		"inotify wd:1 ino:1 sdev:6 mask:100000020 ignored_mask:0\n",
		"inotify wd:1 ino:1 sdev:6\n",
		"inotify wd:1 ino:1 sdev:6 mask:20 fhandle-bytes:8 fhandle-type:1 f_handle:ab\n",
		"inotify wd:1 ino:1 sdev:6 mask:20 fhandle-bytes:81 fhandle-type:1 f_handle:ab\n",
		"inotify wd:1 ino:1 sdev:6 mask:20 fhandle-bytes:1 fhandle-type:1\n",
		"fanotify flags:4\n",
		"fanotify ino:5 mflags:0 mask:0 ignored_mask:0\n",
		"Pid:\tx\n",
		"NSpid:\t5\tx\n",
	};
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(texts); i++) {
		scoped_fdinfo info = { 0 };
		char text[300];
		snprintf(text, sizeof(text), "%s%s", HEAD, texts[i]);
		assert_int_equal(vin_fdinfo_parse(text, &info), -EBADMSG);
	}
}

static void all_kinds_of_locks_are_read(void **state)
{
	(void)state;
	scoped_fdinfo info = { 0 };
	assert_int_equal(vin_fdinfo_parse(HEAD
					  "lock:\t1: POSIX  ADVISORY  WRITE 359 00:13:11691 0 EOF\n"
					  "lock:\t2: OFDLCK ADVISORY  READ -1 00:13:11691 5 9\n"
					  "lock:\t3: FLOCK  ADVISORY  WRITE 359 00:13:11691 0 EOF\n"
					  "lock:\t4: LEASE  ACTIVE    READ 359 00:13:11691 0 EOF\n"
					  "lock:\t5: LEASE  BREAKING  READ 359 00:13:11691 0 EOF\n"
					  "lock:\t6: NEWER  KIND OF LOCK\n",
					  &info),
			 0);
	assert_int_equal(info.lock_count, 5);
	assert_true(info.locks[0].kind == VIN_LOCK_POSIX && info.locks[0].write &&
		    info.locks[0].end < 0);
	assert_true(info.locks[1].kind == VIN_LOCK_OFD && !info.locks[1].write &&
		    info.locks[1].start == 5 && info.locks[1].end == 9);
	assert_int_equal(info.locks[2].kind, VIN_LOCK_FLOCK);
	assert_true(info.locks[3].kind == VIN_LOCK_LEASE && !info.locks[3].breaking);
	assert_true(info.locks[4].breaking);
}

static void what_is_none_is_refused(void **state)
{
	(void)state;
	static const char *const texts[] = {
		"",
		"flags:\t02\n",
		"pos:\tx\n",
		HEAD "flags:\t9\n",
		HEAD "eventfd-count: \n",
		HEAD "eventfd-count: 11112222333344445\n",
		HEAD "eventfd-semaphore: 2\n",
		HEAD "clockid: 99\n",
		HEAD "tfd: -1 events: 1 data: 1 ino:1 sdev:1\n",
		HEAD "tfd: 1 events: 1 data: 1\n",
		HEAD "tfd: 1 events: 100000000 data: 1 ino:1 sdev:1\n",
		HEAD "lock:\tx\n",
		HEAD "lock:\t1: POSIX  ADVISORY  WRITE 359 00:13:11691 9 5\n",
		HEAD "lock:\t1: POSIX  ADVISORY  WRITE 359\n",
	};
	for (size_t i = 0; i < FVM_COUNT(texts); i++) {
		struct vin_fdinfo info;
		assert_int_equal(vin_fdinfo_parse(texts[i], &info), -EBADMSG);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_all_have_is_read),
		cmocka_unit_test(each_kind_has_its_lines),
		cmocka_unit_test(epoll_items_are_read),
		cmocka_unit_test(marks_are_read),
		cmocka_unit_test(pidfds_are_read),
		cmocka_unit_test(made_up_marks_are_refused),
		cmocka_unit_test(all_kinds_of_locks_are_read),
		cmocka_unit_test(what_is_none_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
