/* Whom the kernel says to be behind a unix socket, in programs that were made again. */
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "images.h"
#include "user.h"

#define USER_ID 61235
#define CHECK(x)                                                                                   \
	do {                                                                                       \
		if (!(x))                                                                          \
			_exit(__LINE__ % 250 + 1);                                                 \
	} while (0)

static char dir[] = "/tmp/vin-peers-XXXXXX";
static pid_t last;

static int setup(void **state)
{
	(void)state;
	outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return !mkdtemp(dir) || chdir(dir) < 0 || outside < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	return chdir("/") < 0 ? -1 : rmdir(dir);
}

static int each_teardown(void **state)
{
	(void)state;
	if (last > 0 && kill(last, 0) == 0) {
		kill_family(last);
		waitpid(last, NULL, 0);
	}
	last = 0;
	(void)unlink("ready");
	(void)unlink("go");
	(void)unlink("sock");
	return 0;
}

static void touch(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT, 0600);
	close(fd);
}

static void wait_for(const char *name)
{
	while (access(name, F_OK) < 0)
		nap(1);
}

/* The program: parent and child of a numbers of their own. */
static struct ucred peer_of(int fd)
{
	struct ucred c = { 0 };
	socklen_t len = sizeof(c);
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &len) == 0);
	return c;
}

static bool is(const struct ucred *c, pid_t pid)
{
	return c->pid == pid && c->uid == geteuid() && c->gid == getegid();
}

static bool comes_from(int fd, const char *text, pid_t pid)
{
	_Alignas(struct cmsghdr) char control[100];
	char got[20] = "";
	struct iovec data = { got, sizeof(got) - 1 };
	struct msghdr m = { .msg_iov = &data,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct ucred c = { 0 };
	if (recvmsg(fd, &m, MSG_DONTWAIT) < 0 || strcmp(got, text) != 0)
		return false;
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	if (h && h->cmsg_type == SCM_CREDENTIALS)
		memcpy(&c, CMSG_DATA(h), sizeof(c));
	return is(&c, pid);
}

static void passes(int fd)
{
	const int on = 1;
	CHECK(setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) == 0);
}

static void child(int mail)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "sock" };
	const pid_t parent = getppid();
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	CHECK(write(mail, "child", 5) == 5);
	touch("ready");
	wait_for("go");
	const struct ucred c = peer_of(fd), twin = peer_of(mail);
	CHECK(is(&c, parent) && is(&twin, parent));
	CHECK(getppid() == parent && write(mail, "later", 5) == 5);
	_exit(0);
}

static void program(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "sock" };
	int mail[2], status;
	int listener = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, mail) == 0);
	passes(mail[0]);
	CHECK(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(listener, 5) == 0);
	CHECK(write(mail[1], "parent", 6) == 6);
	const pid_t gone = fork_below();
	if (gone == 0) {
		CHECK(write(mail[1], "gone", 4) == 4);
		_exit(0);
	}
	CHECK(waitpid(gone, &status, 0) == gone);
	pid_t pid = fork_below();
	if (pid == 0)
		child(mail[1]);
	int fd = accept(listener, NULL, NULL);
	wait_for("go");
	const struct ucred c = peer_of(fd), own = peer_of(listener), twin = peer_of(mail[0]);
	CHECK(is(&c, pid) && is(&own, getpid()) && is(&twin, getpid()));
	CHECK(comes_from(mail[0], "parent", getpid()) && comes_from(mail[0], "gone", gone));
	CHECK(comes_from(mail[0], "child", pid));
	CHECK(waitpid(pid, &status, 0) == pid);
	if (status)
		_exit(WEXITSTATUS(status));
	CHECK(comes_from(mail[0], "later", pid));
	_exit(0);
}

static pid_t start(void)
{
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		int null = open("/dev/null", O_RDWR);
		for (int i = 0; i < 3; i++)
			dup2(null, i);
		(void)setsid();
		if (close_range(3, ~0U, 0) < 0)
			_exit(99);
		program();
	}
	last = pid;
	for (int i = 0; i < 30000 && access("ready", F_OK) < 0; i++)
		nap(1);
	assert_int_equal(access("ready", F_OK), 0);
	nap(20); /* accepted */
	return pid;
}

static pid_t only_child(pid_t init)
{
	char path[64];
	pid_t pid = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", init, init);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &pid), 1);
	fclose(f);
	return pid;
}

static pid_t hop(pid_t pid)
{
	static const struct vin_capture_options options = { .root = -1 };
	fclose(image_capture(pid, &options, true));
	FILE *image = image_capture(pid, &options, false);
	int status;
	assert_int_equal(waitpid(last, &status, 0), last);
	last = 0;
	struct vin_replay *r = image_build(image);
	last = vin_replay_init(r);
	OK(vin_replay_go(r, &err));
	vin_replay_close(r);
	fclose(image);
	return only_child(last);
}

static void who_connected_listened_and_sent_is_remembered(void **state)
{
	int status;
	(void)state;
#ifdef __SANITIZE_ADDRESS__
	skip();
#endif
	pid_t pid = start();
	for (int i = 0; i < 3; i++)
		pid = hop(pid);
	touch("go");
	assert_int_equal(waitpid(last, &status, 0), last);
	last = 0;
	if (status)
		print_error("line %d\n", WEXITSTATUS(status) - 1);
	assert_int_equal(status, 0);
}

static void become_user(void)
{
	if (setgroups(0, NULL) < 0 || setresgid(USER_ID, USER_ID, USER_ID) < 0 ||
	    setresuid(USER_ID, USER_ID, USER_ID) < 0)
		_exit(1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(who_connected_listened_and_sent_is_remembered,
					  each_teardown),
	};
	int failed = cmocka_run_group_tests(tests, setup, teardown);
	return failed + (geteuid() == 0 && run_copy_as(become_user) != 0);
}
