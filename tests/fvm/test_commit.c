#include "tests/faults.h"
#include "tests/fvm/commit_box.h"

/* A host and a VM that changed everything that can be changed. */
static const char make_world[] =
	"umask 022; mkdir -p base/etc/app base/usr/bin base/usr/lib/old/deep base/var/lib/data l0;"
	"echo one >base/etc/plain; echo conf >base/etc/app/conf; ln -s plain base/etc/link;"
	"echo linked >base/usr/bin/a; ln base/usr/bin/a base/usr/bin/b;"
	"echo x >base/usr/lib/old/deep/file; echo y >base/usr/lib/old/other;"
	"echo dir-to-be >base/var/lib/data/file-then-dir; mkdir base/var/lib/data/dir-then-file;"
	"echo z >base/var/lib/data/dir-then-file/in; mkfifo base/var/lib/data/fifo;"
	"truncate -s 1M base/var/lib/data/sparse; echo tail >>base/var/lib/data/sparse;"
	"setfattr -n user.note -v hello base/etc/plain; echo kept >base/etc/kept;"
	"find base -exec touch -h -d '2020-02-02 02:02:02.123456789' {} +; sleep 0.02;"
	"mkdir -p l0/etc/app l0/usr/bin l0/usr/lib l0/var/lib/data l0/opt/new/sub;"
	"echo two >l0/etc/plain; chmod 600 l0/etc/plain; ln -s kept l0/etc/link;"
	"echo changed >l0/usr/bin/a; mknod l0/usr/lib/old c 0 0; mknod l0/etc/app/conf c 0 0;"
	"setfattr -n trusted.overlay.opaque -v y l0/opt; chmod 1777 l0/opt/new; chmod 700 "
	"l0/etc/app;"
	"mkdir l0/var/lib/data/file-then-dir; echo in >l0/var/lib/data/file-then-dir/in;"
	"setfattr -n trusted.overlay.opaque -v y l0/var/lib/data/file-then-dir;"
	"echo file >l0/var/lib/data/dir-then-file;"
	"echo n1 >l0/opt/new/sub/one; ln l0/opt/new/sub/one l0/opt/new/two; ln l0/opt/new/two "
	"l0/usr/bin/c;"
	"mkfifo l0/opt/new/fifo; ln -s /nowhere l0/opt/new/broken;"
	"truncate -s 2M l0/var/lib/data/sparse; echo end >>l0/var/lib/data/sparse;"
	"setfacl -m u:7:rw l0/opt/new/two 2>/dev/null || :;"
	"echo \"$(printf 'a\\nb\\377')\" >\"l0/opt/new/$(printf 'new\\nline\\377')\";"
	"find l0 -exec touch -h -d '2021-03-03 03:03:03.333333333' {} +";

static int world_setup(void **state)
{
	if (box_setup(state) < 0)
		return -1;
	shell(*state, make_world);
	return 0;
}

