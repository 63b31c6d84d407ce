/*
 * vin/pty - what is under way between the two ends of a terminal
 *
 * Theory of operation
 *   Nobody can look into a terminal: what is in it is taken out and put in again, while all who
 *   have it stand still.
 *
 *     out   written at the slave, not read at the master yet: bytes as they are. They go in by the
 *           slave, whose settings change nothing meanwhile (no OPOST)
 *     in    written at the master (typed), not read at the slave yet. By lines (ICANON) each read
 *           gives one, and what no line ends is had when lines are off for a moment. It goes in by
 *           the master with settings that change and echo nothing; a line that no '\n' ends is
 *           ended by EOF, which a reader can't tell from VEOL. Settings may change again only when
 *           the line discipline has taken all: by lines that is seen by a VSTOP of ours behind
 *           each piece, otherwise by the count
 *
 *   All this does a child, with no signal to end it: who kills us meanwhile does no harm. Who
 *   waits for the terminal in an edge-triggered epoll, or by SIGIO, may be told once more.
 *
 * Limits: 4095 bytes of input and as many as the kernel takes of output; input of a terminal that
 * nobody has ever opened the slave of is not seen. What packet mode has to tell is not kept. Of a
 * line that was typed with ^V the quoted characters stay what they are, but erasing in it may find
 * other words.
 * Sources: termios(3), ioctl_tty(2), pty(7); drivers/tty/n_tty.c.
 */
#ifndef VIN_PTY_H
#define VIN_PTY_H

#include <asm/termbits.h>
#include <stdbool.h>
#include <stdint.h>

#include "vin/image.h"

#define VIN_PTY_QUEUE (32U << 10) /* more than one direction holds */
#define VIN_PTY_LINES 4096	  /* an empty one, ended by EOF, takes a place, too */

enum vin_pty_stop { VIN_PTY_GOES, VIN_PTY_STOPPED_BY_KEY, VIN_PTY_STOPPED_BY_CALL };

struct vin_pty_queue {
	uint64_t stopped; /* output: enum vin_pty_stop */
	uint64_t out_len, in_len, line_count;
	uint16_t lines[VIN_PTY_LINES]; /* lengths; what is behind them in @in no line has */
	unsigned char out[VIN_PTY_QUEUE], in[VIN_PTY_QUEUE];
};

/**
 * vin_pty_look() - what is in a terminal, which is as it was then; all who have it stand still
 * @master: whose slave was opened once
 * Return: 0, -EBUSY (its slave is for one only: TIOCEXCL), or another negative errno
 */
int vin_pty_look(int master, struct vin_pty_queue *ret);

/** vin_pty_fill() - into a new terminal, whose settings (@t) come afterwards; @slave is O_NONBLOCK.
 *  Return: 0 or negative errno */
int vin_pty_fill(int master, int slave, const struct termios2 *t, const struct vin_pty_queue *q);

void vin_pty_put(struct fvm_buf *to, const struct vin_pty_queue *q);

/** vin_pty_get() - Return: 0, -EBADMSG or -ENOMEM; @ret: to free() */
int vin_pty_get(struct vin_payload *p, struct vin_pty_queue **ret);

#endif
