/*
 * fvm/relay - carries what routing can not: loopback into a VM, a VM's questions to loopback
 *
 * Theory of operation
 *   127.0.0.0/8 and ::1 never leave their network namespace, and letting them (route_localnet)
 *   would open the host's loopback to VMs the moment somebody flushes the host's rules. So a VM
 *   with published ports, or one whose host's resolver listens on loopback, gets a small process
 *   that passes bytes on. Its listening sockets belong to the host (ports) or were made in the
 *   VM's namespace (names); its outgoing ones are always the host's, and each listening socket
 *   has one fixed target, so that nobody can make it connect elsewhere.
 *   It is user nobody without capabilities, holds no file, and ends with the VM (pidfd).
 *   TCP goes through a buffer each way; for UDP each client gets a socket of its own towards the
 *   target, the one longest unused is given up when RELAY_FLOWS are in use.
 */
#ifndef FVM_RELAY_H
#define FVM_RELAY_H

#include <netinet/in.h>

#include "fvm/netlink.h"

#define RELAY_LISTENERS	  128
#define RELAY_FLOWS	  256
#define RELAY_CONNECTIONS 512

union relay_address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

struct relay_listener {
	int fd;
	bool udp;
	union relay_address target;
};

struct relay {	/* starts as { .vm = pidfd } */
	int vm; /* ends when this is readable */
	struct relay_listener listeners[RELAY_LISTENERS];
	size_t count;
};

/** fvm_relay_listen() - a listening socket in this thread's network namespace. Return: 0 or -errno
 */
int fvm_relay_listen(struct relay *relay, bool udp, const struct fvm_address *at, uint16_t port,
		     const struct fvm_address *to, uint16_t to_port);

/** fvm_relay_loop() - pass bytes on until the VM has ended. Return: 0 or -errno */
int fvm_relay_loop(struct relay *relay);

#endif
