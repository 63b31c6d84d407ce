/* A commit on disk: its directory, its state and its journal. The picture is in commit.h. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/fault.h"
#include "fvm/commit_priv.h"
#include "fvm/internal.h"

#define JOURNAL_MAX ((size_t)4 << 30)

enum record {
	RECORD_HEADER = 1,
	RECORD_STACK,
	RECORD_AREA,
	RECORD_ENTRY,
	RECORD_STAGED,
	RECORD_PLACED,
};

static const char *const states[] = {
	[COMMIT_VOID] = "void", [COMMIT_APPLYING] = "applying", [COMMIT_DONE] = "done",
	[COMMIT_KEPT] = "kept", [COMMIT_UNDOING] = "undoing",	[COMMIT_UNDONE] = "undone",
};

static void dir_close(struct commit_dir *dir)
{
	fvm_fd_closep(&dir->fd);
	free(dir->path);
	*dir = (struct commit_dir){ .fd = -1 };
}

static void entry_free(struct commit_entry *e)
{
	free(e->rel);
	fvm_buf_free(&e->old_xattrs);
	fvm_buf_free(&e->new_xattrs);
	if (e->merged)
		fvm_buf_free(e->merged);
	free(e->merged);
}

void commit_free(struct commit *c)
{
	for (size_t i = 0; i < c->count; i++)
		entry_free(&c->entries[i]);
	for (size_t i = 0; i < c->area_count; i++) {
		fvm_fd_closep(&c->areas[i].fd);
		free(c->areas[i].rel);
	}
	for (size_t i = 0; i < c->stack_count; i++) {
		fvm_fd_closep(&c->stacks[i].base);
		free(c->stacks[i].mount_point);
	}
	free(c->entries);
	free(c->areas);
	free(c->stacks);
	journal_close(&c->journal);
	dir_close(&c->host_dir);
	dir_close(&c->layer_dir);
	dir_close(&c->staged_dir);
	dir_close(&c->link_dir);
	fvm_fd_closep(&c->dir);
	fvm_fd_closep(&c->all);
	fvm_fd_closep(&c->lock);
	*c = (struct commit)COMMIT_INIT;
}

int commit_open_all(struct commit *c, const struct fvm_store *store, bool wait)
{
	struct stat st;
	c->store = store;
	if (mkdirat(store->dir, "commits", 0700) < 0 && errno != EEXIST)
		return -errno;
	c->all = fvm_open_nofollow(store->dir, "commits", O_RDONLY | O_DIRECTORY);
	if (c->all < 0)
		return c->all;
	c->lock = fvm_create_beneath(c->all, "lock", O_RDWR, 0600);
	if (c->lock < 0)
		return c->lock;
	/* root's commit of a user's VM must not lock that user out afterwards */
	if (geteuid() == 0 && fstat(c->all, &st) == 0 && st.st_uid != 0)
		(void)!fchown(c->lock, st.st_uid, st.st_gid);
	/* the process' own, not the descriptor's: the child that empties the trash must not hold it
	 */
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	if (fcntl(c->lock, wait ? F_SETLKW : F_SETLK, &lock) < 0)
		return errno == EAGAIN || errno == EACCES ? -EBUSY : -errno;
	fvm_remove_leftovers(c->all);
	return 0;
}

int commit_ids(int all, int (*fn)(uint32_t id, void *arg), void *arg)
{
	scoped_dir d = fvm_dir_open(all, ".");
	if (!d)
		return -errno;
	int r = 0;
	for (struct dirent *e; r == 0 && (e = readdir(d));) {
		char *end;
		unsigned long id = strtoul(e->d_name, &end, 10);
		if (e->d_name[0] > '0' && e->d_name[0] <= '9' && *end == '\0' && id < UINT32_MAX)
			r = fn((uint32_t)id, arg);
	}
	return r;
}

static int highest_id(uint32_t id, void *arg)
{
	uint32_t *highest = arg;
	if (id > *highest)
		*highest = id;
	return 0;
}

