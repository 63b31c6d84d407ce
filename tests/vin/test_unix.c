#include "tests/vin/carry.h"

#include <linux/filter.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>

static short poll_of(int fd, short events)
{
	struct pollfd p = { .fd = fd, .events = events };
	return poll(&p, 1, 0) < 0 ? -1 : p.revents;
}

static bool gets(int fd, const char *text)
{
	char got[200] = "";
	ssize_t n = recv(fd, got, sizeof(got) - 1, MSG_DONTWAIT);
	return n == (ssize_t)strlen(text) && memcmp(got, text, (size_t)n) == 0;
}

static bool empty(int fd)
{
	return recv(fd, &(char){ 0 }, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static bool says(int fd, const char *text)
{
	return send(fd, text, strlen(text), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)strlen(text);
}

static int option(int fd, int nr)
{
	int value = -1;
	socklen_t len = sizeof(value);
	return getsockopt(fd, SOL_SOCKET, nr, &value, &len) < 0 ? -1 : value;
}

static bool set(int fd, int nr, int value)
{
	return setsockopt(fd, SOL_SOCKET, nr, &value, sizeof(value)) == 0;
}

/* A name that begins with '@' is abstract; without a name: of this run. */
static socklen_t address(const char *name, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	snprintf(ret->sun_path, sizeof(ret->sun_path), "%s%s", name, name[0] == '@' ? dir : "");
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(ret->sun_path));
	if (name[0] == '@')
		ret->sun_path[0] = '\0';
	return len;
}

static bool is_named(int fd, const char *name, bool peer)
{
	struct sockaddr_un want, is = { 0 };
	socklen_t len = sizeof(is), want_len = name ? address(name, &want) : sizeof(sa_family_t);
	int r = peer ? getpeername(fd, (struct sockaddr *)&is, &len)
		     : getsockname(fd, (struct sockaddr *)&is, &len);
	if (r < 0)
		return false;
	if (name && is.sun_path[0])
		want_len++; /* told with its NUL */
	return len == want_len && (!name || memcmp(&is, &want, len - (is.sun_path[0] != 0)) == 0);
}

/* Without a name: one of the kernel's choice. */
static bool names(int fd, const char *name)
{
	struct sockaddr_un a;
	socklen_t len = address(name, &a);
	return bind(fd, (struct sockaddr *)&a, len) == 0;
}

static bool meets(int fd, const char *name)
{
	struct sockaddr_un a;
	socklen_t len = address(name, &a);
	return connect(fd, (struct sockaddr *)&a, len) == 0;
}

/* Two that are connected, at 3 and 4. */
static void make_pair(int type)
{
	int p[2];
	CHECK(socketpair(AF_UNIX, type, 0, p) == 0 && p[0] == 3 && p[1] == 4);
}

static bool sends_fds(int fd, const char *text, const int *fds, size_t count)
{
	_Alignas(struct cmsghdr) char control[256] = { 0 };
	struct iovec data = { (void *)(uintptr_t)text, strlen(text) };
	struct msghdr m = { .msg_iov = &data, .msg_iovlen = 1, .msg_control = control };
	struct cmsghdr *c = (void *)control;
	c->cmsg_level = SOL_SOCKET;
	c->cmsg_type = SCM_RIGHTS;
	c->cmsg_len = CMSG_LEN(count * sizeof(int));
	memcpy(CMSG_DATA(c), fds, count * sizeof(int));
	m.msg_controllen = CMSG_SPACE(count * sizeof(int));
	return sendmsg(fd, &m, MSG_DONTWAIT) == (ssize_t)strlen(text);
}

/* Return: how many descriptors came with @text, which comes next; -1: that doesn't */
static int gets_fds(int fd, const char *text, int *fds, struct ucred *cred)
{
	_Alignas(struct cmsghdr) char control[256] = { 0 };
	char got[100] = "";
	int count = 0;
	struct iovec data = { got, cred ? sizeof(got) - 1 : strlen(text) };
	struct msghdr m = { .msg_iov = &data,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	if (recvmsg(fd, &m, MSG_DONTWAIT) != (ssize_t)strlen(text) || strcmp(got, text) != 0)
		return -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c)) {
		if (c->cmsg_type == SCM_RIGHTS) {
			count = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
			memcpy(fds, CMSG_DATA(c), (size_t)count * sizeof(int));
		} else if (c->cmsg_type == SCM_CREDENTIALS && cred) {
			memcpy(cred, CMSG_DATA(c), sizeof(*cred));
		}
	}
	return count;
}

