/* The outer half of an import: blobs checked against their digests, documents, configuration. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>
#include <jansson.h>

#include "common/fault.h"
#include "fvm/image_priv.h"
#include "fvm/internal.h"
#include "fvm/plan.h"
#include "fvm/subids.h"

#define BLOCK (1 << 20)

struct import {
	const struct fvm_store *store;
	int tmp;	  /* directory of the blobs, named by digest */
	off_t file_bytes; /* of the image; of a pipe 0 */
	char *index;
	struct fvm_strv layers;	    /* digests, lowest first */
	struct fvm_strv keys;	    /* this host's overlaid mounts */
	struct fvm_strv made;	    /* ids that the layers will have */
	struct fvm_strv places;	    /* where they are: "tmp/.." */
	int held[IMAGE_LAYERS_MAX]; /* their descriptors, which hold flock(2) */
	int *programs;		    /* descriptor of that blob; NULL: not asked for */
	struct fvm_config config;
	struct fvm_user_ids ids; /* rootless: those that can be had */
	fvm_progress_fn progress;
	void *arg;
	struct fvm_error *err;
};

static int damaged(const struct import *m, const char *what)
{
	return fvm_error_say(m->err, EBADMSG, "the image is damaged: %s", what);
}

/* ---- the outer tar ---- */

static bool is_digest(const char *text)
{
	return strspn(text, "0123456789abcdef") == 64 && text[64] == '\0';
}

static int keep_blob(struct import *m, struct archive *a, const char *digest)
{
	char got[FVM_DIGEST_HEX];
	int f = FVM_FAULT("import.blob");
	if (f < 0)
		return fvm_error_set(m->err, -f, "keep a blob");
	scoped_fd fd = openat(m->tmp, digest, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	scoped_free char *block = malloc(BLOCK);
	struct fvm_digest *d = fvm_digest_new();
	if (fd < 0 || !block || !d) {
		fvm_digest_free(d);
		return fd < 0 && errno == EEXIST
			       ? damaged(m, "a blob comes twice")
			       : fvm_error_set(m->err, fd < 0 ? errno : ENOMEM, "keep a blob");
	}
	la_ssize_t n;
	off_t bytes = 0;
	int r = 0;
	while (r == 0 && (n = archive_read_data(a, block, BLOCK)) != 0) {
		bytes += n;
		if (n < 0 || (m->file_bytes && bytes > m->file_bytes)) {
			r = damaged(m, n < 0 ? "a blob is cut short" : "a blob is larger than it");
			break;
		}
		fvm_digest_add(d, block, (size_t)n);
		r = fvm_write_all(fd, block, (size_t)n);
		if (r < 0)
			fvm_error_set(m->err, -r, "keep a blob");
	}
	fvm_digest_end(d, got);
	if (r == 0 && strcmp(got, digest) != 0)
		r = damaged(m, "a blob's bytes do not match its digest");
	return r;
}

static int keep_index(struct import *m, struct archive *a, la_int64_t size)
{
	if (m->index || size <= 0 || size > IMAGE_JSON_MAX)
		return damaged(m, "index.json is of no possible size");
	m->index = calloc(1, (size_t)size + 1);
	if (!m->index)
		return fvm_error_set(m->err, ENOMEM, "read index.json");
	for (la_int64_t at = 0; at < size;) {
		la_ssize_t n = archive_read_data(a, m->index + at, (size_t)(size - at));
		if (n <= 0)
			return damaged(m, "index.json is cut short");
		at += n;
	}
	return 0;
}

static int read_outer_entry(struct import *m, struct archive *a, struct archive_entry *e)
{
	const char *path = archive_entry_pathname(e);
	if (!path || archive_entry_filetype(e) != AE_IFREG)
		return 0;
	/* a few bytes of tar would be as many zeros as they say */
	if (archive_entry_sparse_count(e) > 0)
		return damaged(m, "it has sparse files");
	if (strncmp(path, "./", 2) == 0)
		path += 2;
	if (strcmp(path, "index.json") == 0)
		return keep_index(m, a, archive_entry_size(e));
	static const char blobs[] = "blobs/sha256/";
	if (strncmp(path, blobs, strlen(blobs)) == 0 && is_digest(path + strlen(blobs)))
		return keep_blob(m, a, path + strlen(blobs));
	return 0;
}

static int read_outer(struct import *m, int fd)
{
	struct archive *a = archive_read_new();
	struct archive_entry *e;
	struct stat st;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode))
		m->file_bytes = st.st_size;
	if (!a)
		return fvm_error_set(m->err, ENOMEM, "read the image");
	archive_read_support_format_tar(a);
	int r = archive_read_open_fd(a, fd, 65536) == ARCHIVE_OK ? 0 : damaged(m, "it is no tar");
	while (r == 0) {
		int h = archive_read_next_header(a, &e);
		if (h == ARCHIVE_EOF)
			break;
		r = h < ARCHIVE_WARN ? damaged(m, "its tar can't be read to the end")
				     : read_outer_entry(m, a, e);
	}
	archive_read_free(a);
	if (r == 0 && !m->index)
		r = damaged(m, "it has no index.json: it is cut short, or no OCI image");
	return r;
}