/* The number after the highest in use. */
static int next_id(struct commit *c, uint32_t *ret)
{
	uint32_t highest = 0;
	int r = commit_ids(c->all, highest_id, &highest);
	*ret = highest + 1;
	return r;
}

int commit_make(struct commit *c, struct fvm_error *err)
{
	char name[16];
	int r = next_id(c, &c->id);
	if (r < 0)
		return fvm_error_set(err, -r, "list the store's commits");
	int len = snprintf(name, sizeof(name), "%u", c->id);
	r = FVM_FAULT("commit.pending");
	if (r == 0)
		r = fvm_write_file_atomic(c->all, "pending", name, (size_t)len, true);
	if (r == 0)
		r = FVM_FAULT("commit.mkdir");
	if (r == 0)
		r = fvm_nerr(mkdirat(c->all, name, 0700));
	if (r == 0)
		r = c->dir = fvm_open_nofollow(c->all, name, O_RDONLY | O_DIRECTORY);
	if (r >= 0)
		r = commit_state_set(c, COMMIT_VOID);
	if (r == 0)
		r = c->journal.fd =
			fvm_create_beneath(c->dir, "journal", O_WRONLY | O_EXCL | O_APPEND, 0600);
	return r < 0 ? fvm_error_set(err, -r, "make the journal of commit %u", c->id) : 0;
}

int commit_state_set(struct commit *c, enum commit_state state)
{
	char text[64];
	int len = snprintf(text, sizeof(text), "%s %llu\n", states[state],
			   (unsigned long long)c->journal.written);
	int r = FVM_FAULT("commit.state");
	if (r < 0)
		return r;
	return fvm_write_file_atomic(c->dir, "state", text, (size_t)len, true);
}

