#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fvm/checkpoint_priv.h"
#include "fvm/internal.h"
#include "fvm/state.h"
#include "vin/spaces.h"
#include "vin/status.h"

void fvm_connections_free(struct fvm_connections *c)
{
	free(c->list);
	*c = (struct fvm_connections){ 0 };
}

int fvm_connections_add(struct fvm_connections *c, pid_t here, const struct fvm_connection *one)
{
	char path[40];
	scoped_free char *name = NULL;
	struct fvm_connection *more = reallocarray(c->list, fvm_room(c->count + 1), sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->list = more;
	more[c->count] = *one;
	snprintf(path, sizeof(path), "/proc/%d/comm", here);
	if (fvm_read_file(AT_FDCWD, path, 64, &name, NULL) == 0)
		snprintf(more[c->count].command, sizeof(more->command), "%.*s",
			 (int)strcspn(name, "\n"), name);
	c->count++;
	return 0;
}

void fvm_world_close(struct fvm_world *w)
{
	for (size_t i = 0; i < w->count; i++) {
		free(w->held[i].packet);
		fvm_fd_closep(&w->held[i].fd);
	}
	free(w->held);
	free(w->given);
	free(w->roots);
	fvm_fd_closep(&w->root);
	fvm_fd_closep(&w->pidfd);
	fvm_fd_closep(&w->users);
	fvm_foothold_close(&w->foothold);
}
int fvm_world_ask(int sock, enum fvm_msg_type type, const void *payload, size_t len,
		  enum fvm_msg_type wanted, struct fvm_held *ret, struct fvm_error *err)
{
	int r = fvm_msg_send(sock, type, payload, len);
	if (r < 0)
		return fvm_error_set(err, -r, "speak to PID 1 of the VM");
	ssize_t n = fvm_control_answer(sock, wanted, &ret->packet, &ret->told, &ret->fd, err);
	ret->len = n < 0 ? 0 : (size_t)n;
	return n < 0 ? (int)n : 0;
}

int fvm_world_room(struct fvm_world *w, size_t count, struct fvm_error *err)
{
	w->held = calloc(count + 1, sizeof(*w->held));
	w->given = calloc(count + 1, sizeof(*w->given));
	return w->held && w->given ? 0 : fvm_error_set(err, ENOMEM, "list the VM's sessions");
}

void fvm_world_give(struct fvm_world *w, struct fvm_held *h, int id)
{
	snprintf(h->name, sizeof(h->name), "session %d", id);
	if (h->fd >= 0)
		w->given[w->given_count++] = (struct vin_given){ .fd = h->fd, .name = h->name };
}

int fvm_world_hold(struct fvm_world *w, struct fvm_error *err)
{
	scoped_free struct fvm_session_info *list = NULL;
	size_t count = 0;
	scoped_fd asked = fvm_control_connect(w->vm, err);
	int r = asked < 0 ? asked : fvm_control_list(asked, &list, &count, err);
	scoped_fd sock = r < 0 ? -1 : fvm_control_connect(w->vm, err);
	if (r == 0)
		r = sock < 0 ? sock : fvm_world_room(w, count, err);
	for (size_t i = 0; r == 0 && i < count; i++) {
		const int32_t id = list[i].id;
		struct fvm_held *h = &w->held[w->count];
		struct fvm_error why = { 0 };
		h->fd = -1;
		if (list[i].pid == w->foothold.number)
			continue;
		r = fvm_world_ask(sock, FVM_MSG_HOLD, &id, sizeof(id), FVM_MSG_HELD, h, &why);
		if (r == 0 && h->len < sizeof(struct fvm_msg_live))
			r = fvm_error_set(&why, EBADMSG, "understand PID 1 of the VM");
		if (r == 0) {
			w->count++;
			fvm_world_give(w, h, id);
		} else if (r == -ENOENT) {
			r = 0; /* it has ended meanwhile */
		} else if (err) {
			*err = why;
		}
	}
	return r;
}

/* An ordinary user is not shown filters. Those of a session are PID 1's and the supervisor's, which
 * the sessions of the new VM have again (fvm/child); who has more put them on himself. */
static int world_filters(struct fvm_world *w, struct fvm_error *err)
{
	scoped_status st = { 0 };
	int r = w->vm->config.rootless ? vin_status_read(w->init, w->init, &st, err) : 0;
	if (r == 0 && w->vm->config.rootless)
		w->filters = (uint64_t)st.filters + 1;
	return r;
}

int fvm_world_open(const struct fvm_vm *vm, struct fvm_world *w, struct fvm_error *err)
{
	scoped_running running = { 0 };
	char path[40];
	*w = (struct fvm_world)FVM_NO_WORLD;
	w->vm = vm;
	int r = fvm_running_load(vm, &running, err);
	if (r < 0)
		return r;
	w->pidfd = fvm_running_pidfd(&running);
	if (w->pidfd < 0)
		return fvm_error_set(err, -w->pidfd, "find PID 1 of the VM");
	w->init = running.init_pid;
	memcpy(w->addresses.address4, running.address4, sizeof(running.address4));
	memcpy(w->addresses.address6, running.address6, sizeof(running.address6));
	r = world_filters(w, err);
	if (r < 0)
		return r;
	if (vm->config.rootless)
		return 0; /* there has to be a foothold */
	w->spaces = vin_spaces_apart(w->init, CLONE_NEWUTS | CLONE_NEWNET);
	snprintf(path, sizeof(path), "/proc/%d/root", w->init);
	w->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (w->root < 0)
		return fvm_error_set(err, errno, "open the root of VM '%s'", vm->config.name);
	return 0;
}

int fvm_world_enter(struct fvm_world *w, struct fvm_error *err)
{
	if (!w->vm->config.rootless)
		return 0;
	int r = fvm_foothold_open(w->vm, &w->foothold, err);
	if (r < 0)
		return r;
	/* with nat the network is that of the namespace around the VM's, whose start sets it */
	const int net = w->vm->config.net == FVM_NET_NAT ? 0 : CLONE_NEWNET;
	w->spaces = vin_spaces_apart(w->foothold.pid, CLONE_NEWUTS | net);
	fvm_fd_closep(&w->pidfd);
	w->pidfd = fcntl(w->foothold.pidfd, F_DUPFD_CLOEXEC, 0);
	w->root = fcntl(w->foothold.root, F_DUPFD_CLOEXEC, 0);
	return w->pidfd < 0 || w->root < 0 ? fvm_error_set(err, errno, "hold a descriptor") : 0;
}
