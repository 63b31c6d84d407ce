#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "vin/kinds.h"
#include "vin/status.h"

/* A group is found by its members: its leader may be gone. */
static pid_t inner_group(const struct vin_files *f, pid_t group)
{
	for (size_t i = 0; i < f->table_count; i++) {
		scoped_status s = { 0 };
		pid_t pid = f->tables[i].pid;
		if (vin_status_read(pid, pid, &s, NULL) == 0 && s.process_groups[0] == group)
			return s.process_groups[s.depth - 1];
	}
	return 0;
}

/* Who gets its signals; of somebody outside the tree nothing is kept. */
static void put_owner(const struct vin_files *f, const struct vin_open *o, struct fvm_buf *to)
{
	struct f_owner_ex owner = { .pid = 0 };
	int sig = 0;
	if (!(o->info.flags & O_PATH) && fcntl(o->fd, F_GETOWN_EX, &owner) == 0)
		sig = fcntl(o->fd, F_GETSIG);
	pid_t inner = owner.pid <= 0		   ? 0
		      : owner.type == F_OWNER_PGRP ? inner_group(f, owner.pid)
						   : vin_number_of(f, o, owner.pid);
	vin_put_u64(to, inner > 0 ? (uint64_t)owner.type + 1 : 0);
	vin_put_u64(to, (uint64_t)inner);
	vin_put_u64(to, sig > 0 ? (uint64_t)sig : 0);
}

static void put_lock(const struct vin_lock *lock, struct fvm_buf *to)
{
	vin_put_u64(to, lock->kind);
	vin_put_u64(to, lock->write);
	vin_put_u64(to, (uint64_t)lock->start);
	vin_put_u64(to, (uint64_t)lock->end);
}

static void put_locks(const struct vin_open *o, struct fvm_buf *to)
{
	uint64_t count = 0;
	for (size_t i = 0; i < o->info.lock_count; i++)
		count += o->info.locks[i].kind != VIN_LOCK_POSIX;
	vin_put_u64(to, count);
	for (size_t i = 0; i < o->info.lock_count; i++) {
		if (o->info.locks[i].kind != VIN_LOCK_POSIX)
			put_lock(&o->info.locks[i], to);
	}
}

static int put_file(const struct vin_files *f, const struct vin_open *o, struct vin_out *out,
		    struct fvm_error *err)
{
	scoped_buf b = { 0 };
	vin_put_u64(&b, o->id);
	vin_put_u64(&b, o->kind->nr);
	vin_put_u64(&b, o->twin);
	vin_put_u64(&b, o->info.flags & ~(unsigned int)O_CLOEXEC);
	vin_put_u64(&b, (uint64_t)o->info.pos);
	put_owner(f, o, &b);
	put_locks(o, &b);
	int r = o->kind->capture ? o->kind->capture(f, o, &b, err) : 0;
	if (r == 0)
		r = vin_out_record(out, VIN_TAG_FILE, &b, err);
	if (r == 0 && o->kind->has_content && o->kind->has_content(f, o))
		r = vin_content_capture(o, out, err);
	return r;
}

static int put_table(const struct vin_table *t, struct vin_out *out, struct fvm_error *err)
{
	scoped_buf b = { 0 };
	pid_t inner = vin_inner_number(t->pid);
	if (inner <= 0)
		return fvm_error_set(err, ESRCH, "look at process %d", t->pid);
	vin_put_u64(&b, (uint64_t)inner);
	vin_put_u64(&b, t->count);
	for (size_t i = 0; i < t->count; i++) {
		vin_put_u64(&b, (uint64_t)t->entries[i].number);
		vin_put_u64(&b, t->entries[i].cloexec);
		vin_put_u64(&b, t->entries[i].file);
	}
	vin_put_u64(&b, t->lock_count);
	for (size_t i = 0; i < t->lock_count; i++) {
		vin_put_u64(&b, (uint64_t)t->locks[i].number);
		put_lock(&t->locks[i].lock, &b);
	}
	vin_put_u64(&b, t->current);
	return vin_out_record(out, VIN_TAG_FDS, &b, err);
}

/* An epoll may watch a number that is no longer in use; it has to be below the pool, too. */
static int highest_number(const struct vin_files *f)
{
	int highest = 2;
	for (size_t t = 0; t < f->table_count; t++) {
		for (size_t e = 0; e < f->tables[t].count; e++) {
			int n = f->tables[t].entries[e].number;
			highest = n > highest ? n : highest;
		}
	}
	for (size_t i = 0; i < f->count; i++) {
		for (size_t w = 0; w < f->opens[i].info.item_count; w++) {
			int n = f->opens[i].info.items[w].fd;
			highest = n > highest ? n : highest;
		}
	}
	return highest;
}

void vin_files_share(const struct vin_files *f, struct vin_objects *objects)
{
	for (size_t i = 0; i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		ssize_t n = o->id == o->twin ? vin_objects_find(objects, o->st.st_dev, o->st.st_ino)
					     : -1;
		if (n >= 0)
			objects->list[n].file = o->id + 1;
	}
}

int vin_files_ready(const struct vin_files *f, struct fvm_error *err)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		if (o->kind && o->kind->ready)
			r = o->kind->ready(f, o, err);
		if (r < 0)
			fvm_error_wrap(err, r, "process %d, descriptor %d", o->pid, o->number);
	}
	return r;
}

int vin_files_capture(const struct vin_files *f, struct vin_out *out, struct fvm_error *err)
{
	scoped_buf b = { 0 };
	int r = vin_files_check(f, NULL, NULL, err);
	if (r < 0)
		return r;
	vin_put_u64(&b, f->count);
	vin_put_u64(&b, (uint64_t)highest_number(f));
	r = vin_out_record(out, VIN_TAG_FILES, &b, err);
	for (size_t i = 0; r == 0 && i < f->count; i++) {
		const struct vin_open *o = &f->opens[i];
		r = put_file(f, o, out, err);
		if (r < 0)
			fvm_error_wrap(err, r, "process %d, descriptor %d", o->pid, o->number);
	}
	for (size_t i = 0; r == 0 && i < f->table_count; i++)
		r = put_table(&f->tables[i], out, err);
	return r;
}
