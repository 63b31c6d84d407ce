#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/checkpoint_priv.h"
#include "fvm/inode.h"
#include "fvm/programs.h"

#define PLACE "programs"
#define BLOCK (1 << 20)

_Static_assert(FVM_PROGRAMS_NAME + 1 == FVM_DIGEST_HEX, "a digest names it");

/* Of all of @fd, which is at its start afterwards. */
static int digest_of(int fd, char ret[FVM_DIGEST_HEX])
{
	scoped_free char *block = malloc(BLOCK);
	struct fvm_digest *d = fvm_digest_new();
	ssize_t n = 0;
	if (!block || !d || lseek(fd, 0, SEEK_SET) < 0) {
		fvm_digest_free(d);
		return block && d ? -errno : -ENOMEM;
	}
	while ((n = fvm_read_full(fd, block, BLOCK)) > 0)
		fvm_digest_add(d, block, (size_t)n);
	fvm_digest_end(d, ret);
	return n < 0 ? (int)n : lseek(fd, 0, SEEK_SET) < 0 ? -errno : 0;
}

/* ---- keep ---- */

/* Where the file system has no files without a name, @blob had one that is gone. */
static int copy_to(int dir, const char *name, int blob)
{
	char tmp[FVM_DIGEST_HEX + 24];
	struct stat st;
	snprintf(tmp, sizeof(tmp), ".%s.%d.tmp", name, (int)getpid());
	scoped_fd to = openat(dir, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (to < 0 || fstat(blob, &st) < 0)
		return -errno;
	int r = fvm_copy_data(blob, to, (uint64_t)st.st_size);
	if (r == 0 && fsync(to) < 0)
		r = -errno;
	if (r == 0 && renameat(dir, tmp, dir, name) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dir, tmp, 0);
	return r;
}

static int place(int dir, const char *name, int blob)
{
	char link[40];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", blob);
	int r = FVM_FAULT("programs.place");
	if (r == 0 && fsync(blob) < 0)
		r = -errno;
	if (r < 0)
		return r;
	if (linkat(AT_FDCWD, link, dir, name, AT_SYMLINK_FOLLOW) == 0 || errno == EEXIST)
		return 0;
	return copy_to(dir, name, blob);
}

static int make_dir(int vm_dir)
{
	if (mkdirat(vm_dir, PLACE, 0700) < 0 && errno != EEXIST)
		return -errno;
	return fvm_open_nofollow(vm_dir, PLACE, O_RDONLY | O_DIRECTORY);
}

int fvm_programs_keep(const struct fvm_vm *vm, int blob, char ret_name[FVM_DIGEST_HEX],
		      struct fvm_error *err)
{
	scoped_fd dir = make_dir(vm->dir);
	int r = dir < 0 ? dir : digest_of(blob, ret_name);
	if (r == 0)
		r = place(dir, ret_name, blob);
	if (r == 0 && fsync(dir) < 0)
		r = -errno;
	return r < 0 ? fvm_error_set(err, -r, "keep the programs") : 0;
}

/* ---- read ---- */

static int check_format(int fd, struct fvm_error *err)
{
	char line[sizeof(FVM_PROGRAMS_MAGIC)] = "";
	ssize_t n = pread(fd, line, strlen(FVM_PROGRAMS_MAGIC), 0);
	if (n == (ssize_t)strlen(FVM_PROGRAMS_MAGIC) && strcmp(line, FVM_PROGRAMS_MAGIC) == 0)
		return 0;
	fvm_error_hint(err, "use the fvm that made it");
	return fvm_error_say(err, EPROTONOSUPPORT, "its programs are of another format");
}

int fvm_programs_open(const struct fvm_vm *vm, const struct fvm_snapshot *s, struct fvm_error *err)
{
	char path[sizeof(PLACE) + FVM_DIGEST_HEX], is[FVM_DIGEST_HEX];
	snprintf(path, sizeof(path), PLACE "/%s", s->programs);
	scoped_fd fd = fvm_open_nofollow(vm->dir, path, O_RDONLY);
	int r = fd < 0 ? fd : digest_of(fd, is);
	if (r == 0 && strcmp(is, s->programs) != 0)
		r = -EBADMSG;
	if (r == -EBADMSG || r == -ENOENT) {
		fvm_error_hint(err, "fvm snapshot --drop %s %s forgets it", vm->config.name,
			       s->tag);
		return fvm_error_say(err, EBADMSG, "the programs of snapshot '%s' are %s", s->tag,
				     r == -ENOENT ? "missing" : "damaged");
	}
	if (r < 0)
		return fvm_error_set(err, -r, "read the programs of snapshot '%s'", s->tag);
	r = check_format(fd, err);
	return r < 0 ? fvm_error_wrap(err, r, "snapshot '%s'", s->tag) : fvm_fd_take(&fd);
}

/* ---- clones, left-overs ---- */

/* One that is missing is missed at its rollback, not here. */
static int share(int from, int to, const char *name)
{
	if (linkat(from, name, to, name, 0) < 0 && errno != EEXIST && errno != ENOENT)
		return -errno;
	return 0;
}

int fvm_programs_share(const struct fvm_vm *vm, int to)
{
	scoped_fd from_dir = fvm_open_nofollow(vm->dir, PLACE, O_RDONLY | O_DIRECTORY);
	if (from_dir < 0)
		return from_dir == -ENOENT ? 0 : from_dir;
	scoped_fd to_dir = make_dir(to);
	int r = to_dir < 0 ? to_dir : 0;
	for (size_t i = 0; r == 0 && i < vm->config.snapshot_count; i++) {
		const char *name = vm->config.snapshots[i].programs;
		if (name)
			r = share(from_dir, to_dir, name);
	}
	return r == 0 && fsync(to_dir) < 0 ? -errno : r;
}

static bool is_named(const struct fvm_config *c, const char *name)
{
	for (size_t i = 0; i < c->snapshot_count; i++) {
		if (c->snapshots[i].programs && strcmp(c->snapshots[i].programs, name) == 0)
			return true;
	}
	return false;
}

void fvm_programs_tidy(const struct fvm_vm *vm)
{
	scoped_dir d = fvm_dir_open(vm->dir, PLACE);
	struct dirent *e;
	bool any = false;
	while (d && (e = readdir(d))) {
		if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
			continue;
		if (is_named(&vm->config, e->d_name))
			any = true;
		else
			(void)unlinkat(dirfd(d), e->d_name, 0);
	}
	if (d && !any)
		(void)unlinkat(vm->dir, PLACE, AT_REMOVEDIR);
}
