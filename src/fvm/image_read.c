/*
 * Unpacking a layer that anybody may have made. Each name is taken apart here; "..", "." and empty
 * components, absolute and over-long names are refused; what is made is made by descriptor in a
 * directory that was reached from the layer's top without following anything.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include <archive.h>
#include <archive_entry.h>

#include "common/fault.h"
#include "fvm/image_priv.h"
#include "fvm/inode.h"
#include "fvm/owners.h"
#include "fvm/plan.h"

#define PATH_BYTES 65536
#define BLOCK	   (256 * 1024)
#define ENTRY_COST 4096 /* what an entry takes of the disk, about */
#define LOOK_FIRST (1UL << 20)
#define LOOK_EVERY (8UL << 20)	 /* bytes between two looks at the room that is left */
#define ROOM_LEFT  (1ULL << 30)	 /* for others; of a small disk a twentieth */
#define DIRS_BYTES (256UL << 20) /* of names that are kept until the end */
#define LIST_BYTES (32UL << 20)	 /* of owners: half of what is read again */

struct reader {
	struct archive *tar;
	int fs;
	const struct fvm_strv *keys;
	bool user_xattr;
	const struct fvm_user_ids *ids; /* without privileges */
	unsigned long long bytes;
	unsigned long long taken, look; /* of the disk so far; at how much to look again */
	fvm_progress_fn progress;
	void *progress_arg;
	struct fvm_error *err;
	struct fvm_strv dirs; /* directories' times come last: what is made in them changes them */
	size_t dirs_bytes;
	struct fvm_buf owners; /* of what can't carry attributes, as owners.h says */
};

static int bad(const struct reader *r, const char *path, const char *why)
{
	return fvm_error_set(r->err, EBADMSG, "entry '%.200s' of the layer %s", path, why);
}

/* The place of a tar's path: which mount, and where below its upper. */
static int place(const struct reader *r, const char *path, char *ret, size_t size)
{
	char point[4096], whole[PATH_BYTES];
	const char *best = "root", *rest = path;
	size_t longest = 0;
	snprintf(whole, sizeof(whole), "/%s", path);
	fvm_strv_each(r->keys, i) {
		if (fvm_mount_point(r->keys->items[i], point, sizeof(point)) < 0)
			continue;
		size_t n = strlen(point);
		if (n <= 1 || n <= longest || !fvm_path_below(whole, point))
			continue;
		longest = n;
		best = r->keys->items[i];
		rest = whole[n] == '/' ? whole + n + 1 : "";
	}
	/* @rest may point into our own buffer, whose offset equals @path's */
	if (longest)
		rest = path + (rest - whole - 1);
	if (longest && strlen(path) < longest)
		rest = "";
	int n = snprintf(ret, size, "%s/upper%s%s", best, *rest ? "/" : "", rest);
	return n >= (int)size ? -ENAMETOOLONG : 0;
}

/* Strip "./" in front and "/" behind; refuse what climbs. */
static int clean(const struct reader *r, const char *given, char *ret, size_t size)
{
	if (!given)
		return bad(r, "", "has no name");
	while (strncmp(given, "./", 2) == 0)
		given += 2;
	if (strcmp(given, ".") == 0)
		given = "";
	size_t n = strlen(given);
	while (n > 0 && given[n - 1] == '/')
		n--;
	if (given[0] == '/' || n >= size)
		return bad(r, given, given[0] == '/' ? "is absolute" : "is too long");
	memcpy(ret, given, n);
	ret[n] = '\0';
	for (const char *p = ret; *p;) {
		size_t len = strcspn(p, "/");
		if (len == 0 || len > 255 || (len == 1 && p[0] == '.') ||
		    (len == 2 && p[0] == '.' && p[1] == '.'))
			return bad(r, given, "climbs or has an impossible part");
		p += len + (p[len] == '/');
	}
	return 0;
}

static unsigned long long above(unsigned long long have, unsigned long long floor)
{
	return have > floor ? have - floor : 0;
}

