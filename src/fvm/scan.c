/*
 * The scan: the merged view of a stack's layers against its base.
 *
 *   layers (highest first)      base            what is called
 *   ----------------------      ----            --------------
 *   whiteout, ...               anything        FVM_DELETED
 *   directory [, directory..]   directory       FVM_META if it differs; then its entries
 *   directory                   other           FVM_DELETED, FVM_ADDED; then its entries
 *   directory                   none            FVM_ADDED; then its entries, which have no base
 *   other                       directory       FVM_DELETED, FVM_ADDED
 *   other                       other           FVM_TYPE, FVM_CHANGED or FVM_META if it differs
 *   other                       none            FVM_ADDED
 *
 * Names that only the base has are unchanged and never read, except below an opaque directory,
 * where each of them is deleted. A change costs one stat on each side; only files of equal size are
 * opened and read.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fvm/compare.h"
#include "fvm/frames.h"
#include "fvm/hide_record.h"
#include "fvm/owners.h"
#include "fvm/scan.h"
#include "fvm/whiteout.h"

enum want {
	WANT_NONE,
	WANT_THROUGH, /* lies above a wanted path: enter it, tell nothing of it */
	WANT,
};

struct scan {
	const struct fvm_stack *stack;
	const struct fvm_scan_options *options;
	const struct fvm_strv *covered; /* mount points of other stacks; may be NULL */
	fvm_change_fn fn;
	void *arg;
	struct fvm_compare compare;
	struct fvm_frames frames;
	struct fvm_buf path;
	bool told; /* the failure is the call-back's, which has said what it is */
};

/* What the merged view and the base have under one name. */
struct found {
	const char *name;
	bool is, was_there, hidden;
	struct stat now, was;
	size_t level;		      /* of the frame: where now is from */
	const struct fvm_name *group; /* all entries of that name, the highest level first */
	size_t group_count;
	enum want want;
};

/* ---- which paths ---- */

static enum want wanted(const struct scan *s)
{
	const struct fvm_scan_options *o = s->options;
	bool noise = !o->with_noise && fvm_path_is_noise(s->path.data);
	if (!o->paths)
		return noise ? WANT_NONE : WANT;
	enum want want = WANT_NONE;
	for (const char *const *p = o->paths; *p; p++) {
		/* noise that was asked for by name is no noise */
		if (fvm_path_below(s->path.data, *p) && (!noise || fvm_path_is_noise(*p)))
			return WANT;
		if (fvm_path_below(*p, s->path.data))
			want = WANT_THROUGH;
	}
	return want;
}

static void path_cut(struct scan *s, size_t len)
{
	s->path.len = len;
	s->path.data[len] = '\0';
}

static int path_enter(struct scan *s, size_t parent_len, const char *name)
{
	path_cut(s, parent_len);
	if (parent_len > 1)
		fvm_buf_add(&s->path, "/", 1);
	fvm_buf_puts(&s->path, name);
	return s->path.failed ? -ENOMEM : 0;
}

static const char *path_rel(const struct scan *s)
{
	const char *rel = s->path.data + strlen(s->stack->mount_point);
	while (*rel == '/')
		rel++;
	return rel;
}

/* ---- telling ---- */

static int tell(struct scan *s, struct fvm_change *change)
{
	change->path = s->path.data;
	change->key = s->stack->key;
	change->rel = path_rel(s);
	change->noise = fvm_path_is_noise(s->path.data);
	int r = s->fn(change, s->arg);
	s->told = r < 0;
	return r;
}

static int tell_found(struct scan *s, const struct fvm_frame *frame, const struct found *f,
		      enum fvm_change_kind kind, unsigned int meta)
{
	bool gone = kind == FVM_DELETED, added = kind == FVM_ADDED;
	/* not by an opaque directory, nor by what took its place */
	bool whiteout =
		gone && !f->is && f->group_count && f->level != FVM_LEVEL_BASE && frame->levels;
	struct fvm_change change = {
		.kind = kind,
		.meta = meta,
		.layer_dir = gone ? -1 : frame->levels[f->level].fd,
		.base_dir = added ? -1 : frame->base,
		.whiteout_dir = whiteout ? frame->levels[f->level].fd : -1,
		.workspace = whiteout ? s->stack->layers[s->stack->count - 1] : -1,
		.name = f->name,
		.now = gone ? NULL : &f->now,
		.was = added ? NULL : &f->was,
		.layer = gone ? 0 : frame->levels[f->level].layer,
		.hidden = f->hidden,
	};
	return tell(s, &change);
}

