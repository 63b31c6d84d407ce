/*
 * The scan against the kernel: random work is done in a real overlay, in several generations that
 * are frozen under each other; then the scan of the layers must say exactly what a plain comparison
 * of the mounted view with the base says. FVM_TEST_SEEDS sets how many trees are tried.
 */
#include <dirent.h>
#include <sched.h>
#include <sys/mount.h>

#include "tests/fvm/listing.h"

#define NAMES 6

static unsigned int seed;

static unsigned int rnd(unsigned int below)
{
	seed = seed * 1103515245 + 12345;
	return (seed >> 8) % below;
}

/* ---- random work ---- */

static void random_path(char *ret)
{
	int depth = 1 + (int)rnd(4);
	*ret = '\0';
	for (int i = 0; i < depth; i++)
		sprintf(ret + strlen(ret), "%s%c", i ? "/" : "", 'a' + (char)rnd(NAMES));
}

static void remove_any(int top, const char *path)
{
	(void)fvm_remove_tree(top, path);
}

static void write_some(int top, const char *path)
{
	static const char *const texts[] = { "", "one", "two", "longer text" };
	const char *text = texts[rnd(4)];
	int fd = openat(top, path,
			O_WRONLY | O_CREAT | (rnd(2) ? O_TRUNC : 0) | O_NOFOLLOW | O_NONBLOCK |
				O_CLOEXEC,
			0644);
	if (fd >= 0) {
		(void)!write(fd, text, strlen(text));
		close(fd);
	}
}

