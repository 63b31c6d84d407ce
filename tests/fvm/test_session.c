/*
 * PID 1 by itself, without a VM around it: a pid and mount namespace, a devpts of its own, and the
 * host's programs. What needs root or a user namespace skips without.
 */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "tests/box.h"

#include "fvm/init_priv.h"

struct vm {
	struct box *box;
	pid_t pid; /* PID 1, as we see it; 0: none */
};

static int listen_at(const struct box *box)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/control", box->dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, 64), 0);
	return fd;
}

static _Noreturn void be_init(const struct fvm_init_args *args)
{
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
	    mount("devpts", "/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620") < 0 ||
	    mount("proc", "/proc", "proc", 0, NULL) < 0)
		_exit(99);
	fvm_init_main(args);
}

static int vm_start(void **state)
{
	struct vm *vm = calloc(1, sizeof(*vm));
	*state = vm;
	if (geteuid() != 0 || box_setup((void **)&vm->box) < 0)
		return 0;
	struct fvm_init_args args = {
		.control = listen_at(vm->box),
		.alive = -1,
		.keep = -1,
		.log = openat(vm->box->dir, "log", O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC, 0600),
		.status = openat(vm->box->dir, "status", O_WRONLY | O_CREAT | O_CLOEXEC, 0600),
		.report = -1,
		.client = -1,
	};
	int ready[2];
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	/* the middle process waits, so that PID 1 is its child and its status ours */
	pid_t middle = fork();
	if (middle == 0) {
		if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0)
			_exit(98);
		pid_t pid = fork();
		if (pid == 0)
			be_init(&args);
		(void)!write(ready[1], &pid, sizeof(pid));
		int status;
		waitpid(pid, &status, 0);
		_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
	}
	close(ready[1]);
	if (read(ready[0], &vm->pid, sizeof(vm->pid)) != sizeof(vm->pid))
		vm->pid = 0;
	close(ready[0]);
	close(args.control);
	close(args.log);
	close(args.status);
	return 0;
}

static int vm_stop(void **state)
{
	struct vm *vm = *state;
	int status;
	if (vm->pid)
		kill(vm->pid, SIGKILL);
	(void)waitpid(-1, &status, 0);
	if (vm->box)
		box_teardown((void **)&vm->box);
	free(vm);
	return 0;
}

#define NEEDS_VM(state)                                                                            \
	struct vm *vm = *(state);                                                                  \
	if (!vm->pid) {                                                                            \
		print_message("needs root\n");                                                     \
		skip();                                                                            \
	}

static int dial(const struct vm *vm)
{
	int sock = fvm_control_connect_at(vm->box->dir);
	assert_true(sock >= 0);
	return sock;
}

static void shell(struct fvm_command *c, const char *script)
{
	*c = (struct fvm_command){ .fds = { -1, -1, -1 }, .window = { 24, 80, 0, 0 } };
	c->workdir = strdup("/");
	assert_int_equal(fvm_strv_add(&c->argv, "sh"), 0);
	assert_int_equal(fvm_strv_add(&c->argv, "-c"), 0);
	assert_int_equal(fvm_strv_add(&c->argv, script), 0);
	assert_int_equal(fvm_strv_add(&c->env, "PATH=/usr/bin:/bin"), 0);
}

/* Read messages until the end of the session. Return: its wait status; output in @ret */
static int drain(int sock, struct fvm_buf *ret)
{
	static char packet[sizeof(struct fvm_msg) + FVM_MSG_MAX];
	for (;;) {
		struct fvm_msg head;
		struct fvm_error err = { 0 };
		struct pollfd p = { .fd = sock, .events = POLLIN };
		assert_int_equal(poll(&p, 1, 60000), 1);
		ssize_t n = recv(sock, packet, sizeof(packet), 0);
		assert_true(n > 0);
		const char *payload = fvm_msg_check(packet, (size_t)n, &head, &err);
		assert_non_null(payload);
		int32_t status;
		if (head.type == FVM_MSG_EXITED) {
			memcpy(&status, payload, sizeof(status));
			return status;
		}
		if (ret && (head.type == FVM_MSG_OUTPUT || head.type == FVM_MSG_REPLAY))
			fvm_buf_add(ret, payload, head.len);
	}
}