static void all_is_applied_and_the_layer_is_empty(void **state)
{
	const struct box *box = *state;
	struct fvm_error err = { 0 };
	struct fvm_commit_result result = { 0 };
	const struct fvm_commit_options options = { 0 };
	int r = world_commit(box, 1, &options, &result, &err);
	if (r < 0)
		print_message("%s: %s %s\n", err.text, strerror(err.code), err.hint);
	for (size_t i = 0; i < result.problems.count; i++)
		print_message("%s: %s\n", result.problems.items[i].path,
			      result.problems.items[i].why);
	assert_int_equal(r, 0);
	assert_int_equal(result.id, 1);
	fvm_commit_result_free(&result);
	scoped_free char *layer = output_of(box, "l0", "find . -mindepth 1 | LC_ALL=C sort");
	/* directories that nobody changed, and in which nothing changed directly, may stay */
	assert_string_equal(layer, "./usr\n./var\n./var/lib\n");
	assert_listing(box, NULL, "");
	scoped_free char *seen =
		output_of(box, "base",
			  "cat etc/plain usr/bin/a usr/bin/b usr/bin/c opt/new/two "
			  "var/lib/data/dir-then-file;"
			  "readlink etc/link; stat -c '%a %n' etc/plain etc/app opt/new;"
			  /* b: the replaced inode of its other name is kept */
			  "stat -c %h opt/new/two usr/bin/b; test -e etc/app/conf || echo gone;"
			  "test -e usr/lib/old || echo gone; cat var/lib/data/file-then-dir/in;"
			  "test $(stat -c %b var/lib/data/sparse) -lt 100 && echo sparse;"
			  "getfattr -R -h -d -m overlay . 2>&1; stat -c %y opt/new etc");
	assert_string_equal(seen,
			    "two\nchanged\nlinked\nn1\nn1\nfile\nkept\n600 etc/plain\n700 etc/app\n"
			    "1777 opt/new\n3\n2\ngone\ngone\nin\nsparse\n"
			    "2021-03-03 03:03:03.333333333 +0000\n"
			    "2021-03-03 03:03:03.333333333 +0000\n");
}

static void undo_is_equal_to_the_last_byte(void **state)
{
	const struct box *box = *state;
	struct fvm_error err = { 0 };
	struct fvm_commit_result result = { 0 };
	const struct fvm_commit_options options = { 0 };
	scoped_free char *host = inventory(box, "base"), *layer = inventory(box, "l0");
	assert_int_equal(world_commit(box, 1, &options, &result, &err), 0);
	fvm_commit_result_free(&result);
	int r = world_undo(box, &options, &result, &err);
	if (r < 0)
		print_message("%s: %s\n", err.text, strerror(err.code));
	for (size_t i = 0; i < result.problems.count; i++)
		print_message("%s: %s\n", result.problems.items[i].path,
			      result.problems.items[i].why);
	assert_int_equal(r, 0);
	fvm_commit_result_free(&result);
	scoped_free char *host_after = inventory(box, "base"), *layer_after = inventory(box, "l0");
	assert_string_equal(host_after, host);
	assert_string_equal(layer_after, layer);
	scoped_free char *left = output_of(box, "store/commits", "ls");
	assert_string_equal(left, "lock\n");
	/* and it can be committed again: undo is no drift */
	assert_int_equal(world_commit(box, 1, &options, &result, &err), 0);
	fvm_commit_result_free(&result);
}

#ifdef FVM_FAULTS
static int commit_in(const void *box)
{
	const struct fvm_commit_options options = { 0 };
	struct fvm_commit_result result = { 0 };
	return world_commit(box, 1, &options, &result, NULL);
}

static int undo_in(const void *box)
{
	const struct fvm_commit_options options = { 0 };
	struct fvm_commit_result result = { 0 };
	return world_undo(box, &options, &result, NULL);
}

static void recover(const struct box *box)
{
	struct fvm_error err = { 0 };
	int r = world_recover(box, &err);
	if (r < 0)
		print_message("recover: %s: %s\n", err.text, strerror(err.code));
	assert_int_equal(r, 0);
	/* nothing is pending, and no area lies about */
	scoped_free char *left = output_of(box, ".",
					   "ls store/commits/pending 2>/dev/null;"
					   "find base -name '.fvm*'");
	assert_string_equal(left, "");
}

/* A box of its own for each visit; false when there are no more visits. */
static bool commit_dies_at(unsigned int visit, const char *action)
{
	void *state;
	assert_int_equal(world_setup(&state), 0);
	const struct box *box = state;
	scoped_free char *before = inventory(box, "base");
	int status = faults_at(visit, action, commit_in, box);
	recover(box);
	scoped_free char *commits = output_of(box, "store", "ls commits");
	scoped_free char *after = inventory(box, "base");
	scoped_free char *view = listing_of(box, NULL);
	bool done = strcmp(view, "") == 0;
	/* all or nothing, on the host, in the layer, and in the list of commits */
	if (done)
		assert_string_equal(commits, "1\nlock\n");
	else
		assert_string_equal(after, before);
	assert_true(done || strcmp(commits, "lock\n") == 0);
	bool went_on = status == 0;
	if (went_on && strcmp(action, "kill") == 0)
		assert_true(done);
	box_teardown(&state);
	return !went_on;
}

