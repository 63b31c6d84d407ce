/* Sockets carried between worlds: network namespaces with the same addresses, and a peer outside
 * that must not notice. */
#ifndef FVM_TESTS_NET_H
#define FVM_TESTS_NET_H

#include "tests/vin/carry.h"

#include <arpa/inet.h>
#include <libmnl/libmnl.h>
#include <linux/if_link.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#include "vin/netlock.h"

enum { OUTSIDE, OLD, NEW, WORLDS };
static int worlds[WORLDS] = { -1, -1, -1 };

#define OUT4 "198.51.100.1"
#define IN4  "198.51.100.2"
#define OUT6 "2001:db8::1"
#define IN6  "2001:db8::2"

/* What the program's world has when it is the new one. */
static const char *there4 = IN4, *there6 = IN6;

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_storage all;
};

__attribute__((unused)) static socklen_t at(union address *a, const char *ip, int port)
{
	memset(a, 0, sizeof(*a));
	if (strchr(ip, ':')) {
		a->v6.sin6_family = AF_INET6;
		a->v6.sin6_port = htons((uint16_t)port);
		inet_pton(AF_INET6, ip, &a->v6.sin6_addr);
		return sizeof(a->v6);
	}
	a->v4.sin_family = AF_INET;
	a->v4.sin_port = htons((uint16_t)port);
	inet_pton(AF_INET, ip, &a->v4.sin_addr);
	return sizeof(a->v4);
}

/* ---- devices ---- */

struct request {
	char data[1024];
	struct nlmsghdr *m;
};

static void *request(struct request *q, uint16_t type, size_t head)
{
	memset(q, 0, sizeof(*q));
	q->m = mnl_nlmsg_put_header(q->data);
	q->m->nlmsg_type = type;
	q->m->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
	return mnl_nlmsg_put_extra_header(q->m, head);
}

static int ask(struct request *q)
{
	char answer[1024];
	scoped_fd nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	if (nl < 0 || send(nl, q->data, q->m->nlmsg_len, 0) < 0 ||
	    recv(nl, answer, sizeof(answer), 0) < 0)
		return -errno;
	return ((struct nlmsgerr *)mnl_nlmsg_get_payload((struct nlmsghdr *)answer))->error;
}

static int link_up(const char *name)
{
	struct request q;
	struct ifinfomsg *i = request(&q, RTM_NEWLINK, sizeof(*i));
	q.m->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	i->ifi_index = (int)if_nametoindex(name);
	i->ifi_flags = i->ifi_change = IFF_UP;
	return ask(&q);
}

static int add_address(const char *name, int family, const char *text, uint8_t prefix)
{
	struct request q;
	unsigned char ip[16];
	struct ifaddrmsg *a = request(&q, RTM_NEWADDR, sizeof(*a));
	a->ifa_family = (uint8_t)family;
	a->ifa_prefixlen = prefix;
	a->ifa_flags = IFA_F_NODAD;
	a->ifa_index = if_nametoindex(name);
	if (inet_pton(family, text, ip) != 1)
		return -EINVAL;
	mnl_attr_put(q.m, IFA_LOCAL, family == AF_INET ? 4 : 16, ip);
	mnl_attr_put(q.m, IFA_ADDRESS, family == AF_INET ? 4 : 16, ip);
	return ask(&q);
}

