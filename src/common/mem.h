/*
 * common/mem - memory that frees itself, strings that grow, lists of strings
 *
 * Theory of operation
 *   scoped_free frees a pointer at the end of its scope; fvm_take_ptr() gives it away.
 *   struct fvm_buf grows as it is written to; running out of memory is remembered in it and asked
 *   for once, at the end, by fvm_buf_steal(). struct fvm_strv is a NULL-terminated argv-like list.
 */
#ifndef FVM_COMMON_MEM_H
#define FVM_COMMON_MEM_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

void fvm_freep(void *p);
#define scoped_free __attribute__((cleanup(fvm_freep)))

#define fvm_take_ptr(p)                    \
	({                                 \
		__typeof__(*(p)) t_ = *(p); \
		*(p) = NULL;               \
		t_;                        \
	})

#define FVM_COUNT(a) (sizeof(a) / sizeof((a)[0]))

/* A growing byte string; starts as { 0 }; data is always NUL-terminated once written to. */
struct fvm_buf {
	char *data;
	size_t len;
	size_t cap;
	bool failed; /* an allocation failed; everything since was dropped */
};

void fvm_buf_free(struct fvm_buf *b);
#define scoped_buf __attribute__((cleanup(fvm_buf_free))) struct fvm_buf
void fvm_buf_add(struct fvm_buf *b, const void *data, size_t len);
void fvm_buf_puts(struct fvm_buf *b, const char *text);
void fvm_buf_printf(struct fvm_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/** fvm_buf_steal() - the string, to be freed by the caller; NULL when memory ran out */
char *fvm_buf_steal(struct fvm_buf *b);

/* A list of strings it owns; items[count] is NULL once anything was added; starts as { 0 }. */
struct fvm_strv {
	char **items;
	size_t count;
};

void fvm_strv_free(struct fvm_strv *v);
#define scoped_strv __attribute__((cleanup(fvm_strv_free))) struct fvm_strv
/**
 * fvm_room() - how many items to ask realloc() for, so that adding one by one copies seldom and
 * does not leave a free piece of each length behind (which a VM's PID 1 would keep)
 * Return: a power of two, at least @count
 */
static inline size_t fvm_room(size_t count)
{
	size_t room = 8;
	while (room < count)
		room *= 2;
	return room;
}

/** fvm_strv_add() - append a copy. Return: 0 or -ENOMEM */
int fvm_strv_add(struct fvm_strv *v, const char *item);
/** fvm_strv_addf() - append a formatted string. Return: 0 or -ENOMEM */
int fvm_strv_addf(struct fvm_strv *v, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
bool fvm_strv_has(const struct fvm_strv *v, const char *item);
/** fvm_strv_copy() - append copies of all of @from. Return: 0 or -ENOMEM */
int fvm_strv_copy(struct fvm_strv *to, const struct fvm_strv *from);
/** fvm_strv_sort() - by bytes, as strcmp() has it */
void fvm_strv_sort(struct fvm_strv *v);
/** fvm_strv_sorted_has() - fvm_strv_has() of a list that was sorted */
bool fvm_strv_sorted_has(const struct fvm_strv *sorted, const char *item);
#define fvm_strv_each(v, i) for (size_t i = 0; i < (v)->count; i++)

#endif
