/*
 * VMs' network from end to end: three kinds of network namespaces stand for machines. "host" is
 * ours, "outside" has the other end of its uplink, each VM has its own. Nothing real is touched:
 * /run and /etc/resolv.conf are this test's own, too. Needs: CAP_NET_ADMIN, CAP_SYS_ADMIN.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "box.h"
#include "fvm/net.h"

#define OUTSIDE4 "198.51.100.1"
#define HOST4	 "198.51.100.2"
#define OUTSIDE6 "2001:db8::1"
#define HOST6	 "2001:db8::2"

struct machine {
	pid_t holder; /* sleeps in the namespace, is its PID 1's stand-in */
	int ns;
};

struct vm {
	struct fvm_net net;
	struct machine machine;
	pid_t relay;
};

struct lab {
	int host;
	struct machine outside;
};

static int shell(const char *command)
{
	return system(command); /* NOLINT: a test's own, constant text */
}

/* ---- machines ---- */

static void machine_make(struct machine *m)
{
	int ready[2];
	char c, path[64];
	assert_int_equal(pipe2(ready, O_CLOEXEC), 0);
	m->holder = fork();
	if (m->holder == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (unshare(CLONE_NEWNET) < 0)
			_exit(1);
		(void)!write(ready[1], "x", 1);
		for (;;)
			pause();
	}
	close(ready[1]);
	assert_int_equal(read(ready[0], &c, 1), 1);
	close(ready[0]);
	snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)m->holder);
	m->ns = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(m->ns >= 0);
}

static void machine_end(struct machine *m)
{
	kill(m->holder, SIGKILL);
	waitpid(m->holder, NULL, 0);
	close(m->ns);
}

static void enter(int ns)
{
	assert_int_equal(setns(ns, CLONE_NEWNET), 0);
}

static void shell_in(const struct lab *lab, int ns, const char *command)
{
	enter(ns);
	int r = shell(command);
	enter(lab->host);
	assert_int_equal(r, 0);
}

/* ---- who reaches whom ---- */

union endpoint {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t endpoint_make(union endpoint *e, const char *address, uint16_t port)
{
	memset(e, 0, sizeof(*e));
	if (strchr(address, ':')) {
		e->v6.sin6_family = AF_INET6;
		e->v6.sin6_port = htons(port);
		assert_int_equal(inet_pton(AF_INET6, address, &e->v6.sin6_addr), 1);
		return sizeof(e->v6);
	}
	e->v4.sin_family = AF_INET;
	e->v4.sin_port = htons(port);
	assert_int_equal(inet_pton(AF_INET, address, &e->v4.sin_addr), 1);
	return sizeof(e->v4);
}

static int socket_in(const struct lab *lab, int ns, int family, int type)
{
	enter(ns);
	int fd = socket(family, type | SOCK_CLOEXEC, 0);
	enter(lab->host);
	assert_true(fd >= 0);
	return fd;
}

/* A socket of the machine that others can connect to; the kernel takes connections by itself. */
static int server(const struct lab *lab, int ns, int type, const char *address, uint16_t port)
{
	union endpoint at;
	const int on = 1;
	socklen_t size = endpoint_make(&at, address, port);
	int fd = socket_in(lab, ns, at.any.sa_family, type);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	assert_int_equal(bind(fd, &at.any, size), 0);
	if (type == SOCK_STREAM)
		assert_int_equal(listen(fd, 16), 0);
	return fd;
}

/* A connection, or -1 when there is none within half a second. */
static int client(const struct lab *lab, int ns, const char *address, uint16_t port)
{
	union endpoint to;
	int error = 0;
	socklen_t len = sizeof(error), size = endpoint_make(&to, address, port);
	int fd = socket_in(lab, ns, to.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK);
	if (connect(fd, &to.any, size) == 0)
		return fd;
	struct pollfd p = { .fd = fd, .events = POLLOUT };
	if (errno == EINPROGRESS && poll(&p, 1, 500) == 1 &&
	    getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &len) == 0 && error == 0)
		return fd;
	close(fd);
	return -1;
}