/* ---- looking ---- */

static bool is_whiteout(const struct scan *s, const struct fvm_level *level, const char *name,
			const struct stat *st)
{
	if (S_ISCHR(st->st_mode))
		return st->st_rdev == makedev(0, 0);
	return level->xwhiteouts && fvm_xwhiteout_is(level->fd, name, st, s->stack->user_xattr);
}

static int look_now(struct scan *s, const struct fvm_frame *frame, struct found *f)
{
	f->level = f->group[0].level;
	if (f->level == FVM_LEVEL_BASE)
		return 0;
	const struct fvm_level *level = &frame->levels[f->level];
	int r = fvm_stat_at(level->fd, f->name, &f->now);
	if (r < 0)
		return r == -ENOENT ? 0 : r; /* gone meanwhile */
	f->is = !is_whiteout(s, level, f->name, &f->now);
	return 0;
}

static int64_t in_ns(int64_t s, int64_t ns)
{
	return s * 1000000000 + ns;
}

/* Whether what a layer has there was made, or touched last, while the path was hidden. A directory
 * is touched by what comes and goes in it, each of which is looked at by itself. */
static bool made_hidden(const struct scan *s, const struct fvm_level *level, const char *name)
{
	const struct fvm_hide_record *hide = s->stack->hide;
	const unsigned int times = STATX_BTIME | STATX_CTIME;
	struct statx sx;
	if (statx(level->fd, name, AT_SYMLINK_NOFOLLOW, times | STATX_TYPE, &sx) < 0 ||
	    (sx.stx_mask & times) != times)
		return true;
	int64_t born = in_ns(sx.stx_btime.tv_sec, sx.stx_btime.tv_nsec);
	int64_t touched =
		S_ISDIR(sx.stx_mode) ? born : in_ns(sx.stx_ctime.tv_sec, sx.stx_ctime.tv_nsec);
	return fvm_hide_record_at(hide, s->path.data, born) ||
	       fvm_hide_record_at(hide, s->path.data, touched);
}

/*
 * Whether the VM could see what the base has there. It leaves a whiteout only of what it could see;
 * but one over a frozen layer's file is of that, and all whiteouts are one inode, with one time.
 */
static bool was_hidden(const struct scan *s, const struct fvm_frame *frame, const struct found *f)
{
	const struct fvm_hide_record *hide = s->stack->hide;
	size_t said = 0;
	if (!hide || !fvm_hide_record_ever(hide, s->path.data))
		return false;
	if (fvm_hide_record_always(hide, s->path.data))
		return true;
	for (size_t i = 0; i < f->group_count; i++) {
		if (f->group[i].level == FVM_LEVEL_BASE)
			continue;
		said++;
		if (f->is && made_hidden(s, &frame->levels[f->group[i].level], f->name))
			return true;
	}
	return !f->is && said != 1;
}

static int look_was(const struct scan *s, const struct fvm_frame *frame, struct found *f)
{
	f->hidden = was_hidden(s, frame, f);
	if (frame->base < 0 || f->hidden)
		return 0;
	int r = fvm_stat_at(frame->base, f->name, &f->was);
	f->was_there = r == 0;
	/* what we may not look into, the VM could not either: nothing was there for it */
	return r == -ENOENT || r == -EACCES ? 0 : r;
}

static int look(struct scan *s, const struct fvm_frame *frame, struct found *f)
{
	int r = look_now(s, frame, f);
	if (r == 0)
		r = look_was(s, frame, f);
	if (r < 0 || !f->is || !s->stack->owners)
		return r;
	const struct fvm_level *level = &frame->levels[f->level];
	fvm_owners_apply(s->stack->owners[level->layer], level->fd, f->name, s->stack->key,
			 path_rel(s), f->was_there ? &f->was : NULL, &frame->now, &f->now);
	return 0;
}

/* ---- comparing ---- */

static bool same_time(const struct timespec *a, const struct timespec *b)
{
	return a->tv_sec == b->tv_sec && a->tv_nsec == b->tv_nsec;
}

