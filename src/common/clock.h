/*
 * common/clock - what time it is, and waiting for a moment
 */
#ifndef FVM_COMMON_CLOCK_H
#define FVM_COMMON_CLOCK_H

#include <stdint.h>

/** fvm_now_ns() - wall-clock time in nanoseconds since 1970 */
int64_t fvm_now_ns(void);

/** fvm_clock_ns() - the monotonic clock, for how long something takes */
int64_t fvm_clock_ns(void);

/** fvm_clock_ms() - the same in milliseconds, never 0 */
int64_t fvm_clock_ms(void);

/** fvm_sleep_ms() - wait so long, or until a signal's handler was called */
void fvm_sleep_ms(unsigned int ms);

#endif
