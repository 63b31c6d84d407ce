/*
 * What checkpoint.c and restore.c have in common: a running VM as who captures its programs, or
 * makes them again, sees it.
 */
#ifndef FVM_CHECKPOINT_PRIV_H
#define FVM_CHECKPOINT_PRIV_H

#include "fvm/checkpoint.h"
#include "fvm/foothold.h"
#include "fvm/init_priv.h"
#include "vin/capture.h"

#define FVM_PROGRAMS_MAGIC "fvm programs 3\n"
#define FVM_SESSIONS_MAX   4096

/* A session as PID 1 told it, and what it gave. */
struct fvm_held {
	char *packet;
	const char *told; /* in it: struct fvm_msg_live and output */
	size_t len;
	char name[32];
	int fd;
};

struct fvm_world {
	const struct fvm_vm *vm;
	pid_t init; /* PID 1, here */
	int pidfd;  /* the same; a user's: of our foothold */
	int spaces; /* CLONE_NEW*: namespaces of the VM's own, whose settings are its, too */
	int root;
	struct fvm_net_wish addresses; /* that it has */
	struct fvm_foothold foothold; /* in an ordinary user's */
	int users;		      /* of sessions with his ids, or -1 */
	uint64_t filters; /* that every session has, if they can be told apart by their number */
	struct fvm_held *held;
	struct vin_given *given;
	size_t count, given_count;
	pid_t *roots;
	size_t root_count;
};

void fvm_world_close(struct fvm_world *w);
#define FVM_NO_WORLD                                                                               \
	{                                                                                          \
		.root = -1, .pidfd = -1, .users = -1, .foothold = FVM_FOOTHOLD_NONE                \
	}
#define scoped_world __attribute__((cleanup(fvm_world_close))) struct fvm_world

/** fvm_world_open() - find PID 1 of the running @vm. Return: 0 or negative errno */
int fvm_world_open(const struct fvm_vm *vm, struct fvm_world *ret, struct fvm_error *err);
/** fvm_world_enter() - a foothold in an ordinary user's; nothing else is needed in root's */
int fvm_world_enter(struct fvm_world *w, struct fvm_error *err);
/** fvm_world_ask() - one question to PID 1, whose answer may have a descriptor */
int fvm_world_ask(int sock, enum fvm_msg_type type, const void *payload, size_t len,
		  enum fvm_msg_type wanted, struct fvm_held *ret, struct fvm_error *err);
/** fvm_world_hold() - have PID 1 tell all sessions, and stand still with their output */
int fvm_world_hold(struct fvm_world *w, struct fvm_error *err);
/** fvm_world_room() - for so many sessions; fvm_world_give() - what @h has goes to the programs */
int fvm_world_room(struct fvm_world *w, size_t count, struct fvm_error *err);
void fvm_world_give(struct fvm_world *w, struct fvm_held *h, int id);

/** fvm_connections_add() - one of process @pid (0: nobody), whose name is asked of @here
 *  Return: 0 or -ENOMEM */
int fvm_connections_add(struct fvm_connections *c, pid_t here, const struct fvm_connection *one);

#endif
