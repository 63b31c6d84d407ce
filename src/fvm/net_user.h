/*
 * fvm/net_user - the network namespace of a rootless VM with nat, and what may not be reached
 *
 * See net_user.c: it is made by the builder in the user namespace around the VM's, so that the VM's
 * root has no rights over it. slirp.c then puts a link into it.
 */
#ifndef FVM_NET_USER_H
#define FVM_NET_USER_H

#include "fvm/net.h"
#include "fvm/netlink.h"

struct fvm_net_user {
	bool private_networks;
	uint32_t connections; /* 0: no limit */
	struct fvm_address host[64]; /* addresses of the host */
	size_t count;
};

/** fvm_net_user_prepare() - what has to be known of the host, from its network namespace */
void fvm_net_user_prepare(const struct fvm_config *config, struct fvm_net_user *ret);

/**
 * fvm_net_user_make() - move into a network namespace with loopback and these rules
 * Return: 0, or negative errno with @err (the kernel can't filter)
 */
int fvm_net_user_make(const struct fvm_net_user *n, struct fvm_error *err);

/** fvm_net_user_give_back() - what programs as the VM's root expect to be allowed in it
 *  @ids: the highest id that is mapped, as they have to be by now */
void fvm_net_user_give_back(uint32_t ids);

#endif
