#include "tests/box.h"

#include <arpa/inet.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "fvm/relay.h"
#include "fvm/sys.h"

#define CROWD 60

struct served {
	int target; /* listens where the relay connects to */
	uint16_t port;
	pid_t pid;
};

static int listen_anywhere(uint16_t *ret_port)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	socklen_t len = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	assert_int_equal(listen(fd, CROWD), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &len), 0);
	*ret_port = ntohs(at.sin_port);
	return fd;
}

/* A relay in a process of its own, which may have @descriptors. */
static struct served relay_start(rlim_t descriptors)
{
	const struct fvm_address here = { AF_INET, { 127, 0, 0, 1 } };
	struct served s = { 0 };
	uint16_t to;
	struct relay relay = { .vm = sys_pidfd_open(getpid(), 0) };
	s.target = listen_anywhere(&to);
	int probe = listen_anywhere(&s.port);
	close(probe);
	assert_int_equal(fvm_relay_listen(&relay, false, &here, s.port, &here, to), 0);
	s.pid = fork();
	if (s.pid == 0) {
		const struct rlimit limit = { descriptors, descriptors };
		close(s.target);
		(void)setrlimit(RLIMIT_NOFILE, &limit);
		signal(SIGPIPE, SIG_IGN);
		_exit(fvm_relay_loop(&relay) < 0);
	}
	close(relay.listeners[0].fd);
	close(relay.vm);
	return s;
}

static struct rusage relay_end(const struct served *s)
{
	struct rusage used;
	kill(s->pid, SIGKILL);
	assert_int_equal(wait4(s->pid, NULL, 0, &used), s->pid);
	close(s->target);
	return used;
}

static int call(const struct served *s)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_port = htons(s->port),
				  .sin_addr = { htonl(INADDR_LOOPBACK) } };
	const struct timeval patience = { .tv_sec = 5 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0);
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

static void bytes_and_ends_pass_both_ways(void **state)
{
	char text[8] = "";
	(void)state;
	struct served s = relay_start(64);
	int client = call(&s), server = accept(s.target, NULL, NULL);
	assert_int_equal(send(client, "ask", 3, 0), 3);
	assert_int_equal(shutdown(client, SHUT_WR), 0);
	assert_int_equal(recv(server, text, 3, MSG_WAITALL), 3);
	assert_int_equal(recv(server, text, 3, 0), 0);
	assert_int_equal(send(server, "tell", 4, 0), 4);
	close(server);
	assert_int_equal(recv(client, text, sizeof(text), MSG_WAITALL), 4);
	assert_memory_equal(text, "tell", 4);
	close(client);
	relay_end(&s);
}

/* Each of them takes two descriptors: most find none left. */
static void crowd(rlim_t descriptors)
{
	int clients[CROWD], refused = 0;
	char byte;
	struct served s = relay_start(descriptors);
	for (int i = 0; i < CROWD; i++)
		clients[i] = call(&s);
	usleep(500000);
	for (int i = 0; i < CROWD; i++) {
		ssize_t n = recv(clients[i], &byte, 1, MSG_DONTWAIT);
		refused += n == 0 || (n < 0 && errno == ECONNRESET);
		close(clients[i]);
	}
	assert_in_range(refused, CROWD / 2, CROWD - 1);
	/* those that were let in go on both sides: the next one is served */
	assert_int_equal(fcntl(s.target, F_SETFL, O_NONBLOCK), 0);
	for (int server; (server = accept(s.target, NULL, NULL)) >= 0;)
		close(server);
	usleep(300000);
	int client = call(&s);
	assert_int_equal(send(client, "x", 1, 0), 1);
	assert_int_equal(recv(client, &byte, 1, MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
	close(client);
	struct rusage used = relay_end(&s);
	assert_true(used.ru_utime.tv_sec + used.ru_stime.tv_sec == 0 &&
		    used.ru_utime.tv_usec + used.ru_stime.tv_usec < 300000);
}

/* The last descriptor is missing for who comes, or for where he is to be led. */
static void a_crowd_is_refused_and_costs_no_time(void **state)
{
	(void)state;
	crowd(40);
	crowd(41);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_and_ends_pass_both_ways),
		cmocka_unit_test(a_crowd_is_refused_and_costs_no_time),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
