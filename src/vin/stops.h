/*
 * vin/stops - which stops of children their parents have waited for
 *
 * Who waits for a stopped child (wait(2): WUNTRACED) is told of a stop once, and the kernel shows
 * nobody whether he was. So at capture the parent itself is had to ask, in a way that leaves it as
 * it is (WNOWAIT). A child that is made again stops again, which its parent would be told of, and
 * sent SIGCHLD: before he goes, he waits for what he knows already, and loses that signal, unless
 * it was there before. Where he can't be had to (a filter of his), he is told once more.
 */
#ifndef VIN_STOPS_H
#define VIN_STOPS_H

#include "vin/rcall.h"

/** vin_stop_told() - whether the program of @t, which is at the post, has waited for the stop of its
 *  child @number. Return: 1, 0, or negative errno */
int vin_stop_told(const struct vin_post *post, struct vin_thread *t, pid_t number,
		  struct fvm_error *err);

/** vin_stop_signalled() - whether SIGCHLD is pending for the program of @t */
bool vin_stop_signalled(const struct vin_thread *t);

/** vin_stop_take() - have the program of @t, parked, wait for the stop of its child @number, which was
 *  let go and will come to it
 *  @signalled: of vin_stop_signalled(), before any child of it was let go */
void vin_stop_take(struct vin_thread *t, pid_t number, bool signalled);

#endif