/* "out" here, "in" in another world. */
static int make_link(int world)
{
	struct request q;
	request(&q, RTM_NEWLINK, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(q.m, IFLA_IFNAME, "out");
	struct nlattr *info = mnl_attr_nest_start(q.m, IFLA_LINKINFO);
	mnl_attr_put_strz(q.m, IFLA_INFO_KIND, "veth");
	struct nlattr *data = mnl_attr_nest_start(q.m, IFLA_INFO_DATA);
	struct nlattr *peer = mnl_attr_nest_start(q.m, VETH_INFO_PEER);
	mnl_nlmsg_put_extra_header(q.m, sizeof(struct ifinfomsg));
	mnl_attr_put_strz(q.m, IFLA_IFNAME, "in");
	mnl_attr_put_u32(q.m, IFLA_NET_NS_FD, (uint32_t)worlds[world]);
	mnl_attr_nest_end(q.m, peer);
	mnl_attr_nest_end(q.m, data);
	mnl_attr_nest_end(q.m, info);
	return ask(&q);
}

static int move_link(int world)
{
	struct request q;
	struct ifinfomsg *i = request(&q, RTM_NEWLINK, sizeof(*i));
	q.m->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	i->ifi_index = (int)if_nametoindex("in");
	mnl_attr_put_u32(q.m, IFLA_NET_NS_FD, (uint32_t)worlds[world]);
	return ask(&q);
}

static void enter(int world)
{
	assert_int_equal(setns(worlds[world], CLONE_NEWNET), 0);
}

static void dress(const char *name, const char *v4, const char *v6)
{
	assert_int_equal(add_address(name, AF_INET, v4, 24), 0);
	assert_int_equal(add_address(name, AF_INET6, v6, 64), 0);
	assert_int_equal(link_up(name), 0);
}

/* Its address is one of ours, and the other end's can be reached: IPv6 takes its time for both. */
static bool ready_for(const char *own, const char *other)
{
	const int family = strchr(own, ':') ? AF_INET6 : AF_INET;
	union address a;
	scoped_fd fd = socket(family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	socklen_t len = at(&a, own, 9);
	if (bind(fd, &a.any, len) < 0 || sendto(fd, "x", 1, 0, &a.any, len) != 1 ||
	    poll(&p, 1, 5) != 1)
		return false;
	len = at(&a, other, 9);
	return connect(fd, &a.any, len) == 0;
}

static void await_link(const char *own4, const char *own6, const char *other4, const char *other6)
{
	for (int i = 0; i < 30000 && !(ready_for(own4, other4) && ready_for(own6, other6)); i++)
		nap(1);
}

/* A namespace with nothing in it but loopback. */
static int make_world(int world)
{
	if (unshare(CLONE_NEWNET) < 0)
		return -errno;
	scoped_fd fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	return dup3(fd, worlds[world], O_CLOEXEC) < 0 ? -errno : link_up("lo");
}

static int net_setup(void **state)
{
	for (int i = 0; i < WORLDS; i++) {
		worlds[i] = 510 + i; /* above what programs have */
		int r = make_world(i);
		if (r < 0) {
			print_message("no network namespaces here: %s\n", strerror(-r));
			exit(0);
		}
	}
	enter(OUTSIDE);
	return carry_setup(state);
}

/* Before each time: two new worlds, a link into the old one. */
static int link_setup(void **state)
{
	struct request q;
	(void)state;
	enter(OUTSIDE);
	struct ifinfomsg *i = request(&q, RTM_DELLINK, sizeof(*i));
	q.m->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	i->ifi_index = (int)if_nametoindex("out");
	if (i->ifi_index > 0 && ask(&q) < 0)
		return -1;
	if (make_world(OLD) < 0 || make_world(NEW) < 0)
		return -1;
	enter(OUTSIDE);
	if (make_link(OLD) < 0)
		return -1;
	dress("out", OUT4, OUT6);
	enter(OLD);
	dress("in", IN4, IN6);
	await_link(IN4, IN6, OUT4, OUT6);
	enter(OUTSIDE);
	await_link(OUT4, OUT6, IN4, IN6);
	return 0;
}

/* ---- sockets ---- */

__attribute__((unused)) static bool is_at(int fd, bool peer, const char *ip, int port)
{
	union address a, b;
	socklen_t len = sizeof(a), want = at(&b, ip, port);
	int r = peer ? getpeername(fd, &a.any, &len) : getsockname(fd, &a.any, &len);
	return r == 0 && len == want && memcmp(&a, &b, len) == 0;
}

__attribute__((unused)) static bool set(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) == 0;
}

__attribute__((unused)) static int got(int fd, int level, int name)
{
	int value = -1;
	socklen_t len = sizeof(value);
	return getsockopt(fd, level, name, &value, &len) == 0 ? value : -1;
}

/* ---- carrying ---- */

static int files_image(const pid_t *pid, struct vin_files *files)
{
	struct vin_out *out = NULL;
	int fd = memfd_create("image", MFD_CLOEXEC);
	files->stopped = true;
	OK(vin_files_look(pid, 1, files, &err));
	OK(vin_netlock_cut(files, &err));
	OK(vin_out_open(fd, &out, &err));
	int r = vin_files_capture(files, out, &err);
	if (r < 0)
		fvm_error_print("carry", &err);
	assert_int_equal(r, 0);
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	lseek(fd, 0, SEEK_SET);
	return fd;
}

static bool (*new_world_ready)(void); /* what it has besides addresses; may be NULL */

/* In the new world, which gets the link now. */
static void follow_there(int image, void (*check)(void))
{
	enter(OLD);
	bool linked = if_nametoindex("in") > 0;
	if (linked)
		assert_int_equal(move_link(NEW), 0);
	enter(NEW);
	OK(vin_netlock_shut(&err));
	if (linked) {
		dress("in", there4, there6);
		await_link(there4, there6, OUT4, OUT6);
	}
	assert_true(!new_world_ready || new_world_ready());
	carry_follow(image, check);
	OK(vin_netlock_open(&err));
	enter(OUTSIDE);
}

/* Opens the network when all is there. */
static void (*there_check)(void);

static void check_open(void)
{
	CHECK(vin_netlock_open(&err) == 0);
	there_check();
}

static void (*meanwhile)(void); /* outside, before the program is written down; may be NULL */

/* In the old world; looks at itself when it is told to end. */
static pid_t old_victim(void (*make)(void))
{
	memset(board, 0, sizeof(*board));
	enter(OLD);
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		only_null();
		make();
		board->ready = 1;
		while (!board->end)
			nap(1);
		there_check();
		_exit(0);
	}
	enter(OUTSIDE);
	last_victim = pid;
	for (int i = 0; i < 30000 && !board->ready && !board->wrong; i++)
		nap(1);
	if (board->wrong)
		print_error("the program: line %d: %s\n", (int)board->wrong,
			    strerror((int)board->seen));
	assert_int_equal(board->ready, 1);
	if (meanwhile)
		meanwhile();
	return pid;
}

