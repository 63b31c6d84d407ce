/*
 * The network of a starting VM, beside everything else.
 *
 * Rules, a link, addresses: a third of the time a start takes is netlink, and nothing of it has to
 * wait for a mount. So a thread does it, in two parts. The first needs the slot only and runs while
 * the starter plans, and the builder makes its own namespace; then the thread sleeps, as PID 1 is a
 * copy of our memory in which nobody else's lock may be held. The second needs PID 1's network
 * namespace and runs while the builder mounts; then it notes what runs. The builder shares memory
 * and C library with both of us: all may allocate.
 */
#include <errno.h>
#include <signal.h>
#include <unistd.h>

#include "fvm/start_priv.h"
#include "fvm/sys.h"

static void sem_await(sem_t *sem)
{
	while (sem_wait(sem) < 0 && errno == EINTR)
		;
}

static int prepare(struct start *s)
{
	struct start_net *t = &s->net_thread;
	int r = fvm_net_prepare(s->running.slot, &s->vm->config, s->options->wish, &s->net,
				&t->err);
	s->has_net = r == 0;
	t->needs_relay = r == 0 && fvm_net_needs_relay(&s->net) != 0;
	return r == 0 ? fvm_net_resolv_conf(&s->net, &s->resolv, &t->err) : r;
}

static int connect_guest(struct start *s)
{
	struct start_net *t = &s->net_thread;
	int r = start_await_spaces(s);
	if (r < 0)
		return fvm_error_set(&t->err, -r, "make the VM's namespaces");
	r = fvm_net_attach(&s->net, -1, s->init, &t->err);
	/* its helper ends with PID 1, and that with the builder: who failed first has said so */
	t->ended_init = r < 0 && !atomic_load(&t->stopping) && !s->err.code;
	return r;
}

/* While the builder mounts what is the kernel's, and pivots. What fails here is tried again, and
 * told, by the starter; so is the rest when there is a relay to be started. */
static void note(struct start *s)
{
	struct start_net *t = &s->net_thread;
	sem_await(&t->mounted);
	if (!t->needs_relay && !atomic_load(&t->stopping))
		t->noted = start_note_running(s, NULL) == 0;
}

static void *net_main(void *arg)
{
	struct start *s = arg;
	struct start_net *t = &s->net_thread;
	t->tid = gettid();
	t->result = prepare(s);
	sem_post(&t->prepared);
	if (t->result < 0)
		return NULL;
	sem_await(&t->cloned);
	if (!t->abandoned)
		t->result = connect_guest(s);
	if (t->result == 0 && !t->abandoned)
		note(s);
	/* PID 1 waits for its network, and whoever waits for PID 1 would wait for ever */
	if (t->result < 0 && s->pidfd >= 0)
		(void)sys_pidfd_send_signal(s->pidfd, SIGKILL);
	return NULL;
}

int start_net_begin(struct start *s, struct fvm_error *err)
{
	struct start_net *t = &s->net_thread;
	if (sem_init(&t->prepared, 0, 0) < 0 || sem_init(&t->cloned, 0, 0) < 0 ||
	    sem_init(&t->mounted, 0, 0) < 0)
		return fvm_error_set(err, errno, "make a thread");
	int r = fvm_thread_start_apart(&t->thread, net_main, s);
	t->running = r == 0;
	return r < 0 ? fvm_error_set(err, -r, "make a thread") : 0;
}

int start_net_heard(struct start *s)
{
	struct start_net *t = &s->net_thread;
	if (t->running && !t->heard)
		sem_await(&t->prepared);
	t->heard = true;
	return t->result;
}

int start_net_prepared(struct start *s, struct fvm_error *err)
{
	return start_net_heard(s) < 0 ? start_net_end(s, err) : 0;
}

void start_net_connect(struct start *s)
{
	fvm_task_wake(s->net_thread.tid, &s->net_thread.cloned);
}

void start_net_mounted(struct start *s)
{
	if (s->net_thread.running)
		sem_post(&s->net_thread.mounted);
}

int start_net_end(struct start *s, struct fvm_error *err)
{
	struct start_net *t = &s->net_thread;
	if (!t->running)
		return 0;
	pthread_join(t->thread, NULL);
	t->running = false;
	if (t->result < 0 && err)
		*err = t->err;
	return t->result;
}

void start_net_abandon(struct start *s)
{
	struct start_net *t = &s->net_thread;
	if (!t->running)
		return;
	/* it may have been let go already: then PID 1's end ends its wait */
	atomic_store(&t->stopping, true);
	if (s->pidfd < 0)
		t->abandoned = true;
	else
		(void)sys_pidfd_send_signal(s->pidfd, SIGKILL);
	sem_post(&t->cloned);
	sem_post(&t->mounted);
	(void)start_net_end(s, NULL);
}