static void xattr_some(int top, const char *path)
{
	scoped_fd fd = openat(top, path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
	if (fd < 0)
		return;
	if (rnd(3))
		fsetxattr(fd, "user.mine", rnd(2) ? "1" : "2", 1, 0);
	else
		fremovexattr(fd, "user.mine");
}

static void one_step(int top)
{
	char a[64], b[64];
	random_path(a);
	random_path(b);
	switch (rnd(12)) {
	case 0:
		(void)mkdirat(top, a, 0755);
		break;
	case 1:
		remove_any(top, a);
		break;
	case 2:
		remove_any(top, a);
		(void)mkdirat(top, a, 0755);
		break;
	case 3:
		(void)renameat(top, a, top, b);
		break;
	case 4:
		(void)linkat(top, a, top, b, 0);
		break;
	case 5:
		(void)symlinkat(rnd(2) ? "a" : "b", top, a);
		break;
	case 6:
		(void)fchmodat(top, a, rnd(2) ? 0755 : 0700, 0);
		break;
	case 7:
		(void)fchownat(top, a, rnd(2), 0, AT_SYMLINK_NOFOLLOW);
		break;
	case 8:
		xattr_some(top, a);
		break;
	case 9:
		(void)mkfifoat(top, a, 0600);
		break;
	default:
		write_some(top, a);
	}
}

static void grow(int top, unsigned int steps)
{
	for (unsigned int i = 0; i < steps; i++)
		one_step(top);
}

/* ---- the plain comparison ---- */

struct pair {
	char now[4096], was[4096], path[4096];
	struct fvm_buf *out;
};

static void deeper(const struct pair *from, const char *name, struct pair *to)
{
	to->out = from->out;
	snprintf(to->now, sizeof(to->now), "%.2000s/%.255s", from->now, name);
	snprintf(to->was, sizeof(to->was), "%.2000s/%.255s", from->was, name);
	snprintf(to->path, sizeof(to->path), "%.2000s/%.255s", from->path, name);
}

static void say(const struct pair *p, char letter, unsigned int meta)
{
	fvm_buf_printf(p->out, "%c %s", letter, p->path);
	add_meta(p->out, meta);
	fvm_buf_puts(p->out, "\n");
}

static bool same_bytes(const struct pair *p, const struct stat *a, const struct stat *b)
{
	char x[256], y[256];
	if (a->st_size != b->st_size)
		return false;
	if (S_ISLNK(a->st_mode)) {
		ssize_t n = readlink(p->now, x, sizeof(x)), m = readlink(p->was, y, sizeof(y));
		return n == m && memcmp(x, y, (size_t)n) == 0;
	}
	if (!S_ISREG(a->st_mode))
		return true;
	scoped_fd fx = open(p->now, O_RDONLY | O_CLOEXEC), fy = open(p->was, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fx, x, sizeof(x)), m = read(fy, y, sizeof(y));
	return n == m && memcmp(x, y, (size_t)n) == 0;
}

static unsigned int meta_of(const struct pair *p, const struct stat *a, const struct stat *b)
{
	char x = 0, y = 0;
	unsigned int meta = 0;
	if (!S_ISLNK(a->st_mode) && (a->st_mode & 07777) != (b->st_mode & 07777))
		meta |= FVM_META_MODE;
	if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		meta |= FVM_META_OWNER;
	lgetxattr(p->now, "user.mine", &x, 1);
	lgetxattr(p->was, "user.mine", &y, 1);
	return meta | (x != y ? FVM_META_XATTR : 0);
}

static void compare_tree(const struct pair *p);

static void compare_one(const struct pair *p)
{
	struct stat a, b;
	bool is = lstat(p->now, &a) == 0, was = lstat(p->was, &b) == 0;
	if (was && (!is || S_ISDIR(a.st_mode) != S_ISDIR(b.st_mode))) {
		say(p, 'D', 0);
		was = false;
	}
	if (!is)
		return;
	if (!was) {
		say(p, 'A', 0);
	} else if ((a.st_mode & S_IFMT) != (b.st_mode & S_IFMT)) {
		say(p, 'T', 0);
	} else {
		unsigned int meta = meta_of(p, &a, &b);
		if (!S_ISDIR(a.st_mode) && !same_bytes(p, &a, &b))
			say(p, 'M', meta);
		else if (meta)
			say(p, 'm', meta);
	}
	if (S_ISDIR(a.st_mode))
		compare_tree(p);
}

/* All names are single letters. */
static void compare_tree(const struct pair *p)
{
	for (int i = 0; i < NAMES; i++) {
		const char name[2] = { (char)('a' + i), '\0' };
		struct pair in;
		deeper(p, name, &in);
		struct stat st;
		/* below a directory that is new, the base's may still lie under the same path */
		if (lstat(p->was, &st) < 0 || !S_ISDIR(st.st_mode))
			strcpy(in.was, "/nonexistent");
		compare_one(&in);
	}
}

/* ---- overlays ---- */

static void mount_view(const struct box *box, int layers, bool user_xattr, bool writable)
{
	scoped_buf o = { 0 };
	scoped_buf at = { 0 };
	fvm_buf_printf(&at, "%s/view", box->path);
	/* userxattr implies the first two, and refuses to be told */
	fvm_buf_puts(&o, user_xattr ? "userxattr" : "redirect_dir=off,metacopy=off");
	fvm_buf_puts(&o, ",index=off,lowerdir=");
	int top = writable ? layers - 1 : layers;
	for (int i = top; i-- > 0;)
		fvm_buf_printf(&o, "%s/l%d:", box->path, i);
	fvm_buf_printf(&o, "%s/base", box->path);
	if (writable)
		fvm_buf_printf(&o, ",upperdir=%s/l%d,workdir=%s/work", box->path, top, box->path);
	if (mount("overlay", at.data, "overlay", 0, o.data) < 0)
		fail_msg("mount an overlay: %s", strerror(errno));
}

static void unmount_view(const struct box *box)
{
	char at[80];
	snprintf(at, sizeof(at), "%s/view", box->path);
	assert_int_equal(umount2(at, 0), 0);
	(void)fvm_remove_tree(box->dir, "work");
	box_mkdir(box, "work");
}

static void work_in_layers(const struct box *box, int layers, bool user_xattr)
{
	for (int i = 0; i < layers; i++) {
		char name[16];
		snprintf(name, sizeof(name), "l%d", i);
		box_mkdir(box, name);
		mount_view(box, i + 1, user_xattr, true);
		scoped_fd view = box_dir(box, "view");
		grow(view, 10 + rnd(40));
		close(fvm_fd_take(&view));
		unmount_view(box);
	}
}

static char *plain_listing(const struct box *box)
{
	scoped_buf out = { 0 };
	struct pair p = { .out = &out };
	snprintf(p.now, sizeof(p.now), "%s/view", box->path);
	snprintf(p.was, sizeof(p.was), "%s/base", box->path);
	fvm_buf_puts(&out, "");
	compare_tree(&p);
	return fvm_buf_steal(&out);
}

static void scan_and_kernel_agree(const struct box *box, unsigned int start)
{
	seed = start;
	bool user_xattr = rnd(2);
	int layers = 1 + (int)rnd(3);
	box_mkdir(box, "base");
	box_mkdir(box, "view");
	box_mkdir(box, "work");
	scoped_fd base = box_dir(box, "base");
	grow(base, 60);
	work_in_layers(box, layers, user_xattr);

	mount_view(box, layers, user_xattr, false);
	scoped_free char *expected = plain_listing(box);
	unmount_view(box);

	struct fvm_stack s;
	box_stack(box, "/", (size_t)layers, &s);
	s.user_xattr = user_xattr;
	scoped_free char *text = listing(&s, NULL);
	box_stack_close(&s);
	if (strcmp(text, expected) != 0)
		fail_msg("seed %u, %d layers\nscan:\n%s\nkernel:\n%s", start, layers, text,
			 expected);
}

static void random_trees_are_told_as_the_kernel_shows_them(void **state)
{
	(void)state;
	const char *wish = getenv("FVM_TEST_SEEDS");
	unsigned int count = wish ? (unsigned int)atoi(wish) : 300;
	for (unsigned int i = 1; i <= count; i++) {
		void *box = NULL;
		if (box_setup(&box) < 0 || !box) {
			fail();
			return;
		}
		scan_and_kernel_agree(box, i);
		assert_int_equal(box_teardown(&box), 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(random_trees_are_told_as_the_kernel_shows_them),
	};
	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0) {
		print_message("skipped: needs CAP_SYS_ADMIN for a mount namespace\n");
		return 77;
	}
	umask(022);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
