/* What changes a VM's layers, killed or out of space at each step that touches the disk. */
#include <dirent.h>
#include <errno.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/image.h"
#include "fvm/internal.h"
#include "fvm/prune.h"
#include "fvm/snapshot.h"
#include "tests/faults.h"

static void open_store(const struct box *box, struct fvm_store *store)
{
	struct fvm_error err = { 0 };
	char home[512];
	snprintf(home, sizeof(home), "%s/home", box->path);
	setenv("FVM_HOME", home, 1);
	if (fvm_store_open(store, &err) < 0)
		fail_msg("%s: %s", err.text, strerror(err.code));
}

static void write_in(const struct fvm_vm *vm, const char *name, const char *text)
{
	char path[128];
	assert_int_equal(fvm_mkdir_p(vm->dir, "workspace/fs/root/upper", 0700), 0);
	assert_int_equal(fvm_mkdir_p(vm->dir, "workspace/fs/root/work/work", 0700), 0);
	snprintf(path, sizeof(path), "workspace/fs/root/upper/%s", name);
	scoped_fd fd = fvm_create_beneath(vm->dir, path, O_WRONLY | O_TRUNC, 0600);
	assert_int_equal(fvm_write_all(fd, text, strlen(text)), 0);
}

/* VM "v": "one" in a layer with the tag "t", "two" in the workspace. */
static void make_world(const struct box *box)
{
	scoped_store store;
	scoped_vm vm;
	scoped_config c = { .created_ns = 1 };
	struct fvm_error err = { 0 };
	open_store(box, &store);
	strcpy(c.name, "v");
	fvm_random_hex(c.id, 32);
	assert_int_equal(fvm_vm_create(&store, &c, false, &vm, &err), 0);
	write_in(&vm, "one", "1");
	assert_int_equal(fvm_vm_snapshot(&vm, "t", NULL, &err), 0);
	write_in(&vm, "two", "2");
	scoped_fd dir = openat(box->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(fvm_vm_export(&vm, dir, "image.tar", NULL, NULL, &err), 0);
}

static void add_names(int dir, const char *path, struct fvm_buf *ret)
{
	static const char *const all[] = { "one", "two" };
	for (size_t i = 0; i < FVM_COUNT(all); i++) {
		char name[160];
		snprintf(name, sizeof(name), "%s/root/upper/%s", path, all[i]);
		if (faccessat(dir, name, F_OK, 0) == 0)
			fvm_buf_printf(ret, "%s ", all[i]);
	}
}

/* What a VM has got: "one two " and its tags; "-" when there is none of that name. */
static char *view(const struct fvm_store *store, const char *name)
{
	scoped_vm vm = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	scoped_buf text = { 0 };
	int r = fvm_vm_open(store, name, FVM_LOCK, &vm, &err);
	if (r == -ENOENT)
		return strdup("-");
	if (r < 0)
		fail_msg("%s: %s", err.text, strerror(err.code));
	assert_null(vm.config.pending);
	fvm_strv_each(&vm.config.layers, i) {
		char path[80];
		snprintf(path, sizeof(path), "layers/%s/fs", vm.config.layers.items[i]);
		assert_int_equal(faccessat(store->dir, path, F_OK, 0), 0);
		add_names(store->dir, path, &text);
	}
	assert_int_equal(faccessat(vm.dir, "workspace/fs", F_OK, 0), 0);
	add_names(vm.dir, "workspace/fs", &text);
	for (size_t i = 0; i < vm.config.snapshot_count; i++)
		fvm_buf_printf(&text, "%s", vm.config.snapshots[i].tag);
	return fvm_buf_steal(&text);
}

/* ---- what is killed ---- */

static int run_create(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	scoped_config c = { .created_ns = 1 };
	scoped_vm made = { .dir = -1, .lock = -1 };
	(void)vm, (void)dir;
	strcpy(c.name, "n");
	fvm_random_hex(c.id, 32);
	return fvm_vm_create(s, &c, true, &made, err);
}

static int run_rm(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	return fvm_vm_remove(vm, false, err);
}

static int run_snapshot(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	return fvm_vm_snapshot(vm, "u", NULL, err);
}

static int run_drop(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	return fvm_vm_drop_snapshot(vm, "t", err);
}

static int run_clone(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	scoped_vm made = { .dir = -1, .lock = -1 };
	(void)s, (void)dir;
	return fvm_vm_clone(vm, "n", &made, NULL, err);
}

static int run_rollback(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	return fvm_vm_rollback(vm, "t", err);
}

static int run_empty(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	return fvm_vm_empty(vm, err);
}

static int run_rename(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	return fvm_vm_rename(vm, "n", err);
}

static int run_try(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	int r = fvm_vm_rollback_try(vm, "t", err);
	return r < 0 ? r : fvm_vm_rollback_settle(vm, err);
}

static int run_undo(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s, (void)dir;
	int r = fvm_vm_rollback_try(vm, "t", err);
	return r < 0 ? r : fvm_vm_rollback_undo(vm, err);
}

static int run_export(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	(void)s;
	return fvm_vm_export(vm, dir, "new.tar", NULL, NULL, err);
}

static int run_import(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err)
{
	scoped_vm made = { .dir = -1, .lock = -1 };
	scoped_fd fd = openat(dir, "image.tar", O_RDONLY | O_CLOEXEC);
	(void)vm;
	return fvm_vm_import(s, fd, "n", NULL, NULL, &made, err);
}

struct operation {
	const char *name;
	int (*run)(struct fvm_store *s, struct fvm_vm *vm, int dir, struct fvm_error *err);
	const char *v[2], *n[2]; /* the views of "v" and "n" before, and when it is done */
	unsigned int steps;	 /* at least */
};

#define BEFORE "one two t"

static const struct operation operations[] = {
	{ "create", run_create, { BEFORE, BEFORE }, { "-", "" }, 5 },
	{ "rm", run_rm, { BEFORE, "-" }, { "-", "-" }, 4 },
	{ "snapshot", run_snapshot, { BEFORE, "one two tu" }, { "-", "-" }, 10 },
	{ "drop", run_drop, { BEFORE, "one two " }, { "-", "-" }, 3 },
	{ "clone", run_clone, { BEFORE, BEFORE }, { "-", BEFORE }, 15 },
	{ "rollback", run_rollback, { BEFORE, "one t" }, { "-", "-" }, 8 },
	{ "try", run_try, { BEFORE, "one t" }, { "-", "-" }, 8 },
	{ "undo", run_undo, { BEFORE, BEFORE }, { "-", "-" }, 8 },
	{ "empty", run_empty, { BEFORE, "one t" }, { "-", "-" }, 8 },
	{ "rename", run_rename, { BEFORE, "-" }, { "-", BEFORE }, 4 },
	{ "export", run_export, { BEFORE, BEFORE }, { "-", "-" }, 8 },
	{ "import", run_import, { BEFORE, BEFORE }, { "-", BEFORE }, 15 },
};

struct job {
	const struct operation *operation;
	int dir;
};

static int run(const void *arg)
{
	const struct job *job = arg;
	struct fvm_store store;
	struct fvm_vm vm;
	struct fvm_error err = { 0 };
	if (fvm_store_open(&store, &err) < 0 || fvm_vm_open(&store, "v", FVM_LOCK, &vm, &err) < 0)
		_exit(2);
	return job->operation->run(&store, &vm, job->dir, &err);
}

static unsigned int count_in(int at, const char *path)
{
	unsigned int n = 0;
	int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	for (struct dirent *e; d && (e = readdir(d));)
		n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0;
	if (d)
		closedir(d);
	return n;
}

/* An export is there and can be read, or it is not there, and nothing lies beside it. */
static void check_export(const struct box *box, struct fvm_store *store)
{
	scoped_vm made = { .dir = -1, .lock = -1 };
	struct fvm_error err = { 0 };
	scoped_fd fd = openat(box->dir, "new.tar", O_RDONLY | O_CLOEXEC);
	assert_int_equal(count_in(box->dir, "."), fd < 0 ? 2 : 3);
	if (fd < 0)
		return;
	assert_int_equal(fvm_vm_import(store, fd, "x", NULL, NULL, &made, &err), 0);
	assert_int_equal(fvm_vm_remove(&made, false, &err), 0);
}

/* Layers that no VM needs are gone, at the latest with prune. */
static void check_layers(const struct fvm_store *store)
{
	scoped_strv names = { 0 }, layers = { 0 };
	struct fvm_pruned pruned;
	assert_int_equal(fvm_store_prune(store, &(struct fvm_prune_how){ 0 }, &pruned, NULL), 0);
	assert_int_equal(fvm_store_list(store, &names, NULL), 0);
	fvm_strv_each(&names, i) {
		scoped_vm vm = { .dir = -1, .lock = -1 };
		scoped_strv own = { 0 };
		assert_int_equal(fvm_vm_open(store, names.items[i], FVM_NO_LOCK, &vm, NULL), 0);
		assert_int_equal(fvm_config_layers(&vm.config, &own), 0);
		fvm_strv_each(&own, j) {
			if (!fvm_strv_has(&layers, own.items[j]))
				assert_int_equal(fvm_strv_add(&layers, own.items[j]), 0);
		}
	}
	assert_int_equal(count_in(store->dir, "layers"), layers.count);
	assert_int_equal(count_in(store->dir, "tmp"), 0);
	/* a child may be at it still, or have died just now */
	for (int i = 0; i < 500 && count_in(store->dir, "trash") > 0; i++) {
		scoped_store again;
		usleep(10000);
		assert_int_equal(fvm_store_open(&again, NULL), 0);
	}
	assert_int_equal(count_in(store->dir, "trash"), 0);
}

/* A world of its own for each visit. Return: whether something happened to it */
static bool dies_at(const struct operation *o, unsigned int visit, const char *action)
{
	void *state = NULL;
	assert_int_equal(box_setup(&state), 0);
	const struct box *box = state;
	make_world(box);
	const struct job job = { o, box->dir };
	int status = faults_at(visit, action, run, &job);
	scoped_store store;
	open_store(box, &store);
	scoped_free char *v = view(&store, "v"), *n = view(&store, "n");
	bool before = strcmp(v, o->v[0]) == 0 && strcmp(n, o->n[0]) == 0;
	bool done = strcmp(v, o->v[1]) == 0 && strcmp(n, o->n[1]) == 0;
	if (!before && !done)
		fail_msg("%s, %s at step %u: v has '%s', n has '%s'", o->name, action, visit, v, n);
	if (status == 0 && !done)
		fail_msg("%s, %s at step %u: not done", o->name, action, visit);
	check_export(box, &store);
	check_layers(&store);
	box_teardown(&state);
	return status != 0;
}

static void killed_at_any_step_it_is_all_or_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(operations); i++) {
		unsigned int visit = 1;
		while (dies_at(&operations[i], visit, "kill"))
			visit++;
		print_message("%s: %u steps\n", operations[i].name, visit - 1);
		assert_true(visit > operations[i].steps);
	}
}

static void without_space_at_any_step_it_is_all_or_nothing(void **state)
{
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(operations); i++) {
		/* some steps may fail, and it is done all the same */
		for (unsigned int visit = 1; visit < 40; visit++)
			(void)dies_at(&operations[i], visit, "enospc");
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_at_any_step_it_is_all_or_nothing),
		cmocka_unit_test(without_space_at_any_step_it_is_all_or_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
