#include <errno.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "tests/box.h"

#include "fvm/copy.h"

/* A stream as a hostile VM could write it. */
struct stream {
	struct fvm_buf b;
};

static void record(struct stream *s, enum fvm_copy_type type, const char *name, const char *target)
{
	struct fvm_copy_record r = {
		.magic = FVM_COPY_MAGIC,
		.type = type,
		.mode = 0755,
		.name_len = (uint32_t)strlen(name),
		.target_len = (uint32_t)strlen(target),
	};
	fvm_buf_add(&s->b, &r, sizeof(r));
	fvm_buf_puts(&s->b, name);
	fvm_buf_puts(&s->b, target);
}

static void file(struct stream *s, const char *name, const char *text)
{
	struct fvm_copy_piece piece = { .len = (uint32_t)strlen(text) };
	struct fvm_copy_piece end = { .offset = piece.len };
	record(s, FVM_COPY_FILE, name, "");
	fvm_buf_add(&s->b, &piece, sizeof(piece));
	fvm_buf_puts(&s->b, text);
	fvm_buf_add(&s->b, &end, sizeof(end));
}

static int receive(struct stream *s, const char *path)
{
	struct fvm_error err = { 0 };
	struct fvm_copy copy = { .fd = memfd_create("stream", MFD_CLOEXEC) };
	assert_int_equal(fvm_write_all(copy.fd, s->b.data, s->b.len), 0);
	lseek(copy.fd, 0, SEEK_SET);
	fvm_buf_free(&s->b);
	return fvm_copy_receive(&copy, path, &err);
}

static void name_with_a_slash_is_refused(void **state)
{
	const struct box *box = *state;
	static const char *const names[] = { "../out", "/etc/out", "..", ".", "a/b" };
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		struct stream s = { 0 };
		record(&s, FVM_COPY_DIR, "d", "");
		file(&s, names[i], "x");
		record(&s, FVM_COPY_UP, "", "");
		record(&s, FVM_COPY_DONE, "", "");
		assert_int_equal(receive(&s, box->path), -EBADMSG);
	}
	assert_int_equal(faccessat(box->dir, "out", F_OK, 0), -1);
}

static void name_that_was_not_asked_for_is_refused(void **state)
{
	const struct box *box = *state;
	box_write(box, ".bashrc", "mine");
	for (int honest = 0; honest < 2; honest++) {
		struct stream s = { 0 };
		struct fvm_error err = { 0 };
		scoped_free char *text = NULL;
		struct fvm_copy copy = {
			.fd = memfd_create("stream", MFD_CLOEXEC),
			.source = honest ? "/home/ann/.bashrc" : "/home/ann/notes.txt",
		};
		file(&s, ".bashrc", "theirs");
		record(&s, FVM_COPY_DONE, "", "");
		assert_int_equal(fvm_write_all(copy.fd, s.b.data, s.b.len), 0);
		lseek(copy.fd, 0, SEEK_SET);
		fvm_buf_free(&s.b);
		assert_int_equal(fvm_copy_receive(&copy, box->path, &err), honest ? 0 : -EBADMSG);
		assert_int_equal(fvm_read_file(box->dir, ".bashrc", 100, &text, NULL), 0);
		assert_string_equal(text, honest ? "theirs" : "mine");
	}
}

static void link_that_was_just_sent_is_not_followed(void **state)
{
	const struct box *box = *state;
	struct stream s = { 0 };
	assert_int_equal(mkdirat(box->dir, "outside", 0700), 0);
	assert_int_equal(mkdirat(box->dir, "in", 0700), 0);
	record(&s, FVM_COPY_DIR, "", "");
	record(&s, FVM_COPY_LINK, "l", "../outside");
	record(&s, FVM_COPY_DIR, "l", "");
	file(&s, "f", "x");
	record(&s, FVM_COPY_UP, "", "");
	record(&s, FVM_COPY_UP, "", "");
	record(&s, FVM_COPY_DONE, "", "");
	char path[128];
	snprintf(path, sizeof(path), "%s/in", box->path);
	assert_true(receive(&s, path) < 0);
	assert_int_equal(faccessat(box->dir, "outside/f", F_OK, 0), -1);
}