static bool reaches(const struct lab *lab, int ns, const char *address, uint16_t port)
{
	int fd = client(lab, ns, address, port);
	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* The address a server sees of who connected to it. */
static void peer_of(int listener, char *ret, size_t size)
{
	union endpoint peer;
	socklen_t len = sizeof(peer);
	int fd = accept4(listener, &peer.any, &len, SOCK_CLOEXEC);
	assert_true(fd >= 0);
	close(fd);
	if (peer.any.sa_family == AF_INET)
		inet_ntop(AF_INET, &peer.v4.sin_addr, ret, (socklen_t)size);
	else
		inet_ntop(AF_INET6, &peer.v6.sin6_addr, ret, (socklen_t)size);
}

/* Does a line sent to a port arrive at @listener, and its answer here? */
static bool carries(const struct lab *lab, int ns, const char *address, uint16_t port, int listener)
{
	char bytes[8] = { 0 };
	int fd = client(lab, ns, address, port);
	if (fd < 0)
		return false;
	struct pollfd p = { .fd = listener, .events = POLLIN };
	int theirs = poll(&p, 1, 1000) == 1 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;
	bool good = theirs >= 0 && send(fd, "ask", 3, 0) == 3 && recv(theirs, bytes, 8, 0) == 3 &&
		    send(theirs, "tell", 4, 0) == 4;
	p = (struct pollfd){ .fd = fd, .events = POLLIN };
	good = good && poll(&p, 1, 1000) == 1 && recv(fd, bytes, 8, 0) == 4 &&
	       memcmp(bytes, "tell", 4) == 0;
	close(fd);
	close(theirs);
	return good;
}

/* The same with datagrams. */
static bool carries_datagrams(const struct lab *lab, int ns, const char *address, uint16_t port,
			      int listener)
{
	union endpoint to, from;
	char bytes[8];
	socklen_t len = sizeof(from), size = endpoint_make(&to, address, port);
	int fd = socket_in(lab, ns, to.any.sa_family, SOCK_DGRAM);
	/* connected, as resolvers are: an answer from elsewhere does not count */
	assert_int_equal(connect(fd, &to.any, size), 0);
	send(fd, "ask", 3, 0);
	struct pollfd p = { .fd = listener, .events = POLLIN };
	bool good = poll(&p, 1, 1000) == 1 &&
		    recvfrom(listener, bytes, 8, 0, &from.any, &len) == 3 &&
		    sendto(listener, "tell", 4, 0, &from.any, len) == 4;
	p = (struct pollfd){ .fd = fd, .events = POLLIN };
	good = good && poll(&p, 1, 1000) == 1 && recv(fd, bytes, 8, 0) == 4;
	close(fd);
	return good;
}

/* ---- VMs ---- */

static void config_make(struct fvm_config *c, uint32_t slot, const char *const *ports)
{
	*c = (struct fvm_config){ .net = FVM_NET_NAT };
	snprintf(c->name, sizeof(c->name), "vm%u", slot);
	snprintf(c->id, sizeof(c->id), "%08x%024x", slot + 1, 0);
	for (; ports && *ports; ports++)
		assert_int_equal(fvm_strv_add(&c->ports, *ports), 0);
}

static void config_drop(struct fvm_config *c)
{
	fvm_strv_free(&c->ports);
}

static void vm_start_with(struct vm *vm, uint32_t slot, struct fvm_config *c)
{
	struct fvm_error err = { 0 };
	machine_make(&vm->machine);
	int r = fvm_net_prepare(slot, c, NULL, &vm->net, &err);
	if (r == 0)
		r = fvm_net_attach(&vm->net, -1, vm->machine.holder, &err);
	vm->relay = r == 0 ? fvm_net_serve(&vm->net, vm->machine.holder, &err) : -1;
	if (r < 0 || vm->relay < 0)
		fvm_error_print("test", &err);
	assert_int_equal(r, 0);
	assert_true(vm->relay >= 0);
	/* as PID 1 would, this process holds the rules' socket */
	fvm_net_settle(&vm->net, getpid(), NULL, NULL);
	config_drop(c);
}

static void vm_start(struct vm *vm, uint32_t slot, const char *const *ports)
{
	struct fvm_config c;
	config_make(&c, slot, ports);
	vm_start_with(vm, slot, &c);
}

/* Does it succeed within three seconds? What the keeper does comes a moment later. */
static bool soon(const char *command)
{
	for (int i = 0; i < 60; i++) {
		if (shell(command) == 0)
			return true;
		usleep(50000);
	}
	return false;
}

static bool all_is_gone(void)
{
	if (soon("test -z \"$(nft list ruleset)$(ls /run/fvm)\""))
		return true;
	(void)shell("nft list ruleset; ls /run/fvm; pgrep -al fvm-keeper");
	return false;
}

static void vm_end(struct vm *vm)
{
	machine_end(&vm->machine);
	fvm_net_detach(&vm->net);
	fvm_net_free(&vm->net);
}

/* ---- the lab ---- */

static void file_write(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	assert_true(fd >= 0);
	assert_int_equal(fvm_write_all(fd, text, strlen(text)), 0);
	close(fd);
}

static char sysctl(const char *path)
{
	char c = '?';
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	(void)!read(fd, &c, 1);
	close(fd);
	return c;
}

static bool can_make_a_lab(void)
{
	return unshare(CLONE_NEWNET | CLONE_NEWNS) == 0 &&
	       mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount("net-test", "/run", "tmpfs", 0, NULL) == 0;
}

static int lab_setup(void **state)
{
	char command[512];
	if (!can_make_a_lab()) {
		print_message("skipped: needs CAP_SYS_ADMIN and CAP_NET_ADMIN\n");
		return 0;
	}
	struct lab *lab = calloc(1, sizeof(*lab));
	lab->host = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	file_write("/run/resolv.conf", "nameserver 10.9.9.53\nsearch example.org\n");
	(void)mount("/run/resolv.conf", "/etc/resolv.conf", NULL, MS_BIND, NULL);
	machine_make(&lab->outside);
	shell_in(lab, lab->outside.ns,
		 "sysctl -qw net.ipv6.conf.all.accept_dad=0 net.ipv6.conf.default.accept_dad=0");
	snprintf(command, sizeof(command),
		 "sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.accept_dad=0 "
		 "net.ipv6.conf.default.accept_dad=0 && "
		 "ip link set lo up && ip link add up0 type veth peer name far netns %d && "
		 "ip addr add " HOST4 "/24 dev up0 && ip addr add " HOST6 "/64 dev up0 nodad && "
		 "ip link set up0 up && ip route add default via " OUTSIDE4,
		 (int)lab->outside.holder);
	assert_int_equal(shell(command), 0);
	shell_in(
		lab, lab->outside.ns,
		"ip link set lo up && ip addr add " OUTSIDE4 "/24 dev far && "
		"ip addr add " OUTSIDE6 "/64 dev far nodad && ip link set far up && "
		"ip addr add 10.9.9.53/32 dev lo && ip addr add 169.254.169.254/32 dev lo && "
		"for a in fd00:ec2::254 64:ff9b::a9fe:a9fe 64:ff9b::a09:935 64:ff9b::c633:6401; do "
		"ip addr add $a/128 dev lo nodad; done");
	assert_int_equal(shell("ip -6 route add default via " OUTSIDE6), 0);
	/* the kernel takes a second to see that the cable between the two is in */
	int s = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE6, 80);
	for (int i = 0; i < 10 && !reaches(lab, lab->host, OUTSIDE6, 80); i++)
		;
	close(s);
	*state = lab;
	return 0;
}