/* Return: 1 equal, 0 not, -EACCES or -EPERM when a side can't be read, or another -errno */
static int same_content(struct scan *s, const struct fvm_entry *now, const struct fvm_entry *was)
{
	const struct stat *a = now->st, *b = was->st;
	if (S_ISLNK(a->st_mode))
		return fvm_compare_links(&s->compare, now, was);
	if (S_ISCHR(a->st_mode) || S_ISBLK(a->st_mode))
		return a->st_rdev == b->st_rdev;
	if (!S_ISREG(a->st_mode))
		return 1;
	if (a->st_size != b->st_size)
		return 0;
	if (s->options->skip_content)
		return same_time(&a->st_mtim, &b->st_mtim);
	return fvm_compare_files(&s->compare, now, was);
}

/* Return: bits of enum fvm_meta, or -errno */
static int meta_differs(struct scan *s, const struct fvm_entry *now, const struct fvm_entry *was)
{
	const struct stat *a = now->st, *b = was->st;
	int bits = fvm_compare_xattrs(&s->compare, now, was, s->stack->owners != NULL);
	if (bits < 0)
		return bits;
	if (!S_ISLNK(a->st_mode) && (a->st_mode & 07777) != (b->st_mode & 07777))
		bits |= FVM_META_MODE;
	if (a->st_uid != b->st_uid || a->st_gid != b->st_gid)
		bits |= FVM_META_OWNER;
	if (!same_time(&a->st_mtim, &b->st_mtim))
		bits |= FVM_META_TIMES;
	return bits;
}

static int compare_others(struct scan *s, const struct fvm_frame *frame, const struct found *f)
{
	const struct fvm_entry now = { frame->levels[f->level].fd, f->name, &f->now };
	const struct fvm_entry was = { frame->base, f->name, &f->was };
	if ((f->now.st_mode & S_IFMT) != (f->was.st_mode & S_IFMT))
		return tell_found(s, frame, f, FVM_TYPE, 0);
	int meta = meta_differs(s, &now, &was);
	if (meta < 0)
		return meta;
	int same = same_content(s, &now, &was);
	if (same < 0 && same != -EACCES && same != -EPERM)
		return same;
	bool unreadable = same < 0 || (s->stack->owners && S_ISREG(f->was.st_mode) &&
				       faccessat(was.dir, was.name, R_OK, 0) < 0);
	if (same == 1 && (meta & ~FVM_META_TIMES) == 0)
		return 0;
	struct fvm_change change = {
		.kind = same == 1 ? FVM_META : FVM_CHANGED,
		.meta = (unsigned int)meta,
		.layer_dir = now.dir,
		.base_dir = was.dir,
		.whiteout_dir = -1,
		.workspace = -1,
		.name = f->name,
		.now = &f->now,
		.was = &f->was,
		.layer = frame->levels[f->level].layer,
		.unreadable = unreadable,
	};
	return tell(s, &change);
}

static int compare_dirs(struct scan *s, const struct fvm_entry *now, const struct fvm_entry *was,
			const struct fvm_frame *frame)
{
	int meta = meta_differs(s, now, was);
	if (meta < 0)
		return meta;
	meta &= ~FVM_META_TIMES;
	if (meta == 0 && !s->options->meta_only_dirs)
		return 0;
	struct fvm_change change = {
		.kind = FVM_META,
		.meta = (unsigned int)meta,
		.layer_dir = now->dir,
		.base_dir = was->dir,
		.whiteout_dir = -1,
		.workspace = -1,
		.name = now->name,
		.now = now->st,
		.was = was->st,
		.layer = frame->levels[0].layer,
		.opaque = frame->hidden,
	};
	return tell(s, &change);
}

/* ---- entering ---- */

static void frame_drop(struct fvm_frame *frame)
{
	for (size_t i = 0; i < frame->level_count; i++)
		fvm_fd_closep(&frame->levels[i].fd);
	fvm_fd_closep(&frame->base);
	free(frame->levels);
}