/* A small image can unpack to more than any disk holds: others' room is not its to take. */
static int take_room(struct reader *r, size_t len)
{
	struct statvfs fs;
	r->taken += len;
	if (r->taken < r->look || fstatvfs(r->fs, &fs) < 0)
		return 0;
	const unsigned long long size = fs.f_frsize ? fs.f_frsize : 1;
	unsigned long long floor = fs.f_blocks / 20;
	if (floor > ROOM_LEFT / size)
		floor = ROOM_LEFT / size;
	unsigned long long room = above(fs.f_bavail, floor) * size;
	unsigned long long entries = above(fs.f_favail, fs.f_files / 20) * ENTRY_COST;
	if (fs.f_files && entries < room)
		room = entries;
	if (room > 0) {
		r->look = r->taken + (room / 2 < LOOK_EVERY ? room / 2 : LOOK_EVERY);
		return 0;
	}
	fvm_error_set(r->err, ENOSPC,
		      "unpack the layer: too little would be left of the store's disk");
	fvm_error_hint(r->err, "make room, or set FVM_HOME to a larger disk");
	return -ENOSPC;
}

/* A directory that the layer does not tell of is as the host's is. @at: where it is in the layer */
static void like_hosts(const char *at, int dir)
{
	char key[256], point[4096];
	struct stat st;
	const char *rest = strstr(at, "/upper/");
	if (!rest || rest - at >= (int)sizeof(key))
		return;
	snprintf(key, sizeof(key), "%.*s", (int)(rest - at), at);
	if (fvm_mount_point(key, point, sizeof(point)) < 0)
		return;
	scoped_fd top = open(point, O_PATH | O_DIRECTORY | O_CLOEXEC);
	scoped_fd host =
		top < 0 ? top : fvm_open_deep(top, rest + strlen("/upper/"), O_PATH | O_DIRECTORY);
	if (host < 0 || fstat(host, &st) < 0)
		return;
	(void)!fchown(dir, st.st_uid, st.st_gid);
	(void)fchmod(dir, st.st_mode & 07777);
}

/* Component by component: mkdir follows links on its way. */
static int make_parents(struct reader *r, const char *at)
{
	scoped_fd top = fcntl(r->fs, F_DUPFD_CLOEXEC, 0);
	for (const char *p = at; top >= 0 && *p;) {
		size_t n = strcspn(p, "/");
		char part[256];
		snprintf(part, sizeof(part), "%.*s", (int)n, p);
		bool made = mkdirat(top, part, 0755) == 0;
		if (!made && errno != EEXIST)
			return -errno;
		if (made && take_room(r, ENTRY_COST) < 0)
			return -ENOSPC;
		int next = fvm_open_nofollow(top, part, O_RDONLY | O_DIRECTORY);
		close(top);
		top = next;
		p += n;
		scoped_free char *here = made && top >= 0 ? strndup(at, (size_t)(p - at)) : NULL;
		if (here)
			like_hosts(here, top);
		p += *p == '/';
	}
	return fvm_fd_take(&top);
}

/* Open the directory of @at, making what is missing. @ret_name: the last component */
static int open_parent(struct reader *r, char *at, const char **ret_name)
{
	char *slash = strrchr(at, '/');
	*slash = '\0';
	*ret_name = slash + 1;
	int dir = fvm_open_deep(r->fs, at, O_RDONLY | O_DIRECTORY);
	return dir == -ENOENT ? make_parents(r, at) : dir;
}

static bool xattr_is_welcome(const char *name)
{
	if (strncmp(name, "user.overlay.", 13) == 0 || strcmp(name, IMAGE_NAMED_XATTR) == 0)
		return false;
	return strncmp(name, "user.", 5) == 0 || strcmp(name, "security.capability") == 0 ||
	       strncmp(name, "system.posix_acl_", 17) == 0;
}

static void set_xattrs(const char *link, struct archive_entry *e)
{
	const char *name;
	const void *value;
	size_t len;
	archive_entry_xattr_reset(e);
	while (archive_entry_xattr_next(e, &name, &value, &len) == ARCHIVE_OK) {
		if (name && xattr_is_welcome(name))
			(void)setxattr(link, name, value, len, 0);
	}
}

