/*
 * common/error - a negative errno for the program, a sentence for the person
 *
 * Theory of operation
 *   Whoever meets a failure sets it once with fvm_error_set(); a caller that knows more puts its
 *   words in front with fvm_error_wrap(). Both return the negative errno, so that a failure stays
 *   one line to write. Nothing is allocated: this works out of memory and between clone3() and
 *   exec, and at 512 bytes an error goes from child to parent in one atomic pipe write.
 *   A hint says what the reader can do; it is printed on a line of its own.
 */
#ifndef FVM_COMMON_ERROR_H
#define FVM_COMMON_ERROR_H

#include <stdbool.h>
#include <stddef.h>

struct fvm_error {	/* owned by the caller; starts as { 0 } */
	int code;	/* errno value, > 0 once set */
	char text[347]; /* "start VM 'web': mount the root: open the overlay driver" */
	bool plain;	/* the text says it all: no strerror(code) after it */
	char hint[160]; /* "try: fvm doctor", or empty */
};

/**
 * fvm_error_set() - say what failed, first hand
 * @err:  error to fill; may be NULL
 * @code: positive errno value
 * @fmt:  what we were doing, without the reason: strerror(@code) is added by the printer
 * Return: -@code
 */
int fvm_error_set(struct fvm_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * fvm_error_say() - as fvm_error_set(), for what needs no reason behind it
 * @fmt: a whole statement, as "there is no VM 'x'"; @code is for the program alone
 * Return: -@code
 */
int fvm_error_say(struct fvm_error *err, int code, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/**
 * fvm_error_wrap() - put what the caller was doing in front of what failed
 * @r: the negative errno to return
 * Return: @r
 */
int fvm_error_wrap(struct fvm_error *err, int r, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));

/** fvm_error_wrap_at() - the same with the path of @name in the held directory @dir */
int fvm_error_wrap_at(struct fvm_error *err, int r, int dir, const char *name);

/** fvm_error_hint() - say what the reader can do about it; the first hint stays */
void fvm_error_hint(struct fvm_error *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

/** fvm_error_take() - an error as another process wrote it
 *  Return: its negative errno, or 0 with @err untouched: these @len bytes are none */
int fvm_error_take(struct fvm_error *err, const void *data, size_t len);

/** fvm_error_mend() - make one that another process wrote fit to print: its texts end, and its
 *  code is an errno, or 0 when it tells no failure */
void fvm_error_mend(struct fvm_error *err);

/** fvm_error_print() - write "PROGRAM: TEXT: REASON" and the hint to stderr */
void fvm_error_print(const char *program, const struct fvm_error *err);

/** fvm_nerr() - turn a system call's -1 into -errno; other values pass */
int fvm_nerr(long r);

#endif
