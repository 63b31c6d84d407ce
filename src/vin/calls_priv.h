/* What the files of vin/calls share: the words for a call's arguments. */
#ifndef VIN_CALLS_PRIV_H
#define VIN_CALLS_PRIV_H

#include "vin/calls.h"

/* A call that was entered. */
struct vin_call_entry {
	uint64_t number;
	uint64_t args[VIN_CALL_ARGS];
	bool is_32;
	const char *name; /* of the table, or of unnamed[] */
	char unnamed[32];
	const char *kinds; /* of its arguments, see calls_show.c */
};

/* What reads arguments; one for all threads. */
struct vin_call_reader {
	const struct vin_calls_options *options;
	struct {
		pid_t tid; /* 0: none */
		int fd;
	} maps[64]; /* pagemaps that are open, by number of thread */
};

/** vin_call_name() - fill in @e's name by its number */
void vin_call_name(struct vin_call_entry *e);

/** vin_call_before() - the arguments of the call that @tid is about to make, as far as they can be
 *  told before; others stay empty. Return: how many it has */
size_t vin_call_before(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		       struct fvm_buf args[VIN_CALL_ARGS]);

/** vin_call_after() - those that are empty, as the call ended with @result; @failed: or not at all */
void vin_call_after(struct vin_call_reader *r, pid_t tid, const struct vin_call_entry *e,
		    int64_t result, bool failed, struct fvm_buf args[VIN_CALL_ARGS]);

/** vin_call_forget() - @tid has ended, or its memory is another one's */
void vin_call_forget(struct vin_call_reader *r, pid_t tid);

/* ---- calls_words.c ---- */

/** vin_call_word() - @value in the words of @kind ('o' flags of open, 'P' protection, ..)
 *  Return: false, when this kind has no words */
bool vin_call_word(char kind, uint64_t value, struct fvm_buf *to);

#endif
