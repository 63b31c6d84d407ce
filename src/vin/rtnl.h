/*
 * vin/rtnl - settings of a network namespace, as netlink tells them and takes them
 *
 * Theory of operation
 *   Messages of a dump are kept as they are, but for what is volatile, and sent back to make the
 *   same again. Devices have the numbers in the new world that they had, so all that names them fits.
 *   The device that leads out of the world (its other end is in another namespace) is the world's
 *   own: it is there already, with addresses of its own.
 *
 *     net_check.c  what can't be captured: other kinds of devices, queueing disciplines, tables of
 *                  iptables, IPsec, next hops that are objects
 *     links.c      devices, all of them down; those whose end a program has (tun, tap) without one
 *     (sysctl.c)   parameters, which say how devices come up
 *     tables.c     tables of nftables, all of them at once; tables' own handles are new ones, others'
 *                  the same unless thousands were given in vain
 *     routes.c     who is up; addresses, neighbours, routes, rules
 * Limits: forwarding entries of bridges and neighbours that were learnt are learnt again; proxy
 * neighbours, and the hardware address of the world's own device, are not kept.
 * Sources: rtnetlink(7), netlink(7).
 */
#ifndef VIN_RTNL_H
#define VIN_RTNL_H

#include <linux/netlink.h>

#include "vin/spaces.h"

/** vin_rtnl_fn - of one message. Return: 0, or a failure that ends it */
typedef int (*vin_rtnl_fn)(void *arg, const struct nlmsghdr *m, struct fvm_error *err);

/** vin_rtnl_open() - a socket of netlink @protocol in our network namespace. Return: fd or -errno */
int vin_rtnl_open(int protocol);

/**
 * vin_rtnl_dump() - @fn of each message that a request is answered by
 * @head: of the family's own header; all zeros but its family
 * Return: 0, what @fn did, or negative errno (-EOPNOTSUPP and the like: the kernel has no such thing)
 */
int vin_rtnl_dump(int sock, uint16_t type, const void *head, size_t len, vin_rtnl_fn fn, void *arg,
		  struct fvm_error *err);

/** vin_rtnl_send() - have the kernel do what @m says. Return: 0, or its negative errno */
int vin_rtnl_send(int sock, struct nlmsghdr *m, uint16_t flags);

/**
 * vin_rtnl_message() - a message with a header of @head bytes out of an image's record
 * Its attributes may be walked: libmnl does so up to the next multiple of 4, which is zeros here.
 * Return: 0 with *@ret to free(), -EBADMSG: @len is not the message's, or -ENOMEM
 */
struct vin_payload;
int vin_rtnl_message(struct vin_payload *p, size_t head, struct nlmsghdr **ret);

/** vin_rtnl_attr() - attribute @type behind a header of @head bytes. Return: NULL: there is none */
const struct nlattr *vin_rtnl_attr(const struct nlmsghdr *m, size_t head, uint16_t type);

/** vin_link_known() - whether a device, as a dump has it, can be captured */
bool vin_link_known(const struct nlmsghdr *m);

/** vin_link_tun_flags() - of a tun or tap device that is in our network namespace, as TUNSETIFF takes
 *  them. Return: or -ENODEV, or another negative errno */
int vin_link_tun_flags(const char *name);

/** vin_net_check() - whether all that is set in our network namespace can be captured
 *  a vin_space_fn: adds nothing; @arg is NULL for the world's.
 *  Return: 0, -EOPNOTSUPP, or another negative errno */
int vin_net_check(void *arg, struct fvm_buf *to, struct fvm_error *err);

#endif
