/*
 * The rarer ways of commit and undo, killed, out of space, and with a disk that fails, at each
 * step: named paths, merges, an old commit below a newer one. After the next command it is as
 * before or done, on the host and in the layer; and what failed can be done then.
 */
#include "tests/faults.h"
#include "tests/fvm/commit_box.h"

struct trial {
	const char *name;
	const char *make;  /* the host and its VM */
	const char *drift; /* what the host does before the step; may be NULL */
	struct fvm_commit_options options;
	bool stamps;		     /* written before the drift */
	unsigned int commits_before; /* of all that is in the layer, "more" below it after each */
	uint32_t undo;		     /* 0: a commit */
	unsigned int steps;	     /* at least */
};

static const char *const some_paths[] = { "/d", "/gone", NULL };

static const struct trial trials[] = {
	{
		.name = "commit of paths",
		.make = "mkdir -p base/d/e l0/d/e l0/n; echo 1 >base/d/f; echo 1 >base/gone;"
			"echo 1 >base/a; sleep 0.02; echo 2 >l0/d/f; echo 2 >l0/d/e/new; echo 2 "
			">l0/a;"
			"mknod l0/gone c 0 0; echo 2 >l0/n/x",
		.options.paths = some_paths,
		.steps = 20,
	},
	{
		.name = "commit --merge",
		.make = "mkdir -p base l0; seq 1 20 >base/f; echo 1 >base/g; sleep 0.02;"
			"sed s/^2$/two/ base/f >l0/f; echo 2 >l0/g",
		.stamps = true,
		.drift = "sed -i s/^19$/nineteen/ base/f",
		.options.merge = true,
		.steps = 20,
	},
	{
		.name = "commit --force",
		.make = "mkdir -p base/t l0; echo 1 >base/t/f; echo 1 >base/g; sleep 0.02;"
			"mknod l0/t c 0 0; echo 2 >l0/g",
		.stamps = true,
		.drift = "echo 3 >>base/t/f; echo 3 >base/g",
		.options.force = true,
		.steps = 15,
	},
	{
		.name = "undo of an old commit",
		.make = "mkdir -p base/d l0/d l0/new; echo 1 >base/d/f; echo 1 >base/gone; sleep "
			"0.02;"
			"echo 2 >l0/d/f; mknod l0/gone c 0 0; echo 2 >l0/new/x",
		.commits_before = 2,
		.drift = "echo other >base/other; echo more >>base/more1",
		.undo = 1,
		.steps = 12,
	},
	{
		.name = "undo --force of an old commit, after drift",
		.make = "mkdir -p base/d l0/d l0/new; echo 1 >base/d/f; echo 1 >base/gone; sleep "
			"0.02;"
			"echo 2 >l0/d/f; mknod l0/gone c 0 0; echo 2 >l0/new/x",
		.commits_before = 2,
		.drift = "echo 3 >>base/d/f; echo again >base/gone; echo foreign >base/new/y",
		.options.force = true,
		.undo = 1,
		.steps = 12,
	},
};

static int act(const struct trial *t, const struct box *box, struct fvm_error *err)
{
	struct world w;
	struct fvm_commit_result result = { 0 };
	world_open(box, 1, &w);
	int r = t->undo ? commit_undo_stacks(w.host, &w.store, t->undo, &t->options, &w.vm,
					     &w.stacks, &result, err)
			: commit_run(w.host, &w.vm, &w.stacks, &t->options, &result, err);
	fvm_commit_result_free(&result);
	world_close(&w);
	return r;
}

static void make_world(const struct trial *t, const struct box *box)
{
	static const struct fvm_commit_options all;
	struct fvm_commit_result result = { 0 };
	char more[64];
	shell(box, t->make);
	for (unsigned int i = 0; i < t->commits_before; i++) {
		snprintf(more, sizeof(more), "echo %u >l0/more%u", i, i);
		if (i > 0)
			shell(box, more);
		assert_int_equal(world_commit(box, 1, &all, &result, NULL), 0);
		fvm_commit_result_free(&result);
	}
	if (t->stamps) {
		struct world w;
		world_open(box, 1, &w);
		assert_int_equal(fvm_stamps_update_digests(&w.vm, &w.stacks, NULL), 0);
		world_close(&w);
	}
	if (t->drift)
		shell(box, t->drift);
}