/* ---- pairs ---- */

static void make_stream(void)
{
	make_pair(SOCK_STREAM);
	CHECK(says(3, "to four") && says(4, "to ") && says(4, "three"));
	CHECK(fcntl(3, F_SETFL, O_NONBLOCK) == 0 && fcntl(4, F_SETFD, FD_CLOEXEC) == 0);
}

static void check_stream(void)
{
	int n;
	CHECK(fcntl(3, F_GETFL) & O_NONBLOCK && !(fcntl(4, F_GETFL) & O_NONBLOCK));
	CHECK(fcntl(4, F_GETFD) == FD_CLOEXEC && option(3, SO_TYPE) == SOCK_STREAM);
	CHECK(ioctl(4, FIONREAD, &n) == 0 && n == 7 && option(3, SO_PEEK_OFF) == -1);
	CHECK(option(3, SO_PASSCRED) == 0 && is_named(3, NULL, false) && is_named(4, NULL, true));
	CHECK(gets(4, "to four") && gets(3, "to three") && empty(3) && empty(4));
	CHECK(says(3, "x") && gets(4, "x") && says(4, "y") && gets(3, "y"));
	close(4);
	CHECK(poll_of(3, POLLIN) & POLLHUP && recv(3, &n, 1, 0) == 0);
}

static void a_stream_has_what_was_queued_in_both_directions(void **state)
{
	(void)state;
	kept_and_carried(make_stream, check_stream);
}

static void make_packets(void)
{
	make_pair(SOCK_SEQPACKET);
	CHECK(says(3, "one") && says(3, "") && says(3, "three") && says(3, "") && says(4, "back"));
}

static void check_packets(void)
{
	char c;
	CHECK(option(4, SO_TYPE) == SOCK_SEQPACKET);
	CHECK(gets(4, "one") && gets(4, "") && recv(4, &c, 1, 0) == 1 && c == 't' && gets(4, ""));
	CHECK(empty(4) && gets(3, "back") && empty(3));
	CHECK(says(3, "x") && gets(4, "x"));
}

static void packets_have_their_bounds(void **state)
{
	(void)state;
	kept_and_carried(make_packets, check_packets);
}

static void make_datagrams(void)
{
	make_pair(SOCK_DGRAM);
	CHECK(says(3, "") && says(3, "one") && says(3, "two") && says(4, "back"));
}

static void check_datagrams(void)
{
	CHECK(option(4, SO_TYPE) == SOCK_DGRAM);
	CHECK(gets(4, "") && gets(4, "one") && gets(4, "two") && empty(4) && gets(3, "back"));
	CHECK(says(3, "x") && gets(4, "x") && says(4, "y") && gets(3, "y"));
}

static void datagrams_have_their_bounds(void **state)
{
	(void)state;
	kept_and_carried(make_datagrams, check_datagrams);
}

static void make_half(void)
{
	make_pair(SOCK_STREAM);
	CHECK(says(3, "last") && shutdown(3, SHUT_WR) == 0 && says(4, "answer"));
}

