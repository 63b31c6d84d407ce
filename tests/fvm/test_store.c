#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "fvm/internal.h"
#include "fvm/lock.h"
#include "fvm/prune.h"
#include "fvm/checkpoint_priv.h"
#include "fvm/programs.h"
#include "fvm/snapshot.h"
#include "fvm/state.h"
#include "fvm/store.h"
#include "tests/box.h"

static void open_store(const struct box *box, struct fvm_store *store)
{
	struct fvm_error err = { 0 };
	setenv("FVM_HOME", box->path, 1);
	assert_int_equal(fvm_store_open(store, &err), 0);
}

static void make(const struct fvm_store *store, const char *name, struct fvm_vm *vm)
{
	struct fvm_error err = { 0 };
	scoped_config c = { 0 };
	snprintf(c.name, sizeof(c.name), "%s", name);
	fvm_random_hex(c.id, 32);
	c.created_ns = fvm_now_ns();
	int r = fvm_vm_create(store, &c, false, vm, &err);
	if (r < 0)
		fail_msg("%s", err.text);
}

static void write_in(const struct fvm_vm *vm, const char *path, const char *text)
{
	scoped_fd fd = fvm_create_beneath(vm->dir, path, O_WRONLY, 0600);
	assert_true(fd >= 0);
	assert_int_equal(fvm_write_all(fd, text, strlen(text)), 0);
}

static unsigned int entries(const struct fvm_store *store, const char *path)
{
	struct stat st;
	assert_int_equal(fstatat(store->dir, path, &st, 0), 0);
	return (unsigned int)st.st_nlink - 2;
}

static void vm_is_made_whole_and_deleted_whole(void **state)
{
	scoped_store store;
	scoped_vm vm, again = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(entries(&store, "vms"), 1);
	assert_int_equal(fvm_vm_create(&store, &vm.config, false, &again, &err), -EEXIST);
	assert_int_equal(entries(&store, "tmp"), 0);
	assert_int_equal(fvm_vm_remove(&vm, false, &err), 0);
	assert_int_equal(entries(&store, "vms"), 0);
	assert_int_equal(entries(&store, "trash"), 0);
}

/* A start that fails and is tried again tidies in between. */
static void mark_of_an_unfinished_vm_stays_until_it_is_taken_back(void **state)
{
	scoped_store store;
	scoped_vm vm;
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(fvm_vm_unfinished(&vm, true, &err), 0);
	scoped_fd run = fvm_vm_run_dir(&vm, true);
	assert_true(run >= 0);
	assert_int_equal(fvm_write_file_atomic(run, "paused", "", 0, false), 0);
	fvm_tidy_stopped(&vm);
	assert_true(faccessat(run, "paused", F_OK, 0) < 0);
	assert_int_equal(fvm_vm_unfinished(&vm, false, &err), 0);
	fvm_tidy_stopped(&vm);
	assert_int_equal(fvm_vm_run_dir(&vm, false), -ENOENT);
	assert_int_equal(fvm_vm_remove(&vm, false, &err), 0);
}

static void second_command_is_told_who_holds_it(void **state)
{
	scoped_store store;
	scoped_vm vm, other = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(fvm_vm_open(&store, "web", FVM_LOCK_NOWAIT, &other, &err), -EBUSY);
	assert_non_null(strstr(err.text, "(pid "));
}

static void misspelt_name_gets_a_hint(void **state)
{
	scoped_store store;
	scoped_vm vm, other = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "webserver", &vm);
	assert_int_equal(fvm_vm_open(&store, "websever", FVM_NO_LOCK, &other, &err), -ENOENT);
	assert_non_null(strstr(err.hint, "webserver"));
}

static void running_vm_is_not_deleted(void **state)
{
	scoped_store store;
	scoped_vm vm;
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	scoped_fd alive = -1;
	assert_int_equal(fvm_vm_alive_lock(&vm, &alive, &err), 0);
	assert_int_equal(fvm_vm_state(&vm), FVM_RUNNING);
	assert_int_equal(fvm_vm_remove(&vm, false, &err), -EBUSY);
	assert_int_equal(fvm_vm_rollback(&vm, "t", &err), -ENOENT);
}

static void what_a_crash_left_is_tidied(void **state)
{
	const struct box *box = *state;
	scoped_store store, again;
	open_store(box, &store);
	assert_int_equal(fvm_mkdir_p(store.dir, "tmp/half/made", 0700), 0);
	assert_int_equal(fvm_mkdir_p(store.dir, "trash/half/gone", 0700), 0);
	char name[40];
	scoped_fd held = fvm_tmp_make(&store, name);
	assert_true(held >= 0);
	open_store(box, &again);
	assert_int_equal(entries(&store, "tmp"), 1); /* what somebody is making stays */
	assert_int_equal(entries(&store, "trash"), 0);
}

