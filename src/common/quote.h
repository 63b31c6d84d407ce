/*
 * common/quote - names from outside, made safe for a line and a terminal
 *
 * A name may hold any byte but NUL and slash. Printed raw, a newline forges a line of output and an
 * escape sequence drives the reader's terminal. Names that hold nothing of the sort stay as they
 * are, UTF-8 included; others are written as a C string in double quotes, as git does.
 * In files of ours a path is a word: bytes up to the blank, DEL and the escape's own mark are
 * written as %XX or \OOO, as each file has it.
 */
#ifndef FVM_COMMON_QUOTE_H
#define FVM_COMMON_QUOTE_H

#include <stdio.h>

#include <stdbool.h>

#include "common/mem.h"

/** fvm_quote_needed() - whether @text holds control bytes, quotes, backslashes, or no UTF-8 */
bool fvm_quote_needed(const char *text);

/** fvm_quote() - append @text to @ret, in C quotes when needed */
void fvm_quote(struct fvm_buf *ret, const char *text);

/** fvm_unquote() - undo fvm_quote() in place; what is not quoted stays. Return: 0 or -EBADMSG */
int fvm_unquote(char *text);

/** fvm_percent() - append @text as one word, with %XX */
void fvm_percent(struct fvm_buf *ret, const char *text);

/** fvm_unpercent() - undo it in place. Return: 0, or -EBADMSG: no two digits, or a NUL */
int fvm_unpercent(char *text);

/** fvm_octal() - append @text as one word, with \OOO, as the kernel's mountinfo has it */
void fvm_octal(struct fvm_buf *ret, const char *text);

/** fvm_unoctal() - undo it in place; what is no such escape stays */
void fvm_unoctal(char *text);

/** fvm_hex() - the value of a hexadecimal digit, or -1 */
int fvm_hex(char digit);

/**
 * fvm_print_safe() - @text to a terminal, which none of its bytes can drive
 * Tabs and newlines stay, other control bytes are shown as ^X, what is no safe UTF-8 in octal.
 */
void fvm_print_safe(FILE *to, const char *text, size_t len);

/** fvm_quote_error() - @text for a message, quoted and cut to fit @buf. Return: @buf */
const char *fvm_quote_error(const char *text, char buf[200]);

#endif