static int lab_teardown(void **state)
{
	struct lab *lab = *state;
	if (lab) {
		machine_end(&lab->outside);
		close(lab->host);
	}
	free(lab);
	return 0;
}

#define LAB(state)                                                                                 \
	struct lab *lab = *state;                                                                  \
	if (!lab)                                                                                  \
	skip()

/* ---- claims ---- */

static void a_vm_reaches_the_world_under_its_hosts_address(void **state)
{
	LAB(state);
	struct vm vm;
	char peer[46];
	int s4 = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE4, 80);
	int s6 = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE6, 80);
	vm_start(&vm, 7, NULL);
	assert_int_equal(vm.relay, 0);
	assert_true(reaches(lab, vm.machine.ns, OUTSIDE4, 80));
	peer_of(s4, peer, sizeof(peer));
	assert_string_equal(peer, HOST4);
	assert_true(reaches(lab, vm.machine.ns, OUTSIDE6, 80));
	peer_of(s6, peer, sizeof(peer));
	assert_string_equal(peer, HOST6);
	vm_end(&vm);
	close(s4);
	close(s6);
}

static void a_vm_does_not_reach_its_host(void **state)
{
	LAB(state);
	struct vm vm;
	int s4 = server(lab, lab->host, SOCK_STREAM, "0.0.0.0", 2222);
	int s6 = server(lab, lab->host, SOCK_STREAM, "::", 2223);
	vm_start(&vm, 7, NULL);
	assert_false(reaches(lab, vm.machine.ns, HOST4, 2222));
	assert_false(reaches(lab, vm.machine.ns, vm.net.gateway4, 2222));
	assert_false(reaches(lab, vm.machine.ns, HOST6, 2223));
	assert_false(reaches(lab, vm.machine.ns, vm.net.gateway6, 2223));
	/* not even where it leads 127.0.0.1 to the gateway */
	shell_in(lab, vm.machine.ns,
		 "sysctl -qw net.ipv4.conf.all.route_localnet=1 && "
		 "ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.1/32 dev eth0");
	assert_false(reaches(lab, vm.machine.ns, "127.0.0.1", 2222));
	vm_end(&vm);
	close(s4);
	close(s6);
}

