/*
 * fvm/watchdog - notices that the program of a VM does not go on, and deals with it
 *
 * Theory of operation
 *   PID 1 is the program's parent: it watches (watchdog_init.c), and nothing more has to run for
 *   it. It looks at the program, the VM's first command, four times in the given span, on the /proc
 *   it opened before anybody could mount something there. It counts only time in which it ran
 *   itself, so that a paused VM, or a busy host, is nobody's fault. What it takes for trouble:
 *
 *     crashed  ended by a signal, but HUP, INT, QUIT, TERM, PIPE, or one that was asked for
 *     stopped  by a signal (state T) all the time. Job control can't do that to it: it leads a
 *              session of which its parent is no member, so only SIGSTOP can
 *     stuck    a thread waits in the kernel, not to be woken (state D), and has not run once
 *              meanwhile: its counts of context switches tell a busy disk from a dead one
 *     silent   it said WATCHDOG=1 before, as sd_notify(3) does, and then no more
 *
 *   A program that sleeps is none of that, nor one that computes for ever: who wants those told
 *   apart has to say WATCHDOG=1. What it does is written to the log, once for each time. To restart:
 *   it and what it left behind are killed (not sessions beside it, as of exec), and it is started
 *   again in the same session, so that terminal and clients stay; later each time, if it does not
 *   last. The record that others read is a file which PID 1 overwrites in one write.
 *
 *   To restore is nothing that PID 1 could do, as it ends with its VM: a *keeper* outside does
 *   (cli/keeper.h). It takes snapshots with the programs (snapshot --live) while all is well, and
 *   looks at the record: when PID 1 notes there that it wants to be restored, the keeper rolls the
 *   VM back, which makes another PID 1, and the watchdog goes on in that one. A crashed program's
 *   session waits for it. Byte 3 of the VM's lock tells PID 1 that there is a keeper. A snapshot
 *   that was taken when the program may have been hanging already is none to go back to.
 *   PID 1 wants no more than FVM_WATCHDOG_RESTORES in FVM_WATCHDOG_SPAN_S, each of them one further
 *   back; then, and when there is no keeper, it does as if it had to log alone. How many there were
 *   is in the record, so that neither a new PID 1 nor a new keeper begins to count anew.
 *
 * Limits: only the program itself is watched, not what it starts: that is its own business.  An
 *   end by exit is no crash.  Sources: sd_notify(3), sd_watchdog_enabled(3), proc(5).
 */
#ifndef FVM_WATCHDOG_H
#define FVM_WATCHDOG_H

#include "fvm/store.h"

#define FVM_WATCHDOG_SOCKET    "/run/fvm-notify"
#define FVM_WATCHDOG_MAX_S     86400u
#define FVM_WATCHDOG_RECORD_SZ 256 /* of the record, filled up with blanks */
#define FVM_WATCHDOG_EACH_S    60u /* RESTORE: from one snapshot to the next, at least */
#define FVM_WATCHDOG_RESTORES  5u  /* at most .. */
#define FVM_WATCHDOG_SPAN_S    600 /* .. in this time */

enum fvm_watchdog_action { FVM_WATCHDOG_LOG, FVM_WATCHDOG_RESTART, FVM_WATCHDOG_RESTORE };

struct fvm_watchdog {
	unsigned int seconds; /* 0: nobody watches */
	enum fvm_watchdog_action action;
	unsigned int each_s; /* RESTORE: from one snapshot to the next; 0: none is taken by itself */
};

enum fvm_watchdog_event {
	FVM_WATCHDOG_NONE,
	FVM_WATCHDOG_CRASHED,
	FVM_WATCHDOG_STOPPED,
	FVM_WATCHDOG_STUCK,
	FVM_WATCHDOG_SILENT,
	FVM_WATCHDOG_EVENTS
};

struct fvm_watchdog_record {
	struct fvm_watchdog what;
	enum fvm_watchdog_event event; /* the last one */
	int64_t at_ns;		       /* when that was; 0: there was none */
	unsigned int restarts, restores;
	bool notifies; /* it has said WATCHDOG=1 since it was started */
	bool wanted;   /* it is to be restored, and was not yet */
	unsigned int recent; /* restores since .. */
	int64_t since_ns;    /* .. then, which is less than FVM_WATCHDOG_SPAN_S ago */
};

/** fvm_watchdog_parse() - "SEC", "SEC:ACTION" or "SEC:restore:EACH". Return: 0 or -EINVAL */
int fvm_watchdog_parse(const char *text, struct fvm_watchdog *ret, struct fvm_error *err);

/** fvm_watchdog_env() - what sd_notify(3) looks for, in @env instead of what it had of that.
 *  Return: 0 or -ENOMEM */
int fvm_watchdog_env(const struct fvm_watchdog *w, struct fvm_strv *env);

const char *fvm_watchdog_event_name(enum fvm_watchdog_event event);
const char *fvm_watchdog_action_name(enum fvm_watchdog_action action);

/** fvm_watchdog_print() - the record as a line of FVM_WATCHDOG_RECORD_SZ bytes, no 0 at its end */
void fvm_watchdog_print(const struct fvm_watchdog_record *r, char ret[FVM_WATCHDOG_RECORD_SZ]);

/** fvm_watchdog_scan() - the inverse. Return: 0 or -EBADMSG */
int fvm_watchdog_scan(const char *text, struct fvm_watchdog_record *ret);

enum fvm_watchdog_word { FVM_WATCHDOG_OTHER, FVM_WATCHDOG_LIVES, FVM_WATCHDOG_TRIGGER };

/** fvm_watchdog_word() - what a message of sd_notify(3), lines of any bytes, says to a watchdog */
enum fvm_watchdog_word fvm_watchdog_word(const char *message);

/** fvm_watchdog_thread() - of the text of /proc/PID/task/TID/status. @ret_switches: how often it was
 *  taken off a processor. Return: its state as a letter, or 0 */
char fvm_watchdog_thread(const char *status, uint64_t *ret_switches);

/** fvm_watchdog_open() - for a VM that starts: the file of its record, made anew; without a
 *  watchdog one of an earlier start goes
 *  @goes_on: it was rolled back: what was recorded stays, and this counts as a restore if that was
 *            wanted
 *  Return: descriptor, -1 (no watchdog), or another errno */
int fvm_watchdog_open(const struct fvm_vm *vm, const struct fvm_watchdog *w, bool goes_on);

/** fvm_watchdog_read() - the record from the file @fd. Return: 0, -EBADMSG, ... */
int fvm_watchdog_read(int fd, struct fvm_watchdog_record *ret);

/** fvm_watchdog_worn_out() - whether it was restored as often as it may be by @now_ns */
bool fvm_watchdog_worn_out(const struct fvm_watchdog_record *r, int64_t now_ns);

/**
 * fvm_watchdog_choose() - which snapshot to go back to
 * @since_ns: when the program was started: what is older is another program's
 * @r:        what happened
 * Of those with programs the newest that was taken when all was well for sure; for each of
 * r->recent one further back, but not further than to the oldest.
 * Return: its place in the configuration, or -ENOENT
 */
int fvm_watchdog_choose(const struct fvm_config *config, int64_t since_ns,
			const struct fvm_watchdog_record *r);

/** fvm_watchdog_load() - what its watchdog did since the VM was last started
 *  Return: 0, -ENOENT (nobody watches), or another negative errno */
int fvm_watchdog_load(const struct fvm_vm *vm, struct fvm_watchdog_record *ret);

#endif