static void snapshot_moves_and_rollback_brings_back(void **state)
{
	scoped_store store;
	scoped_vm vm;
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(fvm_mkdir_p(vm.dir, "workspace/fs/root/upper", 0700), 0);
	write_in(&vm, "workspace/fs/root/upper/file", "1");
	assert_int_equal(fvm_vm_snapshot(&vm, "one", NULL, &err), 0);
	assert_int_equal(vm.config.layers.count, 1);
	assert_int_equal(fvm_vm_snapshot(&vm, "one", NULL, &err), -EEXIST);
	assert_int_equal(fvm_vm_snapshot(&vm, "two", NULL, &err), 0);
	assert_int_equal(vm.config.layers.count, 1); /* nothing changed: no new layer */
	assert_int_equal(fvm_mkdir_p(vm.dir, "workspace/fs/root/upper", 0700), 0);
	write_in(&vm, "workspace/fs/root/upper/later", "2");
	assert_int_equal(fvm_vm_rollback(&vm, "none", &err), -ENOENT);
	assert_int_equal(fvm_vm_rollback(&vm, "one", &err), 0);
	assert_int_equal(faccessat(vm.dir, "workspace/fs/root", F_OK, 0), -1);
}

static void rollback_that_was_tried_can_be_taken_back(void **state)
{
	scoped_store store;
	scoped_vm vm;
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(fvm_vm_snapshot(&vm, "none", NULL, &err), 0);
	assert_int_equal(fvm_mkdir_p(vm.dir, "workspace/fs/root/upper", 0700), 0);
	write_in(&vm, "workspace/fs/root/upper/one", "1");
	assert_int_equal(fvm_vm_snapshot(&vm, "one", NULL, &err), 0);
	assert_int_equal(fvm_mkdir_p(vm.dir, "workspace/fs/root/upper", 0700), 0);
	write_in(&vm, "workspace/fs/root/upper/two", "2");
	for (int i = 0; i < 2; i++) {
		assert_int_equal(fvm_vm_rollback_try(&vm, "none", &err), 0);
		assert_int_equal(vm.config.layers.count, 0);
		assert_int_equal(faccessat(vm.dir, "workspace/fs/root", F_OK, 0), -1);
		assert_int_equal(fvm_vm_rollback_undo(&vm, &err), 0);
		assert_int_equal(vm.config.layers.count, 1);
		assert_int_equal(faccessat(vm.dir, "workspace/fs/root/upper/two", F_OK, 0), 0);
	}
	assert_int_equal(fvm_vm_rollback_try(&vm, "none", &err), 0);
	assert_int_equal(fvm_vm_rollback_settle(&vm, &err), 0);
	assert_int_equal(vm.config.layers.count, 0);
	assert_int_equal(faccessat(vm.dir, "workspace/fs/root", F_OK, 0), -1);
	assert_int_equal(faccessat(vm.dir, "before", F_OK, 0), -1);
}

static void kept_programs_are_what_was_kept(void **state)
{
	scoped_store store;
	scoped_vm vm;
	struct fvm_error err = { 0 };
	char name[FVM_DIGEST_HEX], path[100];
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(fvm_vm_snapshot(&vm, "one", NULL, &err), 0);
	/* with a way to a name, and without: the file is linked, or copied */
	scoped_fd blob = openat(vm.dir, ".", O_RDWR | O_TMPFILE | O_CLOEXEC, 0600);
	scoped_fd memory = memfd_create("blob", MFD_CLOEXEC);
	const int blobs[] = { blob, memory };
	for (size_t i = 0; i < FVM_COUNT(blobs); i++) {
		assert_int_equal(fvm_write_all(blobs[i], FVM_PROGRAMS_MAGIC "x", 16), 0);
		assert_int_equal(fvm_programs_keep(&vm, blobs[i], name, &err), 0);
		assert_int_equal(fvm_config_set_programs(&vm.config, 0, name), 0);
		scoped_fd kept = fvm_programs_open(&vm, &vm.config.snapshots[0], &err);
		assert_true(kept >= 0);
		fvm_programs_tidy(&vm);
		snprintf(path, sizeof(path), "programs/%s", name);
		assert_int_equal(faccessat(vm.dir, path, F_OK, 0), 0);
		scoped_fd hit = openat(vm.dir, path, O_WRONLY | O_CLOEXEC);
		assert_int_equal(pwrite(hit, "y", 1, 15), 1);
		assert_int_equal(fvm_programs_open(&vm, &vm.config.snapshots[0], &err), -EBADMSG);
		assert_int_equal(fvm_config_set_programs(&vm.config, 0, NULL), 0);
		fvm_programs_tidy(&vm);
		assert_int_equal(faccessat(vm.dir, "programs", F_OK, 0), -1);
	}
}