/* Return: wait status of @script, run on a terminal */
static int run_terminal(const struct vm *vm, const char *script, struct fvm_buf *ret)
{
	scoped_command c;
	scoped_fd sock = dial(vm);
	struct fvm_error err = { 0 };
	shell(&c, script);
	c.terminal = true;
	assert_int_equal(fvm_control_run(sock, &c, NULL, &err), 0);
	return drain(sock, ret);
}

static int run_argv(const struct vm *vm, const char *program)
{
	scoped_command c = { .fds = { -1, -1, -1 } };
	scoped_fd sock = dial(vm);
	struct fvm_error err = { 0 };
	assert_int_equal(fvm_strv_add(&c.argv, program), 0);
	assert_int_equal(fvm_strv_add(&c.env, "PATH=/usr/bin:/bin"), 0);
	int r = fvm_control_run(sock, &c, NULL, &err);
	return r < 0 ? r : drain(sock, NULL);
}

static void status_of_a_command_arrives(void **state)
{
	NEEDS_VM(state);
	assert_int_equal(run_terminal(vm, "exit 7", NULL), W_EXITCODE(7, 0));
	assert_int_equal(run_terminal(vm, "kill -9 $$", NULL), W_EXITCODE(0, SIGKILL));
}

static void what_can_not_be_executed_is_told_apart(void **state)
{
	NEEDS_VM(state);
	assert_int_equal(run_argv(vm, "no-such-program"), -ENOENT);
	assert_int_equal(run_argv(vm, "/etc/passwd"), -EACCES);
	assert_int_equal(run_argv(vm, "/etc"), -EISDIR);
	assert_int_equal(fvm_exec_status(-ENOENT), 127);
	assert_int_equal(fvm_exec_status(-EACCES), 126);
}

static void script_without_interpreter_line_is_run_by_sh(void **state)
{
	NEEDS_VM(state);
	char path[128];
	box_write(vm->box, "script", "exit 9\n");
	assert_int_equal(fchmodat(vm->box->dir, "script", 0755, 0), 0);
	snprintf(path, sizeof(path), "%s/script", vm->box->path);
	assert_int_equal(run_argv(vm, path), W_EXITCODE(9, 0));
}

static void terminal_is_one_with_size_and_job_control(void **state)
{
	NEEDS_VM(state);
	scoped_buf out = { 0 };
	run_terminal(vm, "tty; stty size; set -m; sleep 0 & wait; echo done", &out);
	assert_non_null(strstr(out.data, "/dev/pts/0"));
	assert_non_null(strstr(out.data, "24 80"));
	assert_non_null(strstr(out.data, "done"));
}

static void all_output_arrives_though_it_is_more_than_the_ring(void **state)
{
	NEEDS_VM(state);
	scoped_buf out = { 0 };
	run_terminal(vm, "stty -opost; head -c 3000000 /dev/zero | tr '\\0' x", &out);
	assert_int_equal(out.len, 3000000);
}

static void long_command_comes_whole(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_buf out = { 0 };
	scoped_fd sock = dial(vm);
	struct fvm_error err = { 0 };
	scoped_free char *value = malloc(120001);
	shell(&c, "echo ${#A} ${#B} ${#C}");
	for (char name = 'A'; name <= 'C'; name++) {
		memset(value, 'x', 120000);
		value[120000] = '\0';
		value[0] = name;
		value[1] = '=';
		assert_int_equal(fvm_strv_add(&c.env, value), 0);
	}
	c.terminal = true;
	assert_int_equal(fvm_control_run(sock, &c, NULL, &err), 0);
	assert_int_equal(drain(sock, &out), 0);
	assert_non_null(strstr(out.data, "119998 119998 119998"));
}

static void session_outlives_its_client(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_buf out = { 0 };
	int session = 0;
	struct fvm_error err = { 0 };
	int sock = dial(vm);
	shell(&c, "echo before; read line; echo got $line; exit 3");
	c.terminal = true;
	assert_int_equal(fvm_control_run(sock, &c, &session, &err), 0);
	close(sock);
	usleep(100000);
	scoped_fd again = dial(vm);
	bool terminal = false;
	assert_int_equal(fvm_control_attach(again, session, &terminal, &err), 0);
	assert_true(terminal);
	assert_int_equal(fvm_msg_send(again, FVM_MSG_STDIN, "word\n", 5), 0);
	assert_int_equal(drain(again, &out), W_EXITCODE(3, 0));
	assert_non_null(strstr(out.data, "before"));
	assert_non_null(strstr(out.data, "got word"));
}

