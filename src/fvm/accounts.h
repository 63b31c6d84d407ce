/*
 * fvm/accounts - who the caller is, where only a name service knows it
 *
 * Theory of operation
 *   An account that is in no file (LDAP, sssd, systemd-homed) is found over a socket, and a VM
 *   reaches no socket of the host: whoami would know nobody. So at each start the host's name
 *   services are asked for the one account that the VM is started for, and its groups, and what
 *   they say is put into the VM's /run/userdb, as records of systemd's: its /run is made anew at
 *   each start, so that nothing of it is a change. nss-systemd reads them there, which
 * distributions have in nsswitch.conf; doctor says so where it is missing. An account that is in
 * /etc/passwd, its group in /etc/group, costs nothing but that look. Others are asked for by a
 * child process, as a service that is down may take its time. Sources: nss-systemd(8), JSON User
 * Records (systemd.io/USER_RECORD).
 */
#ifndef FVM_ACCOUNTS_H
#define FVM_ACCOUNTS_H

#include <stdbool.h>
#include <sys/types.h>

#include "common/common.h"

#define FVM_ACCOUNT_GROUPS 64

struct fvm_accounts {
	struct fvm_strv files;		/* name, text, name, text.. for /run/userdb */
	gid_t gids[FVM_ACCOUNT_GROUPS]; /* of the account, all of them */
	size_t gid_count;
};

void fvm_accounts_free(struct fvm_accounts *a);

/** fvm_accounts_find() - ask for @uid, unless files know it; nothing is what failed, too */
void fvm_accounts_find(uid_t uid, struct fvm_accounts *ret);

/** fvm_accounts_put() - write what was found below @run. Return: 0 or negative errno */
int fvm_accounts_put(const struct fvm_accounts *a, int run);

/** fvm_accounts_readable() - whether programs of this host look into /run/userdb */
bool fvm_accounts_readable(void);

/** fvm_account_fields() - cut a line of /etc/passwd or /etc/group at its colons; what is behind
 *  the @count fields that are wanted is lost. Return: whether there are so many */
bool fvm_account_fields(char *line, char **ret, size_t count);

/** fvm_account_in_file() - whether a line of @path has @id as its third field */
bool fvm_account_in_file(const char *path, unsigned long id);

#endif
