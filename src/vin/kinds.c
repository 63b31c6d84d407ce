#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/kinds.h"
#include "vin/namespaces.h"

#define DELETED " (deleted)"
#define PIECE	(1U << 20) /* of content, in one record */

/* The first that matches has it: a path descriptor may be of anything, but of a process. */
static const struct vin_kind *const kinds[] = {
	&vin_kind_procfile, &vin_kind_path,    &vin_kind_memfd,	    &vin_kind_namespace,
	&vin_kind_mqueue,   &vin_kind_file,    &vin_kind_directory, &vin_kind_device,
	&vin_kind_pipe,	    &vin_kind_eventfd, &vin_kind_timerfd,   &vin_kind_signalfd,
	&vin_kind_epoll,    &vin_kind_pty,     &vin_kind_inotify,   &vin_kind_pidfd,
	&vin_kind_tty,	    &vin_kind_unix,    &vin_kind_tcp,	    &vin_kind_given,
	&vin_kind_udp,	    &vin_kind_raw,     &vin_kind_packet,    &vin_kind_netlink,
	&vin_kind_fanotify, &vin_kind_tun,
};

const struct vin_kind *vin_kind_find(const struct vin_open *o)
{
	for (size_t i = 0; i < FVM_COUNT(kinds); i++) {
		if (kinds[i]->matches(o))
			return kinds[i];
	}
	return NULL;
}

const struct vin_kind *vin_kind_number(uint64_t nr)
{
	for (size_t i = 0; i < FVM_COUNT(kinds); i++) {
		if (kinds[i]->nr == nr)
			return kinds[i];
	}
	return NULL;
}

bool vin_link_is(const struct vin_open *o, const char *name)
{
	return strncmp(o->link, "anon_inode:", 11) == 0 && strcmp(o->link + 11, name) == 0;
}

/* ---- names ---- */

/* @name as seen from the directory @root; a path without symlinks and magic, O_PATH. */
static int open_in(int root, const char *name, uint64_t flags)
{
	struct open_how how = {
		.flags = flags | O_PATH | O_NOFOLLOW | O_CLOEXEC,
		.resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
	};
	return fvm_nerr(syscall(SYS_openat2, root, name, &how, sizeof(how)));
}

int vin_name_look(const struct vin_files *all, const char *name)
{
	scoped_fd own = all->root < 0 ? open("/", O_PATH | O_CLOEXEC) : -1;
	return open_in(all->root < 0 ? own : all->root, name, 0);
}

int vin_link_open(const struct vin_files *all, const struct vin_open *o)
{
	const int own = all->own ? vin_namespaces_root(all->own, o->info.mnt_id) : -1;
	if (o->link[0] != '/')
		return -ENOENT;
	return own < 0 ? vin_name_look(all, o->link) : open_in(own, o->link, 0);
}

bool vin_link_leads(const struct vin_files *all, const struct vin_open *o)
{
	struct stat st;
	scoped_fd fd = vin_link_open(all, o);
	return fd >= 0 && fstat(fd, &st) == 0 && vin_same_inode(&st, &o->st);
}

bool vin_link_deleted(const struct vin_open *o)
{
	const size_t len = strlen(o->link), tail = strlen(DELETED);
	return len > tail && strcmp(o->link + len - tail, DELETED) == 0;
}

char *vin_link_name(const struct vin_open *o)
{
	char *name = strdup(o->link);
	if (name && vin_link_deleted(o))
		name[strlen(name) - strlen(DELETED)] = '\0';
	return name;
}

int vin_name_open(const struct vin_reopen *r, const char *name)
{
	return open_in(r->root, name, 0);
}

/* ---- ids ---- */

/* By the lines of uid_map or gid_map: inner, outer as we count, how many. */
static uint64_t inner_id(pid_t pid, const char *map, uint64_t id)
{
	char path[40], line[120];
	uint64_t result = UINT32_MAX;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, map);
	FILE *file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		unsigned long long inner, outer, count;
		if (sscanf(line, "%llu %llu %llu", &inner, &outer, &count) == 3 && id >= outer &&
		    id - outer < count)
			result = inner + (id - outer);
	}
	if (file)
		fclose(file);
	return result;
}