static void a_vm_does_not_reach_another(void **state)
{
	LAB(state);
	struct vm a, b;
	const char *const ports[] = { "8080:80", NULL };
	char command[128];
	vm_start(&a, 1, ports);
	vm_start(&b, 2, NULL);
	int sa = server(lab, a.machine.ns, SOCK_STREAM, "0.0.0.0", 80);
	int so = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE4, 81);
	assert_false(reaches(lab, b.machine.ns, a.net.address4, 80));
	assert_false(reaches(lab, b.machine.ns, a.net.address6, 80));
	assert_false(reaches(lab, b.machine.ns, HOST4, 8080));
	assert_true(reaches(lab, b.machine.ns, OUTSIDE4, 81));
	/* nor can it speak under another's address */
	snprintf(command, sizeof(command),
		 "ip addr add %s/32 dev eth0 && ip route replace "
		 "default via %s dev eth0 onlink src %s",
		 a.net.address4, b.net.gateway4, a.net.address4);
	shell_in(lab, b.machine.ns, command);
	assert_false(reaches(lab, b.machine.ns, OUTSIDE4, 81));
	vm_end(&a);
	vm_end(&b);
	close(sa);
	close(so);
}

static void private_networks_and_metadata_are_shut(void **state)
{
	LAB(state);
	struct vm vm;
	int private = server(lab, lab->outside.ns, SOCK_STREAM, "10.9.9.53", 80);
	int name = server(lab, lab->outside.ns, SOCK_STREAM, "10.9.9.53", 53);
	int metadata = server(lab, lab->outside.ns, SOCK_STREAM, "169.254.169.254", 80);
	int metadata6 = server(lab, lab->outside.ns, SOCK_STREAM, "fd00:ec2::254", 80);
	/* the same by way of a translator from IPv6; and the outside itself */
	int nat64[] = { server(lab, lab->outside.ns, SOCK_STREAM, "64:ff9b::a9fe:a9fe", 80),
			server(lab, lab->outside.ns, SOCK_STREAM, "64:ff9b::a09:935", 80),
			server(lab, lab->outside.ns, SOCK_STREAM, "64:ff9b::c633:6401", 80) };
	assert_true(reaches(lab, lab->host, "169.254.169.254", 80));
	assert_true(reaches(lab, lab->host, "64:ff9b::a9fe:a9fe", 80));
	vm_start(&vm, 7, NULL);
	assert_false(reaches(lab, vm.machine.ns, "10.9.9.53", 80));
	assert_true(reaches(lab, vm.machine.ns, "10.9.9.53", 53)); /* the name server */
	assert_false(reaches(lab, vm.machine.ns, "169.254.169.254", 80));
	assert_false(reaches(lab, vm.machine.ns, "64:ff9b::a9fe:a9fe", 80));
	assert_false(reaches(lab, vm.machine.ns, "64:ff9b::a09:935", 80));
	assert_true(reaches(lab, vm.machine.ns, "64:ff9b::c633:6401", 80));
	vm_end(&vm);

	struct fvm_config c;
	config_make(&c, 8, NULL);
	c.private_networks = true;
	vm_start_with(&vm, 8, &c);
	assert_true(reaches(lab, vm.machine.ns, "10.9.9.53", 80));
	assert_false(reaches(lab, vm.machine.ns, "169.254.169.254", 80));
	assert_false(reaches(lab, vm.machine.ns, "fd00:ec2::254", 80));
	assert_false(reaches(lab, vm.machine.ns, "64:ff9b::a9fe:a9fe", 80));
	assert_true(reaches(lab, vm.machine.ns, "64:ff9b::a09:935", 80));
	vm_end(&vm);
	for (size_t i = 0; i < FVM_COUNT(nat64); i++)
		close(nat64[i]);
	close(private);
	close(name);
	close(metadata);
	close(metadata6);
}

