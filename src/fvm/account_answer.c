/*
 * What the host's name services say of an account. In a file of its own, which fvm is not linked
 * with: see accounts.h.
 */
#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/accounts.h"

/* A service may say anything; a line has its colons where we put them. */
static void put_field(struct fvm_buf *b, const char *text)
{
	for (; text && *text; text++)
		fvm_buf_printf(b, "%c", *text == ':' || *text == '\n' ? ' ' : *text);
}

static void put_groups(struct fvm_buf *b, const char *name, gid_t primary)
{
	gid_t gids[FVM_ACCOUNT_GROUPS];
	int count = FVM_ACCOUNT_GROUPS;
	/* who is in more groups than there is room for is in the first of them */
	if (getgrouplist(name, primary, gids, &count) < 0)
		count = FVM_ACCOUNT_GROUPS;
	for (int i = 0; i < count; i++) {
		const struct group *gr = getgrgid(gids[i]);
		fvm_buf_printf(b, "%u:", gids[i]);
		put_field(b, gr ? gr->gr_name : "");
		fvm_buf_puts(b, "\n");
	}
}

int fvm_account_answer(const char *whom)
{
	scoped_buf b = { 0 };
	const struct passwd *pw =
		whom[0] == '=' ? getpwnam(whom + 1) : getpwuid((uid_t)strtoul(whom, NULL, 10));
	scoped_free char *name = pw ? strdup(pw->pw_name) : NULL;
	if (!name)
		return 1;
	const gid_t primary = pw->pw_gid;
	put_field(&b, name);
	fvm_buf_printf(&b, ":x:%u:%u:", pw->pw_uid, primary);
	put_field(&b, pw->pw_gecos);
	fvm_buf_puts(&b, ":");
	put_field(&b, pw->pw_dir);
	fvm_buf_puts(&b, ":");
	put_field(&b, pw->pw_shell);
	fvm_buf_puts(&b, "\n");
	put_groups(&b, name, primary); /* which may overwrite pw */
	return b.failed || fputs(b.data, stdout) == EOF || fflush(stdout) == EOF;
}
