/*
 * tests/fvm/listing - stacks made by hand in a box, and a scan of them as text
 *
 * A box holds base/ and layers l0/ l1/ ..; listing() scans them and gives one line per change:
 * its letter, its path, and for 'm' and 'M' what else differs: "m /etc/passwd mode,owner".
 */
#ifndef FVM_TESTS_LISTING_H
#define FVM_TESTS_LISTING_H

#include <errno.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

#include "fvm/changes.h"
#include "tests/box.h"

static inline void add_meta(struct fvm_buf *b, unsigned int meta)
{
	static const char *const names[] = { "mode", "owner", "xattr", "caps" };
	const char *before = " ";
	for (size_t i = 0; i < FVM_COUNT(names); i++) {
		if (meta & (1U << i)) {
			fvm_buf_printf(b, "%s%s", before, names[i]);
			before = ",";
		}
	}
}

static inline int list_change(const struct fvm_change *c, void *arg)
{
	static const char letters[] = "AMDmTR";
	struct fvm_buf *b = arg;
	fvm_buf_printf(b, "%c ", letters[c->kind]);
	if (c->from)
		fvm_buf_printf(b, "%s -> ", c->from);
	fvm_buf_puts(b, c->path);
	add_meta(b, c->meta);
	fvm_buf_puts(b, "\n");
	return 0;
}

static inline int box_dir(const struct box *box, const char *name)
{
	return openat(box->dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

static inline void box_mkdir(const struct box *box, const char *path)
{
	assert_int_equal(fvm_mkdir_p(box->dir, path, 0755), 0);
}

/* A file with its directories. */
static inline void box_file(const struct box *box, const char *path, const char *text)
{
	char copy[4096];
	strcpy(copy, path);
	*strrchr(copy, '/') = '\0';
	box_mkdir(box, copy);
	box_write(box, path, text);
}

static inline void box_xattr(const struct box *box, const char *path, const char *name,
			     const void *value, size_t len)
{
	char full[4096];
	snprintf(full, sizeof(full), "%s/%s", box->path, path);
	assert_int_equal(lsetxattr(full, name, value, len, 0), 0);
}

static inline void box_whiteout(const struct box *box, const char *path)
{
	char copy[4096];
	strcpy(copy, path);
	*strrchr(copy, '/') = '\0';
	box_mkdir(box, copy);
	assert_int_equal(mknodat(box->dir, path, S_IFCHR, makedev(0, 0)), 0);
}

/* Opens base and @layers layers at @mount_point. */
static inline void box_stack(const struct box *box, const char *mount_point, size_t layers,
			     struct fvm_stack *ret)
{
	*ret = (struct fvm_stack){ .key = "root", .count = layers };
	strcpy(ret->mount_point, mount_point);
	box_mkdir(box, "base");
	ret->base = box_dir(box, "base");
	ret->layers = calloc(layers, sizeof(*ret->layers));
	for (size_t i = 0; i < layers; i++) {
		char name[16];
		snprintf(name, sizeof(name), "l%zu", i);
		box_mkdir(box, name);
		ret->layers[i] = box_dir(box, name);
	}
}

static inline void box_stack_close(struct fvm_stack *s)
{
	for (size_t i = 0; i < s->count; i++)
		close(s->layers[i]);
	close(s->base);
	free(s->layers);
}

/* Scans; "error N" when that fails. To be freed. */
static inline char *listing(const struct fvm_stack *s, const struct fvm_scan_options *options)
{
	scoped_buf b = { 0 };
	struct fvm_error err = { 0 };
	int r = fvm_stack_scan(s, options, list_change, &b, &err);
	if (r < 0)
		fvm_buf_printf(&b, "error %d: %s\n", -r, err.text);
	fvm_buf_puts(&b, "");
	return fvm_buf_steal(&b);
}

/* What a box with one layer lists. */
static inline char *listing_of(const struct box *box, const struct fvm_scan_options *options)
{
	struct fvm_stack s;
	box_stack(box, "/", 1, &s);
	char *text = listing(&s, options);
	box_stack_close(&s);
	return text;
}

#define assert_listing(box, options, expected)                                                     \
	do {                                                                                       \
		scoped_free char *text_ = listing_of((box), (options));                            \
		assert_string_equal(text_, (expected));                                            \
	} while (0)

#endif