static void a_published_port_is_reached_from_everywhere(void **state)
{
	LAB(state);
	struct vm vm;
	const char *const ports[] = { "8080:80", "5353:53/udp", HOST4 ":8081:81", NULL };
	vm_start(&vm, 7, ports);
	int s4 = server(lab, vm.machine.ns, SOCK_STREAM, "0.0.0.0", 80);
	int s81 = server(lab, vm.machine.ns, SOCK_STREAM, "0.0.0.0", 81);
	int udp = server(lab, vm.machine.ns, SOCK_DGRAM, "0.0.0.0", 53);
	assert_true(vm.relay > 0);
	assert_true(carries(lab, lab->outside.ns, HOST4, 8080, s4));
	assert_true(carries(lab, lab->host, HOST4, 8080, s4));
	assert_true(carries(lab, lab->host, "127.0.0.1", 8080, s4));
	assert_true(carries(lab, lab->outside.ns, HOST4, 8081, s81));
	assert_false(reaches(lab, lab->host, "127.0.0.1", 8081));
	assert_false(reaches(lab, lab->outside.ns, HOST4, 81));
	assert_true(carries_datagrams(lab, lab->outside.ns, HOST4, 5353, udp));
	assert_true(carries_datagrams(lab, lab->host, HOST4, 5353, udp));
	assert_true(carries_datagrams(lab, lab->host, "127.0.0.1", 5353, udp));
	close(s4);
	int s6 = server(lab, vm.machine.ns, SOCK_STREAM, "::", 80);
	assert_true(carries(lab, lab->outside.ns, HOST6, 8080, s6));
	assert_true(carries(lab, lab->host, HOST6, 8080, s6));
	assert_true(carries(lab, lab->host, "::1", 8080, s6));
	vm_end(&vm);
	/* and with the VM it is gone */
	for (int i = 0; i < 100 && reaches(lab, lab->host, "127.0.0.1", 8080); i++)
		usleep(10000);
	assert_false(reaches(lab, lab->host, "127.0.0.1", 8080));
	assert_false(reaches(lab, lab->outside.ns, HOST4, 8080));
	close(s6);
	close(s81);
	close(udp);
}

static void a_vm_is_reached_at_its_published_ports_only(void **state)
{
	LAB(state);
	struct vm vm;
	char command[128];
	vm_start(&vm, 7, NULL);
	int s = server(lab, vm.machine.ns, SOCK_STREAM, "0.0.0.0", 80);
	snprintf(command, sizeof(command), "ip route add %s/32 via " HOST4, vm.net.address4);
	shell_in(lab, lab->outside.ns, command);
	assert_false(reaches(lab, lab->outside.ns, vm.net.address4, 80));
	assert_true(reaches(lab, lab->host, vm.net.address4, 80));
	vm_end(&vm);
	close(s);
}

