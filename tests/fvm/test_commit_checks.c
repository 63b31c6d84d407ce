/* What a commit refuses, merges, leaves in the layer, and never follows. */
#include "fvm/commit_merge.h"
#include "tests/fvm/commit_box.h"

struct outcome {
	int r;
	char *problems; /* "kind path\n" of each */
	struct fvm_commit_result result;
};

static void outcome_free(struct outcome *o)
{
	free(o->problems);
	fvm_commit_result_free(&o->result);
}
#define scoped_outcome __attribute__((cleanup(outcome_free))) struct outcome

static struct outcome commit(const struct box *box, const struct fvm_commit_options *options)
{
	static const struct fvm_commit_options none;
	struct outcome o = { 0 };
	struct fvm_error err = { 0 };
	scoped_buf text = { 0 };
	o.r = world_commit(box, 1, options ? options : &none, &o.result, &err);
	for (size_t i = 0; i < o.result.problems.count; i++)
		fvm_buf_printf(&text, "%s %s\n", fvm_problem_name(o.result.problems.items[i].kind),
			       o.result.problems.items[i].path);
	fvm_buf_puts(&text, "");
	o.problems = fvm_buf_steal(&text);
	if (o.r < 0)
		print_message("(%s: %s)\n", err.text, strerror(err.code));
	return o;
}

static void nothing_is_done_when_anything_is_refused(void **state)
{
	const struct box *box = *state;
	shell(box,
	      "mkdir -p base/d l0/d; echo 1 >l0/ok; mknod l0/d/null c 1 3; mknod l0/disk b 8 0;"
	      "echo x >l0/suid; chmod 4755 l0/suid; cp /usr/bin/true l0/caps;"
	      "setcap cap_net_raw+ep l0/caps");
	scoped_free char *before = inventory(box, "base");
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, -ECANCELED);
	assert_string_equal(o.problems,
			    "set-id /caps\nrefused /d/null\nrefused /disk\nset-id /suid\n");
	scoped_free char *after = inventory(box, "base");
	assert_string_equal(after, before);
	const struct fvm_commit_options force = { .force = true };
	scoped_outcome forced = commit(box, &force);
	assert_int_equal(forced.r, 0);
	scoped_free char *there = output_of(box, "base", "find . -type f");
	assert_string_equal(there, "./ok\n");
	const struct fvm_commit_options setid = { .allow_setid = true, .force = true };
	scoped_outcome allowed = commit(box, &setid);
	assert_int_equal(allowed.r, 0);
	scoped_free char *caps = output_of(box, "base", "getcap caps; stat -c %a suid; ls d");
	assert_string_equal(caps, "caps cap_net_raw=ep\n4755\n");
}

static void conflict_needs_force(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base l0; echo vm >l0/f; echo vm >l0/g; sleep 0.02; echo host >base/f");
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, -ECANCELED);
	assert_string_equal(o.problems, "conflict /f\n");
	const struct fvm_commit_options force = { .force = true };
	scoped_outcome forced = commit(box, &force);
	assert_int_equal(forced.r, 0);
	scoped_free char *text = output_of(box, "base", "cat f g");
	assert_string_equal(text, "vm\nvm\n");
}

static void texts_are_merged_with_their_ancestor(void **state)
{
	const struct box *box = *state;
	const struct fvm_commit_options merge = { .merge = true };
	struct world w;
	shell(box, "mkdir -p base l0; seq 1 20 >base/f; seq 1 5 >base/g; sleep 0.02;"
		   "sed s/^2$/two/ base/f >l0/f; sed s/3/vm/ base/g >l0/g");
	world_open(box, 1, &w);
	assert_int_equal(fvm_stamps_update_digests(&w.vm, &w.stacks, NULL), 0);
	world_close(&w);
	shell(box, "sed -i s/^19$/nineteen/ base/f; sed -i s/3/host/ base/g");
	scoped_outcome o = commit(box, &merge);
	assert_int_equal(o.r, -ECANCELED);
	assert_string_equal(o.problems, "merge /g\n");
	shell(box, "rm l0/g");
	scoped_outcome merged = commit(box, &merge);
	assert_int_equal(merged.r, 0);
	scoped_free char *text =
		output_of(box, "base",
			  "seq 1 20 | sed 's/^2$/two/; s/^19$/nineteen/' | cmp - f && echo same");
	assert_string_equal(text, "same\n");
}

