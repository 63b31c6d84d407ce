#include "tests/fvm/commit_box.h"

static void note(const struct box *box)
{
	struct world w;
	struct fvm_error err = { 0 };
	world_open(box, 1, &w);
	assert_int_equal(fvm_stamps_update_digests(&w.vm, &w.stacks, &err), 0);
	world_close(&w);
}

struct drifts {
	struct world w;
	struct fvm_stamps *stamps;
	struct fvm_buf text;
};

static int add_drift(const struct fvm_change *c, void *arg)
{
	struct drifts *d = arg;
	const char *why;
	int r = fvm_stamps_drift(d->stamps, &d->w.vm.config, c, &why);
	assert_true(r >= 0);
	if (r)
		fvm_buf_printf(&d->text, "%s ", c->path);
	return 0;
}

/* The paths that have drifted, each followed by a space. */
static char *drifts(const struct box *box, int64_t first_start_ns)
{
	struct drifts d = { 0 };
	struct fvm_error err = { 0 };
	world_open(box, 1, &d.w);
	d.w.vm.config.first_start_ns = first_start_ns;
	assert_int_equal(fvm_stamps_load(d.w.vm.dir, &d.stamps, &err), 0);
	assert_int_equal(fvm_stacks_scan(&d.w.stacks, NULL, add_drift, &d, &err), 0);
	world_close(&d.w);
	fvm_stamps_free(d.stamps);
	fvm_buf_puts(&d.text, "");
	return fvm_buf_steal(&d.text);
}

#define assert_drifts(box, start, expected)                                                        \
	do {                                                                                       \
		scoped_free char *text_ = drifts((box), (start));                                  \
		assert_string_equal(text_, (expected));                                            \
	} while (0)

static void base_newer_than_the_birth_has_drifted(void **state)
{
	const struct box *box = *state;
	shell(box,
	      "mkdir -p base/a l0/a; echo 1 >base/a/same; echo 1 >base/a/drift; sleep 0.02;"
	      "echo 2 >l0/a/same; echo 2 >l0/a/drift; touch -d 2040-01-01 l0/a/drift; sleep 0.02;"
	      "echo 3 >>base/a/drift; touch -d 2001-01-01 base/a/drift");
	assert_drifts(box, INT64_MAX, "/a/drift ");
}

static void deletions_count_from_the_first_start(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base/tree l0; echo 1 >base/file; echo 1 >base/tree/file;"
		   "mknod l0/file c 0 0; mknod l0/tree c 0 0");
	assert_drifts(box, 1, "/file /tree ");
	assert_drifts(box, INT64_MAX, "");
}

/* As after two starts: the mount's work directory is made anew at each, then the whiteouts. */
static void deletions_of_the_last_start_count_from_there(void **state)
{
	const struct box *box = *state;
	shell(box,
	      "mkdir -p base/tree base/mine base/late l0 work;"
	      "echo 1 | tee base/file base/old base/tree/file base/mine/file >base/late/file;"
	      "mknod l0/old c 0 0; sleep 0.02; echo 2 | tee base/file base/old >base/tree/file;"
	      "sleep 0.02; mkdir work/work; sleep 0.02; echo 3 >>base/late/file; sleep 0.02;"
	      "mknod l0/file c 0 0; ln l0/file l0/tree; ln l0/file l0/mine; ln l0/file l0/late");
	shell(box, "mkdir -p store/vms/v;"
		   "printf 'fvm-stamps 1\nf 1 1 2 100644 0 0 - /mine/file\n' >store/vms/v/stamps");
	assert_drifts(box, 1, "/late /mine /old ");
	shell(box, "rmdir work/work; sleep 0.02; mkdir work/work");
	assert_drifts(box, 1, "/file /late /mine /old /tree ");
}

static void stamp_outlives_a_second_rewrite_in_the_vm(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base l0; echo 1 >base/f; sleep 0.02; echo 2 >l0/f");
	note(box);
	shell(box, "echo host >base/f; sleep 0.02; echo 3 >l0/g; mv l0/g l0/f");
	assert_drifts(box, INT64_MAX, "/f ");
	note(box);
	assert_drifts(box, INT64_MAX, "/f ");
}

