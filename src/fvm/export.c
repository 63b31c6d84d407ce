/* The documents of an OCI image around the layers that image_write.c makes. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>
#include <jansson.h>

#include "common/fault.h"
#include "fvm/disk.h"
#include "fvm/image_priv.h"
#include "fvm/internal.h"
#include "fvm/lock.h"

struct export
{
	const struct fvm_vm *vm;
	int tmp;      /* directory of the blobs */
	int programs; /* -1: none */
	struct image_blob layers[IMAGE_LAYERS_MAX], config, manifest, live;
	size_t count;
	fvm_progress_fn progress;
	void *arg;
	struct fvm_error *err;
};

static int add_layer(struct export *x, int top)
{
	if (x->count == IMAGE_LAYERS_MAX)
		return fvm_error_set(x->err, E2BIG, "export more than %d layers", IMAGE_LAYERS_MAX);
	scoped_fd fs = fvm_disk_open(top);
	if (fs < 0)
		return fvm_error_set(x->err, -fs, "open layer %zu", x->count + 1);
	int r = image_layer_write(x->vm, fs, x->tmp, &x->layers[x->count], x->progress, x->arg,
				  x->err);
	if (r == 0)
		x->count++;
	return r;
}

static int write_layers(struct export *x, int copy)
{
	const struct fvm_strv *layers = &x->vm->config.layers;
	char path[80];
	fvm_strv_each(layers, i) {
		snprintf(path, sizeof(path), "layers/%s", layers->items[i]);
		scoped_fd top = fvm_open_nofollow(x->vm->store->dir, path, O_RDONLY | O_DIRECTORY);
		if (top < 0)
			return fvm_error_set(x->err, -top, "open layer %s", layers->items[i]);
		int r = add_layer(x, top);
		if (r < 0)
			return r;
	}
	if (copy >= 0)
		return add_layer(x, copy);
	scoped_fd workspace = fvm_open_nofollow(x->vm->dir, "workspace", O_RDONLY | O_DIRECTORY);
	if (workspace < 0)
		return fvm_error_set(x->err, -workspace, "open the workspace");
	return add_layer(x, workspace);
}

