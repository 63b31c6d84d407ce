/*
 * Files of the store as each release wrote them (tests/data/VERSION, made by make-samples.sh), read
 * by today's code; and the same with a higher number, which is refused and left alone.
 */
#include <errno.h>
#include <sys/stat.h>

#include "fvm/commit_priv.h"
#include "fvm/hide_record.h"
#include "fvm/image.h"
#include "fvm/internal.h"
#include "fvm/owners.h"
#include "fvm/stamps.h"
#include "fvm/trace.h"
#include "tests/box.h"

static const char *const releases[] = { "0.1.0" };

/* One sample, with @from in it replaced by @to unless that is NULL. */
static char *sample(const char *release, const char *name, const char *from, const char *to)
{
	char path[1024];
	scoped_free char *text = NULL;
	scoped_buf changed = { 0 };
	snprintf(path, sizeof(path), "%s/%s/%s", TEST_DATA, release, name);
	assert_int_equal(fvm_read_file(AT_FDCWD, path, 1 << 20, &text, NULL), 0);
	if (!from)
		return fvm_take_ptr(&text);
	char *at = strstr(text, from);
	assert_non_null(at);
	fvm_buf_add(&changed, text, (size_t)(at - text));
	fvm_buf_puts(&changed, to);
	fvm_buf_puts(&changed, at + strlen(from));
	return fvm_buf_steal(&changed);
}

static void configuration(void **state)
{
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		scoped_config c = { 0 }, none = { 0 };
		struct fvm_error err = { 0 };
		scoped_free char *text = sample(releases[i], "config.json", NULL, NULL);
		scoped_free char *newer =
			sample(releases[i], "config.json", "\"format\": 1", "\"format\": 999");
		assert_int_equal(fvm_config_parse(text, strlen(text), &c, &err), 0);
		assert_string_equal(c.name, "sample");
		assert_int_equal(c.memory_bytes, 64 << 20);
		assert_string_equal(c.snapshots[0].tag, "tag");
		assert_string_equal(c.hide.items[0], "/opt/hidden");
		assert_int_equal(fvm_config_parse(newer, strlen(newer), &none, &err),
				 -EPROTONOSUPPORT);
		assert_non_null(strstr(err.text, "999"));
		assert_non_null(strstr(err.hint, "newer fvm"));
	}
}

static void stamps(void **state)
{
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		struct fvm_stamps *s = NULL;
		struct fvm_error err = { 0 };
		scoped_free char *text = sample(releases[i], "stamps", NULL, NULL);
		scoped_free char *newer =
			sample(releases[i], "stamps", "fvm-stamps 1", "fvm-stamps 999");
		assert_int_equal(fvm_stamps_parse(text, strlen(text), &s, &err), 0);
		assert_true(fvm_stamps_find(s, "/etc/hostname")->has_digest);
		assert_int_equal(fvm_stamps_find(s, "/opt/fvm-sample")->kind, 'a');
		fvm_stamps_free(s);
		s = NULL;
		assert_int_equal(fvm_stamps_parse(newer, strlen(newer), &s, &err),
				 -EPROTONOSUPPORT);
		assert_non_null(strstr(err.hint, "newer fvm"));
	}
}

static void owners(void **state)
{
	const struct box *box = *state;
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		struct fvm_owners *o = NULL;
		struct fvm_error err = { 0 };
		scoped_free char *text = sample(releases[i], "owners", NULL, NULL);
		scoped_free char *newer =
			sample(releases[i], "owners", "fvm-owners 1", "fvm-owners 999");
		box_write(box, FVM_OWNERS_FILE, text);
		assert_int_equal(fvm_owners_load(box->dir, &o, &err), 0);
		assert_int_equal(fvm_owners_find(o, "root", "opt/link", 5)->uid, 12);
		fvm_owners_free(o);
		box_write(box, FVM_OWNERS_FILE, newer);
		assert_int_equal(fvm_owners_load(box->dir, &o, &err), -EPROTONOSUPPORT);
		assert_non_null(strstr(err.text, "999"));
	}
}

static int count_note(const struct fvm_trace_note *note, void *arg)
{
	unsigned int *n = arg;
	assert_true(note->path[0] == '/');
	(*n)++;
	return 0;
}

static void trace(void **state)
{
	const struct box *box = *state;
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		struct fvm_vm vm = { .dir = box->dir, .lock = -1 };
		struct fvm_error err = { 0 };
		unsigned int notes = 0;
		scoped_free char *text = sample(releases[i], "trace", NULL, NULL);
		scoped_free char *newer =
			sample(releases[i], "trace", "fvm-trace 1", "fvm-trace 999");
		box_write(box, "trace", text);
		assert_int_equal(fvm_trace_read(&vm, count_note, &notes, &err), 0);
		assert_int_equal(notes, 2);
		box_write(box, "trace", newer);
		assert_int_equal(fvm_trace_read(&vm, count_note, &notes, &err), -EPROTONOSUPPORT);
		assert_int_equal(notes, 2);
	}
}

