/*
 * A user's VM without published ports has its network from the moment somebody asks for it: the
 * program that makes it takes as long to start as all the rest (slirp.c). So whoever makes a socket
 * of a family that leads out waits here, and is let go when the network is there, or never will be;
 * from then on each is let go at once.
 */
#include <stdlib.h>
#include <unistd.h>

#include "fvm/notify.h"

#define MAX_WAITING 4096 /* a VM that asks for more is its own enemy */

struct net_waiting {
	struct net_waiting *next;
	struct seccomp_notif req;
	int listener;
};

static void let_go(struct supervisor *sup)
{
	close(sup->net);
	sup->net = -1;
	while (sup->net_waiting) {
		struct net_waiting *w = sup->net_waiting;
		const struct call c = { .sup = sup, .listener = w->listener, .req = &w->req };
		sup->net_waiting = w->next;
		(void)notify_send(&c, GO_ON);
		free(w);
	}
}

void notify_net_ready(struct supervisor *sup)
{
	char byte;
	if (read(sup->net, &byte, 1) != 1)
		notify_log(sup, "the VM's network did not come up; fvm doctor tells what it needs");
	let_go(sup);
}

enum verdict on_socket(struct call *c, const struct file_call *f)
{
	struct supervisor *sup = c->sup;
	(void)f;
	if (sup->net < 0 || sup->net_count == MAX_WAITING)
		return GO_ON;
	struct net_waiting *w = malloc(sizeof(*w));
	if (!w)
		return GO_ON;
	*w = (struct net_waiting){ sup->net_waiting, *c->req, c->listener };
	sup->net_waiting = w;
	sup->net_count++;
	/* where nobody listens any more, the hang-up will tell */
	if (!sup->net_asked)
		(void)!write(sup->net, "n", 1);
	sup->net_asked = true;
	return LATER;
}