static void a_taken_port_is_told_with_its_owner(void **state)
{
	LAB(state);
	struct vm vm;
	struct fvm_net net;
	struct fvm_config c;
	struct fvm_error err = { 0 }, again = { 0 };
	const char *const ports[] = { "8080:80", NULL };
	int s = server(lab, lab->host, SOCK_STREAM, "0.0.0.0", 8080);
	config_make(&c, 3, ports);
	assert_int_equal(fvm_net_prepare(3, &c, NULL, &net, &err), -EADDRINUSE);
	assert_non_null(strstr(err.text, "8080/tcp, which belongs to test_fvm_net (pid "));
	close(s);
	vm_start(&vm, 7, ports);
	fvm_strv_free(&c.ports);
	assert_int_equal(fvm_strv_add(&c.ports, HOST4 ":8080:81"), 0);
	assert_int_equal(fvm_net_prepare(3, &c, NULL, &net, &again), -EADDRINUSE);
	config_drop(&c);
	vm_end(&vm);
	(void)lab;
}

static void the_last_vm_leaves_nothing_behind(void **state)
{
	LAB(state);
	struct vm a, b;
	assert_true(all_is_gone());
	assert_int_equal(sysctl("/proc/sys/net/ipv4/ip_forward"), '0');
	vm_start(&a, 1, NULL);
	vm_start(&b, 2, NULL);
	assert_int_equal(sysctl("/proc/sys/net/ipv4/ip_forward"), '1');
	assert_int_equal(sysctl("/proc/sys/net/ipv6/conf/all/forwarding"), '1');
	vm_end(&a);
	assert_int_equal(shell("nft list table inet fvm >/dev/null"), 0);
	vm_end(&b);
	assert_true(all_is_gone());
	assert_int_equal(sysctl("/proc/sys/net/ipv4/ip_forward"), '0');
	assert_int_equal(sysctl("/proc/sys/net/ipv6/conf/all/forwarding"), '0');
}

static void forwarding_that_somebody_relies_on_stays(void **state)
{
	LAB(state);
	struct vm vm;
	vm_start(&vm, 1, NULL);
	assert_int_equal(shell("ip link add docker0 type bridge"), 0);
	vm_end(&vm);
	assert_true(all_is_gone());
	assert_int_equal(sysctl("/proc/sys/net/ipv4/ip_forward"), '1');
	assert_int_equal(shell("ip link del docker0 && sysctl -qw net.ipv4.ip_forward=0 "
			       "net.ipv6.conf.all.forwarding=0 net.ipv6.conf.up0.accept_ra=1"),
			 0);
	(void)lab;
}

static void routes_by_advertisement_survive_forwarding(void **state)
{
	LAB(state);
	struct vm vm;
	const char *path = "/proc/sys/net/ipv6/conf/up0/accept_ra";
	assert_true(all_is_gone());
	assert_int_equal(sysctl(path), '1');
	vm_start(&vm, 1, NULL);
	assert_int_equal(sysctl(path), '2');
	vm_end(&vm);
	assert_true(all_is_gone());
	assert_int_equal(sysctl(path), '1');
	(void)lab;
}

static void a_firewall_that_drops_forwarding_lets_vms_through(void **state)
{
	LAB(state);
	struct vm vm;
	int s = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE4, 80);
	const char *const ports[] = { "8080:80", NULL };
	if (shell("command -v iptables-nft >/dev/null") != 0)
		skip();
	assert_int_equal(shell("iptables-nft -P FORWARD DROP && iptables-nft -N DOCKER-USER && "
			       "iptables-nft -A FORWARD -j DOCKER-USER && "
			       "iptables-nft -S >/run/before && iptables-nft-save >/run/drops && "
			       "nft 'add table inet firewalld; add chain inet firewalld "
			       "filter_FORWARD { type filter hook forward priority 10; }; "
			       "add rule inet firewalld filter_FORWARD reject' && "
			       "nft list table inet firewalld >/run/rejects"),
			 0);
	vm_start(&vm, 7, ports);
	int inside = server(lab, vm.machine.ns, SOCK_STREAM, "0.0.0.0", 80);
	assert_true(reaches(lab, vm.machine.ns, OUTSIDE4, 80));
	assert_true(carries(lab, lab->outside.ns, HOST4, 8080, inside));
	assert_int_equal(shell("iptables-nft -S | grep -q -- '-i fvm+.*-j ACCEPT'"), 0);
	/* reloaded: ours are back a moment later, once */
	assert_int_equal(shell("nft flush ruleset && iptables-nft-restore /run/drops && "
			       "nft -f /run/rejects"),
			 0);
	assert_true(soon("iptables-nft -S | grep -q -- '-o fvm+.*-j ACCEPT' && "
			 "test $(nft list table inet firewalld | grep -c fvm) = 2"));
	assert_true(reaches(lab, vm.machine.ns, OUTSIDE4, 80));
	vm_end(&vm);
	assert_true(soon("iptables-nft -S | diff /run/before - && "
			 "! nft list table inet firewalld | grep -q fvm"));
	assert_int_equal(shell("nft flush ruleset"), 0);
	close(s);
	close(inside);
}