/* What the host has, and what the VM shows: times apart, which each world has of its own. */
static char *state_of(const struct box *box)
{
	scoped_free char *view = listing_of(box, NULL);
	scoped_free char *host =
		output_of(box, "base",
			  "find . -printf '%P|%y|%m|%l\\n' | LC_ALL=C sort; find . -type f -exec "
			  "sha256sum {} + |"
			  "LC_ALL=C sort -k2; ls ../store/commits 2>/dev/null | grep -v lock; :");
	char *both;
	assert_true(asprintf(&both, "%s-- VM:\n%s", host, view) > 0);
	return both;
}

struct job {
	const struct trial *trial;
	const struct box *box;
};

static int run(const void *arg)
{
	const struct job *job = arg;
	return act(job->trial, job->box, NULL);
}

struct expected {
	char *before, *after;
};

static bool dies_at(const struct trial *t, const struct expected *x, unsigned int visit,
		    const char *action)
{
	void *state = NULL;
	struct fvm_error err = { 0 };
	assert_int_equal(box_setup(&state), 0);
	const struct box *box = state;
	make_world(t, box);
	const struct job job = { t, box };
	int status = faults_at(visit, action, run, &job);
	int r = world_recover(box, &err);
	if (r < 0)
		fail_msg("%s, %s at %u: recover: %s: %s", t->name, action, visit, err.text,
			 strerror(err.code));
	scoped_free char *left =
		output_of(box, ".",
			  "ls store/commits/pending 2>/dev/null;"
			  "find base -name '.fvm*'; find store/commits -mindepth 2 -name '.*.tmp'");
	assert_string_equal(left, "");
	scoped_free char *now = state_of(box);
	bool done = strcmp(now, x->after) == 0;
	if (!done && strcmp(now, x->before) != 0)
		fail_msg("%s, %s at step %u:\n%s", t->name, action, visit, now);
	if (!done) { /* then it can be done now */
		assert_int_not_equal(status, 0);
		if (act(t, box, &err) < 0)
			fail_msg("%s, %s at step %u, again: %s: %s", t->name, action, visit,
				 err.text, strerror(err.code));
		scoped_free char *then = state_of(box);
		assert_string_equal(then, x->after);
		scoped_free char *tmp = output_of(box, "store/commits", "find . -name '.*.tmp'");
		assert_string_equal(tmp, "");
	}
	box_teardown(&state);
	return status != 0;
}

static void expect_of(const struct trial *t, struct expected *ret)
{
	void *state = NULL;
	struct fvm_error err = { 0 };
	assert_int_equal(box_setup(&state), 0);
	make_world(t, state);
	ret->before = state_of(state);
	int r = act(t, state, &err);
	if (r < 0)
		fail_msg("%s: %s: %s", t->name, err.text, strerror(err.code));
	ret->after = state_of(state);
	assert_string_not_equal(ret->before, ret->after);
	box_teardown(&state);
}

/* @which: one in how many of the trials, and from which on: each costs a world per step */
static void each_step(const char *action, size_t first, size_t which)
{
	for (size_t i = first; i < FVM_COUNT(trials); i += which) {
		struct expected x;
		unsigned int visit = 1, quiet = 0;
		expect_of(&trials[i], &x);
		/* some steps fail, and it is done all the same */
		for (; quiet < 4; visit++)
			quiet = dies_at(&trials[i], &x, visit, action) ? 0 : quiet + 1;
		print_message("%s, %s: %u steps\n", trials[i].name, action, visit - 5);
		assert_true(visit > trials[i].steps);
		free(x.before);
		free(x.after);
	}
}

static void killed_at_any_step_it_is_all_or_nothing(void **state)
{
	(void)state;
	each_step("kill", 0, 1);
}

static void without_space_at_any_step_it_is_all_or_nothing(void **state)
{
	(void)state;
	each_step("enospc", 0, 2);
}

static void with_a_failing_disk_at_any_step_it_is_all_or_nothing(void **state)
{
	(void)state;
	each_step("eio", 1, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_at_any_step_it_is_all_or_nothing),
		cmocka_unit_test(without_space_at_any_step_it_is_all_or_nothing),
		cmocka_unit_test(with_a_failing_disk_at_any_step_it_is_all_or_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
