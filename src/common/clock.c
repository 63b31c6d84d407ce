#include <time.h>

#include "common/clock.h"

static int64_t read_clock(clockid_t clock)
{
	struct timespec t;
	clock_gettime(clock, &t);
	return t.tv_sec * 1000000000LL + t.tv_nsec;
}

int64_t fvm_now_ns(void)
{
	return read_clock(CLOCK_REALTIME);
}

int64_t fvm_clock_ns(void)
{
	return read_clock(CLOCK_MONOTONIC);
}

int64_t fvm_clock_ms(void)
{
	return fvm_clock_ns() / 1000000 + 1;
}

void fvm_sleep_ms(unsigned int ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L };
	nanosleep(&t, NULL);
}