static void nobody_can_flush_the_rules_away(void **state)
{
	LAB(state);
	struct vm a, b;
	const char *const ports[] = { "8080:80", NULL };
	vm_start(&a, 1, ports);
	vm_start(&b, 2, NULL);
	int inside = server(lab, a.machine.ns, SOCK_STREAM, "0.0.0.0", 80);
	int outside = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE4, 80);
	int here = server(lab, lab->host, SOCK_STREAM, "0.0.0.0", 2222);
	assert_int_equal(shell("nft flush ruleset; iptables-nft -F 2>/dev/null; "
			       "! nft delete table inet fvm 2>/dev/null"),
			 0);
	for (int killed = 0; killed < 2; killed++) {
		assert_true(reaches(lab, lab->outside.ns, HOST4, 8080));
		assert_true(reaches(lab, b.machine.ns, OUTSIDE4, 80));
		assert_false(reaches(lab, b.machine.ns, HOST4, 2222));
		assert_false(reaches(lab, b.machine.ns, b.net.gateway4, 2222));
		assert_false(reaches(lab, b.machine.ns, a.net.address4, 80));
		/* nor are they gone with the keeper: we have their socket, as PID 1 has */
		assert_true(soon("pid=$(pgrep -x -P $PPID fvm-keeper) && kill -KILL $pid"));
	}
	vm_end(&b);
	vm_start(&b, 2, NULL); /* makes another keeper */
	assert_false(reaches(lab, b.machine.ns, HOST4, 2222));
	vm_end(&a);
	vm_end(&b);
	assert_true(all_is_gone());
	close(inside);
	close(outside);
	close(here);
}

static void a_start_soon_after_finds_the_rules_ready(void **state)
{
	LAB(state);
	struct vm vm;
	vm_start(&vm, 1, NULL);
	vm_end(&vm);
	assert_int_equal(
		shell("nft -a list table inet fvm | head -1 | cut -d' ' -f1-7 >/run/first"), 0);
	vm_start(&vm, 1, NULL);
	usleep(800000); /* longer than an unused table is kept */
	assert_int_equal(
		shell("nft -a list table inet fvm | head -1 | cut -d' ' -f1-7 | diff /run/first -"),
		0);
	vm_end(&vm);
	assert_true(all_is_gone());
	(void)lab;
}

static void links_that_were_apart_stay_apart(void **state)
{
	LAB(state);
	struct vm vm;
	struct machine other;
	char command[256];
	machine_make(&other);
	snprintf(command, sizeof(command),
		 "ip link add up1 type veth peer name far netns %d && ip link set up1 up && "
		 "ip addr add 203.0.113.2/24 dev up1",
		 (int)other.holder);
	assert_int_equal(shell(command), 0);
	shell_in(lab, other.ns,
		 "ip addr add 203.0.113.1/24 dev far && ip link set far up && "
		 "ip route add default via 203.0.113.2");
	shell_in(lab, lab->outside.ns, "ip route add 203.0.113.0/24 via " HOST4);
	int s = server(lab, lab->outside.ns, SOCK_STREAM, OUTSIDE4, 80);
	vm_start(&vm, 1, NULL);
	assert_true(reaches(lab, vm.machine.ns, OUTSIDE4, 80));
	assert_false(reaches(lab, other.ns, OUTSIDE4, 80));
	vm_end(&vm);
	assert_true(all_is_gone());
	/* what it would be without */
	assert_int_equal(shell("sysctl -qw net.ipv4.ip_forward=1"), 0);
	assert_true(reaches(lab, other.ns, OUTSIDE4, 80));
	assert_int_equal(shell("sysctl -qw net.ipv4.ip_forward=0"), 0);
	machine_end(&other);
	shell_in(lab, lab->outside.ns, "ip route del 203.0.113.0/24");
	close(s);
	usleep(100000);
}