static void touched_base_is_no_drift(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base/t/u l0; echo 1 >base/f; ln -s 1 base/l; echo x >base/t/u/x;"
		   "sleep 0.02; echo 2 >l0/f; ln -s 2 l0/l; mknod l0/t c 0 0");
	note(box);
	shell(box, "sleep 0.02; touch base/f; cp base/f base/g; mv base/g base/f; ln -sf 1 base/l;"
		   "chmod 600 base/t/u/x; chmod 644 base/t/u/x");
	assert_drifts(box, 1, "");
	shell(box, "echo y >base/t/u/y; ln -sf 3 base/l; chmod 600 base/f");
	assert_drifts(box, 1, "/f /l /t ");
}

static void made_and_deleted_on_the_host_is_drift(void **state)
{
	const struct box *box = *state;
	shell(box,
	      "mkdir -p base l0; echo 1 >base/gone; sleep 0.02; echo 2 >l0/gone; echo 2 >l0/new");
	note(box);
	shell(box, "sleep 0.02; rm base/gone; echo 3 >base/new");
	assert_drifts(box, INT64_MAX, "/gone /new ");
}

static void stamp_goes_with_its_change(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base l0; echo 1 >base/f; sleep 0.02; echo 2 >l0/f; echo 2 "
		   ">\"l0/$(printf 'a b\\n%%')\"");
	note(box);
	scoped_free char *text =
		output_of(box, "store/vms/v", "cut -d' ' -f 9- stamps; ls ancestors | wc -l");
	assert_non_null(strstr(text, "/a%20b%0A%25\n"));
	assert_non_null(strstr(text, "/f\n"));
	assert_non_null(strstr(text, "\n1\n"));
	shell(box, "rm l0/*");
	note(box);
	scoped_free char *left = output_of(box, "store/vms/v", "ls; ls ancestors");
	assert_string_equal(left, "ancestors\nlock\nworkspace\n");
}

static void copy_that_equals_the_base_is_changed_from_there(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base l0; echo 1 >base/f; sleep 0.02; echo 2 >l0/f");
	note(box);
	shell(box, "echo 2 >base/f; touch -r base/f l0/f"); /* as a commit under a paused VM */
	note(box);
	shell(box, "sleep 0.02; echo 3 >>l0/f");
	assert_drifts(box, INT64_MAX, "");
	shell(box, "echo 4 >>base/f");
	assert_drifts(box, INT64_MAX, "/f ");
}

static void damaged_list_is_told(void **state)
{
	(void)state;
	static const char *const bad[] = {
		"x",
		"fvm-stumps 1\n",
		"fvm-stamps 1\nf 1 2 3 644 0 0 - /a",
		"fvm-stamps 1\nf 1 2 3 644 0 0 - a\n",
		"fvm-stamps 1\nf 1 2 3 644 0 0 zz /a\n",
		"fvm-stamps 1\nq 1 2 3 644 0 0 - /a\n",
		"fvm-stamps 1\nf 1 2 3 644 0 0 - /a%0\n",
	};
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		struct fvm_stamps *stamps = NULL;
		struct fvm_error err = { 0 };
		assert_int_equal(fvm_stamps_parse(bad[i], strlen(bad[i]), &stamps, &err), -EBADMSG);
		assert_null(stamps);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(base_newer_than_the_birth_has_drifted),
		TEST(deletions_count_from_the_first_start),
		TEST(deletions_of_the_last_start_count_from_there),
		TEST(stamp_outlives_a_second_rewrite_in_the_vm),
		TEST(touched_base_is_no_drift),
		TEST(made_and_deleted_on_the_host_is_drift),
		TEST(stamp_goes_with_its_change),
		TEST(copy_that_equals_the_base_is_changed_from_there),
		TEST(damaged_list_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
