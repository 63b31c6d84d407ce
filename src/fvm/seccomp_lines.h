/*
 * fvm/seccomp_lines - what a line of seccomp.def is; for its readers only
 *
 * Included before "fvm/seccomp.def", which then is the initialiser of an array of struct line.
 */
#ifndef FVM_SECCOMP_LINES_H
#define FVM_SECCOMP_LINES_H

#include <stdbool.h>
#include <stdint.h>

#include "fvm/seccomp.h"

#define LINE_TESTS 10

enum { T_NONE, T_EQ, T_NE, T_BITS, T_NOT_NULL };
enum { L_REFUSE, L_NOTIFY, L_IF, L_END };

struct test {
	int op;
	unsigned int arg;
	uint32_t mask, value;
};

struct line {
	const char *call; /* NULL for L_IF and L_END */
	int kind, error;
	struct test tests[LINE_TESTS]; /* all must hold; ends with T_NONE */
	unsigned int flag;	       /* L_IF: the lines up to L_END hold only */
	bool wanted;		       /* when the variant's flag is so */
};

/* O_PATH and what makes O_TMPFILE of O_DIRECTORY, by number: headers disagree on where they are */
#define OPEN_KIND (010000000 | 020000000)

#define EQ(arg, value)		{ T_EQ, arg, 0, (uint32_t)(value) }
#define NE(arg, value)		{ T_NE, arg, 0, (uint32_t)(value) }
#define BITS(arg, mask, value)	{ T_BITS, arg, (uint32_t)(mask), (uint32_t)(value) }
#define NOT_NULL(arg)		{ T_NOT_NULL, arg, 0, 0 }

#define REFUSE(call, error)		{ #call, L_REFUSE, error, { { 0 } }, 0, false },
#define REFUSE_IF(call, error, ...)	{ #call, L_REFUSE, error, { __VA_ARGS__ }, 0, false },
#define NOTIFY(call)			{ #call, L_NOTIFY, 0, { { 0 } }, 0, false },
#define NOTIFY_IF(call, ...)		{ #call, L_NOTIFY, 0, { __VA_ARGS__ }, 0, false },
#define IF_NO_IO_URING		{ NULL, L_IF, 0, { { 0 } }, FVM_FILTER_IO_URING, false },
#define IF_NO_I386_SOCKETS	{ NULL, L_IF, 0, { { 0 } }, FVM_FILTER_I386_SOCKETS, false },
#define IF_ROOTLESS		{ NULL, L_IF, 0, { { 0 } }, FVM_FILTER_ROOTLESS, true },
#define IF_ONE_UID		{ NULL, L_IF, 0, { { 0 } }, FVM_FILTER_ONE_UID, true },
#define IF_OWNERS		{ NULL, L_IF, 0, { { 0 } }, FVM_FILTER_OWNERS, true },
#define IF_LATE_NET		{ NULL, L_IF, 0, { { 0 } }, FVM_FILTER_LATE_NET, true },
#define END			{ NULL, L_END, 0, { { 0 } }, 0, false },

#endif