/* Keep @document as a blob named by its digest. */
static int write_document(struct export *x, json_t *document, struct image_blob *ret)
{
	scoped_free char *text =
		document ? json_dumps(document, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	struct fvm_digest *d = fvm_digest_new();
	json_decref(document);
	if (!text || !d) {
		fvm_digest_free(d);
		return fvm_error_set(x->err, ENOMEM, "write the image's documents");
	}
	ret->size = strlen(text);
	fvm_digest_add(d, text, ret->size);
	fvm_digest_end(d, ret->digest);
	int r = fvm_write_file_atomic(x->tmp, ret->digest, text, ret->size, false);
	return r < 0 ? fvm_error_set(x->err, -r, "write the image's documents") : 0;
}

/* Layers are named by their place in the image, as ids mean nothing elsewhere. */
static json_t *portable_config(const struct fvm_config *config)
{
	scoped_config c = { 0 };
	if (fvm_config_copy(&c, config) < 0)
		return NULL;
	for (size_t i = 0; i < c.snapshot_count; i++) {
		size_t n = c.snapshots[i].layers.count;
		(void)fvm_config_set_programs(&c, i, NULL); /* which stay here */
		fvm_strv_free(&c.snapshots[i].layers);
		for (size_t j = 0; j < n; j++)
			(void)fvm_strv_addf(&c.snapshots[i].layers, "%zu", j);
	}
	fvm_strv_free(&c.layers);
	fvm_strv_free(&c.before);
	scoped_free char *text = fvm_config_print(&c);
	return text ? json_string(text) : NULL;
}

static int write_config(struct export *x)
{
	char when[32];
	time_t now = time(NULL);
	struct tm tm;
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
	json_t *ids = json_array();
	for (size_t i = 0; i < x->count; i++) {
		char id[80];
		snprintf(id, sizeof(id), "sha256:%s", x->layers[i].diff_id);
		json_array_append_new(ids, json_string(id));
	}
	json_t *config = portable_config(&x->vm->config);
	if (!config) {
		json_decref(ids);
		return fvm_error_set(x->err, ENOMEM, "write the image's configuration");
	}
	return write_document(x,
			      json_pack("{s:s, s:s, s:s, s:{s:{s:o}}, s:{s:s, s:o}}", "created",
					when, "architecture",
#if defined(__x86_64__)
					"amd64",
#elif defined(__aarch64__)
					"arm64",
#else
#error "name this architecture as OCI does"
#endif
					"os", "linux", "config", "Labels", IMAGE_LABEL, config,
					"rootfs", "type", "layers", "diff_ids", ids),
			      &x->config);
}

static json_t *descriptor(const char *type, const struct image_blob *b)
{
	char digest[80];
	snprintf(digest, sizeof(digest), "sha256:%s", b->digest);
	return json_pack("{s:s, s:s, s:I}", "mediaType", type, "digest", digest, "size",
			 (json_int_t)b->size);
}

static int write_manifest(struct export *x)
{
	json_t *layers = json_array();
	for (size_t i = 0; i < x->count; i++)
		json_array_append_new(layers, descriptor(IMAGE_TYPE_LAYER, &x->layers[i]));
	return write_document(x,
			      json_pack("{s:i, s:s, s:o, s:o}", "schemaVersion", 2, "mediaType",
					IMAGE_TYPE_MANIFEST, "config",
					descriptor(IMAGE_TYPE_CONFIG, &x->config), "layers",
					layers),
			      &x->manifest);
}

/* What the programs are, under its digest. */
static int write_live(struct export *x)
{
	scoped_free char *block = malloc(1 << 20);
	struct fvm_digest *d = fvm_digest_new();
	scoped_fd fd = openat(x->tmp, "live", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	ssize_t n = 0;
	int r = fd < 0 ? -errno : block && d ? 0 : -ENOMEM;
	if (r == 0 && lseek(x->programs, 0, SEEK_SET) < 0)
		r = -errno;
	while (r == 0 && (n = fvm_read_full(x->programs, block, 1 << 20)) > 0) {
		fvm_digest_add(d, block, (size_t)n);
		x->live.size += (unsigned long long)n;
		r = fvm_write_all(fd, block, (size_t)n);
	}
	if (r == 0 && n < 0)
		r = (int)n;
	if (d)
		fvm_digest_end(d, x->live.digest);
	if (r == 0 && renameat(x->tmp, "live", x->tmp, x->live.digest) < 0)
		r = -errno;
	return r < 0 ? fvm_error_set(x->err, -r, "write the programs into the image") : 0;
}

/* ---- the outer tar ---- */

static int outer_failed(const struct export *x, struct archive *a)
{
	int code = archive_errno(a);
	return fvm_error_set(x->err, code > 0 ? code : EIO, "write the image");
}

static int put_header(const struct export *x, struct archive *a, const char *path,
		      unsigned long long size)
{
	struct archive_entry *e = archive_entry_new();
	if (!e)
		return fvm_error_set(x->err, ENOMEM, "write the image");
	archive_entry_set_pathname(e, path);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, (la_int64_t)size);
	int r = archive_write_header(a, e);
	archive_entry_free(e);
	return r < ARCHIVE_WARN ? outer_failed(x, a) : 0;
}

static int put_text(const struct export *x, struct archive *a, const char *path, json_t *document)
{
	scoped_free char *text =
		document ? json_dumps(document, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
	json_decref(document);
	if (!text)
		return fvm_error_set(x->err, ENOMEM, "write the image");
	int r = put_header(x, a, path, strlen(text));
	if (r == 0 && archive_write_data(a, text, strlen(text)) < 0)
		r = outer_failed(x, a);
	return r;
}

static int put_blob(const struct export *x, struct archive *a, const struct image_blob *b)
{
	char path[96];
	scoped_free char *block = malloc(1 << 20);
	scoped_fd fd = openat(x->tmp, b->digest, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || !block)
		return fvm_error_set(x->err, fd < 0 ? errno : ENOMEM, "read a blob again");
	snprintf(path, sizeof(path), "blobs/sha256/%s", b->digest);
	int r = put_header(x, a, path, b->size);
	ssize_t n = 0;
	while (r == 0 && (n = fvm_read_full(fd, block, 1 << 20)) > 0) {
		if (archive_write_data(a, block, (size_t)n) != n)
			r = outer_failed(x, a);
	}
	return n < 0 ? fvm_error_set(x->err, (int)-n, "read a blob again") : r;
}

static int put_all(const struct export *x, struct archive *a)
{
	json_t *manifest = descriptor(IMAGE_TYPE_MANIFEST, &x->manifest);
	json_t *annotations = json_pack("{s:s}", IMAGE_REF, x->vm->config.name);
	if (x->programs >= 0)
		json_object_set_new(annotations, IMAGE_PROGRAMS,
				    json_sprintf("sha256:%s", x->live.digest));
	json_object_set_new(manifest, "annotations", annotations);
	int r = put_text(x, a, "oci-layout", json_pack("{s:s}", "imageLayoutVersion", "1.0.0"));
	if (r == 0)
		r = put_text(x, a, "index.json",
			     json_pack("{s:i, s:s, s:[O]}", "schemaVersion", 2, "mediaType",
				       IMAGE_TYPE_INDEX, "manifests", manifest));
	json_decref(manifest);
	if (r == 0)
		r = put_blob(x, a, &x->manifest);
	if (r == 0)
		r = put_blob(x, a, &x->config);
	if (r == 0 && x->programs >= 0)
		r = put_blob(x, a, &x->live);
	for (size_t i = 0; r == 0 && i < x->count; i++) {
		bool again = false; /* two equal layers are one blob */
		for (size_t j = 0; j < i; j++)
			again |= strcmp(x->layers[i].digest, x->layers[j].digest) == 0;
		if (!again)
			r = put_blob(x, a, &x->layers[i]);
	}
	return r;
}

static int write_outer(const struct export *x, int fd)
{
	struct archive *a = archive_write_new();
	if (!a)
		return fvm_error_set(x->err, ENOMEM, "write the image");
	archive_write_set_format_pax_restricted(a);
	int r = archive_write_open_fd(a, fd) == ARCHIVE_OK ? put_all(x, a) : outer_failed(x, a);
	if (archive_write_close(a) != ARCHIVE_OK && r == 0)
		r = outer_failed(x, a);
	archive_write_free(a);
	return r;
}

/* A file without a name, where there are such: who is killed leaves nothing. */
static int open_unnamed(int dir, const char *tmp, bool *ret_named)
{
	int fd = openat(dir, ".", O_WRONLY | O_TMPFILE | O_CLOEXEC, 0600);
	*ret_named = fd < 0;
	if (fd < 0)
		fd = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fvm_nerr(fd);
}

static int finish(int dir, int fd, const char *tmp, bool named, const char *file)
{
	char link[40];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	int r = FVM_FAULT("export.sync");
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && !named && linkat(AT_FDCWD, link, dir, tmp, AT_SYMLINK_FOLLOW) < 0)
		r = -errno;
	return r == 0 && renameat(dir, tmp, dir, file) < 0 ? -errno : r;
}

static int write_image(const struct export *x, int dir, const char *file)
{
	char tmp[300];
	bool named;
	int r = FVM_FAULT("export.file");
	if (snprintf(tmp, sizeof(tmp), ".%s.%d.tmp", file, (int)getpid()) >= (int)sizeof(tmp))
		r = -ENAMETOOLONG;
	if (r < 0)
		return fvm_error_set(x->err, -r, "write '%s'", file);
	scoped_fd fd = open_unnamed(dir, tmp, &named);
	if (fd < 0)
		return fvm_error_set(x->err, -fd, "make a file beside '%s'", file);
	r = write_outer(x, fd);
	if (r == 0) {
		r = finish(dir, fd, tmp, named, file);
		if (r < 0)
			fvm_error_set(x->err, -r, "finish '%s'", file);
	}
	if (r < 0)
		(void)unlinkat(dir, tmp, 0);
	return r;
}

int fvm_vm_export(const struct fvm_vm *vm, int dir, const char *file, fvm_progress_fn progress,
		  void *arg, struct fvm_error *err)
{
	return fvm_vm_export_live(vm, dir, file, NULL, progress, arg, err);
}

int fvm_vm_export_live(const struct fvm_vm *vm, int dir, const char *file,
		       const struct fvm_image_live *live, fvm_progress_fn progress, void *arg,
		       struct fvm_error *err)
{
	if (!live && fvm_lock_alive(vm->dir)) {
		fvm_error_set(err, EBUSY, "VM '%s' is running", vm->config.name);
		fvm_error_hint(err, "fvm stop %s first, or export a clone of it", vm->config.name);
		return -EBUSY;
	}
	char tmp[40];
	scoped_free struct export *x = calloc(1, sizeof(*x));
	scoped_fd blobs = fvm_tmp_make(vm->store, tmp);
	if (!x || blobs < 0)
		return fvm_error_set(err, x ? -blobs : ENOMEM, "export VM '%s'", vm->config.name);
	*x = (struct export){ .vm = vm,
			      .tmp = blobs,
			      .programs = live ? live->programs : -1,
			      .progress = progress,
			      .arg = arg,
			      .err = err };
	int r = write_layers(x, live ? live->layer : -1);
	if (r == 0 && live && live->written)
		live->written(live->arg);
	if (r == 0 && live)
		r = write_live(x);
	if (r == 0)
		r = write_config(x);
	if (r == 0)
		r = write_manifest(x);
	if (r == 0)
		r = file ? write_image(x, dir, file) : write_outer(x, dir);
	(void)fvm_remove_tree(vm->store->dir, tmp);
	return r < 0 ? fvm_error_wrap(err, r, "export VM '%s'", vm->config.name) : 0;
}
