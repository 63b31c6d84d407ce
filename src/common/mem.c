#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/mem.h"

void fvm_freep(void *p)
{
	free(*(void **)p);
}

void fvm_buf_free(struct fvm_buf *b)
{
	free(b->data);
	*b = (struct fvm_buf){ 0 };
}

static bool buf_grow(struct fvm_buf *b, size_t more)
{
	if (b->failed)
		return false;
	if (b->len + more + 1 <= b->cap)
		return true;
	size_t cap = b->cap ? b->cap : 256;
	while (cap < b->len + more + 1)
		cap *= 2;
	char *data = realloc(b->data, cap);
	if (!data) {
		b->failed = true;
		return false;
	}
	b->data = data;
	b->cap = cap;
	return true;
}

void fvm_buf_add(struct fvm_buf *b, const void *data, size_t len)
{
	if (!buf_grow(b, len))
		return;
	if (len > 0) /* memcpy() takes no NULL, not even for nothing */
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void fvm_buf_puts(struct fvm_buf *b, const char *text)
{
	fvm_buf_add(b, text, strlen(text));
}

void fvm_buf_printf(struct fvm_buf *b, const char *fmt, ...)
{
	va_list ap, again;
	va_start(ap, fmt);
	va_copy(again, ap);
	int n = vsnprintf(NULL, 0, fmt, ap);
	va_end(ap);
	if (n >= 0 && buf_grow(b, (size_t)n)) {
		vsnprintf(b->data + b->len, (size_t)n + 1, fmt, again);
		b->len += (size_t)n;
	}
	va_end(again);
}

char *fvm_buf_steal(struct fvm_buf *b)
{
	char *data = NULL;
	if (buf_grow(b, 0)) {
		b->data[b->len] = '\0';
		data = fvm_take_ptr(&b->data);
	}
	fvm_buf_free(b);
	return data;
}

void fvm_strv_free(struct fvm_strv *v)
{
	fvm_strv_each(v, i)
		free(v->items[i]);
	free(v->items);
	*v = (struct fvm_strv){ 0 };
}

static int strv_push(struct fvm_strv *v, char *item)
{
	if (!item)
		return -ENOMEM;
	char **items = realloc(v->items, fvm_room(v->count + 2) * sizeof(*items));
	if (!items) {
		free(item);
		return -ENOMEM;
	}
	items[v->count++] = item;
	items[v->count] = NULL;
	v->items = items;
	return 0;
}

int fvm_strv_add(struct fvm_strv *v, const char *item)
{
	return strv_push(v, strdup(item));
}

int fvm_strv_addf(struct fvm_strv *v, const char *fmt, ...)
{
	char *item = NULL;
	va_list ap;
	va_start(ap, fmt);
	int n = vasprintf(&item, fmt, ap);
	va_end(ap);
	return n < 0 ? -ENOMEM : strv_push(v, item);
}

bool fvm_strv_has(const struct fvm_strv *v, const char *item)
{
	fvm_strv_each(v, i) {
		if (strcmp(v->items[i], item) == 0)
			return true;
	}
	return false;
}

int fvm_strv_copy(struct fvm_strv *to, const struct fvm_strv *from)
{
	fvm_strv_each(from, i) {
		int r = fvm_strv_add(to, from->items[i]);
		if (r < 0)
			return r;
	}
	return 0;
}

static int strv_compare(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

void fvm_strv_sort(struct fvm_strv *v)
{
	if (v->count > 0) /* qsort() takes no NULL, not even for nothing */
		qsort(v->items, v->count, sizeof(*v->items), strv_compare);
}

bool fvm_strv_sorted_has(const struct fvm_strv *sorted, const char *item)
{
	return sorted->count > 0 &&
	       bsearch(&item, sorted->items, sorted->count, sizeof(item), strv_compare) != NULL;
}
