/* The client's side of the control socket: requests to PID 1 and its answers. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "fvm/init_priv.h"
#include "fvm/store.h"

static int not_running(const struct fvm_vm *vm, struct fvm_error *err)
{
	fvm_error_set(err, ESRCH, "reach VM '%s': it is not running", vm->config.name);
	fvm_error_hint(err, "start it with: fvm start %s", vm->config.name);
	return -ESRCH;
}

int fvm_control_connect_at(int dir)
{
	/* sun_path ends after 108 bytes: the way there is a descriptor, not the directory's name */
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/control", dir);
	scoped_fd sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (sock < 0 || connect(sock, (struct sockaddr *)&address, sizeof(address)) < 0)
		return -errno;
	return fvm_fd_take(&sock);
}

int fvm_control_connect(const struct fvm_vm *vm, struct fvm_error *err)
{
	scoped_fd dir = fvm_vm_run_dir(vm, false);
	if (dir < 0)
		return dir == -ENOENT
			       ? not_running(vm, err)
			       : fvm_error_set(err, -dir, "open the run directory of VM '%s'",
					       vm->config.name);
	int r = fvm_control_connect_at(dir);
	if (r == -ENOENT || r == -ECONNREFUSED)
		return not_running(vm, err);
	if (r < 0)
		return fvm_error_set(err, -r, "connect to VM '%s'", vm->config.name);
	return r;
}

ssize_t fvm_control_answer(int sock, enum fvm_msg_type wanted, char **ret_packet, const char **ret,
			   int *ret_fd, struct fvm_error *err)
{
	scoped_free char *packet = malloc(sizeof(struct fvm_msg) + FVM_MSG_MAX);
	scoped_fd fd = -1;
	struct fvm_msg head;
	size_t fds;
	if (!packet)
		return fvm_error_set(err, ENOMEM, "read the VM's answer");
	ssize_t n;
	/* ECONNRESET is told once, before what PID 1 had said: see client.c */
	do {
		n = fvm_recv_fds(sock, packet, sizeof(head) + FVM_MSG_MAX, &fd, !!ret_fd, &fds);
	} while (n == -ECONNRESET);
	if (n < 0)
		return fvm_error_set(err, (int)-n, "read the VM's answer");
	if (n == 0)
		return fvm_error_set(err, EPIPE, "read the VM's answer: it has ended");
	const char *payload = fvm_msg_check(packet, (size_t)n, &head, err);
	if (!payload)
		return -EBADMSG;
	if (head.type == FVM_MSG_ERROR && head.len == sizeof(struct fvm_error))
		return fvm_error_take(err, payload, head.len) ?: -EIO;
	if (head.type != wanted)
		return fvm_error_set(err, EBADMSG, "read the VM's answer: type %u", head.type);
	*ret_packet = fvm_take_ptr(&packet);
	*ret = payload;
	if (ret_fd)
		*ret_fd = fvm_fd_take(&fd);
	return (ssize_t)head.len;
}

static int answer_started(int sock, struct fvm_msg_started *ret, struct fvm_error *err)
{
	scoped_free char *packet = NULL;
	const char *payload;
	ssize_t n = fvm_control_answer(sock, FVM_MSG_STARTED, &packet, &payload, NULL, err);
	if (n < 0)
		return (int)n;
	if (n != sizeof(*ret))
		return fvm_error_set(err, EBADMSG, "read the VM's answer: %zd bytes", n);
	memcpy(ret, payload, sizeof(*ret));
	return 0;
}

static int make_memfd(const struct fvm_buf *packed)
{
	scoped_fd fd = memfd_create("fvm-run", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	int r = fvm_write_all(fd, packed->data, packed->len);
	if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW) < 0)
		r = -errno;
	return r < 0 ? r : fvm_fd_take(&fd);
}

/* The packed command, in the message or in a memfd when it is too long, and its descriptors. */
static int send_run(int sock, const struct fvm_command *c, const struct fvm_buf *packed)
{
	scoped_fd memfd = -1;
	int fds[4];
	size_t count = 0;
	bool fits = packed->len <= FVM_MSG_MAX;
	if (!fits) {
		memfd = make_memfd(packed);
		if (memfd < 0)
			return memfd;
		fds[count++] = memfd;
	}
	for (int i = 0; i < 3; i++) {
		if (c->fds[i] >= 0)
			fds[count++] = c->fds[i];
	}
	return fvm_msg_send_fds(sock, FVM_MSG_RUN, packed->data, fits ? packed->len : 0, fds,
				count);
}

int fvm_control_run(int sock, const struct fvm_command *command, int *ret_session,
		    struct fvm_error *err)
{
	scoped_buf packed = { 0 };
	struct fvm_msg_started started;
	int r = fvm_run_pack(command, &packed);
	if (r == -E2BIG)
		return fvm_error_set(err, E2BIG, "pass the command: arguments or environment");
	if (r == 0)
		r = send_run(sock, command, &packed);
	if (r < 0)
		return fvm_error_set(err, -r, "send the command to the VM");
	r = answer_started(sock, &started, err);
	if (r == 0 && ret_session)
		*ret_session = started.session;
	return r;
}

int fvm_control_attach(int sock, int session, bool *ret_terminal, struct fvm_error *err)
{
	int32_t id = session;
	struct fvm_msg_started started;
	int r = fvm_msg_send(sock, FVM_MSG_ATTACH, &id, sizeof(id));
	if (r < 0)
		return fvm_error_set(err, -r, "ask the VM for a session");
	r = answer_started(sock, &started, err);
	if (r == 0 && ret_terminal)
		*ret_terminal = started.terminal != 0;
	return r;
}

int fvm_control_shutdown(int sock, unsigned int grace_ms, struct fvm_error *err)
{
	uint32_t grace = grace_ms;
	int r = fvm_msg_send(sock, FVM_MSG_SHUTDOWN, &grace, sizeof(grace));
	return r < 0 ? fvm_error_set(err, -r, "ask the VM to shut down") : 0;
}

int fvm_control_list(int sock, struct fvm_session_info **ret, size_t *ret_count,
		     struct fvm_error *err)
{
	scoped_free char *packet = NULL;
	const char *payload;
	int r = fvm_msg_send(sock, FVM_MSG_LIST, NULL, 0);
	if (r < 0)
		return fvm_error_set(err, -r, "ask the VM for its sessions");
	ssize_t n = fvm_control_answer(sock, FVM_MSG_SESSIONS, &packet, &payload, NULL, err);
	if (n < 0)
		return (int)n;
	size_t count = (size_t)n / sizeof(struct fvm_msg_session);
	struct fvm_session_info *list = calloc(count + 1, sizeof(*list));
	if (!list)
		return fvm_error_set(err, ENOMEM, "list the VM's sessions");
	for (size_t i = 0; i < count; i++) {
		struct fvm_msg_session s;
		memcpy(&s, payload + i * sizeof(s), sizeof(s));
		list[i] = (struct fvm_session_info){ s.id, s.pid, s.terminal != 0, s.clients, "" };
		memcpy(list[i].command, s.command, sizeof(list[i].command) - 1);
	}
	*ret = list;
	*ret_count = count;
	return 0;
}