static void host_parent_that_became_a_symlink_is_not_followed(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base/dir base/elsewhere l0/dir; echo x >l0/dir/file;"
		   "rmdir base/dir; ln -s elsewhere base/dir");
	scoped_outcome o = commit(box, NULL);
	scoped_free char *there = output_of(box, "base/elsewhere", "ls");
	assert_string_equal(there, "");
	if (o.r == 0) { /* the VM's directory replaces the link: that is what the VM shows */
		scoped_free char *type = output_of(box, "base", "stat -c %F dir; cat dir/file");
		assert_string_equal(type, "directory\nx\n");
	}
}

static int swap_in_symlink(void *arg, size_t entries, uint64_t bytes)
{
	(void)entries;
	(void)bytes;
	shell(arg, "rm l0/a/file; ln -s ../../base/secret l0/a/file;"
		   "mv l0/b l0/b2; ln -s ../base/private l0/b");
	return true;
}

static bool confirm_swap(void *arg, size_t entries, uint64_t bytes)
{
	return swap_in_symlink(arg, entries, bytes);
}

static void what_is_swapped_during_the_walk_is_noticed(void **state)
{
	const struct box *box = *state;
	shell(box, "mkdir -p base/a base/b base/private l0/a l0/b; echo secret >base/secret;"
		   "echo secret >base/private/file; echo x >l0/a/file; echo x >l0/b/file");
	scoped_free char *before = inventory(box, "base");
	const struct fvm_commit_options options = { .confirm = confirm_swap, .arg = *state };
	scoped_outcome o = commit(box, &options);
	assert_int_equal(o.r, -ESTALE);
	scoped_free char *after = inventory(box, "base");
	assert_string_equal(after, before);
}

static void overlay_xattrs_never_reach_the_host(void **state)
{
	const struct box *box = *state;
	shell(box,
	      "mkdir -p base l0/d; echo x >l0/d/f;"
	      "for i in l0/d l0/d/f; do for x in trusted.overlay.opaque trusted.overlay.origin "
	      "user.overlay.impure user.overlay.metacopy trusted.mine user.fvm.owner; do "
	      "setfattr -n $x -v y $i; done; setfattr -n user.kept -v y $i; done;"
	      "setfattr -x user.overlay.metacopy l0/d/f; setfattr -n user.fvm.owner -v 0:0 l0/d/f");
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, 0);
	scoped_free char *names = output_of(box, "base", "getfattr -R -d -m - . | grep -v '^#'");
	assert_string_equal(names, "user.kept=\"y\"\n\nuser.kept=\"y\"\n\n");
}

/* A file below @levels directories of that name. The shell would take a minute for it. */
static void make_deep(const struct box *box, const char *dir, const char *name, int levels)
{
	int at = box_dir(box, dir);
	for (int i = 0; i < levels; i++) {
		assert_int_equal(mkdirat(at, name, 0755), 0);
		int next = openat(at, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		close(at);
		at = next;
	}
	close(openat(at, "file", O_WRONLY | O_CREAT | O_CLOEXEC, 0644));
	close(at);
}

static void deep_and_long_names_are_committed_and_undone(void **state)
{
	const struct box *box = *state;
	struct fvm_commit_result result = { 0 };
	const struct fvm_commit_options none = { 0 };
	char name[241] = "";
	memset(name, '0', sizeof(name) - 1);
	shell(box, "mkdir -p base l0");
	make_deep(box, "l0", name, 60); /* a path of 14,400 bytes */
	make_deep(box, "l0", "d", 3000);
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, 0);
	scoped_free char *count =
		output_of(box, "base", "find . -type f | wc -l; find ../l0 | wc -l");
	assert_string_equal(count, "2\n1\n");
	assert_int_equal(world_undo(box, &none, &result, NULL), 0);
	fvm_commit_result_free(&result);
	scoped_free char *back =
		output_of(box, "base", "find . | wc -l; find ../l0 -type f | wc -l");
	assert_string_equal(back, "1\n2\n");
}

