/* Mounts that programs made: the kernel's table, what of it is new, and what lies in a tmpfs. That
 * they are made again is tests/e2e/checkpoint_mounts.bats. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <cmocka.h>

#include "vin/mounts.h"

static struct fvm_error err;

/* ---- tables ---- */

static const char world[] =
	"50 40 0:60 / / rw,nodev,relatime - overlay fvm rw,lowerdir=a:b\n"
	"55 52 0:63 / /mnt/in rw - tmpfs  rw,size=4k\n" /* on what is told behind it; no source */
	"51 50 0:61 / /proc ro,nosuid,noatime shared:7 master:3 - proc proc rw\n"
	"52 50 0:62 / /mnt rw,noexec,relatime unbindable - tmpfs a\\040b rw\n"
	"53 50 0:60 /etc /srv\\011x rw,relatime - overlay fvm rw\n"
	"54 52 0:62 /d /mnt/d rw,relatime - tmpfs ab rw\n";

static struct vin_mount_table parse(const char *text)
{
	struct vin_mount_table t = { 0 };
	char *copy = strdup(text);
	assert_int_equal(vin_mount_table_parse(copy, &t), 0);
	free(copy);
	return t;
}

static void each_mount_is_behind_the_one_it_is_on(void **state)
{
	(void)state;
	scoped_mounts t = parse(world);
	static const char *const points[] = {
		"/", "/proc", "/mnt", "/srv\tx", "/mnt/d", "/mnt/in"
	};
	assert_int_equal(t.count, FVM_COUNT(points));
	for (size_t i = 0; i < t.count; i++) {
		assert_string_equal(t.list[i].point, points[i]);
		assert_true(t.list[i].parent == VIN_MOUNT_NONE ? i == 0 : t.list[i].parent < i);
	}
	assert_int_equal(t.list[5].parent, 2);
	assert_string_equal(t.list[5].source, "");
	assert_string_equal(t.list[5].options, "rw,size=4k");
	assert_string_equal(t.list[2].source, "a b");
}

/* Each was moved onto the one that was made after it. */
static void a_long_chain_the_wrong_way_round_is_put_in_order(void **state)
{
	(void)state;
	const int count = 20000;
	scoped_buf all = { 0 };
	for (int i = 1; i <= count; i++)
		fvm_buf_printf(&all, "%d %d 0:%d / / rw - tmpfs x rw\n", i, i < count ? i + 1 : 0,
			       i);
	fvm_buf_add(&all, "", 1);
	scoped_mounts t = parse(all.data);
	assert_int_equal(t.count, count);
	for (size_t i = 0; i < t.count; i++) {
		assert_int_equal(t.list[i].id, count - (int)i);
		assert_true(t.list[i].parent == (i ? i - 1 : VIN_MOUNT_NONE));
	}
}

static void flags_and_groups_are_told(void **state)
{
	(void)state;
	scoped_mounts t = parse(world);
	assert_int_equal(t.list[1].attributes,
			 MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NOATIME);
	assert_int_equal(t.list[1].shared, 7);
	assert_int_equal(t.list[1].master, 3);
	assert_int_equal(t.list[2].attributes, MOUNT_ATTR_NOEXEC);
	assert_true(t.list[2].unbindable && !t.list[1].unbindable);
	assert_int_equal(t.list[5].attributes, MOUNT_ATTR_STRICTATIME);
}

static void lines_that_are_none_are_refused(void **state)
{
	static const char loop[] = "1 2 0:3 / / rw - t s o\n2 3 0:3 / /a rw - t s o\n"
				   "3 2 0:3 / /b rw - t s o";
	static const char *const wrong[] = { "x",
					     "1 2 3 / / rw - a b c",
					     "1 2 0:3 / / rw a b c",
					     "1 2 0:3 / / rw - a",
					     "1 2 0:3 / / rw - a b",
					     loop };
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(wrong); i++) {
		struct vin_mount_table t = { 0 };
		char *copy = strdup(wrong[i]);
		assert_int_equal(vin_mount_table_parse(copy, &t), -EBADMSG);
		assert_null(t.list);
		free(copy);
	}
}