/* Takes over @fd. */
static int level_add(const struct scan *s, struct fvm_frame *frame, int fd, size_t layer)
{
	struct fvm_level *levels =
		realloc(frame->levels, (frame->level_count + 1) * sizeof(*levels));
	if (!levels) {
		close(fd);
		return -ENOMEM;
	}
	enum fvm_opaque opaque = fvm_opaque_get(fd, s->stack->user_xattr);
	frame->levels = levels;
	levels[frame->level_count++] = (struct fvm_level){
		.fd = fd,
		.layer = layer,
		.xwhiteouts = opaque == FVM_XWHITEOUTS,
	};
	if (opaque == FVM_OPAQUE)
		frame->hidden = true;
	return 0;
}

/* Opens the directory in each layer of the group, down to what hides the rest. */
static int levels_open(struct scan *s, const struct fvm_frame *parent, const struct found *f,
		       struct fvm_frame *frame)
{
	bool stop = false;
	for (size_t i = 0; i < f->group_count && !stop; i++) {
		if (f->group[i].level == FVM_LEVEL_BASE)
			break;
		const struct fvm_level *in = &parent->levels[f->group[i].level];
		struct stat st;
		int r = i == 0 ? 0 : fvm_stat_at(in->fd, f->name, &st);
		if (r < 0)
			return r;
		if (i > 0 && (!S_ISDIR(st.st_mode) || is_whiteout(s, in, f->name, &st))) {
			frame->hidden = true;
			break;
		}
		int fd = fvm_open_dir(in->fd, f->name, false);
		if (fd == -EACCES && s->stack->user_xattr && !s->options->must_see) {
			/* of a subordinate id that the user has no more (subids.h) */
			log_warn("%s: belongs to another id of the VM; what is in it can't be seen "
				 "from outside",
				 s->path.data);
			frame->hidden = true;
			break;
		}
		if (fd < 0)
			return fd;
		bool was_hidden = frame->hidden;
		frame->hidden = false;
		r = level_add(s, frame, fd, in->layer);
		if (r < 0)
			return r;
		stop = frame->hidden;
		frame->hidden |= was_hidden;
	}
	return 0;
}

/* The frame for a directory of the merged view; @with_base: the base has it as a directory too. */
static int frame_open(struct scan *s, const struct fvm_frame *parent, const struct found *f,
		      bool with_base, struct fvm_frame *ret)
{
	*ret = (struct fvm_frame){
		.path_len = s->path.len,
		.base = -1,
		.hidden = parent->hidden,
		.now = f->now,
	};
	int r = f->is ? levels_open(s, parent, f, ret) : 0;
	if (r < 0 || !with_base)
		return r;
	ret->base = fvm_open_dir(parent->base, f->name, true);
	if (ret->base >= 0)
		return 0;
	r = ret->base;
	/* a mount of the host lies there, or we may not look: the VM saw nothing of it */
	return r == -EXDEV || r == -EACCES || r == -ENOENT ? 0 : r;
}

/* ---- one name ---- */

/* @f is no directory now but was one: tell of the wanted paths that lay below. */
static int deleted_above(struct scan *s, const struct fvm_frame *frame, const struct found *f)
{
	size_t here = s->path.len, parent_len = frame->path_len;
	for (const char *const *p = s->options->paths; *p; p++) {
		path_cut(s, here);
		if (!fvm_path_below(*p, s->path.data) || strlen(*p) == here)
			continue;
		scoped_buf rel = { 0 };
		fvm_buf_puts(&rel, *p + parent_len + (parent_len > 1));
		if (rel.failed)
			return -ENOMEM;
		char *slash = strrchr(rel.data, '/');
		*slash = '\0';
		scoped_fd dir = fvm_open_nofollow(frame->base, rel.data, O_PATH | O_DIRECTORY);
		struct found lost = { .name = slash + 1 };
		if (dir < 0 || fvm_stat_at(dir, lost.name, &lost.was) < 0)
			continue;
		struct fvm_frame in = { .base = dir };
		path_cut(s, 0);
		fvm_buf_puts(&s->path, *p);
		int r = s->path.failed ? -ENOMEM : tell_found(s, &in, &lost, FVM_DELETED, 0);
		if (r < 0)
			return r;
	}
	path_cut(s, here);
	(void)f;
	return 0;
}

