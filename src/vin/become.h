/*
 * vin/become - what a process does to become the first blank
 *
 * Theory of operation
 *   Whoever makes the first process - vin/blank itself, or PID 1 of a VM in a session's place -
 *   calls vin_become() in it, with one end of a socket. From there on it takes orders from whom it
 *   will be a tracee of:
 *
 *     -> 'b'                            here I am; the kernel adds who that is
 *     <- PROGRAM, a descriptor          what to execute
 *     <- KEEP, numbers and descriptors  to have at those numbers; any number of times
 *     <- GO                             execute it with those, and the socket, and nothing else
 *
 *   A socket that hangs up, or anything unexpected, ends the process.
 */
#ifndef VIN_BECOME_H
#define VIN_BECOME_H

#include <stdbool.h>
#include <stdint.h>

#define VIN_LINE       0 /* number of the socket in a blank */
#define VIN_ORDER_FDS  32
#define VIN_ORDER_HELLO "b"

enum vin_order_what { VIN_ORDER_PROGRAM = 1, VIN_ORDER_KEEP, VIN_ORDER_GO };

struct vin_order {
	uint32_t what, count;
	int32_t numbers[VIN_ORDER_FDS];
};

/** vin_become() - take orders from @line. @user: in a user namespace of its own: rights that it has
 *  are kept over the exec */
_Noreturn void vin_become(int line, bool user);

#endif