static void the_first_of_a_file_system_makes_it_others_are_bound(void **state)
{
	(void)state;
	scoped_mounts t = parse(world);
	for (size_t i = 2; i < t.count; i++)
		t.list[i].inside = true;
	assert_false(vin_mount_is_new(&t, 1)); /* the world's */
	assert_true(vin_mount_is_new(&t, 2) && vin_mount_has_content(&t, 2));
	assert_false(vin_mount_is_new(&t, 3) || vin_mount_is_new(&t, 4));
	assert_int_equal(vin_mount_source(&t, 3, 0), 0);
	assert_int_equal(vin_mount_source(&t, 4, 0), 2);
	assert_true(vin_mount_source(&t, 4, 3) == VIN_MOUNT_NONE);
}

static void paths_are_below_others_by_whole_names(void **state)
{
	(void)state;
	assert_string_equal(vin_mount_below("/a/b/c", "/a"), "b/c");
	assert_string_equal(vin_mount_below("/a", "/a"), "");
	assert_string_equal(vin_mount_below("/a", "/"), "a");
	assert_string_equal(vin_mount_below("/", "/"), "");
	assert_null(vin_mount_below("/ab", "/a"));
	assert_null(vin_mount_below("/", "/a"));
}

static void options_come_one_by_one(void **state)
{
	char text[] = "rw,lowerdir=/a\\054b:/c,userxattr";
	char *at = text, *value;
	(void)state;
	assert_string_equal(vin_mount_option(&at, &value), "rw");
	assert_string_equal(value, "");
	assert_string_equal(vin_mount_option(&at, &value), "lowerdir");
	assert_string_equal(value, "/a,b:/c");
	assert_string_equal(vin_mount_option(&at, &value), "userxattr");
	assert_null(vin_mount_option(&at, &value));
}

static void a_table_is_read_as_it_was_written(void **state)
{
	(void)state;
	scoped_mounts t = parse(world), read = { 0 };
	scoped_buf first = { 0 }, again = { 0 };
	for (size_t i = 2; i < t.count; i++)
		t.list[i].inside = true;
	vin_mount_table_put(&first, &t);
	for (size_t len = 0; len < first.len; len++) {
		struct vin_mount_table none = { 0 };
		struct vin_payload cut = { (void *)first.data, (void *)(first.data + len), false };
		assert_int_equal(vin_mount_table_get(&cut, &none), -EBADMSG);
		assert_null(none.list);
	}
	struct vin_payload p = { (void *)first.data, (void *)(first.data + first.len), false };
	assert_int_equal(vin_mount_table_get(&p, &read), 0);
	vin_mount_table_put(&again, &read);
	assert_int_equal(first.len, again.len);
	assert_memory_equal(first.data, again.data, first.len);
}

static void tables_that_can_not_be_are_refused(void **state)
{
	(void)state;
	static const struct {
		size_t i, parent;
		const char *point, *root;
	} wrong[] = {
		{ 0, VIN_MOUNT_NONE, "/", "/" }, /* made inside, and on nothing */
		{ 2, 3, "/mnt", "/" },		 /* on one behind it */
		{ 4, 2, "/mn/d", "/d" },	 /* elsewhere than what it is on */
		{ 4, 2, "mnt/d", "/d" },	 /* nowhere */
		{ 3, 0, "/srv", "etc" },
	};
	for (size_t i = 0; i < FVM_COUNT(wrong); i++) {
		scoped_mounts t = parse(world), read = { 0 };
		scoped_buf all = { 0 };
		struct vin_mount *m = &t.list[wrong[i].i];
		for (size_t j = 2; j < t.count; j++)
			t.list[j].inside = true;
		m->inside = true;
		m->parent = wrong[i].parent;
		free(m->point);
		free(m->root);
		m->point = strdup(wrong[i].point);
		m->root = strdup(wrong[i].root);
		vin_mount_table_put(&all, &t);
		struct vin_payload p = { (void *)all.data, (void *)(all.data + all.len), false };
		assert_int_equal(vin_mount_table_get(&p, &read), -EBADMSG);
	}
}

/* ---- what lies in a tmpfs ---- */

struct trees {
	char path[40];
	int from, to;
	size_t records;
};

