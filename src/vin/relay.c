#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "common/common.h"
#include "vin/relay.h"

#define BLOCKS 4
#define WORTH  (8ULL << 20)

struct relay {
	const struct vin_relay_ends *ends;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned char *blocks;
	size_t lens[BLOCKS];
	size_t filled, drained; /* how many were */
	bool ended;		/* nobody fills any more */
	int code;		/* of who failed first */
};

/* ---- one thread ---- */

static int in_turns(const struct vin_relay_ends *ends)
{
	scoped_free void *block = malloc(VIN_RELAY_ROOM);
	int r = block ? 0 : -ENOMEM;
	while (r == 0) {
		long n = ends->fill(ends->fill_arg, block);
		if (n <= 0)
			return (int)n;
		r = ends->drain(ends->drain_arg, block, (size_t)n);
	}
	return r;
}

/* ---- two ---- */

static void stop(struct relay *y, int code)
{
	pthread_mutex_lock(&y->lock);
	if (y->code == 0)
		y->code = code;
	y->ended = true;
	pthread_cond_broadcast(&y->changed);
	pthread_mutex_unlock(&y->lock);
}

/* Return: a block, or NULL when there is nothing more to do */
static unsigned char *await(struct relay *y, bool to_fill)
{
	pthread_mutex_lock(&y->lock);
	while (y->code == 0 &&
	       (to_fill ? y->filled - y->drained == BLOCKS : y->filled == y->drained && !y->ended))
		pthread_cond_wait(&y->changed, &y->lock);
	const size_t at = (to_fill ? y->filled : y->drained) % BLOCKS;
	const bool none = y->code != 0 || (!to_fill && y->filled == y->drained);
	pthread_mutex_unlock(&y->lock);
	return none ? NULL : y->blocks + at * VIN_RELAY_ROOM;
}

static void pass(struct relay *y, size_t *count)
{
	pthread_mutex_lock(&y->lock);
	(*count)++;
	pthread_cond_broadcast(&y->changed);
	pthread_mutex_unlock(&y->lock);
}

static void fill_all(struct relay *y)
{
	long n = 1;
	for (unsigned char *block; n > 0 && (block = await(y, true));) {
		n = y->ends->fill(y->ends->fill_arg, block);
		if (n <= 0)
			break;
		y->lens[y->filled % BLOCKS] = (size_t)n;
		pass(y, &y->filled);
	}
	stop(y, n < 0 ? (int)n : 0);
}

static void drain_all(struct relay *y)
{
	for (const unsigned char *block; (block = await(y, false));) {
		int r = y->ends->drain(y->ends->drain_arg, block, y->lens[y->drained % BLOCKS]);
		if (r < 0) {
			stop(y, r);
			return;
		}
		pass(y, &y->drained);
	}
}

static void *work_apart(void *arg)
{
	struct relay *y = arg;
	if (y->ends->fill_apart)
		fill_all(y);
	else
		drain_all(y);
	return NULL;
}

/* What comes for us is not for the thread. */
static int start(struct relay *y, pthread_t *ret)
{
	sigset_t all, before;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(ret, NULL, work_apart, y);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return -r;
}

static int at_once(const struct vin_relay_ends *ends)
{
	pthread_t worker;
	scoped_free unsigned char *blocks = malloc(BLOCKS * VIN_RELAY_ROOM);
	struct relay y = { .ends = ends,
			   .lock = PTHREAD_MUTEX_INITIALIZER,
			   .changed = PTHREAD_COND_INITIALIZER,
			   .blocks = blocks };
	if (!blocks || start(&y, &worker) < 0)
		return in_turns(ends);
	if (ends->fill_apart)
		drain_all(&y);
	else
		fill_all(&y);
	pthread_join(worker, NULL);
	return y.code;
}

int vin_relay(const struct vin_relay_ends *ends, unsigned long long bytes)
{
	return bytes < WORTH || sysconf(_SC_NPROCESSORS_ONLN) < 2 ? in_turns(ends) : at_once(ends);
}