static void client_that_does_not_read_holds_up_nobody_for_ever(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_buf out = { 0 };
	int session = 0;
	struct fvm_error err = { 0 };
	scoped_fd reads = dial(vm), sleeps = dial(vm);
	shell(&c, "sleep 0.3; head -c 2000000 /dev/zero | tr '\\0' x; echo; echo end");
	c.terminal = true;
	assert_int_equal(fvm_control_run(reads, &c, &session, &err), 0);
	assert_int_equal(fvm_control_attach(sleeps, session, NULL, &err), 0);
	assert_int_equal(drain(reads, &out), 0);
	assert_true(out.len > 2000000);
	/* and others are served meanwhile and after */
	assert_int_equal(run_terminal(vm, "exit 5", NULL), W_EXITCODE(5, 0));
}

/* As after fvm pause: while the VM stood still, no client was slow. */
static void client_of_a_vm_that_stood_still_misses_nothing(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_buf out = { 0 };
	struct fvm_error err = { 0 };
	scoped_fd reads = dial(vm);
	shell(&c, "head -c 2000000 /dev/zero | tr '\\0' x; echo; echo end");
	c.terminal = true;
	assert_int_equal(fvm_control_run(reads, &c, NULL, &err), 0);
	usleep(200000); /* its socket is full */
	assert_int_equal(kill(vm->pid, SIGSTOP), 0);
	usleep(11000000);
	assert_int_equal(kill(vm->pid, SIGCONT), 0);
	assert_int_equal(drain(reads, &out), 0);
	assert_true(out.len > 2000000);
}

static void garbage_costs_only_its_sender(void **state)
{
	NEEDS_VM(state);
	static char garbage[70000];
	unsigned int seed = 1;
	for (int i = 0; i < 300; i++) {
		scoped_fd sock = dial(vm);
		struct fvm_msg head = { FVM_MSG_VERSION, (uint16_t)(i % 12), 0 };
		size_t len = (size_t)rand_r(&seed) % (i % 50 ? 200 : 70000);
		for (size_t at = 0; at < len; at++)
			garbage[at] = (char)rand_r(&seed);
		if (i % 12 == FVM_MSG_SHUTDOWN && i % 3)
			head.type = FVM_MSG_RUN;
		else if (i % 12 == FVM_MSG_SHUTDOWN)
			continue; /* four bytes of garbage would be understood */
		head.len = (uint32_t)(len > sizeof(head) ? len - sizeof(head) : 0);
		if (i % 2)
			memcpy(garbage, &head, sizeof(head));
		(void)send(sock, garbage, len, MSG_NOSIGNAL);
		if (i % 3)
			(void)send(sock, garbage, len / 2, MSG_NOSIGNAL);
	}
	assert_int_equal(run_terminal(vm, "exit 4", NULL), W_EXITCODE(4, 0));
}

static void directory_or_socket_is_not_taken_over(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_fd sock = dial(vm);
	struct fvm_error err = { 0 };
	shell(&c, "true");
	c.fds[0] = vm->box->dir;
	assert_int_equal(fvm_control_run(sock, &c, NULL, &err), -EPERM);
}

static void more_connections_than_descriptors_are_survived(void **state)
{
	NEEDS_VM(state);
	const struct rlimit few = { 64, 64 };
	int socks[100];
	assert_int_equal(prlimit(vm->pid, RLIMIT_NOFILE, &few, NULL), 0);
	for (size_t i = 0; i < FVM_COUNT(socks); i++)
		socks[i] = fvm_control_connect_at(vm->box->dir);
	usleep(200000);
	for (size_t i = 0; i < FVM_COUNT(socks); i++)
		close(socks[i]);
	usleep(200000);
	assert_int_equal(run_terminal(vm, "exit 6", NULL), W_EXITCODE(6, 0));
}

static void signals_and_ptrace_from_inside_do_nothing(void **state)
{
	NEEDS_VM(state);
	scoped_buf out = { 0 };
	int status =
		run_terminal(vm,
			     "for s in $(seq 1 64); do kill -$s 1 2>/dev/null; done; sleep 0.2;"
			     "cat /proc/1/environ /proc/1/maps 2>/dev/null | wc -c;"
			     "tr '\\0' ' ' </proc/1/cmdline; cat /proc/1/comm; exit 8",
			     &out);
	assert_int_equal(status, W_EXITCODE(8, 0));
	assert_non_null(strstr(out.data, "fvm-init"));
	assert_null(strstr(out.data, "test_fvm_session"));
	assert_int_equal(run_terminal(vm, "exit 2", NULL), W_EXITCODE(2, 0));
}