static bool all_zero(const char *p, size_t n)
{
	return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

/* Blocks of zeros become holes. */
static int write_block(struct reader *r, int fd, const void *block, size_t len)
{
	if (len >= 4096 && all_zero(block, len))
		return 0;
	int w = fvm_write_all(fd, block, len);
	return w < 0 ? fvm_error_set(r->err, -w, "write the layer") : take_room(r, len);
}

/* By blocks with their offsets: a sparse file of any size costs what is in it. */
static int write_data(struct reader *r, int fd, const char *path, la_int64_t size)
{
	const void *block;
	size_t len;
	la_int64_t at;
	for (;;) {
		int a = archive_read_data_block(r->tar, &block, &len, &at);
		if (a == ARCHIVE_EOF)
			break;
		if (a < ARCHIVE_WARN)
			return bad(r, path, "can't be read");
		if (at < 0 || at > size || len > (size_t)(size - at))
			return bad(r, path, "is longer than it says");
		int w = lseek(fd, at, SEEK_SET) < 0
				? fvm_error_set(r->err, errno, "write '%.200s'", path)
				: write_block(r, fd, block, len);
		if (w < 0)
			return w;
		r->bytes += len;
		if (r->progress)
			r->progress(r->bytes, 0, r->progress_arg);
	}
	return ftruncate(fd, size) < 0 ? fvm_error_set(r->err, errno, "write '%.200s'", path) : 0;
}

static bool can_have(const struct reader *r, struct archive_entry *e)
{
	return archive_entry_uid(e) >= 0 && archive_entry_uid(e) <= r->ids->count &&
	       archive_entry_gid(e) >= 0 && archive_entry_gid(e) <= r->ids->count;
}

/* Of what is @name in @fd; "": of @fd. */
static int set_owner(const struct reader *r, int fd, const char *name, struct archive_entry *e)
{
	uid_t uid = (uid_t)archive_entry_uid(e);
	gid_t gid = (gid_t)archive_entry_gid(e);
	if (r->ids) {
		if (!can_have(r, e))
			return 0; /* see note_owner() */
		uid = uid ? r->ids->sub_uid + uid - 1 : r->ids->uid;
		gid = gid ? r->ids->sub_gid + gid - 1 : r->ids->gid;
	}
	return fchownat(fd, name, uid, gid, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH) < 0 ? -errno : 0;
}

/* Whoever wrote the image has told what the file was meant to have; set-id bits are its mode's. */
static void note_owner(const struct reader *r, const char *link, struct archive_entry *e)
{
	char text[64];
	struct fvm_owner owner = { .uid = (uid_t)archive_entry_uid(e),
				   .gid = (gid_t)archive_entry_gid(e) };
	ssize_t n = r->ids ? getxattr(link, FVM_OWNER_XATTR, text, sizeof(text)) : -1;
	if (r->ids && r->ids->count && n > 0 && can_have(r, e) &&
	    fvm_owner_parse(text, (size_t)n, &owner) == 0 && !owner.has_mode)
		(void)removexattr(link, FVM_OWNER_XATTR); /* it is true now */
	if (!r->ids || can_have(r, e) || n > 0)
		return;
	fvm_owner_format(&owner, text, sizeof(text));
	(void)setxattr(link, FVM_OWNER_XATTR, text, strlen(text), 0);
}

static int set_attributes(const struct reader *r, int fd, struct archive_entry *e, const char *path)
{
	char link[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	int x = set_owner(r, fd, "", e);
	if (x < 0)
		return fvm_error_set(r->err, -x, "give '%.200s' its owner", path);
	if (fchmod(fd, archive_entry_perm(e) & 07777) < 0)
		return fvm_error_set(r->err, errno, "give '%.200s' its mode", path);
	set_xattrs(link, e);
	note_owner(r, link, e);
	return 0;
}

static void set_times(int dir, const char *name, struct archive_entry *e)
{
	struct timespec times[2] = { { .tv_nsec = UTIME_NOW },
				     { archive_entry_mtime(e), archive_entry_mtime_nsec(e) } };
	if (archive_entry_mtime_is_set(e))
		(void)utimensat(dir, name, times, AT_SYMLINK_NOFOLLOW);
}

static int make_file(struct reader *r, int dir, const char *name, struct archive_entry *e,
		     const char *path)
{
	scoped_fd fd = openat(dir, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return fvm_error_set(r->err, errno, "make '%.200s'", path);
	int x = write_data(r, fd, path, archive_entry_size(e));
	return x < 0 ? x : set_attributes(r, fd, e, path);
}

static int make_dir(struct reader *r, int dir, const char *name, struct archive_entry *e,
		    const char *path)
{
	if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
		return fvm_error_set(r->err, errno, "make '%.200s'", path);
	scoped_fd fd = fvm_open_nofollow(dir, name, O_RDONLY | O_DIRECTORY);
	if (fd < 0)
		return bad(r, path, "comes twice, with different types");
	return set_attributes(r, fd, e, path);
}

static int make_link(struct reader *r, int dir, const char *name, struct archive_entry *e,
		     const char *path)
{
	char target[PATH_BYTES], at[PATH_BYTES];
	const char *last;
	int x = clean(r, archive_entry_hardlink(e), target, sizeof(target));
	if (x < 0 || place(r, target, at, sizeof(at)) < 0)
		return x < 0 ? x : bad(r, path, "links to a name that is too long");
	scoped_fd from = open_parent(r, at, &last);
	if (from == -ENOSPC)
		return from;
	if (from < 0 || linkat(from, last, dir, name, 0) < 0)
		return bad(r, path, "links to something that isn't there");
	return 0;
}

/* Whose a link or FIFO was meant to be, where that can't be had. @path: in the tar */
static int list_owner(struct reader *r, int dir, const char *name, struct archive_entry *e,
		      const char *path)
{
	char at[PATH_BYTES];
	struct stat st;
	if (!r->ids || can_have(r, e))
		return 0;
	const struct fvm_owner owner = { .uid = (uid_t)archive_entry_uid(e),
					 .gid = (gid_t)archive_entry_gid(e) };
	if (owner.uid == (uid_t)-1 || owner.gid == (gid_t)-1)
		return bad(r, path, "has an impossible owner");
	char *rest = place(r, path, at, sizeof(at)) < 0 ? NULL : strstr(at, "/upper/");
	if (!rest || fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return fvm_error_set(r->err, EIO, "note the owner of '%.200s'", path);
	*rest = '\0';
	fvm_owners_line(&r->owners, &owner, st.st_ino, at, rest + strlen("/upper/"));
	if (r->owners.failed)
		return fvm_error_set(r->err, ENOMEM, "note the owner of '%.200s'", path);
	return r->owners.len > LIST_BYTES ? bad(r, path, "is one owner too many") : 0;
}

static int make_fifo(struct reader *r, int dir, const char *name, struct archive_entry *e,
		     const char *path)
{
	if (mkfifoat(dir, name, 0600) < 0)
		return fvm_error_set(r->err, errno, "make '%.200s'", path);
	int x = set_owner(r, dir, name, e);
	if (x == 0 && fchmodat(dir, name, archive_entry_perm(e) & 07777, 0) < 0)
		x = -errno;
	if (x < 0)
		return fvm_error_set(r->err, -x, "give '%.200s' its owner", path);
	return list_owner(r, dir, name, e, path);
}

/* What a VM without privileges has for a device: see owners.h. */
static int make_stand_in(struct reader *r, int dir, const char *name, struct archive_entry *e,
			 const char *path)
{
	const struct fvm_owner owner = { .uid = (uid_t)archive_entry_uid(e),
					 .gid = (gid_t)archive_entry_gid(e),
					 .mode = archive_entry_mode(e),
					 .rdev = archive_entry_rdev(e),
					 .has_mode = true };
	char text[64];
	scoped_fd fd =
		openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
	fvm_owner_format(&owner, text, sizeof(text));
	if (fd < 0 || fchmod(fd, owner.mode & 0666) < 0 ||
	    fsetxattr(fd, FVM_OWNER_XATTR, text, strlen(text), 0) < 0)
		return fvm_error_set(r->err, errno, "make '%.200s'", path);
	return 0;
}

static int make_special(struct reader *r, int dir, const char *name, struct archive_entry *e,
			const char *path)
{
	mode_t type = archive_entry_filetype(e);
	if (type == AE_IFLNK) {
		if (!archive_entry_symlink(e) || symlinkat(archive_entry_symlink(e), dir, name) < 0)
			return bad(r, path, "is a link that can't be made");
		(void)set_owner(r, dir, name, e);
		return list_owner(r, dir, name, e, path);
	}
	if (type == AE_IFIFO)
		return make_fifo(r, dir, name, e, path);
	if (r->ids && (type == AE_IFCHR || type == AE_IFBLK))
		return make_stand_in(r, dir, name, e, path);
	return bad(r, path, "is a device or something unknown, which is refused");
}

/* Whether the entry's name is what it says, although it looks like a deletion's. */
static bool is_named(struct archive_entry *e)
{
	const char *name;
	const void *value;
	size_t len;
	archive_entry_xattr_reset(e);
	while (archive_entry_xattr_next(e, &name, &value, &len) == ARCHIVE_OK) {
		if (name && strcmp(name, IMAGE_NAMED_XATTR) == 0)
			return true;
	}
	return false;
}

/* ".wh.NAME" and ".wh..wh..opq" */
static int make_mark(const struct reader *r, int dir, const char *name, const char *path)
{
	if (strcmp(name, ".wh..wh..opq") == 0) {
		const char *key = r->user_xattr ? "user.overlay.opaque" : "trusted.overlay.opaque";
		char link[64];
		snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
		return setxattr(link, key, "y", 1, 0) < 0
			       ? fvm_error_set(r->err, errno, "mark '%.200s' opaque", path)
			       : 0;
	}
	const char *gone = name + 4;
	if (!*gone || strcmp(gone, ".") == 0 || strcmp(gone, "..") == 0)
		return bad(r, path, "is an impossible whiteout");
	if (mknodat(dir, gone, S_IFCHR, makedev(0, 0)) < 0)
		return fvm_error_set(r->err, errno, "make the whiteout '%.200s'", path);
	return 0;
}

static int keep_dir_times(struct reader *r, struct archive_entry *e, const char *path)
{
	r->dirs_bytes += strlen(path) + sizeof(struct timespec);
	if (r->dirs_bytes > DIRS_BYTES)
		return bad(r, path, "is one directory too many");
	return fvm_strv_addf(&r->dirs, "%lld %ld %s", (long long)archive_entry_mtime(e),
			     archive_entry_mtime_nsec(e), path);
}

static int make_entry(struct reader *r, struct archive_entry *e, const char *path, int dir,
		      const char *name)
{
	int x = take_room(r, ENTRY_COST);
	if (x < 0)
		return x;
	if (strncmp(name, ".wh.", 4) == 0 && !is_named(e))
		return make_mark(r, dir, name, path);
	if (archive_entry_filetype(e) == AE_IFDIR) {
		x = make_dir(r, dir, name, e, path);
		return x < 0 ? x : keep_dir_times(r, e, path);
	}
	if (archive_entry_hardlink(e))
		return make_link(r, dir, name, e, path);
	if (archive_entry_filetype(e) == AE_IFREG)
		x = make_file(r, dir, name, e, path);
	else
		x = make_special(r, dir, name, e, path);
	if (x == 0)
		set_times(dir, name, e);
	return x;
}

static int read_entry(struct reader *r, struct archive_entry *e)
{
	char path[PATH_BYTES], at[PATH_BYTES];
	const char *name;
	int f = FVM_FAULT("import.entry");
	if (f < 0)
		return fvm_error_set(r->err, -f, "make an entry of the layer");
	int x = clean(r, archive_entry_pathname(e), path, sizeof(path));
	if (x < 0 || !*path)
		return x; /* the root itself keeps the host's attributes */
	if (place(r, path, at, sizeof(at)) < 0)
		return bad(r, path, "has too long a name");
	scoped_fd dir = open_parent(r, at, &name);
	if (dir == -ENOSPC)
		return r->err->code ? dir : fvm_error_set(r->err, ENOSPC, "make '%.200s'", path);
	if (dir < 0)
		return bad(r, path, "lies below something that is no directory");
	if (strcmp(name, "upper") == 0 && !strchr(at, '/'))
		return 0; /* a mount's own top */
	return make_entry(r, e, path, dir, name);
}

/* Deepest last in the tar, so backwards. */
static void set_dir_times(const struct reader *r)
{
	for (size_t i = r->dirs.count; i-- > 0;) {
		long long s;
		long ns;
		int end = 0;
		char at[PATH_BYTES];
		/* not "%ld %n": that would eat blanks that the name begins with */
		if (sscanf(r->dirs.items[i], "%lld %ld%n", &s, &ns, &end) < 2 ||
		    place(r, r->dirs.items[i] + end + 1, at, sizeof(at)) < 0)
			continue;
		scoped_fd dir = fvm_open_deep(r->fs, at, O_RDONLY | O_DIRECTORY);
		struct timespec times[2] = { { .tv_nsec = UTIME_NOW }, { s, ns } };
		if (dir >= 0)
			(void)futimens(dir, times);
	}
}

static int read_entries(struct reader *r)
{
	struct archive_entry *e;
	for (;;) {
		int a = archive_read_next_header(r->tar, &e);
		if (a == ARCHIVE_EOF)
			return 0;
		if (a < ARCHIVE_WARN)
			return fvm_error_set(r->err, EBADMSG, "read the layer: %.200s",
					     archive_error_string(r->tar));
		int x = read_entry(r, e);
		if (x < 0)
			return x;
	}
}

/* What image-spec and older tools use. Not "all": for some libarchive starts programs, and it would
 * unpack what was packed 25 times over. */
static int open_tar(struct reader *r, int blob)
{
	archive_read_support_format_tar(r->tar);
	archive_read_support_filter_gzip(r->tar);
	archive_read_support_filter_zstd(r->tar);
	archive_read_support_filter_bzip2(r->tar);
	archive_read_support_filter_xz(r->tar);
	archive_read_set_options(r->tar, "hdrcharset=BINARY");
	if (archive_read_open_fd(r->tar, blob, BLOCK) != ARCHIVE_OK)
		return fvm_error_set(r->err, EBADMSG, "read the layer: %.200s",
				     archive_error_string(r->tar));
	if (archive_filter_count(r->tar) > 2)
		return fvm_error_set(r->err, EBADMSG, "read the layer: it is compressed twice");
	return 0;
}

/* Of whom the files are; see owners.h. */
static int write_owners(const struct reader *r)
{
	scoped_buf text = { 0 };
	if (!r->ids || (!r->ids->count && !r->owners.len))
		return 0;
	fvm_buf_puts(&text, FVM_OWNERS_HEAD);
	if (r->ids->count)
		fvm_user_ids_maps(r->ids, &text);
	fvm_buf_add(&text, r->owners.data, r->owners.len);
	int x = text.failed
			? -ENOMEM
			: fvm_write_file_atomic(r->fs, FVM_OWNERS_FILE, text.data, text.len, false);
	return x < 0 ? fvm_error_set(r->err, -x, "write the record of owners") : 0;
}

int image_layer_read(int blob, int fs, const struct fvm_strv *keys, const struct fvm_user_ids *ids,
		     fvm_progress_fn progress, void *arg, struct fvm_error *err)
{
	struct reader r = { .fs = fs,
			    .keys = keys,
			    .user_xattr = ids != NULL,
			    .ids = ids,
			    .look = LOOK_FIRST,
			    .progress = progress,
			    .progress_arg = arg,
			    .err = err };
	r.tar = archive_read_new();
	int x = r.tar ? open_tar(&r, blob) : fvm_error_set(err, ENOMEM, "read a layer");
	if (x == 0)
		x = read_entries(&r);
	if (x == 0)
		set_dir_times(&r);
	if (x == 0)
		x = write_owners(&r);
	archive_read_free(r.tar);
	fvm_strv_free(&r.dirs);
	fvm_buf_free(&r.owners);
	return x;
}
