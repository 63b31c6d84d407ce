/*
 * A whole image: its documents, with digests that are right, so that what they say is believed. The
 * input is three texts, each ended by a NUL: descriptors of layers to put into the manifest, the
 * VM's configuration, and a layer's tar.
 */
#include <archive.h>
#include <archive_entry.h>
#include <jansson.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>

#include "fvm/digest.h"
#include "fvm/image.h"
#include "fvm/image_priv.h"
#include "temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void put(struct archive *a, const char *name, const void *data, size_t len)
{
	struct archive_entry *e = archive_entry_new();
	archive_entry_set_pathname(e, name);
	archive_entry_set_filetype(e, AE_IFREG);
	archive_entry_set_perm(e, 0644);
	archive_entry_set_size(e, (la_int64_t)len);
	if (archive_write_header(a, e) == ARCHIVE_OK)
		(void)archive_write_data(a, data, len);
	archive_entry_free(e);
}

static void put_blob(struct archive *a, const void *data, size_t len, char digest[FVM_DIGEST_HEX])
{
	char name[FVM_DIGEST_HEX + 16];
	struct fvm_digest *d = fvm_digest_new();
	fvm_digest_add(d, data, len);
	fvm_digest_end(d, digest);
	snprintf(name, sizeof(name), "blobs/sha256/%s", digest);
	put(a, name, data, len);
}

/* {"KEY":"sha256:DIGEST"} and what stands around it */
static void write_image(int fd, const char *parts[3], const size_t len[3])
{
	char layer[FVM_DIGEST_HEX], config[FVM_DIGEST_HEX], manifest[FVM_DIGEST_HEX], text[512];
	scoped_buf json = { 0 };
	struct archive *a = archive_write_new();
	archive_write_set_format_pax_restricted(a);
	archive_write_open_fd(a, fd);
	put_blob(a, parts[2], len[2], layer);
	json_t *image =
		json_pack("{s:{s:{s:s%}}}", "config", "Labels", IMAGE_LABEL, parts[1], len[1]);
	scoped_free char *printed =
		image ? json_dumps(image, JSON_COMPACT) : strndup(parts[1], len[1]);
	json_decref(image);
	put_blob(a, printed, strlen(printed), config);
	fvm_buf_printf(&json, "{\"config\":{\"digest\":\"sha256:%s\"},", config);
	fvm_buf_printf(&json, "\"layers\":[{\"digest\":\"sha256:%s\"}%.*s]}", layer, (int)len[0],
		       parts[0]);
	put_blob(a, json.data, json.len, manifest);
	snprintf(text, sizeof(text), "{\"manifests\":[{\"digest\":\"sha256:%s\"}]}", manifest);
	put(a, "index.json", text, strlen(text));
	archive_write_free(a);
}

static void check(const struct fvm_config *c)
{
	if (c->binds.count || c->direct.count || c->devices.count || c->show.count ||
	    c->policies.count || c->ports.count || c->env.count || c->secrets || c->io_uring ||
	    c->private_networks || c->i386_sockets || c->connections || c->net == FVM_NET_HOST ||
	    c->throw_away || c->before.count)
		abort();
	for (size_t i = 0; i < c->snapshot_count; i++) {
		if (fvm_name_check(c->snapshots[i].tag, NULL) < 0 || c->snapshots[i].programs)
			abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *parts[3] = { (const char *)data, NULL, NULL };
	const char *end = (const char *)data + size;
	size_t len[3] = { 0 };
	for (int i = 0; i < 2; i++) {
		len[i] = strnlen(parts[i], (size_t)(end - parts[i]));
		if (parts[i] + len[i] == end)
			return 0;
		parts[i + 1] = parts[i] + len[i] + 1;
	}
	len[2] = (size_t)(end - parts[2]);
	struct fvm_error err = { 0 };
	scoped_store store = { .dir = -1, .vms = -1, .run = -1 };
	scoped_vm vm = { .dir = -1, .lock = -1 };
	fvm_log_level = FVM_LOG_ERROR;
	close(temporary_anew("store"));
	char home[64];
	snprintf(home, sizeof(home), "%s/store", temporary_path);
	setenv("FVM_HOME", home, 1);
	scoped_fd file = memfd_create("image", MFD_CLOEXEC);
	if (file < 0 || fvm_store_open(&store, &err) < 0)
		abort();
	write_image(file, parts, len);
	if (lseek(file, 0, SEEK_SET) == 0 &&
	    fvm_vm_import(&store, file, NULL, NULL, NULL, &vm, &err) == 0)
		check(&vm.config);
	return 0;
}
