/* Current directories that were deleted, as getcwd(2), rmdir(2) and unlink(2) have it. */
#include <sys/inotify.h>
#include <sys/stat.h>

#include "worlds.h"

static char path[64];
static pid_t child;

static void is_nameless(void)
{
	struct stat st;
	char name[256];
	CHECK(stat(".", &st) == 0 && S_ISDIR(st.st_mode) && st.st_nlink == 0);
	CHECK((st.st_mode & 07777) == 01751 && st.st_uid == geteuid() && st.st_gid == getegid());
	CHECK(!getcwd(name, sizeof(name)) && errno == ENOENT);
	CHECK(open("file", O_CREAT | O_WRONLY, 0600) < 0 && errno == ENOENT);
	board->seen[child ? 0 : 1] = st.st_ino;
}

static void enter_and_delete(void)
{
	(void)rmdir(path);
	CHECK(mkdir(path, 0700) == 0 && chdir(path) == 0 && chmod(".", 01751) == 0 &&
	      rmdir(path) == 0);
}

static void gone_directory(void)
{
	enter_and_delete();
	child = 1;
}

static void its_directory(void)
{
	char link[128] = "", want[128];
	is_nameless();
	snprintf(want, sizeof(want), "%s (deleted)", path);
	CHECK(readlink("/proc/self/cwd", link, sizeof(link) - 1) > 0 && strcmp(link, want) == 0);
	CHECK(access(path, F_OK) < 0 && chdir("..") == 0 && getcwd(link, sizeof(link)) &&
	      strcmp(link, "/tmp") == 0);
}

static void a_directory_that_was_deleted(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(gone_directory, its_directory, CLONE_NEWIPC);
}

static void directory_of_two(void)
{
	enter_and_delete();
	CHECK(open(".", O_RDONLY | O_DIRECTORY) == 3);
	child = fork();
	if (child == 0) {
		while (!board->end)
			nap(1);
		is_nameless();
		_exit(0);
	}
	CHECK(child > 0);
}

static void the_same_of_two(void)
{
	int status;
	struct stat open_one;
	is_nameless();
	CHECK(waitpid(child, &status, 0) == child && status == 0);
	CHECK(board->seen[0] == board->seen[1]);
	CHECK(fstat(3, &open_one) == 0 && open_one.st_ino == board->seen[0]);
}

static void one_that_several_are_in(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(directory_of_two, the_same_of_two, CLONE_NEWIPC);
}

static void name_taken_again(void)
{
	gone_directory();
	CHECK(mkdir(path, 0700) == 0);
}

static void it_is_another(void)
{
	struct stat st;
	is_nameless();
	CHECK(stat(path, &st) == 0 && st.st_ino != board->seen[0]);
}

static void one_whose_name_is_anothers_now(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(name_taken_again, it_is_another, CLONE_NEWIPC);
}

static void parent_gone_too(void)
{
	char inner[80];
	(void)rmdir(path);
	CHECK(mkdir(path, 0700) == 0);
	snprintf(inner, sizeof(inner), "%s/inner", path);
	CHECK(mkdir(inner, 0700) == 0 && chdir(inner) == 0 && chmod(".", 01751) == 0);
	CHECK(rmdir(inner) == 0 && rmdir(path) == 0);
	child = 1;
}

static void one_whose_parent_was_deleted(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(parent_gone_too, is_nameless, CLONE_NEWIPC);
}

static void watch_it(void)
{
	gone_directory();
	CHECK(inotify_init1(IN_NONBLOCK) == 3 && inotify_add_watch(3, ".", IN_ATTRIB) == 1);
}

static void its_watch_tells(void)
{
	struct inotify_event e;
	is_nameless();
	CHECK(read(3, &e, sizeof(e)) < 0 && errno == EAGAIN);
	CHECK(chmod(".", 01751) == 0 && read(3, &e, sizeof(e)) == sizeof(e));
	CHECK(e.wd == 1 && e.mask == (IN_ATTRIB | IN_ISDIR));
}

static void one_that_is_watched(void **state)
{
	(void)state;
	bare.bare = false;
	goes_on(watch_it, its_watch_tells, CLONE_NEWIPC);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(a_directory_that_was_deleted),
		WORLD(one_that_several_are_in),
		WORLD(one_whose_name_is_anothers_now),
		WORLD(one_whose_parent_was_deleted),
		WORLD(one_that_is_watched),
	};
	snprintf(path, sizeof(path), "/tmp/vin-dirs-%d", getpid());
	int failed = cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
	(void)rmdir(path);
	return failed;
}

int main(void)
{
	return worlds_main(run);
}
