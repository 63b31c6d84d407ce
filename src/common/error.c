#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/error.h"
#include "common/quote.h"

__attribute__((format(printf, 4, 0))) static void set(struct fvm_error *err, int code, bool plain,
						      const char *fmt, va_list ap)
{
	if (!err)
		return;
	vsnprintf(err->text, sizeof(err->text), fmt, ap);
	err->code = code;
	err->plain = plain;
}

int fvm_error_set(struct fvm_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	set(err, code, false, fmt, ap);
	va_end(ap);
	return -code;
}

int fvm_error_say(struct fvm_error *err, int code, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	set(err, code, true, fmt, ap);
	va_end(ap);
	return -code;
}

int fvm_error_wrap(struct fvm_error *err, int r, const char *fmt, ...)
{
	if (!err)
		return r;
	char old[sizeof(err->text)];
	memcpy(old, err->text, sizeof(old));

	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(err->text, sizeof(err->text), fmt, ap);
	va_end(ap);
	if (!err->code)
		err->code = -r;
	if (n >= 0 && (size_t)n < sizeof(err->text) && old[0])
		snprintf(err->text + n, sizeof(err->text) - (size_t)n, ": %s", old);
	return r;
}

int fvm_error_wrap_at(struct fvm_error *err, int r, int dir, const char *name)
{
	char link[40], path[PATH_MAX];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
	ssize_t n = readlink(link, path, sizeof(path));
	return fvm_error_wrap(err, r, "%.*s%s%s", n > 0 ? (int)n : 0, path, n > 0 ? "/" : "", name);
}

void fvm_error_hint(struct fvm_error *err, const char *fmt, ...)
{
	if (!err || err->hint[0])
		return;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(err->hint, sizeof(err->hint), fmt, ap);
	va_end(ap);
}

/* What helps whatever it was that failed so; or NULL. */
static const char *hint_of(int code)
{
	switch (code) {
	case ENOSYS:
		return "this kernel, or a container's filter, has not all calls that are needed: "
		       "fvm doctor names them";
	case EMFILE:
		return "more descriptors are needed: ulimit -n 1024";
	default:
		return NULL;
	}
}

void fvm_error_mend(struct fvm_error *err)
{
	err->text[sizeof(err->text) - 1] = err->hint[sizeof(err->hint) - 1] = '\0';
	if (err->code < 0)
		err->code = EIO;
}

int fvm_error_take(struct fvm_error *err, const void *data, size_t len)
{
	struct fvm_error theirs;
	if (len != sizeof(theirs))
		return 0;
	memcpy(&theirs, data, sizeof(theirs));
	if (theirs.code <= 0)
		return 0;
	fvm_error_mend(&theirs);
	if (err)
		*err = theirs;
	return -theirs.code;
}

void fvm_error_print(const char *program, const struct fvm_error *err)
{
	/* it may name what somebody hostile has named, or be a VM's words */
	fprintf(stderr, "%s: ", program);
	fvm_print_safe(stderr, err->text, strlen(err->text));
	if (err->code && !err->plain)
		fprintf(stderr, ": %s", strerror(err->code));
	fputc('\n', stderr);
	if (err->hint[0]) {
		fprintf(stderr, "%s: ", program);
		fvm_print_safe(stderr, err->hint, strlen(err->hint));
		fputc('\n', stderr);
	} else if (hint_of(err->code)) {
		fprintf(stderr, "%s: %s\n", program, hint_of(err->code));
	}
}

int fvm_nerr(long r)
{
	return r == -1 ? -errno : (int)r;
}