int commit_state_void(struct commit *c)
{
	static const char text[] = "void 0\n";
	struct stat st;
	scoped_fd fd = fvm_open_nofollow(c->dir, "state", O_WRONLY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 ? fd : -errno;
	if (st.st_size < (off_t)strlen(text))
		return -ENOSPC;
	if (pwrite(fd, text, strlen(text), 0) != (ssize_t)strlen(text) || fdatasync(fd) < 0)
		return -errno;
	return 0;
}

int commit_state_get(struct commit *c, uint64_t *ret_len)
{
	scoped_free char *text = NULL;
	char word[16] = "";
	unsigned long long len = 0;
	int r = fvm_read_file(c->dir, "state", 100, &text, NULL);
	if (r == -ENOENT) { /* made and not begun */
		*ret_len = 0;
		return COMMIT_VOID;
	}
	if (r < 0)
		return r;
	if (sscanf(text, "%15s %llu", word, &len) != 2)
		return -EBADMSG;
	*ret_len = len;
	for (size_t i = 0; i < FVM_COUNT(states); i++) {
		if (strcmp(states[i], word) == 0)
			return (int)i;
	}
	return -EBADMSG;
}

int commit_pending_clear(struct commit *c)
{
	int r = FVM_FAULT("commit.unpend");
	if (r < 0)
		return r;
	return unlinkat(c->all, "pending", 0) < 0 && errno != ENOENT ? -errno : 0;
}

struct commit_entry *commit_add(struct commit *c, const char *rel)
{
	if (c->count == c->capacity) {
		size_t capacity = c->capacity ? c->capacity * 2 : 64;
		struct commit_entry *more = realloc(c->entries, capacity * sizeof(*more));
		if (!more)
			return NULL;
		c->entries = more;
		c->capacity = capacity;
	}
	char *copy = strdup(rel);
	if (!copy)
		return NULL;
	struct commit_entry *e = &c->entries[c->count++];
	*e = (struct commit_entry){ .rel = copy, .top = COMMIT_NO_TOP };
	return e;
}

/* ---- writing ---- */

static void put_node(struct journal *j, const struct commit_node *n)
{
	journal_u64(j, n->ino);
	journal_u64(j, n->size);
	journal_u32(j, n->mode);
	journal_u32(j, n->uid);
	journal_u32(j, n->gid);
	journal_u64(j, (uint64_t)n->atime_ns);
	journal_u64(j, (uint64_t)n->mtime_ns);
	journal_u64(j, (uint64_t)n->ctime_ns);
}

static void put_string(struct journal *j, const char *text)
{
	journal_bytes(j, text, strlen(text));
}

static int put_entry(struct journal *j, const struct commit_entry *e)
{
	journal_begin(j, RECORD_ENTRY);
	journal_u32(j, e->op);
	journal_u32(j, e->flags);
	journal_u32(j, e->stack);
	journal_u32(j, e->area);
	journal_u32(j, e->layer);
	journal_u32(j, e->top);
	put_string(j, e->rel);
	put_node(j, &e->was);
	put_node(j, &e->now);
	journal_u64(j, e->layer_ino);
	journal_bytes(j, e->old_xattrs.data, e->old_xattrs.len);
	journal_bytes(j, e->new_xattrs.data, e->new_xattrs.len);
	return journal_end(j);
}

static int put_places(struct commit *c)
{
	struct journal *j = &c->journal;
	int r = 0;
	for (size_t i = 0; r == 0 && i < c->stack_count; i++) {
		journal_begin(j, RECORD_STACK);
		put_string(j, c->stacks[i].key);
		put_string(j, c->stacks[i].mount_point);
		journal_u64(j, c->stacks[i].fsid);
		r = journal_end(j);
	}
	for (size_t i = 0; r == 0 && i < c->area_count; i++) {
		journal_begin(j, RECORD_AREA);
		journal_u32(j, c->areas[i].stack);
		journal_u32(j, c->areas[i].in_store);
		put_string(j, c->areas[i].rel ? c->areas[i].rel : "");
		r = journal_end(j);
	}
	return r;
}

int commit_write_plan(struct commit *c)
{
	struct journal *j = &c->journal;
	journal_begin(j, RECORD_HEADER);
	journal_u32(j, COMMIT_FORMAT);
	put_string(j, c->vm_name);
	put_string(j, c->vm_id);
	journal_u64(j, (uint64_t)c->created_ns);
	int r = journal_end(j);
	if (r == 0)
		r = put_places(c);
	for (size_t i = 0; r == 0 && i < c->count; i++)
		r = put_entry(j, &c->entries[i]);
	return r == 0 ? journal_sync(j) : r;
}

int commit_write_staged(struct commit *c, uint32_t index)
{
	journal_begin(&c->journal, RECORD_STAGED);
	journal_u32(&c->journal, index);
	journal_u64(&c->journal, c->entries[index].staged_ino);
	return journal_end(&c->journal);
}

int commit_write_placed(struct commit *c, uint32_t index)
{
	journal_begin(&c->journal, RECORD_PLACED);
	journal_u32(&c->journal, index);
	put_node(&c->journal, &c->entries[index].placed);
	return journal_end(&c->journal);
}

/* ---- reading: what is read may be anything, though it should be ours ---- */

static void get_node(struct journal_cursor *f, struct commit_node *n)
{
	n->ino = journal_get_u64(f);
	n->size = journal_get_u64(f);
	n->mode = journal_get_u32(f);
	n->uid = journal_get_u32(f);
	n->gid = journal_get_u32(f);
	n->atime_ns = (int64_t)journal_get_u64(f);
	n->mtime_ns = (int64_t)journal_get_u64(f);
	n->ctime_ns = (int64_t)journal_get_u64(f);
}

static void get_buf(struct journal_cursor *f, struct fvm_buf *b)
{
	size_t len;
	const void *data = journal_get_bytes(f, &len);
	if (data)
		fvm_buf_add(b, data, len);
}

static int get_text(struct journal_cursor *f, char *to, size_t size)
{
	scoped_free char *text = journal_get_string(f);
	if (!text || strlen(text) >= size)
		return -EBADMSG;
	strcpy(to, text);
	return 0;
}

static int get_header(struct commit *c, struct journal_cursor *f)
{
	if (journal_get_u32(f) != COMMIT_FORMAT)
		return -EPROTONOSUPPORT;
	if (get_text(f, c->vm_name, sizeof(c->vm_name)) < 0 ||
	    get_text(f, c->vm_id, sizeof(c->vm_id)) < 0)
		return -EBADMSG;
	c->created_ns = (int64_t)journal_get_u64(f);
	return 0;
}

static int get_stack(struct commit *c, struct journal_cursor *f)
{
	struct commit_stack *more = realloc(c->stacks, (c->stack_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->stacks = more;
	struct commit_stack *s = &c->stacks[c->stack_count];
	*s = (struct commit_stack){ .base = -1 };
	if (get_text(f, s->key, sizeof(s->key)) < 0)
		return -EBADMSG;
	s->mount_point = journal_get_string(f);
	s->fsid = journal_get_u64(f);
	if (!s->mount_point)
		return -EBADMSG;
	c->stack_count++;
	return 0;
}

/* A path below a directory: no empty component, no "." and no "..". */
static bool is_beneath(const char *rel)
{
	for (const char *p = rel; *p;) {
		size_t len = strcspn(p, "/");
		if (len == 0 || (len == 1 && p[0] == '.') ||
		    (len == 2 && p[0] == '.' && p[1] == '.'))
			return false;
		p += len;
		if (*p == '/' && *++p == '\0')
			return false;
	}
	return true;
}

static int get_area(struct commit *c, struct journal_cursor *f)
{
	struct commit_area *more = realloc(c->areas, (c->area_count + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->areas = more;
	struct commit_area *a = &c->areas[c->area_count];
	*a = (struct commit_area){ .fd = -1 };
	a->stack = journal_get_u32(f);
	a->in_store = journal_get_u32(f) != 0;
	a->rel = journal_get_string(f);
	if (!a->rel)
		return -EBADMSG;
	c->area_count++;
	return is_beneath(a->rel) && (a->in_store || (a->stack < c->stack_count && *a->rel))
		       ? 0
		       : -EBADMSG;
}

/* An entry may only speak of stacks, areas and directories that came before it. */
static bool is_sound(const struct commit *c, const struct commit_entry *e)
{
	if (e->op < COMMIT_PUT || e->op > COMMIT_DIR || e->stack >= c->stack_count)
		return false;
	if (e->area >= c->area_count && e->op != COMMIT_DIR)
		return false;
	if (!*e->rel && e->op != COMMIT_DIR)
		return false;
	if (e->top == COMMIT_NO_TOP)
		return is_beneath(e->rel);
	if (e->top >= c->count - 1 || e->op == COMMIT_DELETE || e->op == COMMIT_DIR)
		return false;
	const struct commit_entry *top = &c->entries[e->top];
	size_t len = strlen(top->rel);
	return top->op == COMMIT_MKDIR && top->stack == e->stack && top->top == COMMIT_NO_TOP &&
	       strncmp(top->rel, e->rel, len) == 0 && e->rel[len] == '/' && is_beneath(e->rel);
}

static int get_entry(struct commit *c, struct journal_cursor *f)
{
	struct commit_entry read = { .op = (enum commit_op)journal_get_u32(f) };
	read.flags = journal_get_u32(f);
	read.stack = journal_get_u32(f);
	read.area = journal_get_u32(f);
	read.layer = journal_get_u32(f);
	read.top = journal_get_u32(f);
	scoped_free char *rel = journal_get_string(f);
	struct commit_entry *e = rel ? commit_add(c, rel) : NULL;
	if (!e)
		return rel ? -ENOMEM : -EBADMSG;
	read.rel = e->rel;
	*e = read;
	get_node(f, &e->was);
	get_node(f, &e->now);
	e->layer_ino = journal_get_u64(f);
	get_buf(f, &e->old_xattrs);
	get_buf(f, &e->new_xattrs);
	return is_sound(c, e) ? 0 : -EBADMSG;
}

static int get_record(struct commit *c, struct journal_record *record)
{
	struct journal_cursor *f = &record->fields;
	struct commit_node node;
	uint32_t index;
	int r = 0;
	switch (record->type) {
	case RECORD_HEADER:
		r = get_header(c, f);
		break;
	case RECORD_STACK:
		r = get_stack(c, f);
		break;
	case RECORD_AREA:
		r = get_area(c, f);
		break;
	case RECORD_ENTRY:
		r = get_entry(c, f);
		break;
	case RECORD_STAGED:
		index = journal_get_u32(f);
		if (index >= c->count)
			return -EBADMSG;
		c->entries[index].staged_ino = journal_get_u64(f);
		break;
	case RECORD_PLACED:
		index = journal_get_u32(f);
		get_node(f, &node);
		if (index >= c->count)
			return -EBADMSG;
		c->entries[index].placed = node;
		break;
	default:
		return -EPROTONOSUPPORT;
	}
	return r == 0 && f->bad ? -EBADMSG : r;
}

ssize_t commit_parse(struct commit *c, const void *data, size_t len)
{
	size_t pos = 0;
	struct journal_record record;
	while (journal_next(data, len, &pos, &record) == 1) {
		int read = get_record(c, &record);
		if (read < 0)
			return read;
	}
	return (ssize_t)pos;
}

static int damaged(const struct commit *c, int r, const char *file, struct fvm_error *err)
{
	if (r == -EPROTONOSUPPORT)
		fvm_error_hint(err, "a newer fvm wrote it: use that one");
	else
		fvm_error_hint(err,
			       "restore that file; or take what you miss from area/ beside it, "
			       "and forget the commit: fvm undo --force --drop %u",
			       c->id);
	if (!err || !err->code)
		fvm_error_set(err, -r, "read it");
	fvm_error_wrap_at(err, r, c->dir, file);
	return fvm_error_wrap(err, r, "commit %u", c->id);
}

/*
 * Root may work in a user's store. A journal that the user wrote says what he wants to have done,
 * with root's rights: that is for himself to do. What root wrote lies in a directory of root's.
 */
static int check_maker(const struct commit *c, struct fvm_error *err)
{
	struct stat st;
	if (fstat(c->dir, &st) < 0)
		return fvm_error_set(err, errno, "look at commit %u", c->id);
	if (st.st_uid == geteuid())
		return 0;
	fvm_error_hint(err, "as that user: fvm undo %u", c->id);
	return fvm_error_say(err, EPERM, "commit %u was made by another user, with uid %u", c->id,
			     st.st_uid);
}

int commit_load(struct commit *c, uint32_t id, enum commit_state *ret_state, struct fvm_error *err)
{
	char name[16];
	uint64_t synced = 0;
	size_t len = 0;
	scoped_free char *data = NULL;
	c->id = id;
	snprintf(name, sizeof(name), "%u", id);
	c->dir = fvm_open_nofollow(c->all, name, O_RDONLY | O_DIRECTORY);
	if (c->dir < 0)
		return fvm_error_set(err, -c->dir, "open commit %u", id);
	int maker = check_maker(c, err);
	if (maker < 0)
		return maker;
	fvm_remove_leftovers(c->dir);
	int state = commit_state_get(c, &synced);
	if (state < 0)
		return damaged(c, state, "state", err);
	int r = fvm_read_file(c->dir, "journal", JOURNAL_MAX, &data, &len);
	if (r < 0 && r != -ENOENT)
		return damaged(c, r, "journal", err);
	ssize_t understood = commit_parse(c, data, len);
	if (understood < 0 && state != COMMIT_VOID)
		return damaged(c, (int)understood, "journal", err);
	/* what was synced must be there; what came after may be torn, and was not acted on */
	if (state != COMMIT_VOID && (uint64_t)understood < synced) {
		fvm_error_set(err, EBADMSG, "byte %zd", understood);
		return damaged(c, -EBADMSG, "journal", err);
	}
	c->journal.fd = fvm_open_nofollow(c->dir, "journal", O_WRONLY | O_APPEND);
	c->journal.written = synced;
	*ret_state = (enum commit_state)state;
	return 0;
}