static void idle_vm_loses_nothing_but_memory(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_buf out = { 0 };
	int session = 0;
	struct fvm_error err = { 0 };
	scoped_fd reads = dial(vm);
	/* PID 1 gives back what it does not need after a second without anything to do */
	shell(&c, "sleep 1.5; head -c 300000 /dev/zero | tr '\\0' x; exit 6");
	c.terminal = true;
	assert_int_equal(fvm_control_run(reads, &c, &session, &err), 0);
	assert_int_equal(drain(reads, &out), W_EXITCODE(6, 0));
	assert_true(out.len >= 300000);
	assert_int_equal(run_terminal(vm, "exit 5", NULL), W_EXITCODE(5, 0));
}

static void orphans_are_reaped(void **state)
{
	NEEDS_VM(state);
	scoped_buf out = { 0 };
	run_terminal(vm, "for i in $(seq 50); do (true &) & done; wait; sleep 0.3; ps ax", &out);
	assert_null(strstr(out.data, "defunct"));
}

static void command_gets_no_descriptor_but_its_own(void **state)
{
	NEEDS_VM(state);
	scoped_buf out = { 0 };
	run_terminal(vm, "echo n=$(ls /proc/$$/fd | wc -l)", &out);
	assert_true(strstr(out.data, "n=3") || strstr(out.data, "n=4")); /* dash may keep one */
}

static void shutdown_ends_stubborn_programs_and_leaves_a_record(void **state)
{
	NEEDS_VM(state);
	scoped_command c;
	scoped_free char *text = NULL;
	scoped_fd sock = dial(vm), ask = dial(vm);
	struct fvm_error err = { 0 };
	int status;
	shell(&c, "trap '' TERM HUP; while :; do sleep 1; done");
	c.terminal = true;
	assert_int_equal(fvm_control_run(sock, &c, NULL, &err), 0);
	assert_int_equal(fvm_control_shutdown(ask, 300, &err), 0);
	assert_true(waitpid(-1, &status, 0) > 0); /* the middle one, with PID 1's status */
	vm->pid = 0;
	assert_int_equal(status, 0);
	assert_int_equal(fvm_read_file(vm->box->dir, "status", 100, &text, NULL), 0);
	assert_string_equal(text, "exit 0\n");
}

static void a_status_is_not_lost_with_what_pid_1_did_not_read(void **state)
{
	struct fvm_error err = { 0 };
	const int32_t said = W_EXITCODE(7, 0);
	int ends[2], status = -1;
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
	/* as a client tells of its window or the end of its input while the command ends */
	assert_int_equal(fvm_msg_send(ends[0], FVM_MSG_STDIN, NULL, 0), 0);
	assert_int_equal(fvm_msg_send(ends[1], FVM_MSG_EXITED, &said, sizeof(said)), 0);
	close(ends[1]);
	assert_int_equal(fvm_client_stream(ends[0], -1, -1, false, &status, &err), 0);
	assert_int_equal(status, said);
	close(ends[0]);
}

#define WITH_VM(name) cmocka_unit_test_setup_teardown(name, vm_start, vm_stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		WITH_VM(status_of_a_command_arrives),
		WITH_VM(what_can_not_be_executed_is_told_apart),
		WITH_VM(script_without_interpreter_line_is_run_by_sh),
		WITH_VM(terminal_is_one_with_size_and_job_control),
		WITH_VM(all_output_arrives_though_it_is_more_than_the_ring),
		WITH_VM(long_command_comes_whole),
		WITH_VM(session_outlives_its_client),
		WITH_VM(client_that_does_not_read_holds_up_nobody_for_ever),
		WITH_VM(client_of_a_vm_that_stood_still_misses_nothing),
		WITH_VM(garbage_costs_only_its_sender),
		WITH_VM(directory_or_socket_is_not_taken_over),
		WITH_VM(more_connections_than_descriptors_are_survived),
		WITH_VM(signals_and_ptrace_from_inside_do_nothing),
		WITH_VM(idle_vm_loses_nothing_but_memory),
		WITH_VM(orphans_are_reaped),
		WITH_VM(command_gets_no_descriptor_but_its_own),
		WITH_VM(shutdown_ends_stubborn_programs_and_leaves_a_record),
		cmocka_unit_test(a_status_is_not_lost_with_what_pid_1_did_not_read),
	};
	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
