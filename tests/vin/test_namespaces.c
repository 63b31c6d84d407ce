/* Namespaces of programs' own: listed, made again by holders, and lists from anybody. What is in
 * them, and who: small/namespaces.c. */
#include <errno.h>
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

#include "vin/namespaces.h"
#include "vin/spaces.h"

static struct fvm_error err;

/* A child in a UTS namespace of its own, which waits. */
static pid_t start_apart(void)
{
	int ready[2];
	char byte;
	assert_int_equal(pipe(ready), 0);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWUTS) < 0 || sethostname("apart", 5) < 0 ||
		    write(ready[1], "r", 1) != 1)
			_exit(77);
		for (;;)
			pause();
	}
	close(ready[1]);
	ssize_t n = read(ready[0], &byte, 1);
	close(ready[0]);
	if (n == 1)
		return pid;
	waitpid(pid, NULL, 0);
	return 0;
}

static int host_name(void *arg, struct fvm_buf *to, struct fvm_error *e)
{
	char name[65] = "";
	(void)arg, (void)e;
	gethostname(name, sizeof(name) - 1);
	fvm_buf_puts(to, name);
	return 0;
}

static void take(struct vin_namespaces *n, const struct fvm_buf *payload)
{
	static const struct vin_users none = { 0 };
	struct vin_payload p = { (unsigned char *)payload->data,
				 (unsigned char *)payload->data + payload->len, false };
	if (vin_namespaces_take(n, getpid(), &none, NULL, &p, &err) < 0)
		fail_msg("%s: %s", err.text, strerror(err.code));
}

static void one_is_made_again_and_goes_with_its_holder(void **state)
{
	struct vin_namespaces told = { 0 }, made = { 0 };
	scoped_buf list = { 0 }, setting = { 0 }, name = { 0 };
	(void)state;
	pid_t pid = start_apart(), ours = getpid();
	if (pid == 0)
		skip();
	assert_int_equal(vin_spaces_check((pid_t[]){ ours, pid }, 2, ours, &told, &err), 0);
	assert_int_equal(told.count, 1);
	assert_int_equal(told.member_count, 1);
	assert_int_equal(vin_namespaces_check(&told, ours, &err), 0);
	told.members[0].number = 7;
	vin_namespaces_put(&list, &told);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	take(&made, &list);
	vin_put_u64(&setting, 2); /* of .. */
	vin_put_u64(&setting, 0); /* .. the first */
	vin_put_u64(&setting, 1); /* what vin/uts has */
	vin_put_string(&setting, "again");
	vin_put_string(&setting, "");
	take(&made, &setting);
	const pid_t holder = made.list[0].via;
	assert_int_equal(vin_space_visit(holder, CLONE_NEWUTS, host_name, NULL, &name, &err), 0);
	assert_int_equal(name.len, 5);
	assert_memory_equal(name.data, "again", 5);
	assert_int_equal(vin_namespaces_of(&made, 7, 0), 0);
	assert_int_equal(vin_namespaces_of(&made, 7, 1), 1);
	vin_namespaces_free(&told);
	vin_namespaces_free(&made);
	assert_int_equal(kill(holder, 0), -1);
}

static void a_list_that_does_not_fit_is_refused(void **state)
{
	struct vin_namespace list[2];
	struct vin_namespace_member members[2];
	const struct vin_namespaces n = { list, 2, members, 2 };
	(void)state;
	for (int wrong = 0; wrong < 7; wrong++) {
		struct vin_namespaces ret = { 0 };
		scoped_buf payload = { 0 };
		for (size_t i = 0; i < 2; i++) {
			list[i] = (struct vin_namespace){ .sort = VIN_NAMESPACE_UTS };
			members[i] = (struct vin_namespace_member){ 0, 7 + (pid_t)i, i };
		}
		if (wrong == 1)
			list[1].sort = 0;
		if (wrong == 2)
			list[1].sort = VIN_NAMESPACE_SORTS;
		if (wrong == 3)
			members[1].number = 0;
		if (wrong == 4)
			members[1].which = 2;
		if (wrong == 5) /* one is in two of a sort */
			members[1].number = 7;
		vin_namespaces_put(&payload, &n);
		struct vin_payload p = { (unsigned char *)payload.data,
					 (unsigned char *)payload.data + payload.len - (wrong == 0),
					 false };
		assert_int_equal(vin_namespaces_get(&p, &ret), wrong == 6 ? 0 : -EBADMSG);
		assert_int_equal(ret.count, wrong == 6 ? 2 : 0);
		vin_namespaces_free(&ret);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(one_is_made_again_and_goes_with_its_holder),
		cmocka_unit_test(a_list_that_does_not_fit_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
