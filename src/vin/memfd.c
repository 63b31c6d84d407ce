/*
 * Memfds: files without a name from the beginning, with their seals. These come last: what a seal
 * forbids is done before, mappings included that were there when it was set.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "vin/kinds.h"

#define PREFIX "/memfd:"

/* Of Linux 6.3; older headers lack it. */
#ifndef F_SEAL_EXEC
#define F_SEAL_EXEC 0x0020
#endif
#define ALL_SEALS                                                                                  \
	(F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE |          \
	 F_SEAL_EXEC)

struct memory {
	char *name;
	uint64_t mode, size, seals;
};

static bool matches(const struct vin_open *o)
{
	return S_ISREG(o->st.st_mode) && o->st.st_nlink == 0 &&
	       strncmp(o->link, PREFIX, strlen(PREFIX)) == 0 && fcntl(o->fd, F_GET_SEALS) >= 0;
}

static int check(const struct vin_files *all, const struct vin_open *o, struct fvm_error *err)
{
	struct statfs fs;
	(void)all;
	if (fstatfs(o->fd, &fs) == 0 && fs.f_type == HUGETLBFS_MAGIC)
		return fvm_error_say(err, EOPNOTSUPP, "it has huge pages");
	return 0;
}

static bool has_content(const struct vin_files *all, const struct vin_open *o)
{
	(void)all;
	return o->id == o->twin;
}

static int capture(const struct vin_files *all, const struct vin_open *o, struct fvm_buf *to,
		   struct fvm_error *err)
{
	(void)all;
	if (o->id != o->twin)
		return 0;
	scoped_free char *name = vin_link_name(o);
	if (!name)
		return fvm_error_set(err, ENOMEM, "write down %s", o->link);
	vin_put_string(to, name + strlen(PREFIX));
	vin_put_u64(to, o->st.st_mode & 07777);
	vin_put_u64(to, (uint64_t)o->st.st_size);
	vin_put_u64(to, (uint64_t)fcntl(o->fd, F_GET_SEALS));
	return 0;
}

static int parse(struct vin_payload *p, bool first, void *ret)
{
	struct memory *m = ret;
	if (!first)
		return 0;
	m->name = vin_get_string(p);
	m->mode = vin_get_u64(p);
	m->size = vin_get_u64(p);
	m->seals = vin_get_u64(p);
	return p->failed || strlen(m->name) > 249 || m->mode > 07777 || m->size > INT64_MAX ||
			       m->seals & ~(uint64_t)ALL_SEALS
		       ? -EBADMSG
		       : 0;
}

static void forget(void *its)
{
	free(((struct memory *)its)->name);
}

static int make(const struct memory *m)
{
	scoped_fd fd = memfd_create(m->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)m->size) < 0 || fchmod(fd, (mode_t)m->mode) < 0)
		return -errno;
	return fvm_fd_take(&fd);
}

/* What is mapped is there already, perhaps with less than it has. */
static int find_mapped(const struct vin_reopen *r, const struct vin_file *f, const struct memory *m)
{
	scoped_fd fd = vin_shared_maker(r, f);
	if (fd >= 0 && (ftruncate(fd, (off_t)m->size) < 0 || fchmod(fd, (mode_t)m->mode) < 0))
		return -errno;
	return fvm_fd_take(&fd);
}

static int open_memory(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct memory *m = f->its;
	if (f->id == f->twin)
		f->maker = find_mapped(r, f, m);
	if (f->id == f->twin && f->maker == -ENOENT)
		f->maker = make(m);
	int maker = vin_maker_of(r, f);
	int fd = maker < 0 ? maker : vin_again(r, maker, f->flags);
	return fd < 0 ? fvm_error_set(err, -fd, "make a memfd") : fd;
}

static int finish(struct vin_reopen *r, struct vin_file *f, struct fvm_error *err)
{
	const struct memory *m = f->its;
	(void)r;
	if (f->id == f->twin && m->seals && fcntl(f->maker, F_ADD_SEALS, (int)m->seals) < 0)
		return fvm_error_set(err, errno, "seal the memfd %s", m->name);
	return 0;
}

const struct vin_kind vin_kind_memfd = {
	.name = "a memfd",
	.nr = VIN_KIND_MEMFD,
	.seeks = true,
	.matches = matches,
	.check = check,
	.capture = capture,
	.has_content = has_content,
	.size = sizeof(struct memory),
	.parse = parse,
	.forget = forget,
	.open = open_memory,
	.finish = finish,
};
