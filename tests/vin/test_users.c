/* User namespaces of programs: told, and made again with the same maps. */
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/users.h"

static struct fvm_error err;

/* Each namespace gives the one id that the one above gave it another number. */
static void go_deeper(uint32_t inside, uint32_t outside)
{
	char line[64];
	snprintf(line, sizeof(line), "%u %u 1\n", inside, outside);
	if (unshare(CLONE_NEWUSER) < 0)
		_exit(77);
	if (fvm_write_file(AT_FDCWD, "/proc/self/setgroups", "deny") < 0 ||
	    fvm_write_file(AT_FDCWD, "/proc/self/uid_map", line) < 0 ||
	    fvm_write_file(AT_FDCWD, "/proc/self/gid_map", line) < 0)
		_exit(1);
}

/* A child @depth namespaces below us, which waits. */
static pid_t start_below(int depth)
{
	int ready[2];
	char byte;
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		for (int i = 0; i < depth; i++)
			go_deeper(100 + (uint32_t)i, i ? 99 + (uint32_t)i : geteuid());
		(void)!write(ready[1], "r", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ssize_t n = read(ready[0], &byte, 1);
	close(ready[0]);
	if (n == 1)
		return pid;
	int status = 0;
	waitpid(pid, &status, 0);
	assert_int_equal(WEXITSTATUS(status), 77);
	return 0;
}

static void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

static void carry(const struct vin_users *from, struct vin_users *to)
{
	scoped_buf payload = { 0 };
	vin_users_put(&payload, from);
	struct vin_payload p = { (unsigned char *)payload.data,
				 (unsigned char *)payload.data + payload.len, false };
	assert_int_equal(vin_users_get(&p, to), 0);
}

static void namespaces_are_made_again_with_their_maps(void **state)
{
	struct vin_users told = { 0 }, made = { 0 }, again = { 0 };
	(void)state;
	for (int depth = 1; depth <= 2; depth++) {
		pid_t pid = start_below(depth);
		if (pid == 0)
			skip();
		assert_int_equal(vin_users_check(pid, &err), 0);
		assert_int_equal(vin_users_add(&told, pid, 7, &err), 0);
		end(pid);
		assert_int_equal(told.count, depth);
		carry(&told, &made);
		if (vin_users_make(&made, getpid(), NULL, 0, &err) < 0)
			fail_msg("%s: %s", err.text, strerror(err.code));
		assert_true(vin_users_find(&made, 7) >= 0);
		assert_int_equal(vin_users_find(&made, 8), -1);
		/* what is there already is taken */
		carry(&told, &again);
		assert_int_equal(vin_users_make(&again, getpid(), &made.list[0].fd, 1, &err), 0);
		struct stat a, b;
		assert_int_equal(fstat(made.list[0].fd, &a), 0);
		assert_int_equal(fstat(again.list[0].fd, &b), 0);
		assert_int_equal(a.st_ino, b.st_ino);
		vin_users_free(&told);
		vin_users_free(&made);
		vin_users_free(&again);
	}
}

static void who_is_in_ours_is_in_none(void **state)
{
	struct vin_users told = { 0 };
	(void)state;
	pid_t pid = start_below(0);
	assert_int_equal(vin_users_add(&told, pid, 7, &err), 0);
	assert_int_equal(told.count, 0);
	end(pid);
	vin_users_free(&told);
}

static void a_list_that_does_not_fit_is_refused(void **state)
{
	char map[] = "0 0 1", deny[] = "deny";
	struct vin_userns one = { .parent = 0, .maps = { map, map, deny }, .fd = -1 };
	struct vin_userns_user user = { 7, 0 };
	struct vin_users u = { .list = &one, .count = 1, .users = &user, .user_count = 1 };
	(void)state;
	for (int wrong = 0; wrong < 4; wrong++) {
		struct vin_users ret = { 0 };
		scoped_buf payload = { 0 };
		one.parent = wrong == 1; /* itself */
		user.which = wrong == 2;
		user.number = wrong == 3 ? 0 : 7;
		vin_users_put(&payload, &u);
		struct vin_payload p = { (unsigned char *)payload.data,
					 (unsigned char *)payload.data + payload.len - (wrong == 0),
					 false };
		assert_int_equal(vin_users_get(&p, &ret), -EBADMSG);
		assert_null(ret.list);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(namespaces_are_made_again_with_their_maps),
		cmocka_unit_test(who_is_in_ours_is_in_none),
		cmocka_unit_test(a_list_that_does_not_fit_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