static void link_in_a_files_place_is_replaced_not_written_through(void **state)
{
	const struct box *box = *state;
	struct stream s = { 0 };
	scoped_free char *text = NULL;
	box_write(box, "target", "mine");
	assert_int_equal(mkdirat(box->dir, "in", 0700), 0);
	assert_int_equal(symlinkat("../target", box->dir, "in/f"), 0);
	file(&s, "f", "theirs");
	record(&s, FVM_COPY_DONE, "", "");
	char path[128];
	snprintf(path, sizeof(path), "%s/in", box->path);
	assert_int_equal(receive(&s, path), 0);
	assert_int_equal(fvm_read_file(box->dir, "target", 100, &text, NULL), 0);
	assert_string_equal(text, "mine");
}

static void stream_cut_anywhere_leaves_no_half_file(void **state)
{
	const struct box *box = *state;
	struct stream whole = { 0 };
	file(&whole, "f", "some text");
	record(&whole, FVM_COPY_DONE, "", "");
	size_t file_len = whole.b.len - sizeof(struct fvm_copy_record);
	for (size_t len = 0; len < file_len; len++) {
		struct stream s = { 0 };
		fvm_buf_add(&s.b, whole.b.data, len);
		assert_true(receive(&s, box->path) < 0);
		assert_int_equal(faccessat(box->dir, "f", F_OK, 0), -1);
	}
	fvm_buf_free(&whole.b);
}

static void set_id_bits_do_not_pass(void **state)
{
	const struct box *box = *state;
	struct stream s = { 0 };
	struct stat st;
	file(&s, "f", "x");
	((struct fvm_copy_record *)s.b.data)->mode = 06755;
	record(&s, FVM_COPY_DONE, "", "");
	assert_int_equal(receive(&s, box->path), 0);
	assert_int_equal(fstatat(box->dir, "f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0755);
}

static void tree_arrives_with_holes_links_and_modes(void **state)
{
	const struct box *box = *state;
	struct stat st;
	int ends[2];
	char from[128], to[128];
	snprintf(from, sizeof(from), "%s/from", box->path);
	snprintf(to, sizeof(to), "%s/to", box->path);
	assert_int_equal(fvm_mkdir_p(box->dir, "from/sub", 0755), 0);
	box_write(box, "from/sub/f", "text");
	assert_int_equal(fchmodat(box->dir, "from/sub/f", 0640, 0), 0);
	assert_int_equal(symlinkat("f", box->dir, "from/sub/l"), 0);
	box_write(box, "from/hole", "");
	assert_int_equal(truncate(strcat(strcpy(to, from), "/hole"), 64 << 20), 0);
	snprintf(to, sizeof(to), "%s/to", box->path);
	assert_int_equal(pipe(ends), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct fvm_copy copy = { .fd = ends[1] };
		close(ends[0]);
		_exit(fvm_copy_send(&copy, from, NULL) < 0);
	}
	close(ends[1]);
	struct fvm_copy copy = { .fd = ends[0] };
	struct fvm_error err = { 0 };
	assert_int_equal(fvm_copy_receive(&copy, to, &err), 0);
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
	assert_int_equal(fstatat(box->dir, "to/hole", &st, 0), 0);
	assert_int_equal(st.st_size, 64 << 20);
	assert_true(st.st_blocks < 64);
	assert_int_equal(fstatat(box->dir, "to/sub/f", &st, 0), 0);
	assert_int_equal(st.st_mode & 07777, 0640);
	assert_int_equal(fstatat(box->dir, "to/sub/l", &st, AT_SYMLINK_NOFOLLOW), 0);
	assert_true(S_ISLNK(st.st_mode));
}

int main(void)
{
	signal(SIGPIPE, SIG_IGN);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(name_with_a_slash_is_refused, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(name_that_was_not_asked_for_is_refused, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(link_that_was_just_sent_is_not_followed, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(
			link_in_a_files_place_is_replaced_not_written_through, box_setup,
			box_teardown),
		cmocka_unit_test_setup_teardown(stream_cut_anywhere_leaves_no_half_file, box_setup,
						box_teardown),
		cmocka_unit_test_setup_teardown(set_id_bits_do_not_pass, box_setup, box_teardown),
		cmocka_unit_test_setup_teardown(tree_arrives_with_holes_links_and_modes, box_setup,
						box_teardown),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
