/*
 * vin/timers - timers of timer_create(2), as /proc/PID/timers lists them
 *
 * Theory of operation
 *   /proc tells what a timer is, timer_gettime(2) what is left of it, timer_getoverrun(2) how many
 *   rounds its last signal stood for. A timer gets its old number: Linux 6.15 can be asked for one
 *   (PR_TIMER_CREATE_RESTORE_IDS); before that numbers go up by one, and timers are made and
 *   deleted until it is there. Two things have no call to set them:
 *     overruns   the timer begins as many rounds in the past, and its signal is taken
 *     a thread that is told, and ended: nobody is told then, as before
 *   A timer is set for what is left of it. Sources: timer_create(2), timer_getoverrun(2), proc(5).
 */
#ifndef VIN_TIMERS_H
#define VIN_TIMERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/common.h"

struct vin_timer {
	int id;
	int sig;
	uint64_t value; /* sent along */
	int notify;	/* SIGEV_* with SIGEV_THREAD_ID */
	int target;	/* process or thread that is told, as /proc numbers it */
	int clock;
};

/**
 * vin_timers_parse() - the text of /proc/PID/timers
 * @text: is changed
 * @ret:  sorted by id; to be freed
 * Return: 0, -EBADMSG (that is no such text), or -ENOMEM
 */
int vin_timers_parse(char *text, struct vin_timer **ret, size_t *ret_count);

#endif