static void a_resolver_on_the_hosts_loopback_is_relayed_to(void **state)
{
	LAB(state);
	struct vm vm;
	scoped_free char *text = NULL;
	file_write("/run/resolv.conf", "nameserver 127.0.0.53\n");
	int udp = server(lab, lab->host, SOCK_DGRAM, "127.0.0.53", 53);
	int tcp = server(lab, lab->host, SOCK_STREAM, "127.0.0.53", 53);
	vm_start(&vm, 7, NULL);
	assert_true(vm.relay > 0);
	assert_int_equal(fvm_net_resolv_conf(&vm.net, &text, NULL), 0);
	assert_string_equal(text, "nameserver 127.0.66.53\n");
	assert_true(carries_datagrams(lab, vm.machine.ns, "127.0.66.53", 53, udp));
	assert_true(carries(lab, vm.machine.ns, "127.0.66.53", 53, tcp));
	vm_end(&vm);
	close(udp);
	close(tcp);
	file_write("/run/resolv.conf", "nameserver 10.9.9.53\nsearch example.org\n");
}

/* ---- many at once ---- */

static int start_and_end(uint32_t slot)
{
	struct fvm_config c;
	struct fvm_error err = { 0 };
	char port[32];
	int r = 0;
	snprintf(port, sizeof(port), "%u:80", 9000 + slot);
	const char *const ports[] = { port, NULL };
	for (int i = 0; i < 10 && r == 0; i++) {
		struct machine m;
		struct fvm_net net;
		config_make(&c, slot, slot % 2 ? ports : NULL);
		machine_make(&m);
		r = fvm_net_prepare(slot, &c, NULL, &net, &err);
		if (r == 0)
			r = fvm_net_attach(&net, m.ns, 0, &err);
		machine_end(&m);
		if (r < 0) {
			fvm_error_print("test", &err);
			break;
		}
		fvm_net_settle(&net, getpid(), NULL, NULL);
		fvm_net_detach(&net);
		fvm_net_free(&net);
		config_drop(&c);
	}
	return r;
}

static void vms_start_and_end_at_the_same_time(void **state)
{
	LAB(state);
	pid_t children[8];
	for (uint32_t i = 0; i < 8; i++) {
		children[i] = fork();
		if (children[i] == 0)
			_exit(start_and_end(i * 100) < 0);
	}
	for (size_t i = 0; i < 8; i++) {
		int status = 1;
		waitpid(children[i], &status, 0);
		assert_int_equal(status, 0);
	}
	assert_true(all_is_gone());
	assert_int_equal(sysctl("/proc/sys/net/ipv4/ip_forward"), '0');
	(void)lab;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_vm_reaches_the_world_under_its_hosts_address),
		cmocka_unit_test(a_vm_does_not_reach_its_host),
		cmocka_unit_test(a_vm_does_not_reach_another),
		cmocka_unit_test(private_networks_and_metadata_are_shut),
		cmocka_unit_test(a_published_port_is_reached_from_everywhere),
		cmocka_unit_test(a_vm_is_reached_at_its_published_ports_only),
		cmocka_unit_test(a_taken_port_is_told_with_its_owner),
		cmocka_unit_test(the_last_vm_leaves_nothing_behind),
		cmocka_unit_test(forwarding_that_somebody_relies_on_stays),
		cmocka_unit_test(routes_by_advertisement_survive_forwarding),
		cmocka_unit_test(a_firewall_that_drops_forwarding_lets_vms_through),
		cmocka_unit_test(nobody_can_flush_the_rules_away),
		cmocka_unit_test(a_start_soon_after_finds_the_rules_ready),
		cmocka_unit_test(links_that_were_apart_stay_apart),
		cmocka_unit_test(a_resolver_on_the_hosts_loopback_is_relayed_to),
		cmocka_unit_test(vms_start_and_end_at_the_same_time),
	};
	return cmocka_run_group_tests(tests, lab_setup, lab_teardown);
}
