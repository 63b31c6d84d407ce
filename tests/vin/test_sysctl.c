/* Parameters of a network namespace. */
#include "worlds.h"

#define NET "/proc/sys/net/"

struct parameter { /* a table of them ends with { 0 } */
	const char *path, *value;
};

static void set(const struct parameter *p)
{
	for (; p->path; p++)
		CHECK(put(p->path, p->value) == 0);
}

static void is(const char *path, const char *value)
{
	char text[64] = "";
	scoped_fd fd = open(path, O_RDONLY | O_CLOEXEC);
	CHECK(fd >= 0 && read(fd, text, sizeof(text) - 1) > 0);
	text[strcspn(text, "\n")] = '\0';
	CHECK(strcmp(text, value) == 0);
}

static void are_set(const struct parameter *p)
{
	for (; p->path; p++)
		is(p->path, p->value);
}

static const struct parameter some[] = {
	{ NET "ipv4/ip_default_ttl", "17" },   { NET "ipv4/tcp_keepalive_time", "1234" },
	{ NET "core/somaxconn", "77" },	       { NET "ipv4/ping_group_range", "0\t0" },
	{ NET "ipv4/conf/lo/rp_filter", "2" }, { 0 },
};

static void set_some(void)
{
	set(some);
}

static void some_are_set(void)
{
	are_set(some);
}

static void parameters_come_back(void **state)
{
	(void)state;
	goes_on(set_some, some_are_set, CLONE_NEWNET);
}

/* In this order: the first sets others. */
static const struct parameter forwarding[] = {
	{ NET "ipv4/ip_forward", "1" },
	{ NET "ipv4/conf/lo/forwarding", "0" },
	{ NET "ipv4/conf/all/log_martians", "1" },
	{ NET "ipv4/conf/lo/accept_redirects", "0" },
	{ 0 },
};

static void forward(void)
{
	set(forwarding);
}

static void forwards(void)
{
	are_set(forwarding);
}

static void one_that_sets_others_leaves_them_as_they_were(void **state)
{
	(void)state;
	goes_on(forward, forwards, CLONE_NEWNET);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(parameters_come_back),
		WORLD(one_that_sets_others_leaves_them_as_they_were),
	};
	world_spaces = CLONE_NEWNET;
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
