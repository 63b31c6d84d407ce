/*
 * tests/fvm/commit_box - a host, a VM's layers and a store made by hand in a box
 *
 * base/ is the host's root, l0/ (l1/ ..) the layers, store/ a store with one stopped VM. An
 * inventory is text with everything undo must bring back: type, mode, owner, size, mtime, content,
 * xattrs, and which names are one inode.
 */
#ifndef FVM_TESTS_COMMIT_BOX_H
#define FVM_TESTS_COMMIT_BOX_H

#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>

#include "fvm/commit_priv.h"
#include "fvm/stamps.h"
#include "tests/fvm/listing.h"

struct world {
	struct fvm_store store;
	struct fvm_vm vm;
	struct fvm_stack stack;
	struct fvm_stacks stacks;
	int host;
};

static inline void world_open(const struct box *box, size_t layers, struct world *w)
{
	*w = (struct world){ .host = -1 };
	box_mkdir(box, "store/vms/v/workspace");
	box_mkdir(box, "store/trash");
	w->store.dir = box_dir(box, "store");
	w->store.vms = box_dir(box, "store/vms");
	w->store.run = -1;
	w->vm.store = &w->store;
	w->vm.dir = box_dir(box, "store/vms/v");
	w->vm.lock = -1;
	strcpy(w->vm.config.name, "v");
	strcpy(w->vm.config.id, "0123456789abcdef0123456789abcdef");
	/* what is made by hand is older or newer as it comes: births count, not this */
	w->vm.config.first_start_ns = INT64_MAX;
	close(openat(w->vm.dir, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600));
	box_stack(box, "/", layers, &w->stack);
	w->stacks = (struct fvm_stacks){ .items = &w->stack, .count = 1 };
	w->host = box_dir(box, "base");
}

static inline void world_close(struct world *w)
{
	box_stack_close(&w->stack);
	close(w->host);
	close(w->store.dir);
	close(w->store.vms);
	close(w->vm.dir);
}

/* A commit or undo with a store of its own file descriptors; 0 or -errno. */
static inline int world_commit(const struct box *box, size_t layers,
			       const struct fvm_commit_options *options,
			       struct fvm_commit_result *result, struct fvm_error *err)
{
	struct world w;
	world_open(box, layers, &w);
	int r = commit_run(w.host, &w.vm, &w.stacks, options, result, err);
	world_close(&w);
	return r;
}

static inline int world_undo(const struct box *box, const struct fvm_commit_options *options,
			     struct fvm_commit_result *result, struct fvm_error *err)
{
	struct world w;
	world_open(box, 1, &w);
	int r = commit_undo_stacks(w.host, &w.store, 0, options, &w.vm, &w.stacks, result, err);
	world_close(&w);
	return r;
}

static inline int world_recover(const struct box *box, struct fvm_error *err)
{
	struct world w;
	world_open(box, 1, &w);
	int r = fvm_commit_pending(&w.store)
			? commit_recover_at(w.host, &w.store, &w.vm, &w.stacks, err)
			: 0;
	world_close(&w);
	return r;
}

/* The text of `command`, run in the box's directory @dir. */
static inline char *output_of(const struct box *box, const char *dir, const char *command)
{
	scoped_buf text = { 0 };
	char line[4096];
	snprintf(line, sizeof(line), "cd %s/%s && { %s; }", box->path, dir, command);
	FILE *f = popen(line, "r");
	assert_non_null(f);
	for (size_t n; (n = fread(line, 1, sizeof(line), f)) > 0;)
		fvm_buf_add(&text, line, n);
	assert_int_equal(pclose(f), 0);
	fvm_buf_puts(&text, "");
	return fvm_buf_steal(&text);
}

static inline char *inventory(const struct box *box, const char *dir)
{
	return output_of(
		box, dir,
		"find . -printf '%P|%y|%m|%U:%G|%T@|%n|%l|' \\( -type f -printf '%s\\n' -o -printf "
		"'\\n' "
		"\\) | LC_ALL=C sort; find . -type f -exec sha256sum {} + | LC_ALL=C sort -k2;"
		"find . -type f -printf '%i %p\\n' | LC_ALL=C sort -k2 | awk "
		"'{ if (!($1 in first)) first[$1] = $2; print first[$1], $2 }';"
		"getfattr -R -h -d -m - . 2>/dev/null | grep -v overlay.origin || :");
}

static inline void shell(const struct box *box, const char *command)
{
	free(output_of(box, ".", command));
}

#endif