void vin_inner_ids(const struct vin_open *o, uint64_t *ret_uid, uint64_t *ret_gid)
{
	vin_inner_pair(o->pid, o->st.st_uid, o->st.st_gid, ret_uid, ret_gid);
}

void vin_inner_pair(pid_t pid, uint64_t uid, uint64_t gid, uint64_t *ret_uid, uint64_t *ret_gid)
{
	*ret_uid = inner_id(pid, "uid_map", uid);
	*ret_gid = inner_id(pid, "gid_map", gid);
}

/* ---- once more ---- */

static int again(int self, int fd, unsigned int flags)
{
	char number[16];
	snprintf(number, sizeof(number), "%d", fd);
	/* the rest is set by fcntl(2), which asks less */
	flags &= O_ACCMODE | O_PATH | O_DIRECTORY | O_NONBLOCK | O_SYNC | O_DSYNC;
	return fvm_nerr(openat(self, number, (int)flags | O_CLOEXEC | O_NOCTTY));
}

int vin_again(const struct vin_reopen *r, int fd, unsigned int flags)
{
	return again(r->self, fd, flags);
}

int vin_again_here(int fd, unsigned int flags)
{
	scoped_fd self = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return self < 0 ? -errno : again(self, fd, flags);
}

int vin_maker_of(const struct vin_reopen *r, const struct vin_file *f)
{
	return r->files[f->twin].maker;
}

/* ---- content ---- */

static int put_piece(const struct vin_open *o, uint64_t at, const char *data, size_t len,
		     struct vin_out *out, struct fvm_error *err)
{
	scoped_buf b = { 0 };
	vin_put_u64(&b, o->id);
	vin_put_u64(&b, at);
	vin_put_blob(&b, data, len);
	return vin_out_record(out, VIN_TAG_DATA, &b, err);
}

/* One stretch without holes. */
static int put_stretch(const struct vin_open *o, int fd, off_t at, off_t end, struct vin_out *out,
		       struct fvm_error *err)
{
	scoped_free char *data = malloc(PIECE);
	if (!data)
		return fvm_error_set(err, ENOMEM, "read %s", o->link);
	while (at < end) {
		size_t want = end - at < PIECE ? (size_t)(end - at) : PIECE;
		ssize_t n = pread(fd, data, want, at);
		if (n <= 0)
			return fvm_error_set(err, n < 0 ? errno : EIO, "read %s", o->link);
		int r = put_piece(o, (uint64_t)at, data, (size_t)n, out, err);
		if (r < 0)
			return r;
		at += n;
	}
	return 0;
}

int vin_content_capture(const struct vin_open *o, struct vin_out *out, struct fvm_error *err)
{
	/* one of our own: its position is ours to move */
	scoped_fd fd = vin_again_here(o->fd, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return fvm_error_set(err, -fd, "open %s again", o->link);
	for (off_t at = 0; (at = lseek(fd, at, SEEK_DATA)) >= 0;) {
		off_t hole = lseek(fd, at, SEEK_HOLE);
		int r = hole < 0 ? fvm_error_set(err, errno, "read %s", o->link)
				 : put_stretch(o, fd, at, hole, out, err);
		if (r < 0)
			return r;
		at = hole;
	}
	return errno == ENXIO ? 0 : fvm_error_set(err, errno, "read %s", o->link);
}

int vin_content_take(struct vin_reopen *r, struct vin_payload *p, struct fvm_error *err)
{
	uint64_t id = vin_get_u64(p), at = vin_get_u64(p);
	size_t len;
	const char *data = vin_get_blob(p, &len);
	struct stat st;
	if (vin_get_done(p) < 0 || id >= r->taken || r->files[id].maker < 0)
		return fvm_error_set(err, EBADMSG, "understand content in the image");
	int to = r->files[id].maker;
	/* of the size that it was made with, and a file: nothing else has content */
	if (fstat(to, &st) < 0 || !S_ISREG(st.st_mode) || at > (uint64_t)st.st_size ||
	    len > (uint64_t)st.st_size - at)
		return fvm_error_set(err, EBADMSG, "understand content in the image");
	while (len > 0) {
		ssize_t n = pwrite(to, data, len, (off_t)at);
		if (n <= 0)
			return fvm_error_set(err, n < 0 ? errno : EIO, "write a file's content");
		data += n;
		at += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}