static void check_half(void)
{
	CHECK(send(3, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
	CHECK(poll_of(4, POLLIN | POLLRDHUP) == (POLLIN | POLLRDHUP));
	CHECK(gets(4, "last") && recv(4, &(char){ 0 }, 1, 0) == 0);
	CHECK(gets(3, "answer") && empty(3) && says(4, "more") && gets(3, "more"));
}

static void what_is_half_shut_down_is_so(void **state)
{
	(void)state;
	kept_and_carried(make_half, check_half);
}

static void make_left(void)
{
	make_pair(SOCK_STREAM);
	CHECK(says(4, "left behind") && close(4) == 0);
}

static void check_left(void)
{
	CHECK(fcntl(4, F_GETFD) < 0 && poll_of(3, POLLIN) == (POLLIN | POLLHUP));
	CHECK(gets(3, "left behind") && recv(3, &(char){ 0 }, 1, 0) == 0);
	CHECK(send(3, "x", 1, MSG_NOSIGNAL) < 0 && errno == EPIPE);
}

static void a_closed_peer_has_left_its_data(void **state)
{
	(void)state;
	kept_and_carried(make_left, check_left);
}

static void make_reset(void)
{
	make_pair(SOCK_STREAM);
	CHECK(says(3, "unread") && says(4, "left") && close(4) == 0);
}

static void check_reset(void)
{
	CHECK(poll_of(3, POLLIN) & POLLERR && gets(3, "left"));
	CHECK(recv(3, &(char){ 0 }, 1, 0) < 0 && errno == ECONNRESET);
	CHECK(recv(3, &(char){ 0 }, 1, 0) == 0);
}

static void an_error_that_waits_is_told_once(void **state)
{
	(void)state;
	kept_and_carried(make_reset, check_reset);
}

/* ---- settings ---- */

static void make_settings(void)
{
	struct sock_filter all = BPF_STMT(BPF_RET | BPF_K, 0xffff);
	struct sock_fprog program = { 1, &all };
	struct linger linger = { 1, 7 };
	struct timeval wait = { 2, 500000 };
	make_pair(SOCK_DGRAM);
	CHECK(set(3, SO_SNDBUF, 20000) && set(3, SO_RCVBUF, 30000) && set(3, SO_PASSCRED, 1));
	CHECK(set(3, SO_PEEK_OFF, 2) && set(3, SO_RCVLOWAT, 3) && set(3, SO_PRIORITY, 4));
	CHECK(setsockopt(3, SOL_SOCKET, SO_LINGER, &linger, sizeof(linger)) == 0);
	CHECK(setsockopt(3, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) == 0);
	CHECK(setsockopt(3, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) == 0);
	CHECK(set(3, SO_LOCK_FILTER, 1) && set(3, SO_TIMESTAMP, 1));
	CHECK(fcntl(4, F_SETOWN, getpid()) == 0 && fcntl(4, F_SETSIG, SIGUSR1) == 0);
	CHECK(says(4, "abcdef"));
	board->rounds = (uint64_t)option(3, SO_SNDBUF);
}

static void check_settings(void)
{
	char got[8] = "";
	struct linger linger = { 0 };
	struct timeval wait = { 0 };
	struct sock_filter f[2];
	socklen_t len = sizeof(linger);
	CHECK(option(3, SO_SNDBUF) == 40000 && option(3, SO_RCVBUF) == 60000);
	CHECK(option(3, SO_PASSCRED) == 1 && option(4, SO_PASSCRED) == 0);
	CHECK(option(3, SO_PEEK_OFF) == 2 && option(3, SO_RCVLOWAT) == 3);
	CHECK(option(3, SO_PRIORITY) == 4 && option(4, SO_PRIORITY) == 0);
	CHECK(getsockopt(3, SOL_SOCKET, SO_LINGER, &linger, &len) == 0 && linger.l_linger == 7);
	len = sizeof(wait);
	CHECK(getsockopt(3, SOL_SOCKET, SO_RCVTIMEO, &wait, &len) == 0 && wait.tv_sec == 2);
	len = 2;
	CHECK(getsockopt(3, SOL_SOCKET, SO_GET_FILTER, f, &len) == 0 && len == 1);
	CHECK(f[0].k == 0xffff && !set(3, SO_DETACH_FILTER, 0) && errno == EPERM);
	CHECK(option(3, SO_TIMESTAMP) == 1 && fcntl(4, F_GETSIG) == SIGUSR1);
	CHECK(recv(3, got, sizeof(got), MSG_PEEK) == 4 && strcmp(got, "cdef") == 0);
	CHECK(option(3, SO_PEEK_OFF) == 6 && gets(3, "abcdef"));
}

static void settings_stay(void **state)
{
	(void)state;
	kept_and_carried(make_settings, check_settings);
}

/* ---- descriptors on their way ---- */

static void make_carried(void)
{
	int p[2];
	make_pair(SOCK_STREAM);
	const int file = open("letters", O_RDONLY);
	CHECK(pipe(p) == 0 && write(p[1], "piped", 5) == 5 && lseek(file, 5, SEEK_SET) == 5);
	const int fds[] = { file, p[0], eventfd(7, 0) };
	CHECK(says(3, "before") && sends_fds(3, "three", fds, 3) && says(3, "after"));
	CHECK(sends_fds(3, "one", &p[1], 1));
	fvm_close_range(5, ~0U);
	close(3);
}

static void check_carried(void)
{
	int fds[4];
	uint64_t n;
	char got[10] = "";
	CHECK(gets_fds(4, "bef", fds, NULL) == 0 && gets_fds(4, "ore", fds, NULL) == 0);
	CHECK(gets_fds(4, "three", fds, NULL) == 3);
	CHECK(lseek(fds[0], 0, SEEK_CUR) == 5 && read(fds[0], got, 2) == 2 && got[0] == 'f');
	CHECK(read(fds[1], got, 9) == 5 && strcmp(got, "piped") == 0);
	CHECK(read(fds[2], &n, 8) == 8 && n == 7);
	CHECK(gets_fds(4, "after", fds + 3, NULL) == 0 && gets_fds(4, "one", fds + 3, NULL) == 1);
	CHECK(write(fds[3], "again", 5) == 5 && read(fds[1], got, 9) == 5);
}

static void descriptors_on_their_way_arrive(void **state)
{
	(void)state;
	kept_and_carried(make_carried, check_carried);
}

/* A socket in another one's queue, with a pipe in its own; and one that carries itself. */
static void make_nested(void)
{
	int p[2], inner[2];
	make_pair(SOCK_SEQPACKET);
	CHECK(pipe(p) == 0 && socketpair(AF_UNIX, SOCK_DGRAM, 0, inner) == 0);
	CHECK(sends_fds(inner[0], "pipe", p, 2) && sends_fds(3, "inner", inner, 2));
	const int self = 4;
	CHECK(sends_fds(3, "self", &self, 1) && says(3, "end"));
	fvm_close_range(5, ~0U);
}

static void check_nested(void)
{
	int inner[2], p[2], self;
	char got[4] = "";
	CHECK(gets_fds(4, "inner", inner, NULL) == 2 && gets_fds(inner[1], "pipe", p, NULL) == 2);
	CHECK(write(p[1], "abc", 3) == 3 && read(p[0], got, 3) == 3 && strcmp(got, "abc") == 0);
	CHECK(says(inner[1], "x") && gets(inner[0], "x"));
	CHECK(gets_fds(4, "self", &self, NULL) == 1 && gets(self, "end") && empty(4));
}

static void sockets_on_their_way_carry_others(void **state)
{
	(void)state;
	kept_and_carried(make_nested, check_nested);
	no_kcmp = true;
	kept_and_carried(make_nested, check_nested);
	no_kcmp = false;
}

/* ---- names ---- */

static void make_listener(void)
{
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 3 && names(3, "@listen") && listen(3, 5) == 0);
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 4 && meets(4, "@listen"));
	CHECK(accept(3, NULL, NULL) == 5 && says(4, "hello") && says(5, "there"));
}

