#include "fvm/owners.h"
#include "tests/fvm/listing.h"

static struct fvm_owners *load(const struct box *box)
{
	struct fvm_owners *o = NULL;
	struct fvm_error err = { 0 };
	scoped_fd fs = box_dir(box, ".");
	if (fvm_owners_load(fs, &o, &err) < 0)
		fail_msg("%s", err.text);
	return o;
}

static struct stat wished_at(const struct fvm_owners *o, const struct box *box, const char *name,
			     const char *rel, const struct stat *base, const struct stat *parent)
{
	struct stat st;
	assert_int_equal(fstatat(box->dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	fvm_owners_apply(o, box->dir, name, "root", rel, base, parent, &st);
	return st;
}

static struct stat wished(const struct fvm_owners *o, const struct box *box, const char *name,
			  const struct stat *base, const struct stat *parent)
{
	return wished_at(o, box, name, name, base, parent);
}

static void record_is_read_and_written(void **state)
{
	(void)state;
	static const char *const good[] = { "0:0", "33:4294967294", "1:2:4755", "0:6:060640:8.17" };
	static const char *const bad[] = { "",		"1",	      "1:",	  ":1",
					   "1:2:",	"1:2:9",      "1:2:644:", "-1:2",
					   "1:2:644:8", "1:2:644:8.", "1:2 ",	  "4294967295:0",
					   " 1:2" };
	struct fvm_owner o;
	char text[64];
	for (size_t i = 0; i < FVM_COUNT(good); i++) {
		assert_int_equal(fvm_owner_parse(good[i], strlen(good[i]), &o), 0);
		fvm_owner_format(&o, text, sizeof(text));
		assert_int_equal(strtoul(text, NULL, 10), strtoul(good[i], NULL, 10));
	}
	assert_int_equal(fvm_owner_parse("0:6:060640:8.17", 15, &o), 0);
	assert_true(S_ISBLK(o.mode) && o.rdev == makedev(8, 17) && o.gid == 6);
	for (size_t i = 0; i < FVM_COUNT(bad); i++)
		assert_int_equal(fvm_owner_parse(bad[i], strlen(bad[i]), &o), -EINVAL);
	assert_int_equal(fvm_owner_parse("1:2\0", 4, &o), -EINVAL);
}

static void xattr_names_owner_mode_and_device(void **state)
{
	const struct box *box = *state;
	box_write(box, "f", "");
	box_xattr(box, "f", FVM_OWNER_XATTR, "33:44:020644:1.3", 16);
	struct fvm_owners *o = load(box);
	struct stat st = wished(o, box, "f", NULL, NULL);
	assert_int_equal(st.st_uid, 33);
	assert_int_equal(st.st_gid, 44);
	assert_int_equal(st.st_mode, S_IFCHR | 0644);
	assert_int_equal(st.st_rdev, makedev(1, 3));
	fvm_owners_free(o);
}

static void last_line_of_the_same_inode_counts(void **state)
{
	const struct box *box = *state;
	struct stat st;
	scoped_buf list = { 0 };
	struct fvm_owner one = { .uid = 1 }, two = { .uid = 2 }, three = { .uid = 3 };
	assert_int_equal(symlinkat("x", box->dir, "a \n\\b"), 0);
	assert_int_equal(fstatat(box->dir, "a \n\\b", &st, AT_SYMLINK_NOFOLLOW), 0);
	fvm_owners_line(&list, &one, st.st_ino, "root", "a \n\\b");
	fvm_owners_line(&list, &two, st.st_ino, "root", "a \n\\b");
	fvm_owners_line(&list, &three, st.st_ino + 1, "root", "a \n\\b");
	fvm_buf_puts(&list, "own 9:9 0 root/a"); /* cut short by a crash */
	box_write(box, FVM_OWNERS_FILE, list.data);
	struct fvm_owners *o = load(box);
	assert_int_equal(wished(o, box, "a \n\\b", NULL, NULL).st_uid, 2);
	fvm_owners_free(o);
}

static void a_record_is_found_when_mounts_have_come_or_gone(void **state)
{
	const struct box *box = *state;
	scoped_buf list = { 0 };
	const struct fvm_owner root = { .uid = 1 }, mount = { .uid = 2 };
	char key[64], other[64];
	assert_int_equal(fvm_mount_key("/srv/data", key, sizeof(key)), 0);
	assert_int_equal(fvm_mount_key("/srv", other, sizeof(other)), 0);
	fvm_owners_line(&list, &root, 7, "root", "srv/data/d/link");
	fvm_owners_line(&list, &mount, 8, key, "d/fifo");
	box_write(box, FVM_OWNERS_FILE, list.data);
	struct fvm_owners *o = load(box);
	assert_int_equal(fvm_owners_find(o, key, "d/link", 7)->uid, 1);
	assert_int_equal(fvm_owners_find(o, other, "data/d/fifo", 8)->uid, 2);
	assert_int_equal(fvm_owners_find(o, "root", "srv/data/d/fifo", 8)->uid, 2);
	assert_null(fvm_owners_find(o, other, "data/d/fifo", 7));
	assert_null(fvm_owners_find(o, other, "d/fifo", 8));
	fvm_owners_free(o);
}

static void without_a_record_the_place_decides(void **state)
{
	const struct box *box = *state;
	struct stat base = { .st_uid = 104, .st_gid = 42 },
		    home = { .st_uid = 1000, .st_gid = 1001 };
	struct stat usr = { .st_mode = S_IFDIR | S_ISGID, .st_gid = 8 };
	box_write(box, "f", "");
	assert_int_equal(fchownat(box->dir, ".", 1000, 1000, 0), 0);
	assert_int_equal(fchownat(box->dir, "f", 1000, 1000, 0), 0);
	struct fvm_owners *o = load(box);
	assert_int_equal(wished(o, box, "f", &base, NULL).st_uid, 104);
	assert_int_equal(wished(o, box, "f", &base, NULL).st_gid, 42);
	assert_int_equal(wished(o, box, "f", NULL, NULL).st_uid, 0);
	assert_int_equal(wished(o, box, "f", NULL, &home).st_uid, 1000);
	assert_int_equal(wished(o, box, "f", NULL, &home).st_gid, 1001);
	assert_int_equal(wished(o, box, "f", NULL, &usr).st_uid, 0);
	assert_int_equal(wished(o, box, "f", NULL, &usr).st_gid, 8);
	fvm_owners_free(o);
}

static void map_translates_subordinate_ids(void **state)
{
	const struct box *box = *state;
	struct stat base = { .st_uid = 104 }, root = { 0 }, parent = { .st_uid = 1000 };
	const struct stat far = { .st_uid = 3000000 };
	box_write(box, FVM_OWNERS_FILE,
		  "map u 0 1000 1\nmap u 1 100000 65535\n"
		  "map g 0 1000 1\nmap g 1 100000 65535\n");
	box_write(box, "f", "");
	box_write(box, "r", "");
	assert_int_equal(fchownat(box->dir, ".", 1000, 1000, 0), 0);
	assert_int_equal(fchownat(box->dir, "f", 100032, 100041, 0), 0);
	assert_int_equal(fchownat(box->dir, "r", 1000, 1000, 0), 0);
	struct fvm_owners *o = load(box);
	assert_int_equal(wished(o, box, "f", NULL, NULL).st_uid, 33);
	assert_int_equal(wished(o, box, "f", NULL, NULL).st_gid, 42);
	/* a real chown to root, where the skeleton tells whose the host's are */
	assert_int_equal(wished_at(o, box, "r", "etc/r", &base, NULL).st_uid, 0);
	/* nobody in the VM could know, or give, the owner of these */
	assert_int_equal(wished_at(o, box, "r", "data/r", &base, NULL).st_uid, 104);
	assert_int_equal(wished_at(o, box, "r", "etc/r", &far, NULL).st_uid, 3000000);
	assert_int_equal(wished(o, box, "r", NULL, &parent).st_uid, 1000);
	assert_int_equal(wished(o, box, "r", &root, &parent).st_uid, 0);
	fvm_owners_free(o);
}

static void what_is_the_hosts_has_its_owner_or_none(void **state)
{
	const struct box *box = *state;
	struct stat base = { .st_uid = 104, .st_gid = 105 }, parent = { 0 };
	box_write(box, FVM_OWNERS_FILE, "");
	box_write(box, "f", "");
	assert_int_equal(fchownat(box->dir, ".", 1000, 1000, 0), 0);
	assert_int_equal(fchownat(box->dir, "f", 1000, 1000, 0), 0);
	scoped_fd fd = openat(box->dir, "f", O_RDWR | O_CLOEXEC);
	assert_int_equal(fsetxattr(fd, FVM_OWNER_XATTR, FVM_OWNER_OF_HOST, 4, 0), 0);
	struct fvm_owners *o = load(box);
	assert_int_equal(wished(o, box, "f", &base, &parent).st_uid, 104);
	assert_int_equal(wished(o, box, "f", &base, &parent).st_gid, 105);
	assert_int_equal(wished(o, box, "f", NULL, &parent).st_uid, FVM_OWNER_UNKNOWN);
	fvm_owners_free(o);
}

static void bad_list_is_refused_with_its_line(void **state)
{
	const struct box *box = *state;
	static const char *const bad[] = { "own 1:2\n",	  "own 1:2 x root/a\n", "own 1:2 3 a b\n",
					   "map u 1 2\n", "map x 1 2 3\n",	"hello\n",
					   "\n" };
	for (size_t i = 0; i < FVM_COUNT(bad); i++) {
		struct fvm_owners *o = NULL;
		struct fvm_error err = { 0 };
		box_write(box, FVM_OWNERS_FILE, bad[i]);
		assert_int_equal(fvm_owners_load(box->dir, &o, &err), -EBADMSG);
		assert_non_null(strstr(err.text, "line 1"));
	}
}

static void scan_shows_wished_owners(void **state)
{
	const struct box *box = *state;
	struct fvm_stack s;
	box_file(box, "base/etc/copied", "x");
	box_file(box, "base/etc/chowned", "x");
	box_file(box, "base/etc/set-id", "x");
	box_stack(box, "/", 1, &s);
	box_file(box, "l0/etc/copied", "x");
	box_file(box, "l0/etc/chowned", "x");
	box_file(box, "l0/etc/set-id", "x");
	box_xattr(box, "l0/etc/chowned", FVM_OWNER_XATTR, "33:33", 5);
	box_xattr(box, "l0/etc/set-id", FVM_OWNER_XATTR, "0:0:4644", 8);
	const char *const all[] = { "l0", "l0/etc", "l0/etc/copied", "l0/etc/chowned",
				    "l0/etc/set-id" };
	for (size_t i = 0; i < FVM_COUNT(all); i++)
		assert_int_equal(fchownat(box->dir, all[i], 1000, 1000, 0), 0);
	struct fvm_owners *o = NULL;
	assert_int_equal(fvm_owners_load(s.layers[0], &o, NULL), 0);
	s.owners = &o;
	s.user_xattr = true;
	scoped_free char *text = listing(&s, NULL);
	assert_string_equal(text, "m /etc/chowned owner\nm /etc/set-id mode\n");
	fvm_owners_free(o);
	box_stack_close(&s);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, box_setup, box_teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(record_is_read_and_written),
		TEST(xattr_names_owner_mode_and_device),
		TEST(last_line_of_the_same_inode_counts),
		TEST(a_record_is_found_when_mounts_have_come_or_gone),
		TEST(without_a_record_the_place_decides),
		TEST(map_translates_subordinate_ids),
		TEST(bad_list_is_refused_with_its_line),
		TEST(scan_shows_wished_owners),
		TEST(what_is_the_hosts_has_its_owner_or_none),
	};
	if (geteuid() != 0) {
		print_message("skipped: needs root for files of other owners\n");
		return 77;
	}
	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
