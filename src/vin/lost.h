/*
 * vin/lost - what has an address of its world's in a world that has another one
 *
 * Theory of operation
 *   The device that leads out of a world is the world's own, and so are its addresses (vin/rtnl). A
 *   socket that was bound to one of these, listens on it or sends from it, gets the one that is in
 *   its place. A TCP connection can't: its peer knows it by both addresses. It comes back as one
 *   that was reset, as if the cable had been pulled and the peer had gone meanwhile: what was
 *   received is still read, then the program is told ECONNRESET.
 *
 *   Lost are connections whose own address is not here, those that somebody else here has (in a
 *   network that is shared), and, where the world says so (vin_reopen_outside()), all whose peer is
 *   not an address of this world: what carried them has ended.
 * Limits: a lost connection has an address of loopback as its own, if its own is not here.
 */
#ifndef VIN_LOST_H
#define VIN_LOST_H

#include "vin/sock.h"
#include "vin/spaces.h"

#define VIN_PEER_MAX 64 /* characters of "[ADDRESS]:PORT" */

/** vin_moved_place() - put the address in place of @a there, if it is another. Return: whether it
 * is */
bool vin_moved_place(const struct vin_moved *m, struct sockaddr_storage *a);

/** vin_sock_move() - the same for a socket that is to be made */
void vin_sock_move(const struct vin_reopen *r, struct vin_sock *s);

/** vin_sock_lost() - whether a connection is lost, as far as can be told before it is made */
bool vin_sock_lost(const struct vin_reopen *r, const struct vin_sock *s);

/** vin_peer_print() - "ADDRESS:PORT" or "[ADDRESS]:PORT"; IPv4 as such in either family */
void vin_peer_print(const struct sockaddr_storage *a, char ret[VIN_PEER_MAX]);

#endif