/* ---- documents ---- */

/* "sha256:HEX" of a descriptor whose blob we have. */
static const char *blob_of(const struct import *m, const json_t *descriptor)
{
	const char *digest = json_string_value(json_object_get(descriptor, "digest"));
	if (!digest || strncmp(digest, "sha256:", 7) != 0 || !is_digest(digest + 7) ||
	    faccessat(m->tmp, digest + 7, F_OK, 0) < 0)
		return NULL;
	return digest + 7;
}

static json_t *load_document(const struct import *m, const json_t *descriptor)
{
	const char *digest = blob_of(m, descriptor);
	scoped_free char *text = NULL;
	size_t len = 0;
	if (!digest || fvm_read_file(m->tmp, digest, IMAGE_JSON_MAX, &text, &len) < 0)
		return NULL;
	return json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL);
}

static int list_layers(struct import *m, const json_t *manifest)
{
	size_t i;
	const json_t *layer, *layers = json_object_get(manifest, "layers");
	if (!json_is_array(layers) || json_array_size(layers) > IMAGE_LAYERS_MAX)
		return damaged(m, "its manifest lists no layers, or too many");
	json_array_foreach(layers, i, layer) {
		const char *digest = blob_of(m, layer);
		if (!digest)
			return damaged(m, "a layer is missing");
		if (fvm_strv_add(&m->layers, digest) < 0)
			return fvm_error_set(m->err, ENOMEM, "list the layers");
	}
	return 0;
}

static int load_config(struct import *m, const json_t *manifest)
{
	json_t *image = load_document(m, json_object_get(manifest, "config"));
	const json_t *labels = json_object_get(json_object_get(image, "config"), "Labels");
	const char *text = json_string_value(json_object_get(labels, IMAGE_LABEL));
	int r = image ? 0 : damaged(m, "its configuration is missing");
	if (r == 0 && !text) {
		r = fvm_error_set(m->err, EPROTONOSUPPORT, "the image is none of a VM");
		fvm_error_hint(m->err, "import takes what fvm export wrote");
	}
	if (r == 0)
		r = fvm_config_parse(text, strlen(text), &m->config, m->err);
	json_decref(image);
	return r;
}