static int visit_deleted(struct scan *s, const struct fvm_frame *frame, const struct found *f)
{
	if (f->want == WANT_THROUGH)
		return S_ISDIR(f->was.st_mode) ? deleted_above(s, frame, f) : 0;
	int r = tell_found(s, frame, f, FVM_DELETED, 0);
	if (r != 0 || !s->options->whole_trees || !S_ISDIR(f->was.st_mode))
		return r < 0 ? r : 0;
	struct fvm_frame below_it;
	struct found lost = *f;
	lost.is = false;
	r = frame_open(s, frame, &lost, true, &below_it);
	if (r < 0) {
		frame_drop(&below_it);
		return r;
	}
	below_it.hidden = true;
	return fvm_frames_push(&s->frames, &below_it);
}

static int visit_dir(struct scan *s, const struct fvm_frame *frame, const struct found *f)
{
	bool both = f->was_there && S_ISDIR(f->was.st_mode);
	int r = 0;
	if (f->was_there && !both && f->want == WANT)
		r = tell_found(s, frame, f, FVM_DELETED, 0);
	struct fvm_frame inside = { .base = -1 };
	if (r >= 0)
		r = frame_open(s, frame, f, both, &inside);
	if (r >= 0 && f->want == WANT) {
		const struct fvm_entry now = { frame->levels[f->level].fd, f->name, &f->now };
		const struct fvm_entry was = { frame->base, f->name, &f->was };
		r = both ? compare_dirs(s, &now, &was, &inside)
			 : tell_found(s, frame, f, FVM_ADDED, 0);
	}
	if (r != 0) {
		frame_drop(&inside);
		return r < 0 ? r : 0;
	}
	return fvm_frames_push(&s->frames, &inside);
}

static int visit_other(struct scan *s, const struct fvm_frame *frame, const struct found *f)
{
	bool was_dir = f->was_there && S_ISDIR(f->was.st_mode);
	int r = 0;
	if (was_dir)
		r = visit_deleted(s, frame, f);
	if (r < 0 || f->want == WANT_THROUGH)
		return r;
	if (f->was_there && !was_dir)
		r = compare_others(s, frame, f);
	else
		r = tell_found(s, frame, f, FVM_ADDED, 0);
	return r < 0 ? r : 0;
}

static int visit(struct scan *s, const struct fvm_frame *frame, struct found *f)
{
	int r = look(s, frame, f);
	if (r < 0 || (!f->is && !f->was_there))
		return r;
	if (!f->is)
		return visit_deleted(s, frame, f);
	return S_ISDIR(f->now.st_mode) ? visit_dir(s, frame, f) : visit_other(s, frame, f);
}

/* The next group of equal names of the top frame. */
static int visit_next(struct scan *s, struct fvm_frame *frame)
{
	const struct fvm_name *first = &frame->names[frame->next];
	struct found f = { .name = first->text, .group = first, .group_count = 1 };
	while (frame->next + f.group_count < frame->name_count &&
	       strcmp(first[f.group_count].text, f.name) == 0)
		f.group_count++;
	frame->next += f.group_count;
	int r = path_enter(s, frame->path_len, f.name);
	if (r < 0)
		return r;
	f.want = wanted(s);
	if (f.want == WANT_NONE || (s->covered && fvm_strv_has(s->covered, s->path.data)))
		return 0;
	return visit(s, frame, &f);
}