static void check_listener(void)
{
	CHECK(option(3, SO_ACCEPTCONN) == 1 && option(5, SO_ACCEPTCONN) == 0);
	CHECK(is_named(3, "@listen", false) && is_named(5, "@listen", false));
	CHECK(is_named(4, "@listen", true) && is_named(4, NULL, false) && is_named(5, NULL, true));
	CHECK(gets(5, "hello") && gets(4, "there") && poll_of(3, POLLIN) == 0);
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 6 && meets(6, "@listen"));
	CHECK(accept(3, NULL, NULL) == 7 && says(6, "new") && gets(7, "new"));
	CHECK(close(3) == 0 && socket(AF_UNIX, SOCK_STREAM, 0) == 3 && names(3, "@listen"));
}

static void a_listener_and_whom_it_accepted_have_its_abstract_name(void **state)
{
	(void)state;
	kept_and_carried(make_listener, check_listener);
}

static void make_path(void)
{
	unlink("sock");
	CHECK(socket(AF_UNIX, SOCK_SEQPACKET, 0) == 3 && names(3, "sock") && listen(3, 5) == 0);
	CHECK(chmod("sock", 0640) == 0);
	CHECK(socket(AF_UNIX, SOCK_SEQPACKET, 0) == 4 && meets(4, "sock"));
	CHECK(accept(3, NULL, NULL) == 5 && says(4, "hello"));
}

