/* Whose VM a start makes: the account that it is for, and a range of ids that is nobody's. */
#include <stdlib.h>
#include <unistd.h>

#include "fvm/slot.h"
#include "fvm/start_priv.h"

#define SLOT_TRIES 16 /* ranges passed over for ids in use */

/* For root who came by sudo it is who called it. */
void start_find_account(struct start *s)
{
	uid_t uid = s->options->user_uid;
	const char *sudo = getenv("SUDO_UID");
	if (s->vm->config.rootless)
		uid = geteuid();
	else if (uid == 0 && sudo)
		uid = (uid_t)strtoul(sudo, NULL, 10);
	fvm_accounts_find(uid, &s->accounts);
}

/* What is in use on this host: the ids of whom the VM is for, and those that fvm_idmap_plan()
 * finds. A range in which one of them lies is nobody's to give. */
int start_take_slot(struct start *s, struct fvm_error *err)
{
	int passed[SLOT_TRIES];
	size_t tries = 0;
	int r;
	int wish = s->options->wish ? fvm_net_wish_slot(s->options->wish) : -1;
	for (;; wish = -1) {
		r = fvm_slot_take(s->vm->config.id, wish, &s->running.slot, &s->slot, err);
		if (r < 0)
			break;
		s->running.uid_base = fvm_slot_uid(s->running.slot);
		fvm_idmap_plan(s->running.uid_base, &s->map);
		fvm_idmap_add(&s->map, s->options->user_uid, s->options->user_gid);
		for (size_t i = 0; i < s->accounts.gid_count; i++)
			fvm_idmap_add(&s->map, 0, s->accounts.gids[i]);
		if (!fvm_idmap_collides(&s->map, FVM_UID_SPAN) || tries == SLOT_TRIES)
			break;
		passed[tries++] = fvm_fd_take(&s->slot); /* held, so that the next is another */
	}
	for (size_t i = 0; i < tries; i++)
		close(passed[i]);
	return r;
}