static int walk(struct scan *s)
{
	while (s->frames.count > 0) {
		struct fvm_frame *frame;
		path_cut(s, s->frames.items[s->frames.count - 1].path_len);
		int r = fvm_frames_top(&s->frames, s->path.data, &frame);
		if (r < 0)
			return r;
		if (frame->next >= frame->name_count) {
			fvm_frames_pop(&s->frames);
			continue;
		}
		r = visit_next(s, frame);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- one stack ---- */

static int open_again(int dir, bool path_only)
{
	return fvm_open_dir(dir, ".", path_only);
}

static int root_open(struct scan *s, struct fvm_frame *root)
{
	const struct fvm_stack *stack = s->stack;
	*root = (struct fvm_frame){ .path_len = s->path.len, .base = -1 };
	if (stack->base >= 0) {
		root->base = open_again(stack->base, true);
		if (root->base < 0)
			return root->base;
	}
	for (size_t i = stack->count; i-- > 0 && !root->hidden;) {
		if (stack->layers[i] < 0)
			continue;
		int fd = open_again(stack->layers[i], false);
		int r = fd < 0 ? fd : level_add(s, root, fd, i);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The mount's root directory itself. Return: 1 when nothing below it is wanted */
static int root_compare(struct scan *s, struct fvm_frame *root)
{
	struct stat was;
	if (fvm_stat_at(root->levels[0].fd, ".", &root->now) < 0)
		return -errno;
	bool had = root->base >= 0 && fvm_stat_at(root->base, ".", &was) == 0;
	if (s->stack->owners)
		fvm_owners_apply(s->stack->owners[root->levels[0].layer], root->levels[0].fd, ".",
				 s->stack->key, "", had ? &was : NULL, NULL, &root->now);
	enum want want = wanted(s);
	if (want == WANT_NONE)
		return 1;
	if (want != WANT || !had)
		return 0;
	const struct fvm_entry a = { root->levels[0].fd, ".", &root->now };
	const struct fvm_entry b = { root->base, ".", &was };
	return compare_dirs(s, &a, &b, root);
}

static int scan_stack(struct scan *s)
{
	struct fvm_frame root;
	fvm_buf_puts(&s->path, s->stack->mount_point);
	if (s->path.failed)
		return -ENOMEM;
	int r = root_open(s, &root);
	if (r == 0 && root.level_count == 0)
		r = 1;
	if (r == 0)
		r = root_compare(s, &root);
	if (r != 0) {
		frame_drop(&root);
		return r < 0 ? r : 0;
	}
	r = fvm_frames_push(&s->frames, &root);
	return r < 0 ? r : walk(s);
}

static size_t window_of(const struct fvm_stack *stack)
{
	size_t window = 256 / (stack->count + 1);
	return window < 8 ? 8 : window;
}

static int scan_end(struct scan *s, int r, struct fvm_error *err)
{
	char text[200];
	if (r < 0 && !s->told) {
		fvm_error_set(err, -r, "look at %s", fvm_quote_error(s->path.data ?: "?", text));
		if (r == -ESTALE || r == -ENOENT)
			fvm_error_hint(err,
				       "stop or pause the VM, so that its files stay as they are");
	}
	fvm_frames_free(&s->frames);
	fvm_compare_free(&s->compare);
	fvm_buf_free(&s->path);
	return r;
}

int fvm_stack_scan_uncovered(const struct fvm_stack *stack, const struct fvm_strv *covered,
			     const struct fvm_scan_options *options, fvm_change_fn fn, void *arg,
			     struct fvm_error *err)
{
	static const struct fvm_scan_options none;
	struct scan s = {
		.stack = stack,
		.covered = covered,
		.options = options ? options : &none,
		.fn = fn,
		.arg = arg,
		.frames.window = window_of(stack),
	};
	return scan_end(&s, scan_stack(&s), err);
}

int fvm_stack_scan(const struct fvm_stack *stack, const struct fvm_scan_options *options,
		   fvm_change_fn fn, void *arg, struct fvm_error *err)
{
	return fvm_stack_scan_uncovered(stack, NULL, options, fn, arg, err);
}

int fvm_change_deleted(const struct fvm_change *change, fvm_change_fn fn, void *arg)
{
	static const struct fvm_scan_options all = { .with_noise = true, .whole_trees = true };
	if (change->kind != FVM_DELETED || !S_ISDIR(change->was->st_mode))
		return 0;
	struct fvm_stack stack = { .base = -1 };
	struct scan s = {
		.stack = &stack,
		.options = &all,
		.fn = fn,
		.arg = arg,
		.frames.window = window_of(&stack),
	};
	size_t len = strlen(change->path) - strlen(change->rel);
	if (len >= sizeof(stack.mount_point))
		return -ENAMETOOLONG;
	memcpy(stack.mount_point, change->path, len);
	while (len > 1 && stack.mount_point[len - 1] == '/')
		stack.mount_point[--len] = '\0';
	snprintf(stack.key, sizeof(stack.key), "%s", change->key);
	fvm_buf_puts(&s.path, change->path);
	if (s.path.failed)
		return -ENOMEM;
	struct fvm_frame below_it = {
		.path_len = s.path.len,
		.base = fvm_open_dir(change->base_dir, change->name, true),
		.hidden = true,
	};
	int r = below_it.base < 0 ? below_it.base : fvm_frames_push(&s.frames, &below_it);
	return scan_end(&s, r < 0 ? r : walk(&s), NULL);
}
