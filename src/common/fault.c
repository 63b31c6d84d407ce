#include "common/fault.h"

#ifdef FVM_FAULTS
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/mem.h"

static const struct {
	const char *name;
	int code; /* errno, or minus a signal */
} actions[] = {
	{ "kill", -SIGKILL }, { "stop", -SIGSTOP }, { "enospc", ENOSPC },
	{ "eio", EIO },	      { "einval", EINVAL }, { "exdev", EXDEV },
};

static int act(const char *name)
{
	for (size_t i = 0; i < FVM_COUNT(actions); i++) {
		if (strcmp(actions[i].name, name) != 0)
			continue;
		if (actions[i].code > 0)
			return -actions[i].code;
		raise(-actions[i].code);
		return 0;
	}
	return 0;
}

static void note(const char *point)
{
	const char *list = getenv("FVM_FAULT_LIST");
	if (!list)
		return;
	int fd = open(list, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd < 0)
		return;
	dprintf(fd, "%s\n", point);
	close(fd);
}

/* Visits are counted per rule of FVM_FAULT, the first eight of them. */
int fvm_fault(const char *point)
{
	static unsigned long visits[8];
	note(point);
	const char *rules = getenv("FVM_FAULT");
	for (size_t i = 0; rules && *rules && i < FVM_COUNT(visits); i++) {
		char name[64] = "", action[16] = "";
		unsigned long at = 0;
		if (sscanf(rules, "%63[^:,]:%lu:%15[^,]", name, &at, action) != 3)
			return 0;
		bool ours = strcmp(name, "*") == 0 || strcmp(name, point) == 0;
		if (ours && ++visits[i] == at)
			return act(action);
		rules = strchr(rules, ',');
		rules = rules ? rules + 1 : NULL;
	}
	return 0;
}
#else
typedef int fvm_fault_is_off; /* a translation unit must not be empty */
#endif