static void check_path(void)
{
	struct stat st;
	CHECK(stat("sock", &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0640);
	CHECK(st.st_uid == geteuid() && access(".vin", F_OK) < 0);
	CHECK(is_named(3, "sock", false) && is_named(4, "sock", true) &&
	      is_named(5, "sock", false));
	CHECK(gets(5, "hello") && says(5, "x") && gets(4, "x"));
	CHECK(socket(AF_UNIX, SOCK_SEQPACKET, 0) == 6 && meets(6, "./sock"));
	CHECK(accept(3, NULL, NULL) == 7 && says(6, "new") && gets(7, "new"));
}

static void a_relative_path_leads_to_its_listener(void **state)
{
	(void)state;
	kept_and_carried(make_path, check_path);
	unlink("sock");
}

static void make_deep(void)
{
	char path[100];
	snprintf(path, sizeof(path), "%s/deep/../deep/sock", dir);
	mkdir("deep", 0755);
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 3 && names(3, path) && listen(3, 1) == 0);
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 4 && names(4, "deep/mail"));
	CHECK(unlink("deep/mail") == 0 && socket(AF_UNIX, SOCK_DGRAM, 0) == 5);
	CHECK(names(5, "deep/mail") && says(5, "") == false);
}

static void check_deep(void)
{
	char path[100];
	snprintf(path, sizeof(path), "%s/deep/../deep/sock", dir);
	CHECK(is_named(3, path, false) && is_named(4, "deep/mail", false));
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 6 && meets(6, path));
	CHECK(accept(3, NULL, NULL) == 7 && is_named(7, path, false));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 8 && meets(8, "deep/mail") && says(8, "hi"));
	CHECK(gets(5, "hi") && empty(4) && is_named(5, "deep/mail", false));
	unlink("deep/sock");
	unlink("deep/mail");
	CHECK(rmdir("deep") == 0); /* nothing else is left in it */
}

static void a_name_that_was_taken_over_leads_to_the_new_one(void **state)
{
	(void)state;
	carried(make_deep, check_deep);
}

static void make_waiting(void)
{
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 3 && names(3, "@waiting") && listen(3, 5) == 0);
	for (int i = 4; i < 7; i++)
		CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == i && meets(i, "@waiting"));
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 7);
}

static void check_waiting(void)
{
	CHECK(is_named(4, "@waiting", true) && poll_of(3, POLLIN) == POLLIN && says(5, "five"));
	CHECK(accept(3, NULL, NULL) == 8 && accept(3, NULL, NULL) == 9 && says(8, "four"));
	CHECK(gets(9, "five") && gets(4, "four") && accept(3, NULL, NULL) == 10);
	CHECK(poll_of(3, POLLIN) == 0 && send(7, "x", 1, MSG_NOSIGNAL) < 0 && errno == ENOTCONN);
}

static void who_waits_to_be_accepted_waits_on_in_order(void **state)
{
	(void)state;
	kept_and_carried(make_waiting, check_waiting);
}

static void make_waiting_data(void)
{
	make_waiting();
	CHECK(says(5, "impatient"));
}

