#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/compare.h"
#include "fvm/sides.h"

#define LINK_MAX_BYTES 65536
#define SNIFF	       8000 /* a NUL in here makes a file binary, as for git */

void fvm_sides_free(struct fvm_sides *s)
{
	free(s->was);
	free(s->now);
	*s = (struct fvm_sides){ 0 };
}

static int read_link(int dir, const char *name, char **ret, size_t *ret_len)
{
	scoped_free char *target = malloc(LINK_MAX_BYTES + 1);
	if (!target)
		return -ENOMEM;
	ssize_t n = readlinkat(dir, name, target, LINK_MAX_BYTES);
	if (n < 0)
		return -errno;
	target[n] = '\0';
	*ret_len = (size_t)n;
	*ret = fvm_take_ptr(&target);
	return 0;
}

/* Return: 1 when it can't be shown as text, 0, or -errno */
static int read_side(int dir, const char *name, const struct stat *st, size_t max, char **ret,
		     size_t *ret_len)
{
	if (S_ISLNK(st->st_mode))
		return read_link(dir, name, ret, ret_len);
	if (!S_ISREG(st->st_mode) || (unsigned long long)st->st_size > max)
		return 1;
	scoped_fd fd = fvm_open_regular(dir, name);
	if (fd < 0)
		return fd == -EACCES ? 1 : fd;
	size_t size = (size_t)st->st_size;
	scoped_free char *text = malloc(size + 1);
	if (!text)
		return -ENOMEM;
	ssize_t n = fvm_read_full(fd, text, size);
	if (n < 0)
		return (int)n;
	text[n] = '\0';
	*ret_len = (size_t)n;
	size_t sniff = *ret_len < SNIFF ? *ret_len : SNIFF;
	int binary = memchr(text, '\0', sniff) != NULL;
	*ret = fvm_take_ptr(&text);
	return binary;
}

int fvm_sides_read(const struct fvm_change *c, size_t max, struct fvm_sides *ret)
{
	struct fvm_sides s = { 0 };
	int r = 0;
	if (c->was)
		r = read_side(c->base_dir, c->name, c->was, max, &s.was, &s.was_len);
	s.binary = r == 1;
	if (r >= 0 && c->now && !s.binary) {
		r = read_side(c->layer_dir, c->name, c->now, max, &s.now, &s.now_len);
		s.binary = r == 1;
	}
	if (r < 0)
		fvm_sides_free(&s);
	else
		*ret = s;
	return r < 0 ? r : 0;
}
