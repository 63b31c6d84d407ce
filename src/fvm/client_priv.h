/*
 * fvm/client_priv - what the files of a session's client share: client.c, stdio.c, terminal.c
 */
#ifndef FVM_CLIENT_PRIV_H
#define FVM_CLIENT_PRIV_H

#include <poll.h>
#include <termios.h>

#include "fvm/init_priv.h"

/* ---- terminal.c ---- */

/** terminal_raw() - raw mode; the second time nothing. Return: 0 or -errno */
int terminal_raw(int fd);
void terminal_restore(void);
/** terminal_is_cooked() - whether lines are edited: nobody else, such as a pager, has it raw */
bool terminal_is_cooked(int fd);
/** terminal_window() - size of the first of our descriptors 0 to 2 that is a terminal */
bool terminal_window(struct winsize *ret);
/** terminal_reopen() - a non-blocking descriptor of our own for writing, or -1 */
int terminal_reopen(int fd);

/* ---- client.c ---- */

/** client_drop_questions() - take out of an earlier output what asks the terminal for an answer: it
 *  was answered then, and a second answer would be taken for typing. Return: new length */
size_t client_drop_questions(char *text, size_t len);

/* ---- stdio.c: what of our 0, 1, 2 is copied through a pipe ---- */

#define RELAYS 3

/** relays_poll() - fill @pfd (RELAYS entries) with what is to be waited for.
 *  Return: longest wait in ms, -1 without limit */
int relays_poll(struct pollfd *pfd);
/** relays_ready() - copy what poll() said is there */
void relays_ready(const struct pollfd *pfd);
/** relays_finish() - the session has ended: copy what is still in the pipes, and close them */
void relays_finish(void);
/** relays_passed() - the command has been forked: let go of the VM's ends of the pipes */
void relays_passed(void);

#endif
