/*
 * Texts with ids: /etc/subuid and subgid, passwd and group of the host, and uid_map and passwd as a
 * VM's root may have made them. The first line says who is looked for: "NAME ID".
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fvm/accounts.h"
#include "fvm/idmap_user.h"
#include "fvm/procs.h"
#include "temporary.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void subids(const char *text, const char *name, unsigned int id)
{
	uint32_t first = 0;
	uint32_t count = fvm_subid_parse(text, name, id, &first);
	/* root is never among them, and the last is an id */
	if (count && (first == 0 || (uint64_t)first + count > UINT32_MAX))
		abort();
}

static void passwd(const char *text, unsigned int id)
{
	char name[64], path[64], *line = strdup(text), *fields[7];
	struct fvm_users *users = fvm_users_of(strdup(text), strdup(text));
	uid_t inside = users ? fvm_users_inside(users, id) : 0;
	const char *found = users ? fvm_users_name(users, inside, name) : NULL;
	if (found && (!*found || strlen(found) >= sizeof(name) || strpbrk(found, ":\n")))
		abort();
	fvm_users_free(users);
	if (line)
		(void)fvm_account_fields(line, fields, FVM_COUNT(fields));
	free(line);
	if (fvm_write_file_atomic(temporary_dir(), "passwd", text, strlen(text), false) < 0)
		return;
	snprintf(path, sizeof(path), "%s/passwd", temporary_path);
	(void)fvm_account_in_file(path, id);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char name[32] = "", *rest;
	scoped_free char *text = strndup((const char *)data, size);
	if (!text || !(rest = strchr(text, '\n')))
		return 0;
	*rest++ = '\0';
	unsigned int id = 0;
	(void)sscanf(text, "%31s %u", name, &id);
	subids(rest, name, id);
	passwd(rest, id);
	return 0;
}
