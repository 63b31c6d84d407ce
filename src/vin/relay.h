/*
 * vin/relay - bytes from one end to another, both at work at once
 *
 * Theory of operation
 *   One end fills blocks, the other drains them, in the same order; there are a few of them, which
 *   stay in the processor's cache. For a lot of bytes one of both works on a thread of its own: it
 *   touches memory and a descriptor or two, and no tracee (ptrace(2) belongs to our first thread).
 *   It has all signals blocked, and is gone when vin_relay() returns.
 * Limits: who fails says so by a number only; the sentence is made by who called.
 */
#ifndef VIN_RELAY_H
#define VIN_RELAY_H

#include <stdbool.h>
#include <stddef.h>

#define VIN_RELAY_BLOCK (256UL * 1024)
#define VIN_RELAY_ROOM	(VIN_RELAY_BLOCK + 4096) /* of each, with what is said of it */

struct vin_relay_ends {
	/* Return: bytes in @block, 0 at the end, or negative errno */
	long (*fill)(void *arg, void *block);
	/* Return: 0, or negative errno */
	int (*drain)(void *arg, const void *block, size_t len);
	void *fill_arg, *drain_arg;
	bool fill_apart; /* that one on a thread of its own; or else the other */
};

/**
 * vin_relay() - all of it
 * @bytes: about how many; a few are not worth a thread
 * Return: 0, or what the first that failed returned
 */
int vin_relay(const struct vin_relay_ends *ends, unsigned long long bytes);

#endif
