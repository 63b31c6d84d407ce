/*
 * vin/netlock - connections hold still while they are written down, and die without a word
 *
 * Theory of operation
 *   vin_netlock_cut()      after programs were stopped and before vin_files_capture(): what is on
 *                          its way by loopback arrives (a RST would not come again); then a filter
 *                          on each TCP socket lets nothing in. Nobody is told, who sends sends
 *                          again; what both ends of a loopback know fits together from then on.
 *                          An end that its program has closed nobody has: what it has still to say
 *                          must be heard before, or there is nobody in the new world to say it. Who
 *                          has no room for it, as he reads slowly, is given some.
 *   vin_netlock_resume()   the filters that they had, and programs may go on
 *   vin_netlock_silence()  before programs are killed: no socket of theirs says FIN or RST when it
 *                          is closed. They stay, deaf, as long as the files are held: a packet that
 *                          still comes finds them and is not answered. So vin_files_free() comes
 *                          when the addresses are elsewhere, or the network namespace is gone.
 *                          In one namespace it comes before replay.
 *   vin_files_free() resumes if nothing else was said.
 *
 *   A program whose socket stayed deaf, or in repair, would wait for ever. So a child of ours holds
 *   the sockets, too, and waits: if we die without a word it resumes (or, after silence, only ends).
 *
 *   At the new world's end the network should come last: devices up, when vin_reopen_finish() has
 *   returned. Where they must be up before (routes and addresses need it), vin_netlock_shut() drops
 *   what comes in from any device but loopback until vin_netlock_open().
 * Limits: a socket that a program outside of the tree has, too, is deaf as long, and stays in repair
 * when the tree was killed. Only TCP is cut: datagrams that come meanwhile are lost with the killed.
 * Without sock_diag(7) for TCP ends that nobody has any more are not seen.
 * Sources: tcp(7), socket(7), packet filters of the kernel (nf_tables).
 */
#ifndef VIN_NETLOCK_H
#define VIN_NETLOCK_H

#include "vin/files.h"

struct vin_netlock;

/** vin_netlock_cut() - @f->netlock is set. Return: 0, -ENOMEM, -EPERM (a filter is locked), -EAGAIN
 *  (a connection has to go on for a moment), -errno */
int vin_netlock_cut(struct vin_files *f, struct fvm_error *err);

/** vin_netlock_peers() - whether an end of a connection that nobody has owes something to another
 *  that @f has; the network is cut. Return: 0, -EAGAIN, or another negative errno */
int vin_netlock_peers(struct vin_files *f, struct fvm_error *err);

/** vin_netlock_hear() - have connections of @f hear what ends that nobody has any more have to say, also
 *  of programs that read slowly; before the network is cut. What does not come soon is met later */
void vin_netlock_hear(struct vin_files *f);

/** vin_netlock_drain() - wait until what was sent by way of loopback, in any namespace, has arrived;
 *  as far as we may run where it waits */
void vin_netlock_drain(void);

void vin_netlock_resume(struct vin_files *f);

/** vin_netlock_silence() - Return: 0, or negative errno: nobody is to be killed then */
int vin_netlock_silence(struct vin_files *f, struct fvm_error *err);

/** vin_netlock_filter() - the program's filter of a socket, whose length may be 0; NULL: it was not
 *  cut */
const void *vin_netlock_filter(const struct vin_netlock *l, int fd, size_t *ret_len);

/** vin_netlock_shut() - drop what comes into our network namespace from outside. Return: 0,
 *  -EOPNOTSUPP (no nf_tables), -EPERM, or another negative errno */
int vin_netlock_shut(struct fvm_error *err);

/** vin_netlock_open() - the reverse; fine when it is not shut */
int vin_netlock_open(struct fvm_error *err);

#endif