static int make_trees(void **state)
{
	static struct trees t;
	strcpy(t.path, "/tmp/vin-mounts-XXXXXX");
	int dir = mkdtemp(t.path) ? open(t.path, O_PATH | O_CLOEXEC) : -1;
	t.records = 0;
	if (dir < 0 || mkdirat(dir, "from", 0700) < 0 || mkdirat(dir, "to", 0700) < 0)
		return -1;
	t.from = openat(dir, "from", O_PATH | O_DIRECTORY | O_CLOEXEC);
	t.to = openat(dir, "to", O_PATH | O_DIRECTORY | O_CLOEXEC);
	close(dir);
	*state = &t;
	err = (struct fvm_error){ 0 };
	return t.from < 0 || t.to < 0;
}

static int remove_trees(void **state)
{
	const struct trees *t = *state;
	close(t->from);
	close(t->to);
	scoped_fd tmp = open("/tmp", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return fvm_remove_tree(tmp, t->path + strlen("/tmp/"));
}

/* As the other side has it: behind the sort and the index. */
static int take(void *arg, const struct fvm_buf *payload)
{
	struct trees *t = arg;
	struct vin_payload p = { (void *)payload->data, (void *)(payload->data + payload->len),
				 payload->failed };
	assert_int_equal(vin_get_u64(&p), VIN_MOUNT_CONTENT);
	assert_int_equal(vin_get_u64(&p), 5);
	t->records++;
	return vin_mount_tree_take(t->to, &p, &err);
}

static void copy(struct trees *t)
{
	int r = vin_mount_tree_write(t->from, 5, take, t, &err);
	if (r < 0)
		print_message("%s\n", err.text);
	assert_int_equal(r, 0);
}

static void write_at(int dir, const char *name, const void *data, size_t len, off_t at)
{
	scoped_fd fd = openat(dir, name, O_WRONLY | O_CREAT | O_CLOEXEC, 0640);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, data, len, at), len);
}