/* What @make makes in the old world is found by @check in the new one. */
__attribute__((unused)) static void moved(void (*make)(void), void (*check)(void))
{
	scoped_files files = { .root = -1 };
	there_check = check;
	assert_int_equal(link_setup(NULL), 0);
	pid_t pid = old_victim(make);
	int image = files_image(&pid, &files);
	OK(vin_netlock_silence(&files, &err));
	victim_kill(NULL);
	follow_there(image, check_open);
	close(image);
}

/* What @make makes is not captured, and the message says @word. */
__attribute__((unused)) static void not_now(void (*make)(void), const char *word)
{
	scoped_files files = { .root = -1, .stopped = true };
	struct vin_out *out = NULL;
	assert_int_equal(link_setup(NULL), 0);
	pid_t pid = old_victim(make);
	scoped_fd fd = memfd_create("image", MFD_CLOEXEC);
	OK(vin_files_look(&pid, 1, &files, &err));
	OK(vin_netlock_cut(&files, &err));
	OK(vin_out_open(fd, &out, &err));
	err = (struct fvm_error){ 0 };
	assert_true(vin_files_capture(&files, out, &err) < 0);
	vin_out_close(out);
	victim_kill(NULL);
	if (!strstr(err.text, word))
		print_error("'%s' does not say '%s'\n", err.text, word);
	assert_non_null(strstr(err.text, word));
	assert_non_null(strstr(err.text, "process"));
	assert_non_null(strstr(err.text, "descriptor "));
}

/* The program is written down and goes on: it finds what @check finds in another. */
__attribute__((unused)) static void stayed(void (*make)(void), void (*check)(void))
{
	scoped_files files = { .root = -1 };
	int status;
	there_check = check;
	assert_int_equal(link_setup(NULL), 0);
	pid_t pid = old_victim(make);
	close(files_image(&pid, &files));
	vin_netlock_resume(&files);
	board->end = 1;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	last_victim = 0;
	if (board->wrong)
		print_error("the program that stays: line %d: %s\n", (int)board->wrong,
			    strerror((int)board->seen));
	assert_int_equal(status, 0);
}

#define NET(name) cmocka_unit_test_teardown(name, victim_kill)

#endif
