/* Host and domain name. */
#include <sys/utsname.h>

#include "worlds.h"

static void set_names(void)
{
	CHECK(sethostname("harbour", 7) == 0 && setdomainname("of.the.sea", 10) == 0);
}

static void names_are_set(void)
{
	struct utsname now;
	CHECK(uname(&now) == 0);
	CHECK(strcmp(now.nodename, "harbour") == 0 && strcmp(now.domainname, "of.the.sea") == 0);
}

static void names_come_back(void **state)
{
	(void)state;
	goes_on(set_names, names_are_set, CLONE_NEWUTS);
}

static void empty_names(void)
{
	CHECK(sethostname("", 0) == 0 && setdomainname("", 0) == 0);
}

static void names_are_empty(void)
{
	struct utsname now;
	CHECK(uname(&now) == 0 && !now.nodename[0] && !now.domainname[0]);
}

static void names_without_a_letter_come_back(void **state)
{
	(void)state;
	goes_on(empty_names, names_are_empty, CLONE_NEWUTS);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(names_come_back),
		WORLD(names_without_a_letter_come_back),
	};
	world_spaces = CLONE_NEWUTS;
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