static struct stat look(int dir, const char *name)
{
	struct stat st = { 0 };
	assert_int_equal(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st;
}

static void same(const struct trees *t, const char *name)
{
	const struct stat a = look(t->from, name), b = look(t->to, name);
	assert_int_equal(a.st_mode, b.st_mode);
	assert_int_equal(a.st_uid, b.st_uid);
	assert_int_equal(a.st_gid, b.st_gid);
	assert_int_equal(a.st_nlink, b.st_nlink);
	assert_memory_equal(&a.st_mtim, &b.st_mtim, sizeof(a.st_mtim));
	if (!S_ISDIR(a.st_mode))
		assert_int_equal(a.st_size, b.st_size);
}

static void all_sorts_of_files_come_back(void **state)
{
	struct trees *t = *state;
	const struct timespec times[2] = { { 1000, 1 }, { 2000, 999999999 } };
	char text[8] = "";
	assert_int_equal(mkdirat(t->from, "d", 0700), 0);
	assert_int_equal(mkdirat(t->from, "d/\n\377", 0700), 0);
	write_at(t->from, "d/\n\377/f", "words", 5, 0);
	write_at(t->from, "sparse", "x", 1, 5 << 20);
	assert_int_equal(linkat(t->from, "d/\n\377/f", t->from, "twin", 0), 0);
	assert_int_equal(symlinkat("/no/where", t->from, "link"), 0);
	assert_int_equal(mkfifoat(t->from, "fifo", 0604), 0);
	assert_int_equal(fchmodat(t->from, "d", 02751, 0), 0);
	assert_int_equal(utimensat(t->from, "d", times, 0), 0);
	assert_int_equal(utimensat(t->from, "link", times, AT_SYMLINK_NOFOLLOW), 0);
	assert_int_equal(fchmodat(t->from, ".", 01777, 0), 0);
	copy(t);
	static const char *const names[] = {
		"d", "d/\n\377", "twin", "link", "fifo", "sparse", "."
	};
	for (size_t i = 0; i < FVM_COUNT(names); i++)
		same(t, names[i]);
	assert_int_equal(look(t->to, "twin").st_ino, look(t->to, "d/\n\377/f").st_ino);
	assert_true(look(t->to, "sparse").st_blocks * 512 < 1 << 20);
	scoped_fd fd = openat(t->to, "twin", O_RDONLY | O_CLOEXEC);
	assert_int_equal(read(fd, text, sizeof(text)), 5);
	assert_string_equal(text, "words");
}

static void what_is_long_comes_in_pieces(void **state)
{
	struct trees *t = *state;
	static char bytes[3 << 20], got[3 << 20];
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (char)(i * 7 + i / 4096);
	write_at(t->from, "long", bytes, sizeof(bytes), 0);
	copy(t);
	assert_true(t->records > 2);
	scoped_fd fd = openat(t->to, "long", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fvm_read_full(fd, got, sizeof(got)), sizeof(got));
	assert_memory_equal(bytes, got, sizeof(got));
}

static void attributes_come_back(void **state)
{
	struct trees *t = *state;
	char value[16] = "";
	write_at(t->from, "f", "x", 1, 0);
	scoped_fd fd = openat(t->from, "f", O_RDONLY | O_CLOEXEC);
	if (fsetxattr(fd, "user.one", "two\0x", 5, 0) < 0)
		skip(); /* by the file system of /tmp */
	copy(t);
	scoped_fd made = openat(t->to, "f", O_RDONLY | O_CLOEXEC);
	assert_int_equal(fgetxattr(made, "user.one", value, sizeof(value)), 5);
	assert_memory_equal(value, "two\0x", 5);
}

static void put_node(struct fvm_buf *b, const char *path, mode_t type, const char *target)
{
	vin_put_u64(b, 1);
	vin_put_string(b, path);
	vin_put_u64(b, type);
	vin_put_u64(b, 0);
	vin_put_string(b, target);
}

static int ignore(void *arg, const struct fvm_buf *payload)
{
	(void)arg, (void)payload;
	return 0;
}

/* At its source it is reached step by step. */
static void a_path_that_nobody_could_make_is_refused_in_time(void **state)
{
	struct trees *t = *state;
	char name[201];
	memset(name, 'd', 200);
	name[200] = '\0';
	scoped_fd at = openat(t->from, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	for (int i = 0; i < 25; i++) {
		assert_int_equal(mkdirat(at, name, 0700), 0);
		int next = openat(at, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
		assert_true(next >= 0);
		close(at);
		at = next;
	}
	assert_int_equal(vin_mount_tree_write(t->from, 5, ignore, NULL, &err), -ENAMETOOLONG);
}

static void nothing_is_made_outside(void **state)
{
	static const char *const paths[] = {
		"../out", "/out", "d/../../out", "l/out", "", ".", ".."
	};
	struct trees *t = *state;
	for (size_t i = 0; i < FVM_COUNT(paths); i++) {
		scoped_buf b = { 0 };
		(void)unlinkat(t->to, "l", 0);
		put_node(&b, "l", S_IFLNK, "..");
		put_node(&b, paths[i], S_IFDIR, "");
		struct vin_payload p = { (void *)b.data, (void *)(b.data + b.len), false };
		assert_true(vin_mount_tree_take(t->to, &p, &err) < 0);
		assert_int_equal(faccessat(t->to, "../out", F_OK, 0), -1);
	}
	assert_int_equal(access("/out", F_OK), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_mount_is_behind_the_one_it_is_on),
		cmocka_unit_test(flags_and_groups_are_told),
		cmocka_unit_test(lines_that_are_none_are_refused),
		cmocka_unit_test(the_first_of_a_file_system_makes_it_others_are_bound),
		cmocka_unit_test(paths_are_below_others_by_whole_names),
		cmocka_unit_test(options_come_one_by_one),
		cmocka_unit_test(a_table_is_read_as_it_was_written),
		cmocka_unit_test(tables_that_can_not_be_are_refused),
		cmocka_unit_test(a_long_chain_the_wrong_way_round_is_put_in_order),
		cmocka_unit_test_setup_teardown(all_sorts_of_files_come_back, make_trees,
						remove_trees),
		cmocka_unit_test_setup_teardown(what_is_long_comes_in_pieces, make_trees,
						remove_trees),
		cmocka_unit_test_setup_teardown(attributes_come_back, make_trees, remove_trees),
		cmocka_unit_test_setup_teardown(a_path_that_nobody_could_make_is_refused_in_time,
						make_trees, remove_trees),
		cmocka_unit_test_setup_teardown(nothing_is_made_outside, make_trees, remove_trees),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