static void hidden(void **state)
{
	const struct box *box = *state;
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		struct fvm_hide_record *record = NULL;
		struct fvm_error err = { 0 };
		scoped_free char *text = sample(releases[i], "hidden", NULL, NULL);
		scoped_free char *newer =
			sample(releases[i], "hidden", "fvm-hide 1", "fvm-hide 999");
		box_write(box, "hidden", text);
		assert_int_equal(fvm_hide_record_load(box->dir, &record, &err), 0);
		assert_true(fvm_hide_record_always(record, "/opt/hidden"));
		fvm_hide_record_free(record);
		box_write(box, "hidden", newer);
		assert_int_equal(fvm_hide_record_load(box->dir, &record, &err), -EPROTONOSUPPORT);
		assert_non_null(strstr(err.text, box->path));
		assert_non_null(strstr(err.hint, "newer fvm"));
	}
}

/* The journal's first record is its header, and that begins with the number of the format. */
static void write_newer_journal(const struct box *box, const char *data, size_t len)
{
	struct journal j = { .fd = openat(box->dir, "1/journal", O_WRONLY | O_TRUNC | O_CLOEXEC) };
	struct journal_record header;
	size_t pos = 0;
	assert_int_equal(journal_next(data, len, &pos, &header), 1);
	assert_int_equal(journal_get_u32(&header.fields), COMMIT_FORMAT);
	journal_begin(&j, header.type);
	journal_u32(&j, 999);
	fvm_buf_add(&j.out, header.fields.at, (size_t)(header.fields.end - header.fields.at));
	assert_int_equal(journal_end(&j), 0);
	fvm_buf_add(&j.out, data + pos, len - pos);
	assert_int_equal(journal_sync(&j), 0);
	journal_close(&j);
}

static void commit(void **state)
{
	const struct box *box = *state;
	assert_int_equal(mkdirat(box->dir, "1", 0700), 0);
	scoped_fd dir = openat(box->dir, "1", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		scoped_commit c = COMMIT_INIT, newer = COMMIT_INIT;
		struct fvm_error err = { 0 };
		enum commit_state kept = COMMIT_VOID;
		char path[1024];
		size_t len = 0;
		scoped_free char *word = sample(releases[i], "state", NULL, NULL), *data = NULL;
		snprintf(path, sizeof(path), "%s/%s/journal", TEST_DATA, releases[i]);
		assert_int_equal(fvm_read_file(AT_FDCWD, path, 1 << 20, &data, &len), 0);
		box_write(box, "1/state", word);
		assert_int_equal(fvm_write_file_atomic(dir, "journal", data, len, false), 0);
		c.all = dup(box->dir);
		newer.all = dup(box->dir);
		assert_int_equal(commit_load(&c, 1, &kept, &err), 0);
		assert_int_equal(kept, COMMIT_KEPT);
		assert_string_equal(c.vm_name, "sample");
		assert_true(c.count >= 3);
		write_newer_journal(box, data, len);
		assert_int_equal(commit_load(&newer, 1, &kept, &err), -EPROTONOSUPPORT);
		assert_non_null(strstr(err.hint, "newer fvm"));
	}
}

/* A whole store: what it has is there, and a newer one is left exactly as it is. */
static void store_and_export(void **state)
{
	const struct box *box = *state;
	setenv("FVM_HOME", box->path, 1);
	for (size_t i = 0; i < FVM_COUNT(releases); i++) {
		char path[1024];
		struct fvm_error err = { 0 };
		scoped_store store, newer;
		scoped_vm vm = { .dir = -1, .lock = -1 };
		scoped_free char *format = sample(releases[i], "format", NULL, NULL);
		box_write(box, "format", format);
		assert_int_equal(fvm_store_open(&store, &err), 0);
		snprintf(path, sizeof(path), "%s/%s/export.tar", TEST_DATA, releases[i]);
		scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_int_equal(fvm_vm_import(&store, fd, NULL, NULL, NULL, &vm, &err), 0);
		assert_string_equal(vm.config.name, "sample");
		assert_int_equal(vm.config.layers.count, 2);
		assert_int_equal(vm.config.memory_bytes, 64 << 20);

		box_write(box, "format", "999\n");
		assert_int_equal(fvm_mkdir_p(box->dir, "tmp/of-the-newer-one", 0700), 0);
		assert_int_equal(fvm_store_open(&newer, &err), -EPROTONOSUPPORT);
		assert_non_null(strstr(err.hint, "newer fvm"));
		assert_int_equal(faccessat(box->dir, "tmp/of-the-newer-one", F_OK, 0), 0);
		assert_int_equal(faccessat(box->dir, "vms/sample/config.json", F_OK, 0), 0);
		box_write(box, "format", format);
		assert_int_equal(fvm_vm_remove(&vm, false, &err), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(configuration),
		cmocka_unit_test(stamps),
		cmocka_unit_test_setup_teardown(owners, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(trace, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(hidden, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(commit, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(store_and_export, box_setup, box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