static int open_programs(struct import *m, const json_t *descriptor)
{
	const char *digest = json_string_value(
		json_object_get(json_object_get(descriptor, "annotations"), IMAGE_PROGRAMS));
	if (!m->programs)
		return 0;
	if (!digest) {
		fvm_error_hint(m->err, "make a VM of its files: fvm import FILE");
		return fvm_error_say(m->err, ENOENT, "there are no programs in the image");
	}
	if (strncmp(digest, "sha256:", 7) != 0 || !is_digest(digest + 7))
		return damaged(m, "the name of its programs");
	*m->programs = openat(m->tmp, digest + 7, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	return *m->programs < 0 ? damaged(m, "its programs are missing") : 0;
}

static int read_documents(struct import *m)
{
	json_t *index = json_loads(m->index, JSON_REJECT_DUPLICATES, NULL);
	json_t *manifest = load_document(m, json_array_get(json_object_get(index, "manifests"), 0));
	int r = manifest ? list_layers(m, manifest)
			 : damaged(m, "its manifest is missing or unreadable");
	if (r == 0)
		r = load_config(m, manifest);
	if (r == 0)
		r = open_programs(m, json_array_get(json_object_get(index, "manifests"), 0));
	json_decref(index);
	json_decref(manifest);
	return r;
}

/* ---- layers ---- */

static int list_keys(struct import *m)
{
	scoped_plan plan = { 0 };
	int r = fvm_plan_make(&plan, m->err);
	for (size_t i = 0; r == 0 && i < plan.count; i++) {
		char key[256];
		if (plan.mounts[i].class == FVM_MOUNT_OVERLAY &&
		    fvm_mount_key(plan.mounts[i].path, key, sizeof(key)) == 0)
			r = fvm_strv_add(&m->keys, key);
	}
	return r;
}

/* Each mount's top directory looks as the host's does. */
static void copy_tops(int fs)
{
	scoped_dir d = fvm_dir_open(fs, ".");
	struct dirent *e;
	while (d && (e = readdir(d))) {
		char point[4096], path[300];
		struct stat st;
		snprintf(path, sizeof(path), "%s/upper", e->d_name);
		scoped_fd upper = e->d_name[0] == '.'
					  ? -1
					  : fvm_open_nofollow(fs, path, O_RDONLY | O_DIRECTORY);
		if (upper < 0 || fvm_mount_point(e->d_name, point, sizeof(point)) < 0 ||
		    stat(point, &st) < 0)
			continue;
		struct timespec times[2] = { st.st_atim, st.st_mtim };
		(void)!fchown(upper, st.st_uid, st.st_gid);
		(void)fchmod(upper, st.st_mode & 07777);
		(void)futimens(upper, times);
	}
}

static int fill_layer(struct import *m, int dir, const char *digest)
{
	char ref[48];
	snprintf(ref, sizeof(ref), "refs/%s", m->config.id);
	int f = FVM_FAULT("import.layer");
	if (f < 0)
		return fvm_error_set(m->err, -f, "make a layer");
	if (mkdirat(dir, "fs", 0700) < 0 || mkdirat(dir, "refs", 0700) < 0)
		return fvm_error_set(m->err, errno, "make a layer");
	scoped_fd file = fvm_create_beneath(dir, ref, O_WRONLY, 0600);
	scoped_fd fs = fvm_open_nofollow(dir, "fs", O_RDONLY | O_DIRECTORY);
	scoped_fd blob = openat(m->tmp, digest, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (file < 0 || fs < 0 || blob < 0)
		return fvm_error_set(m->err, EIO, "open a layer");
	int r = image_layer_read(blob, fs, &m->keys, m->store->rootless ? &m->ids : NULL,
				 m->progress, m->arg, m->err);
	copy_tops(fs);
	return r;
}

static int import_layer(struct import *m, const char *digest)
{
	char tmp[40], id[33];
	scoped_fd dir = fvm_tmp_make(m->store, tmp);
	if (dir < 0)
		return fvm_error_set(m->err, -dir, "make a layer");
	fvm_random_hex(id, 32);
	int r = fill_layer(m, dir, digest);
	if (r == 0 && (fvm_strv_add(&m->made, id) < 0 || fvm_strv_add(&m->places, tmp) < 0))
		r = fvm_error_set(m->err, ENOMEM, "list the layers");
	if (r < 0)
		(void)fvm_subids_remove_tree(m->store->dir, tmp);
	else
		m->held[m->places.count - 1] = fvm_fd_take(&dir);
	return r;
}

static int import_layers(struct import *m)
{
	int r = list_keys(m);
	for (size_t i = 0; r == 0 && i < m->layers.count; i++)
		r = import_layer(m, m->layers.items[i]);
	if (r == 0 && syncfs(m->store->dir) < 0)
		r = fvm_error_set(m->err, errno, "write the layers");
	return r;
}

/* While the VM is made: see fvm_vm_make(). */
static int place_layers(void *arg, int dir, struct fvm_error *err)
{
	(void)dir;
	const struct import *m = arg;
	fvm_strv_each(&m->places, i) {
		int r = fvm_layer_place(m->store, m->places.items[i], m->made.items[i]);
		if (r < 0)
			return fvm_error_set(err, -r, "add a layer");
	}
	return 0;
}

/* What did not become a layer of the VM. */
static void drop_places(struct import *m)
{
	fvm_strv_each(&m->places, i) {
		(void)fvm_subids_remove_tree(m->store->dir, m->places.items[i]);
		close(m->held[i]);
	}
	fvm_strv_free(&m->places);
}

/* ---- configuration ---- */

/* Whoever made the image does not decide what of this host its programs reach. */
static void strip_grants(struct fvm_config *c)
{
	struct fvm_strv *const grants[] = { &c->binds, &c->direct, &c->devices, &c->policies,
					    &c->ports, &c->env,	   &c->show };
	bool *const allowed[] = { &c->secrets, &c->io_uring, &c->i386_sockets,
				  &c->private_networks };
	/* without this one it has a limit all the same */
	bool any = c->net == FVM_NET_HOST || c->connections;
	c->connections = 0;
	for (size_t i = 0; i < FVM_COUNT(grants); i++) {
		any |= grants[i]->count > 0;
		fvm_strv_free(grants[i]);
	}
	for (size_t i = 0; i < FVM_COUNT(allowed); i++) {
		any |= *allowed[i];
		*allowed[i] = false;
	}
	if (c->net == FVM_NET_HOST)
		c->net = FVM_NET_NAT;
	if (c->net != FVM_NET_NONE)
		c->net_given = false; /* this host's policies may take it away */
	if (any)
		log_warn("the image asked for things of this host (binds, devices, ports, "
			 "networks, secrets or the like): not granted, give them again if you "
			 "want");
}

/* Snapshots name layers by their place in the image. */
static int map_snapshots(struct import *m)
{
	for (size_t i = 0; i < m->config.snapshot_count; i++) {
		struct fvm_strv *layers = &m->config.snapshots[i].layers;
		scoped_strv ids = { 0 };
		const char *tag = m->config.snapshots[i].tag;
		(void)fvm_config_set_programs(&m->config, i, NULL);
		if (fvm_name_check(tag, NULL) < 0 ||
		    fvm_config_find_snapshot(&m->config, tag) != (int)i)
			return damaged(m, "a snapshot's tag is none, or comes twice");
		fvm_strv_each(layers, j) {
			unsigned long at = strtoul(layers->items[j], NULL, 10);
			if (at >= m->made.count)
				return damaged(m, "a snapshot names a layer that isn't there");
			if (fvm_strv_add(&ids, m->made.items[at]) < 0)
				return fvm_error_set(m->err, ENOMEM, "list the snapshots");
		}
		fvm_strv_free(layers);
		*layers = ids;
		ids = (struct fvm_strv){ 0 };
	}
	return 0;
}

static int adapt_config(struct import *m, const char *name)
{
	struct fvm_config *c = &m->config;
	int r = name ? fvm_name_check(name, m->err) : 0;
	if (r < 0)
		return r;
	if (c->hostname && fvm_name_check(c->hostname, NULL) < 0)
		return damaged(m, "its host name is none");
	if (name)
		strcpy(c->name, name);
	fvm_random_hex(c->id, 32);
	c->created_ns = fvm_now_ns();
	c->first_start_ns = 0;
	c->rootless = m->store->rootless;
	c->throw_away = false;
	free(c->pending);
	c->pending = NULL;
	fvm_strv_free(&c->before);
	strip_grants(c);
	return 0;
}

static int import_all(struct import *m, int fd, const char *name, struct fvm_vm *ret)
{
	const struct fvm_making making = { .sync = true, .place = place_layers, .arg = m };
	int r = read_outer(m, fd);
	if (r == 0)
		r = read_documents(m);
	if (r == 0)
		r = adapt_config(m, name);
	if (r == 0 && faccessat(m->store->vms, m->config.name, F_OK, AT_SYMLINK_NOFOLLOW) == 0) {
		r = fvm_error_say(m->err, EEXIST, "there is a VM '%s' already", m->config.name);
		fvm_error_hint(m->err, "give another name: fvm import FILE NAME");
	}
	if (r == 0)
		r = import_layers(m);
	fvm_strv_free(&m->config.layers);
	if (r == 0)
		r = fvm_strv_copy(&m->config.layers, &m->made);
	if (r == 0)
		r = map_snapshots(m);
	if (r == 0)
		r = fvm_vm_make(m->store, &m->config, &making, ret, m->err);
	return r;
}

static int import_here(const struct fvm_store *store, int fd, const char *name,
		       fvm_progress_fn progress, void *arg, struct fvm_vm *ret, int *ret_programs,
		       struct fvm_error *err)
{
	char tmp[40];
	struct fvm_error mine = { 0 };
	struct import m = { .store = store,
			    .programs = ret_programs,
			    .progress = progress,
			    .arg = arg,
			    .err = &mine };
	int r = store->rootless ? fvm_subids_enter_any(&m.ids, err) : 0;
	if (r < 0)
		return r;
	m.tmp = fvm_tmp_make(store, tmp);
	if (m.tmp < 0)
		return fvm_error_set(err, -m.tmp, "import into %s", store->path);
	r = import_all(&m, fd, name, ret);
	drop_places(&m);
	close(m.tmp);
	(void)fvm_remove_tree(store->dir, tmp);
	free(m.index);
	fvm_strv_free(&m.layers);
	fvm_strv_free(&m.keys);
	fvm_strv_free(&m.made);
	fvm_config_free(&m.config);
	if (r < 0 && err)
		*err = mine;
	return r < 0 ? fvm_error_wrap(err, r, "import") : 0;
}

int fvm_vm_import(const struct fvm_store *store, int fd, const char *name, fvm_progress_fn progress,
		  void *arg, struct fvm_vm *ret, struct fvm_error *err)
{
	return import_here(store, fd, name, progress, arg, ret, NULL, err);
}

/* ---- for who goes on with the VM ---- */

struct imported {
	int code;
	char name[sizeof(((struct fvm_config *)NULL)->name)];
	struct fvm_error err;
};

static int take_imported(const struct fvm_store *store, int sock, struct fvm_vm *ret,
			 int *ret_programs, struct fvm_error *err)
{
	struct imported o;
	size_t count = 0;
	int fd = -1;
	if (fvm_recv_fds(sock, &o, sizeof(o), &fd, 1, &count) != sizeof(o))
		return fvm_error_set(err, EPIPE, "have a process import it");
	scoped_fd programs = count ? fd : -1;
	if (o.code < 0) {
		(void)fvm_error_take(err, &o.err, sizeof(o.err));
		return o.code;
	}
	o.name[sizeof(o.name) - 1] = '\0';
	int r = fvm_vm_open(store, o.name, FVM_LOCK, ret, err);
	if (r == 0)
		*ret_programs = fvm_fd_take(&programs);
	return r;
}

/* Who has entered a namespace with the ids of the layers can start no VM that has these ids: so the
 * import of one that goes on is made by a child. */
int fvm_vm_import_live(const struct fvm_store *store, int fd, const char *name,
		       fvm_progress_fn progress, void *arg, struct fvm_vm *ret, int *ret_programs,
		       struct fvm_error *err)
{
	int ends[2];
	if (!store->rootless || !ret_programs)
		return import_here(store, fd, name, progress, arg, ret, ret_programs, err);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return fvm_error_set(err, errno, "make a socket");
	pid_t pid = fork();
	if (pid == 0) {
		struct imported o = { 0 };
		struct fvm_vm vm = { .dir = -1, .lock = -1 };
		int programs = -1;
		o.code = import_here(store, fd, name, progress, arg, &vm, &programs, &o.err);
		if (o.code == 0)
			strcpy(o.name, vm.config.name);
		(void)fvm_vm_close(&vm);
		(void)fvm_send_fds(ends[1], &o, sizeof(o), &programs, o.code == 0);
		_exit(0);
	}
	close(ends[1]);
	int r = pid < 0 ? fvm_error_set(err, errno, "start a process")
			: take_imported(store, ends[0], ret, ret_programs, err);
	close(ends[0]);
	if (pid > 0)
		(void)waitpid(pid, NULL, 0);
	return r;
}
