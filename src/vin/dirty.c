#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "vin/dirty.h"
#include "vin/rcall.h"

/* of newer headers than Debian 12's */
#define USER_MODE_ONLY 1
#define WP_ASYNC       (1ULL << 15)

#define PAGE	       4096ULL
#define CLEAR	       "4"

struct vin_dirty_kind {
	unsigned passes;
	int (*begin)(struct vin_dirty *d, struct vin_thread *t);
	int (*pass)(struct vin_dirty *d, uint64_t start, uint64_t end, struct vin_runs *ret);
	int (*split)(int pagemap, uint64_t start, uint64_t end, struct vin_runs *ret_same,
		     struct vin_runs *ret_written);
};

/* ---- async ---- */

static int make_uffd(struct vin_thread *t, int *ret)
{
	const struct vin_call make = { SYS_userfaultfd, { O_CLOEXEC | USER_MODE_ONLY } };
	struct vin_post post;
	int r = vin_post_open(&post, t, NULL);
	if (r < 0)
		return r;
	r = vin_pull(&post, t, "userfaultfd", &make, ret, NULL);
	int closed = vin_post_close(&post, t, NULL);
	return r < 0 ? r : closed;
}

/* Whether the kernel scans, and knows of this, is told where nothing is. */
static int begin_async(struct vin_dirty *d, struct vin_thread *t)
{
	struct uffdio_api api = { .api = UFFD_API, .features = WP_ASYNC };
	scoped_runs none = { 0 };
	int r = vin_pages_protect(d->pagemap, 0, PAGE, false, &none);
	if (r == 0)
		r = make_uffd(t, &d->uffd);
	return r == 0 && ioctl(d->uffd, UFFDIO_API, &api) < 0 ? -errno : r;
}

/* What was found before it was seen to be another area's is protected, and told too. */
static int find_async(const struct vin_dirty *d, uint64_t start, uint64_t end, struct vin_runs *ret)
{
	struct uffdio_register area = { .range = { start, end - start },
					.mode = UFFDIO_REGISTER_MODE_WP };
	scoped_runs some = { 0 }, all = { 0 };
	int r = vin_pages_protect(d->pagemap, start, end, false, &some);
	if (r == -EPERM) {
		r = ioctl(d->uffd, UFFDIO_REGISTER, &area) < 0 ? -errno : 0;
		if (r == 0)
			r = vin_pages_protect(d->pagemap, start, end, true, &all);
	}
	int both = vin_runs_either(&some, &all, ret);
	return both < 0 ? both : r;
}

static int pass_async(struct vin_dirty *d, uint64_t start, uint64_t end, struct vin_runs *ret)
{
	scoped_runs found = { 0 };
	int r = find_async(d, start, end, &found), added = 0;
	for (size_t i = 0; added == 0 && i < found.count; i++)
		added = vin_runs_add(ret, found.runs[i].start, found.runs[i].end);
	return added < 0 ? added : r;
}

/* ---- soft ---- */

static int clear(pid_t pid)
{
	char path[40];
	snprintf(path, sizeof(path), "/proc/%d/clear_refs", pid);
	scoped_fd fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 || write(fd, CLEAR, 1) != 1 ? -errno : 0;
}

/* A kernel without it has the file all the same: it is tried on a page of ours. */
static int try_soft(void)
{
	scoped_runs same = { 0 }, written = { 0 };
	scoped_fd pagemap = vin_pages_open(getpid());
	char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (page == MAP_FAILED || pagemap < 0)
		return -errno;
	const uint64_t at = (uint64_t)page;
	*(volatile char *)page = 1;
	int r = clear(getpid());
	if (r == 0)
		r = vin_pages_split_softly(pagemap, at, at + PAGE, &same, &written);
	*(volatile char *)page = 2;
	if (r == 0)
		r = vin_pages_split_softly(pagemap, at, at + PAGE, &same, &written);
	munmap(page, PAGE);
	return r < 0 ? r : same.count == 1 && written.count == 1 ? 0 : -EOPNOTSUPP;
}

static int begin_soft(struct vin_dirty *d, struct vin_thread *t)
{
	int r = try_soft();
	(void)d;
	return r < 0 ? r : clear(t->tid);
}

static int pass_soft(struct vin_dirty *d, uint64_t start, uint64_t end, struct vin_runs *ret)
{
	return vin_pages_find(d->pagemap, start, end, VIN_PAGES_OWN, false, ret);
}

/* ---- both ---- */

static const struct vin_dirty_kind kinds[VIN_DIRTY_WAYS] = {
	[VIN_DIRTY_ASYNC] = { 8, begin_async, pass_async, vin_pages_split },
	[VIN_DIRTY_SOFT] = { 1, begin_soft, pass_soft, vin_pages_split_softly },
};

int vin_dirty_begin(struct vin_thread *t, unsigned ways, struct vin_dirty *ret)
{
	struct vin_dirty d = { .uffd = -1, .pagemap = vin_pages_open(t->tid) };
	int r = d.pagemap < 0 ? d.pagemap : -EOPNOTSUPP;
	for (size_t i = 0; d.pagemap >= 0 && r < 0 && i < VIN_DIRTY_WAYS; i++) {
		if (ways >> i & 1)
			r = kinds[i].begin(&d, t);
		if (r == 0)
			d.kind = &kinds[i];
	}
	if (r == 0)
		*ret = d;
	else
		vin_dirty_end(&d);
	return r;
}

void vin_dirty_end(struct vin_dirty *d)
{
	fvm_fd_closep(&d->uffd);
	fvm_fd_closep(&d->pagemap);
	d->kind = NULL;
}

unsigned vin_dirty_passes(const struct vin_dirty *d)
{
	return d->kind ? d->kind->passes : 0;
}

int vin_dirty_pass(struct vin_dirty *d, uint64_t start, uint64_t end, struct vin_runs *ret)
{
	return d->kind ? d->kind->pass(d, start, end, ret) : -EPERM;
}

int vin_dirty_split(const struct vin_dirty *d, int pagemap, uint64_t start, uint64_t end,
		    struct vin_runs *ret_same, struct vin_runs *ret_written)
{
	return d->kind ? d->kind->split(pagemap, start, end, ret_same, ret_written) : -EPERM;
}

bool vin_dirty_may(const struct vin_vma *v)
{
	static const char *const plain[] = { "[heap]", "[stack]", "[anon:" };
	bool named = v->name[0] != '\0';
	for (size_t i = 0; i < sizeof(plain) / sizeof(*plain); i++)
		named &= strncmp(v->name, plain[i], strlen(plain[i])) != 0;
	return !v->shared && v->ino == 0 && !named;
}

bool vin_dirty_is(const struct vin_dirty *d, const struct vin_vma *v)
{
	scoped_runs same = { 0 }, written = { 0 };
	return d->kind == &kinds[VIN_DIRTY_ASYNC] && vin_dirty_may(v) &&
	       vin_pages_split(d->pagemap, v->start, v->start + PAGE, &same, &written) == 0;
}