static bool undo_dies_at(unsigned int visit, const char *action)
{
	void *state;
	assert_int_equal(world_setup(&state), 0);
	const struct box *box = state;
	scoped_free char *before = inventory(box, "base");
	assert_int_equal(faults_at(0, "kill", commit_in, box), 0);
	scoped_free char *committed = inventory(box, "base");
	int status = faults_at(visit, action, undo_in, box);
	recover(box);
	scoped_free char *after = inventory(box, "base");
	scoped_free char *commits = output_of(box, "store", "ls commits");
	bool undone = strcmp(commits, "lock\n") == 0;
	assert_string_equal(after, undone ? before : committed);
	assert_true(undone || strcmp(commits, "1\nlock\n") == 0);
	box_teardown(&state);
	return status != 0;
}

static void killed_anywhere_it_is_all_or_nothing(void **state)
{
	(void)state;
	unsigned int visit = 1;
	while (commit_dies_at(visit, "kill"))
		visit++;
	print_message("commit: %u steps\n", visit - 1);
	assert_true(visit > 60);
}

static void undo_killed_anywhere_is_all_or_nothing(void **state)
{
	(void)state;
	unsigned int visit = 1;
	while (undo_dies_at(visit, "kill"))
		visit++;
	print_message("undo: %u steps\n", visit - 1);
	assert_true(visit > 20);
}

static void full_disk_anywhere_it_is_all_or_nothing(void **state)
{
	(void)state;
	/* a failure late enough is no failure of the commit: it is finished by the next command */
	for (unsigned int visit = 1; visit < 130; visit++)
		(void)commit_dies_at(visit, "enospc");
	for (unsigned int visit = 1; visit < 60; visit++)
		(void)undo_dies_at(visit, "enospc");
}

static void file_system_without_exchange_works_too(void **state)
{
	(void)state;
	for (unsigned int visit = 1; visit < 8; visit++) {
		char rule[64];
		void *made;
		assert_int_equal(world_setup(&made), 0);
		scoped_free char *before = inventory(made, "base");
		/* each exchange fails, and the death comes between the two renames */
		snprintf(rule, sizeof(rule), "commit.between:%u:kill", visit);
		pid_t child = fork();
		if (child == 0) {
			struct fvm_commit_result result = { 0 };
			const struct fvm_commit_options options = { 0 };
			scoped_buf rules = { 0 };
			fvm_buf_puts(&rules, rule);
			for (unsigned int i = 1; i <= 7; i++)
				fvm_buf_printf(&rules, ",commit.exchange:%u:einval", i);
			setenv("FVM_FAULT", rules.data, 1);
			int r = world_commit(made, 1, &options, &result, NULL);
			_exit(r < 0 ? 1 : 0);
		}
		int status;
		waitpid(child, &status, 0);
		recover(made);
		scoped_free char *after = inventory(made, "base");
		if (WIFSIGNALED(status))
			assert_string_equal(after, before);
		else
			assert_listing(made, NULL, "");
		box_teardown(&made);
	}
}
#endif

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(all_is_applied_and_the_layer_is_empty, world_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(undo_is_equal_to_the_last_byte, world_setup,
						box_teardown),
#ifdef FVM_FAULTS
		cmocka_unit_test(killed_anywhere_it_is_all_or_nothing),
		cmocka_unit_test(undo_killed_anywhere_is_all_or_nothing),
		cmocka_unit_test(full_disk_anywhere_it_is_all_or_nothing),
		cmocka_unit_test(file_system_without_exchange_works_too),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