static void named_paths_bring_their_parents_and_no_more(void **state)
{
	const struct box *box = *state;
	shell(box,
	      "mkdir -p base/etc l0/etc l0/opt/app/sub; chmod 700 l0/opt/app; echo 1 >l0/etc/a;"
	      "setfattr -n trusted.overlay.opaque -v y l0/opt; echo 2 >l0/opt/app/sub/b;"
	      "echo 3 >l0/opt/app/c; mkdir -p l0/var/cache; echo 4 >l0/var/cache/d");
	const char *const paths[] = { "/opt/app/sub", NULL };
	const struct fvm_commit_options some = { .paths = paths };
	scoped_outcome o = commit(box, &some);
	assert_int_equal(o.r, 0);
	scoped_free char *there = output_of(box, "base", "find . -type f; stat -c %a opt/app");
	assert_string_equal(there, "./opt/app/sub/b\n700\n");
	assert_listing(box, NULL, "A /etc/a\nA /opt/app/c\nA /var\n");
	const char *const missing[] = { "/etc/nothing", NULL };
	const struct fvm_commit_options none = { .paths = missing };
	scoped_outcome unmet = commit(box, &none);
	assert_int_equal(unmet.r, -ENOENT);
	const char *const noise[] = { "/var/cache/d", NULL };
	const struct fvm_commit_options named = { .paths = noise };
	scoped_outcome cache = commit(box, &named);
	assert_int_equal(cache.r, 0);
	assert_int_equal(faccessat(box->dir, "base/var/cache/d", F_OK, 0), 0);
}

static void undo_sees_what_changed_since(void **state)
{
	const struct box *box = *state;
	struct fvm_commit_result result = { 0 };
	const struct fvm_commit_options none = { 0 }, force = { .force = true };
	shell(box,
	      "mkdir -p base l0/new; echo 1 >base/a; echo 1 >base/gone; sleep 0.02; echo 2 >l0/a;"
	      "echo 2 >l0/new/b; mknod l0/gone c 0 0");
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, 0);
	shell(box, "echo 3 >>base/a; echo foreign >base/new/c; echo again >base/gone");
	assert_int_equal(world_undo(box, &none, &result, NULL), -ECANCELED);
	assert_int_equal(result.problems.count, 3);
	fvm_commit_result_free(&result);
	assert_int_equal(world_undo(box, &force, &result, NULL), 0);
	fvm_commit_result_free(&result);
	scoped_free char *there = output_of(box, "base", "cat a gone; ls");
	assert_string_equal(there, "1\n1\na\ngone\n");
}

static bool vm_gains_meanwhile(void *arg, size_t entries, uint64_t bytes)
{
	(void)entries, (void)bytes;
	shell(arg, "setcap cap_setuid+ep l0/a");
	return true;
}

static void capabilities_that_come_after_the_check_do_not_pass(void **state)
{
	struct box *box = *state;
	const struct fvm_commit_options options = { .confirm = vm_gains_meanwhile, .arg = box };
	if (system("command -v setcap >/dev/null") != 0)
		skip();
	shell(box, "mkdir -p base l0; echo 1 >base/a; sleep 0.02; cp /bin/true l0/a");
	scoped_outcome o = commit(box, &options);
	assert_int_equal(o.r, -ESTALE);
	scoped_free char *text = output_of(box, "base", "cat a; getfattr -m - a; ls -A");
	assert_string_equal(text, "1\na\n");
}

static bool host_writes_meanwhile(void *arg, size_t entries, uint64_t bytes)
{
	(void)entries, (void)bytes;
	shell(arg, "echo 3 >>base/b");
	return true;
}

static void what_the_host_writes_after_the_plan_is_not_replaced(void **state)
{
	struct box *box = *state;
	struct fvm_commit_options options = { .confirm = host_writes_meanwhile, .arg = box };
	shell(box, "mkdir -p base l0; echo 1 >base/a; echo 1 >base/b; sleep 0.02; echo 2 >l0/a;"
		   "echo 2 >l0/b");
	scoped_outcome o = commit(box, &options);
	assert_int_equal(o.r, -ESTALE);
	scoped_free char *text = output_of(box, "base", "cat a b; ls -A");
	assert_string_equal(text, "1\n1\n3\na\nb\n");
	options.force = true;
	scoped_outcome forced = commit(box, &options);
	assert_int_equal(forced.r, 0);
	scoped_free char *replaced = output_of(box, "base", "cat a b");
	assert_string_equal(replaced, "2\n2\n");
}

