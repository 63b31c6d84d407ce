#include "tests/vin/carry.h"

#include <sys/fanotify.h>
#include <sys/mount.h>

/* A file system of ours, whose files have handles. */
static int fanotify_setup(void **state)
{
	if (unshare(CLONE_NEWNS) < 0 || mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    carry_setup(state) < 0)
		return -1;
	mkdir("small", 0755);
	return mount("tmpfs", "small", "tmpfs", 0, "size=1m") < 0 ? -1 : chmod("small", 0777);
}

static int fanotify_teardown(void **state)
{
	umount2("small", MNT_DETACH);
	return carry_teardown(state);
}

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT, 0644);
	CHECK(fd >= 0 && close(fd) == 0);
}

static bool is_silent(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	return poll(&p, 1, 0) == 0;
}

/* Events since the last call; those that bring a descriptor are let go of. */
static uint64_t told(int fd)
{
	char events[4096] __attribute__((aligned(8)));
	uint64_t mask = 0;
	while (!is_silent(fd)) {
		ssize_t n = read(fd, events, sizeof(events));
		CHECK(n > 0);
		const struct fanotify_event_metadata *e = (void *)events;
		for (; FAN_EVENT_OK(e, n); e = FAN_EVENT_NEXT(e, n)) {
			mask |= e->mask;
			if (e->fd >= 0)
				close(e->fd);
		}
	}
	return mask;
}

static bool fdinfo_of(int fd, char **ret)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	return fvm_read_file(AT_FDCWD, path, 1 << 16, ret, NULL) == 0;
}

static bool fdinfo_has(int fd, const char *text)
{
	scoped_free char *info = NULL;
	return fdinfo_of(fd, &info) && strstr(info, text);
}

static void make_marks(void)
{
	touch("small/one");
	touch("small/two");
	touch("small/gone");
	mkdir("small/dir", 0755);
	CHECK(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID | FAN_NONBLOCK, 0) == 3);
	CHECK(fanotify_mark(3, FAN_MARK_ADD, FAN_MODIFY | FAN_CLOSE_WRITE, AT_FDCWD, "small/one") ==
	      0);
	CHECK(fanotify_mark(3, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "small/two") == 0);
	CHECK(fanotify_mark(3, FAN_MARK_ADD | FAN_MARK_IGNORED_MASK | FAN_MARK_IGNORED_SURV_MODIFY,
			    FAN_CLOSE_WRITE, AT_FDCWD, "small/one") == 0);
	CHECK(fanotify_mark(3, FAN_MARK_ADD, FAN_CREATE | FAN_DELETE | FAN_ONDIR, AT_FDCWD,
			    "small/dir") == 0);
	CHECK(open("small/gone", O_RDWR) == 4 && unlink("small/gone") == 0);
	CHECK(fanotify_mark(3, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "/proc/self/fd/4") == 0);
	CHECK(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_DFID_NAME, 0) == 5 && is_silent(3));
}

static void check_marks(void)
{
	CHECK(is_silent(3) && fcntl(3, F_GETFL) & O_NONBLOCK && !(fcntl(5, F_GETFL) & O_NONBLOCK));
	scoped_fd one = open("small/one", O_WRONLY);
	CHECK(is_silent(3) && write(one, "x", 1) == 1 && told(3) == FAN_MODIFY);
	fvm_fd_closep(&one);
	CHECK(is_silent(3)); /* ignored */
	touch("small/two");
	CHECK(told(3) == FAN_OPEN);
	CHECK(mkdir("small/dir/sub", 0755) == 0 && told(3) == (FAN_CREATE | FAN_ONDIR));
	CHECK(rmdir("small/dir/sub") == 0 && told(3) == (FAN_DELETE | FAN_ONDIR));
	CHECK(write(4, "x", 1) == 1 && told(3) == FAN_MODIFY);
	CHECK(fdinfo_has(5, "fanotify flags:c00") && fdinfo_has(3, "fanotify flags:202"));
	CHECK(fanotify_mark(5, FAN_MARK_ADD, FAN_CREATE, AT_FDCWD, "small/dir") == 0);
	unlink("small/one");
	unlink("small/two");
	rmdir("small/dir");
}

static void marks_of_files_are_set_again(void **state)
{
	(void)state;
	carried(make_marks, check_marks);
}

static void make_mounts(void)
{
	CHECK(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, O_RDONLY | O_LARGEFILE) == 3);
	CHECK(fanotify_mark(3, FAN_MARK_ADD | FAN_MARK_MOUNT, FAN_OPEN, AT_FDCWD, "small") == 0);
	CHECK(fanotify_init(FAN_CLASS_NOTIF | FAN_NONBLOCK, 0) == 4);
	CHECK(fanotify_mark(4, FAN_MARK_ADD | FAN_MARK_FILESYSTEM, FAN_CLOSE_WRITE, AT_FDCWD,
			    "small") == 0);
}

static void check_mounts(void)
{
	CHECK(is_silent(3) && is_silent(4));
	touch("small/new");
	CHECK(told(3) == FAN_OPEN && told(4) == FAN_CLOSE_WRITE);
	unlink("small/new");
}

static void marks_of_mounts_and_file_systems_are_set_again(void **state)
{
	(void)state;
	scoped_fd may = fanotify_init(FAN_CLASS_NOTIF, 0);
	if (may < 0) /* root of the machine only */
		skip();
	carried(make_mounts, check_mounts);
}

static void make_unread(void)
{
	touch("small/one");
	CHECK(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, 0) == 3);
	CHECK(fanotify_mark(3, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "small/one") == 0);
	touch("small/one");
}

static void events_are_read_first(void **state)
{
	(void)state;
	refused(make_unread, "what a fanotify tells is not read yet");
	unlink("small/one");
}

static void make_content(void)
{
	CHECK(fanotify_init(FAN_CLASS_CONTENT, 0) == 3);
}

static void who_is_asked_for_permission_is_refused(void **state)
{
	(void)state;
	scoped_fd may = fanotify_init(FAN_CLASS_CONTENT, 0);
	if (may < 0)
		skip();
	refused(make_content, "others wait for what it permits (fanotify)");
}

static void make_lost(void)
{
	touch("small/one");
	CHECK(fanotify_init(FAN_CLASS_NOTIF | FAN_REPORT_FID, 0) == 3);
	CHECK(fanotify_mark(3, FAN_MARK_ADD, FAN_OPEN, AT_FDCWD, "small/one") == 0);
	CHECK(mount("tmpfs", "small", "tmpfs", 0, "size=1m") == 0);
}

static void what_no_name_leads_to_is_refused(void **state)
{
	(void)state;
	refused(make_lost, "no name leads to what is marked");
	umount2("small", MNT_DETACH);
	unlink("small/one");
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(marks_of_files_are_set_again),
		CARRY(marks_of_mounts_and_file_systems_are_set_again),
		CARRY(events_are_read_first),
		CARRY(who_is_asked_for_permission_is_refused),
		CARRY(what_no_name_leads_to_is_refused),
	};
	return cmocka_run_group_tests(tests, fanotify_setup, fanotify_teardown);
}

int main(void)
{
	return carry_main(run);
}
