/* /run of a VM: empty but for what tmpfiles.d, the user's session and the resolver want there. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fvm/build.h"
#include "fvm/internal.h"
#include "fvm/tmpfiles.h"

static uint32_t map_uid(const void *arg, uint32_t id)
{
	return fvm_idmap_uid(arg, id);
}

static uint32_t map_gid(const void *arg, uint32_t id)
{
	return fvm_idmap_gid(arg, id);
}

/* What the list depends on. */
static const char *const sources[] = { "usr/lib/tmpfiles.d", "etc/tmpfiles.d", "etc/passwd",
				       "etc/group" };

static void describe(int root, struct fvm_buf *key)
{
	for (size_t i = 0; i < FVM_COUNT(sources); i++) {
		struct stat st = { 0 };
		(void)fstatat(root, sources[i], &st, AT_SYMLINK_NOFOLLOW);
		fvm_buf_printf(key, "%lld.%09ld ", (long long)st.st_mtim.tv_sec,
			       st.st_mtim.tv_nsec);
	}
	fvm_buf_puts(key, "\n");
}

/* The host's list, from RUN/tmpfiles.list while nothing has changed. A VM that sees the same times
 * gets it too; one that fakes them deceives only itself. */
static int host_list(const struct fvm_build *b, int host, const char *key, struct fvm_buf *list)
{
	scoped_free char *cached = NULL;
	size_t n = strlen(key);
	if (fvm_read_file(b->vm->store->run, "tmpfiles.list", 2 << 20, &cached, NULL) == 0 &&
	    strncmp(cached, key, n) == 0) {
		fvm_buf_puts(list, cached + n);
		return 0;
	}
	int r = fvm_tmpfiles_collect(host, list);
	if (r < 0)
		return r;
	scoped_buf text = { 0 };
	fvm_buf_puts(&text, key);
	fvm_buf_puts(&text, list->data ? list->data : "");
	if (!text.failed)
		(void)fvm_write_file_atomic(b->vm->store->run, "tmpfiles.list", text.data, text.len,
					    false);
	return 0;
}

static int get_list(const struct fvm_build *b, struct fvm_buf *list)
{
	scoped_buf here = { 0 }, there = { 0 };
	scoped_fd host = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd root = openat(b->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	describe(host, &there);
	describe(b->root, &here);
	if (here.failed || there.failed)
		return -ENOMEM;
	if (strcmp(here.data, there.data) == 0)
		return host_list(b, host, there.data, list);
	return fvm_tmpfiles_collect(root, list);
}

static void make_user_dir(const struct fvm_build *b, int run)
{
	char name[16];
	scoped_fd user = fvm_mkdir_nofollow(run, "user", 0755);
	snprintf(name, sizeof(name), "%u", b->user_uid);
	if (user < 0 || mkdirat(user, name, 0700) < 0)
		return;
	/* a rootless VM's root is the user himself, whose number is another user's to the kernel */
	if (!b->vm->config.rootless || b->user_uid != b->ids->uid)
		(void)!fchownat(user, name, fvm_idmap_uid(b->map, b->user_uid),
				fvm_idmap_gid(b->map, b->user_gid), AT_SYMLINK_NOFOLLOW);
}

int fvm_run_dir_make(const struct fvm_build *b, struct fvm_error *err)
{
	scoped_buf list = { 0 };
	if (mkdirat(b->scratch, "run", 0755) < 0)
		return fvm_error_set(err, errno, "make /run");
	scoped_fd run = openat(b->scratch, "run", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (run < 0 || mkdirat(run, "lock", 01777) < 0)
		return fvm_error_set(err, errno, "make /run/lock");
	int r = get_list(b, &list);
	if (r < 0)
		return fvm_error_set(err, -r, "read tmpfiles.d");
	if (list.data)
		fvm_tmpfiles_apply(run, list.data, map_uid, map_gid, b->map);
	make_user_dir(b, run);
	r = fvm_accounts_put(b->accounts, run);
	if (r < 0)
		return fvm_error_set(err, -r, "make /run/userdb");
	scoped_fd systemd = fvm_open_nofollow(run, "systemd", O_PATH | O_DIRECTORY);
	if (!b->systemd && systemd >= 0)
		(void)unlinkat(systemd, "system", AT_REMOVEDIR);
	return 0;
}