static void layer_goes_with_its_last_vm(void **state)
{
	scoped_store store;
	scoped_vm vm, copy;
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	make(&store, "web", &vm);
	assert_int_equal(fvm_mkdir_p(vm.dir, "workspace/fs/root/upper", 0700), 0);
	write_in(&vm, "workspace/fs/root/upper/file", "1");
	assert_int_equal(fvm_vm_clone(&vm, "copy", &copy, NULL, &err), 0);
	assert_int_equal(entries(&store, "layers"), 1);
	assert_int_equal(fvm_vm_remove(&vm, false, &err), 0);
	assert_int_equal(entries(&store, "layers"), 1);
	assert_int_equal(fvm_vm_remove(&copy, false, &err), 0);
	assert_int_equal(entries(&store, "layers"), 0);
}

/* As a kill between the steps of a freeze leaves it. */
static void interrupted_freeze_is_finished_or_taken_back(void **state)
{
	scoped_store store;
	struct fvm_error err = { 0 };
	open_store(*state, &store);
	for (int renamed = 0; renamed < 2; renamed++) {
		scoped_vm vm, again;
		make(&store, "web", &vm);
		assert_int_equal(fvm_mkdir_p(vm.dir, "workspace/fs/root/upper", 0700), 0);
		write_in(&vm, "workspace/fs/root/upper/file", "1");
		assert_int_equal(fvm_mkdir_p(store.dir, "layers/abcdef/refs", 0700), 0);
		assert_int_equal(fvm_layer_ref(&store, "abcdef", vm.config.id), 0);
		vm.config.pending = strdup("freeze abcdef");
		assert_int_equal(fvm_vm_save(&vm, &err), 0);
		if (renamed)
			assert_int_equal(renameat(vm.dir, "workspace/fs", store.dir,
						  "layers/abcdef/fs"),
					 0);
		fvm_vm_close(&vm);
		assert_int_equal(fvm_vm_open(&store, "web", FVM_LOCK, &again, &err), 0);
		assert_null(again.config.pending);
		assert_int_equal(again.config.layers.count, renamed);
		assert_int_equal(faccessat(again.dir, "workspace/fs", F_OK, 0), 0);
		assert_int_equal(entries(&store, "layers"), renamed);
		assert_int_equal(fvm_vm_remove(&again, false, &err), 0);
	}
}

static void mount_keys_are_reversible(void **state)
{
	static const char *const paths[] = { "/",	"/root",  "/home",	  "/var/lib",
					     "/a-b",	"/a/b",	  "/.x",	  "/r oot\n",
					     "/root/x", "/\xff%", "/mnt/my disk", "/%72oot" };
	char keys[FVM_COUNT(paths)][256], back[4096];
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(paths); i++) {
		assert_int_equal(fvm_mount_key(paths[i], keys[i], sizeof(keys[i])), 0);
		assert_int_equal(fvm_mount_point(keys[i], back, sizeof(back)), 0);
		assert_string_equal(back, paths[i]);
		for (size_t j = 0; j < i; j++)
			assert_string_not_equal(keys[i], keys[j]);
	}
	assert_true(fvm_mount_point("%zz", back, sizeof(back)) < 0);
	assert_true(fvm_mount_point("%00", back, sizeof(back)) < 0);
	assert_true(fvm_mount_point("%4", back, sizeof(back)) < 0);
	assert_true(fvm_mount_point("", back, sizeof(back)) < 0);
}

static void ended_vm_of_run_rm_is_deleted_by_the_next_command(void **state)
{
	const struct box *box = *state;
	scoped_store store, again;
	scoped_vm vm;
	struct fvm_error err = { 0 };
	open_store(box, &store);
	make(&store, "gone", &vm);
	vm.config.throw_away = true;
	assert_int_equal(fvm_vm_save(&vm, &err), 0);
	scoped_fd run = fvm_vm_run_dir(&vm, true);
	assert_true(run >= 0);
	fvm_vm_close(&vm);
	open_store(box, &again);
	assert_int_equal(entries(&store, "vms"), 0);
}

#define IN_BOX(test) cmocka_unit_test_setup_teardown(test, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		IN_BOX(vm_is_made_whole_and_deleted_whole),
		IN_BOX(mark_of_an_unfinished_vm_stays_until_it_is_taken_back),
		IN_BOX(second_command_is_told_who_holds_it),
		IN_BOX(misspelt_name_gets_a_hint),
		IN_BOX(running_vm_is_not_deleted),
		IN_BOX(what_a_crash_left_is_tidied),
		IN_BOX(snapshot_moves_and_rollback_brings_back),
		IN_BOX(rollback_that_was_tried_can_be_taken_back),
		IN_BOX(kept_programs_are_what_was_kept),
		IN_BOX(layer_goes_with_its_last_vm),
		IN_BOX(interrupted_freeze_is_finished_or_taken_back),
		IN_BOX(ended_vm_of_run_rm_is_deleted_by_the_next_command),
		cmocka_unit_test(mount_keys_are_reversible),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