/* One of those who wait is closed. */
static void make_waiting_gone(void)
{
	make_waiting();
	CHECK(close(5) == 0);
}

static void what_nobody_has_accepted_passes_before_a_capture(void **state)
{
	(void)state;
	refused(make_waiting_data, "has not accepted it yet");
	refused(make_waiting_gone, "who has left since");
}

/* Many to one, by name and without; the last sender is gone. */
static void make_mail(void)
{
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 3 && names(3, "mail"));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 4 && names(4, "@four") && meets(4, "mail"));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 5 && meets(5, "mail"));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 6 && names(6, "six") && meets(6, "mail"));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 7 && names(7, "@seven") && meets(7, "mail"));
	CHECK(says(4, "by four") && says(5, "by five") && says(6, "by six") && says(7, "by seven"));
	CHECK(says(4, "again") && close(6) == 0 && close(7) == 0 && unlink("six") == 0);
}

static bool gets_from(int fd, const char *text, const char *name)
{
	char got[100] = "";
	struct sockaddr_un from = { 0 }, want;
	socklen_t len = sizeof(from), want_len = name ? address(name, &want) : 0;
	ssize_t n =
		recvfrom(fd, got, sizeof(got) - 1, MSG_DONTWAIT, (struct sockaddr *)&from, &len);
	return n == (ssize_t)strlen(text) && strcmp(got, text) == 0 &&
	       (name ? len >= want_len && memcmp(&from, &want, want_len) == 0 : len == 0);
}

static void check_mail(void)
{
	CHECK(gets_from(3, "by four", "@four") && gets_from(3, "by five", NULL));
	CHECK(gets_from(3, "by six", "six") && gets_from(3, "by seven", "@seven"));
	CHECK(gets_from(3, "again", "@four") && empty(3));
	CHECK(says(5, "more") && gets_from(3, "more", NULL) && is_named(5, "mail", true));
	CHECK(access("six", F_OK) < 0 && access("mail", F_OK) == 0);
	CHECK(says(4, "last") && close(3) == 0 && !says(4, "x") && errno == ECONNREFUSED);
	unlink("mail");
}

static void datagrams_tell_who_sent_them(void **state)
{
	(void)state;
	carried(make_mail, check_mail);
}

static void make_full(void)
{
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 3 && names(3, "@full"));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 4 && meets(4, "@full"));
	while (says(4, "mail"))
		board->rounds++;
	CHECK(errno == EAGAIN && board->rounds > 3 && poll_of(4, POLLOUT) == 0);
}

static void check_full(void)
{
	CHECK(!says(4, "mail") && errno == EAGAIN && poll_of(4, POLLOUT) == 0);
	for (uint64_t i = board->rounds; i > 0; i--)
		CHECK(gets(3, "mail"));
	CHECK(empty(3) && poll_of(4, POLLOUT) == POLLOUT && says(4, "mail"));
}

static void a_full_queue_is_full(void **state)
{
	(void)state;
	kept_and_carried(make_full, check_full);
}

static void make_lonely(void)
{
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 3 && names(3, "@gone"));
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 4 && meets(4, "@gone") && close(3) == 0);
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 3 && names(3, ""));
	CHECK(socket(AF_UNIX, SOCK_STREAM, 0) == 5);
}

static void check_lonely(void)
{
	struct sockaddr_un a = { 0 };
	socklen_t len = sizeof(a);
	CHECK(is_named(4, "@gone", true) && !says(4, "x") && errno == ECONNREFUSED);
	CHECK(getsockname(3, (struct sockaddr *)&a, &len) == 0 && len == 8 && a.sun_path[0] == 0);
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 6 && connect(6, (struct sockaddr *)&a, len) == 0);
	CHECK(says(6, "hi") && gets(3, "hi") && is_named(5, NULL, false));
	CHECK(recv(5, &len, 1, MSG_DONTWAIT) < 0 && errno == EINVAL);
}

static void a_name_of_the_kernels_choice_stays(void **state)
{
	(void)state;
	kept_and_carried(make_lonely, check_lonely);
}