/* Whoever owns the directory above can rename what a commit keeps, and put his own there. */
static void undo_takes_only_what_the_commit_kept(void **state)
{
	const struct box *box = *state;
	struct fvm_commit_result result = { 0 };
	const struct fvm_commit_options none = { 0 };
	struct fvm_error err = { 0 };
	shell(box, "mkdir -p base l0; echo 1 >base/gone; echo 1 >base/a; sleep 0.02;"
		   "mknod l0/gone c 0 0; echo 2 >l0/a");
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, 0);
	shell(box, "cd store/commits/1; mv area ../kept");
	assert_int_equal(world_undo(box, &none, &result, &err), -ENOENT);
	fvm_commit_result_free(&result);
	err = (struct fvm_error){ 0 };
	shell(box, "cd store/commits/1; mkdir -m 777 area; touch area/0 area/1 area/2");
	assert_int_equal(world_undo(box, &none, &result, &err), -ESTALE);
	fvm_commit_result_free(&result);
	err = (struct fvm_error){ 0 };
	shell(box, "cd store/commits/1; rm -r area; mkdir -m 700 area; touch area/0 area/1 area/2;"
		   "chown 1000 area");
	assert_int_equal(world_undo(box, &none, &result, &err), -ESTALE);
	fvm_commit_result_free(&result);
	err = (struct fvm_error){ 0 };
	shell(box, "cd store/commits/1; rm -r area; mv ../kept area");
	assert_int_equal(world_undo(box, &none, &result, &err), 0);
	fvm_commit_result_free(&result);
	scoped_free char *text = output_of(box, "base", "cat a gone; ls -A");
	assert_string_equal(text, "1\n1\na\ngone\n");
}

static void damaged_journal_stops_everything(void **state)
{
	const struct box *box = *state;
	struct fvm_commit_result result = { 0 };
	const struct fvm_commit_options none = { 0 };
	shell(box, "mkdir -p base l0; echo 1 >base/a; sleep 0.02; echo 2 >l0/a");
	scoped_outcome o = commit(box, NULL);
	assert_int_equal(o.r, 0);
	shell(box,
	      "printf X | dd of=store/commits/1/journal bs=1 seek=60 conv=notrunc 2>/dev/null");
	assert_int_equal(world_undo(box, &none, &result, NULL), -EBADMSG);
	scoped_free char *text = output_of(box, "base", "cat a ../store/commits/1/area/*");
	assert_string_equal(text, "2\n1\n");
}

static void regions_of_both_sides_are_told_apart(void **state)
{
	(void)state;
	static const struct {
		const char *base, *ours, *theirs, *merged;
	} cases[] = {
		{ "a\nb\nc\n", "A\nb\nc\n", "a\nb\nC\n", "A\nb\nC\n" },
		{ "a\nb\nc\n", "a\nX\nc\n", "a\nX\nc\n", "a\nX\nc\n" },
		{ "a\nb\nc\n", "a\nX\nc\n", "a\nY\nc\n", NULL },
		{ "a\nb\n", "a\nb\nc\n", "x\na\nb\n", "x\na\nb\nc\n" },
		{ "a\nb\nc\n", "a\nc\n", "a\nb\nc\nd\n", "a\nc\nd\n" },
		{ "", "x\n", "", "x\n" },
		{ "a", "a\nb", "a", "a\nb" },
		{ "a\n", "", "b\n", NULL },
	};
	for (size_t i = 0; i < FVM_COUNT(cases); i++) {
		scoped_buf base = { 0 }, ours = { 0 }, theirs = { 0 }, merged = { 0 };
		fvm_buf_puts(&base, cases[i].base);
		fvm_buf_puts(&ours, cases[i].ours);
		fvm_buf_puts(&theirs, cases[i].theirs);
		int r = fvm_merge_texts(&base, &ours, &theirs, &merged);
		assert_int_equal(r, cases[i].merged ? 0 : 1);
		fvm_buf_puts(&merged, "");
		if (r == 0)
			assert_string_equal(merged.data, cases[i].merged);
	}
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(nothing_is_done_when_anything_is_refused),
		TEST(conflict_needs_force),
		TEST(texts_are_merged_with_their_ancestor),
		TEST(host_parent_that_became_a_symlink_is_not_followed),
		TEST(what_is_swapped_during_the_walk_is_noticed),
		TEST(overlay_xattrs_never_reach_the_host),
		TEST(deep_and_long_names_are_committed_and_undone),
		TEST(named_paths_bring_their_parents_and_no_more),
		TEST(undo_sees_what_changed_since),
		TEST(capabilities_that_come_after_the_check_do_not_pass),
		TEST(what_the_host_writes_after_the_plan_is_not_replaced),
		TEST(undo_takes_only_what_the_commit_kept),
		TEST(damaged_journal_stops_everything),
		TEST(regions_of_both_sides_are_told_apart),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