static void make_turned(void)
{
	make_pair(SOCK_DGRAM);
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0) == 5 && names(5, "@third"));
	CHECK(meets(3, "@third") && says(3, "turned") && fcntl(4, F_GETFL) >= 0);
}

static void check_turned(void)
{
	CHECK(is_named(3, "@third", true) && gets(5, "turned") && empty(4));
	CHECK(!says(4, "x"));
	CHECK(says(3, "y") && gets(5, "y"));
}

static void one_of_a_pair_may_have_turned_to_a_third(void **state)
{
	(void)state;
	kept_and_carried(make_turned, check_turned);
}

static void make_apart(void)
{
	CHECK(unshare(CLONE_NEWNET) == 0);
	make_listener();
}

static void sockets_of_another_network_are_found(void **state)
{
	(void)state;
	kept_and_carried(make_apart, check_listener);
}

/* ---- what is refused ---- */

static int outside[2];

static void a_peer_outside_is_refused_and_named(void **state)
{
	char number[40];
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, outside), 0);
	bystander_refused(-1, outside[1]);
	assert_non_null(strstr(err.text, "descriptor 3"));
	snprintf(number, sizeof(number), "descriptor %d of process %d", outside[0], getpid());
	if (!strstr(err.text, number))
		print_error("%s\n", err.text);
	assert_non_null(strstr(err.text, number));
	victim_kill(NULL);
	close(outside[0]);
	close(outside[1]);
}

/* What leads out may hide in a queue. */
static void make_hidden(void)
{
	make_pair(SOCK_STREAM);
	const int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	CHECK(fd == 5 && meets(5, "@outside") && sends_fds(3, "hidden", &fd, 1) && close(5) == 0);
}

static void what_is_carried_is_checked_before_the_stop(void **state)
{
	(void)state;
	scoped_fd fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(names(fd, "@outside"));
	carry_make = make_hidden;
	pid_t pid = victim(carry_victim, true);
	scoped_files files = { .root = -1 };
	OK(vin_files_look(&pid, 1, &files, &err));
	assert_int_equal(vin_files_check(&files, NULL, NULL, &err), -EOPNOTSUPP);
	if (!strstr(err.text, "descriptor 4 carries another one"))
		print_error("%s\n", err.text);
	assert_non_null(strstr(err.text, "descriptor 4 carries another one"));
	assert_non_null(strstr(err.text, "outside"));
	victim_kill(NULL);
}

static void make_urgent(void)
{
	make_pair(SOCK_STREAM);
	CHECK(send(3, "!", 1, MSG_OOB) == 1);
}

static void a_byte_out_of_band_is_refused(void **state)
{
	(void)state;
	refused(make_urgent, "out of band");
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(a_stream_has_what_was_queued_in_both_directions),
		CARRY(packets_have_their_bounds),
		CARRY(datagrams_have_their_bounds),
		CARRY(what_is_half_shut_down_is_so),
		CARRY(a_closed_peer_has_left_its_data),
		CARRY(an_error_that_waits_is_told_once),
		CARRY(settings_stay),
		CARRY(descriptors_on_their_way_arrive),
		CARRY(sockets_on_their_way_carry_others),
		CARRY(a_listener_and_whom_it_accepted_have_its_abstract_name),
		CARRY(a_relative_path_leads_to_its_listener),
		CARRY(a_name_that_was_taken_over_leads_to_the_new_one),
		CARRY(who_waits_to_be_accepted_waits_on_in_order),
		CARRY(what_nobody_has_accepted_passes_before_a_capture),
		CARRY(datagrams_tell_who_sent_them),
		CARRY(a_full_queue_is_full),
		CARRY(a_name_of_the_kernels_choice_stays),
		CARRY(one_of_a_pair_may_have_turned_to_a_third),
		CARRY(sockets_of_another_network_are_found),
		CARRY(a_peer_outside_is_refused_and_named),
		CARRY(what_is_carried_is_checked_before_the_stop),
		CARRY(a_byte_out_of_band_is_refused),
	};
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
