#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fvm/helper.h"
#include "fvm/net.h"
#include "fvm/relay.h"
#include "fvm/resolv.h"
#include "fvm/sys.h"

#define NOBODY 65534

struct request {
	const struct fvm_net *net;
	pid_t init;
	struct relay relay;
	bool names; /* the VM's questions go to the host's resolver at ... */
	struct fvm_address resolver;
};

static bool is_loopback(const struct fvm_address *a)
{
	return a->family == AF_INET ? a->bytes[0] == 127 : a->bytes[15] == 1 && a->bytes[0] == 0;
}

static int listen_port(struct request *q, const struct fvm_port *port, const char *at_text,
		       const char *to_text, struct fvm_error *err)
{
	struct fvm_address at, to;
	if (fvm_address_parse(at_text, &at) < 0 || fvm_address_parse(to_text, &to) < 0 ||
	    !is_loopback(&at))
		return 0;
	int r = fvm_relay_listen(&q->relay, port->udp, &at, port->host_port, &to, port->guest_port);
	if (r == -EADDRNOTAVAIL || r == -EAFNOSUPPORT) /* no ::1 here */
		return 0;
	return r < 0 ? fvm_error_set(err, -r, "publish port %u on %s", port->host_port, at_text)
		     : 0;
}

static int listen_ports(struct request *q, struct fvm_error *err)
{
	const struct fvm_net *net = q->net;
	int r = 0;
	for (size_t i = 0; i < net->port_count && r == 0; i++) {
		const struct fvm_port *port = &net->ports[i];
		const char *at = port->host_address;
		const bool is6 = strchr(at, ':');
		if (at[0] != '\0') {
			r = listen_port(q, port, at, is6 ? net->address6 : net->address4, err);
			continue;
		}
		r = listen_port(q, port, "127.0.0.1", net->address4, err);
		if (r == 0 && net->address6[0])
			r = listen_port(q, port, "::1", net->address6, err);
	}
	return r;
}

/* Sockets stay in the namespace they were made in; we come back. */
static int listen_names(struct request *q, struct fvm_error *err)
{
	struct fvm_address at;
	scoped_fd home = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (home < 0 || setns(q->relay.vm, CLONE_NEWNET) < 0)
		return fvm_error_set(err, errno, "enter the VM's network");
	/* A namespace without any address has no local table: bind(2) takes whatever is asked for
	 * to be a broadcast then, and answers would come from 127.0.0.1, which no resolver takes.
	 */
	int r = fvm_net_lo_up(err);
	if (r == 0)
		r = fvm_address_parse(FVM_DNS_ADDRESS, &at);
	for (int udp = 0; udp < 2 && r == 0; udp++)
		r = fvm_relay_listen(&q->relay, udp, &at, 53, &q->resolver, 53);
	if (setns(home, CLONE_NEWNET) < 0)
		return fvm_error_set(err, errno, "leave the VM's network");
	return r < 0 ? fvm_error_set(err, -r, "answer the VM's name questions") : 0;
}

/* As many as all that may be open at once: the usual 1024 are fewer. */
static void raise_descriptors(void)
{
	struct rlimit limit;
	const rlim_t want = 2 * RELAY_CONNECTIONS + RELAY_FLOWS + RELAY_LISTENERS + 64;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur >= want)
		return;
	limit.rlim_cur = want;
	limit.rlim_max = limit.rlim_max < want ? want : limit.rlim_max;
	(void)setrlimit(RLIMIT_NOFILE, &limit);
}

static int become_nobody(void)
{
	if (setgroups(0, NULL) < 0 || setresgid(NOBODY, NOBODY, NOBODY) < 0 ||
	    setresuid(NOBODY, NOBODY, NOBODY) < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ? -errno : 0;
}

static void close_others(const struct relay *relay, int report)
{
	int keep[RELAY_LISTENERS + 2] = { relay->vm, report };
	for (size_t i = 0; i < relay->count; i++)
		keep[i + 2] = relay->listeners[i].fd;
	fvm_helper_close(keep, relay->count + 2);
}

static int relay_main(void *arg, int report)
{
	struct request *q = arg;
	struct fvm_error err = { 0 };
	int r = 0;
	(void)prctl(PR_SET_NAME, "fvm-relay", 0, 0, 0);
	q->relay.vm = sys_pidfd_open(q->init, 0);
	if (q->relay.vm < 0)
		r = fvm_error_set(&err, -q->relay.vm, "watch the VM");
	if (r == 0)
		r = listen_ports(q, &err);
	if (r == 0 && q->names)
		r = listen_names(q, &err);
	if (r == 0) {
		raise_descriptors();
		r = become_nobody();
		if (r < 0)
			fvm_error_set(&err, -r, "become nobody");
	}
	/* before the report: no end of the starter's pipes must stay open here */
	close_others(&q->relay, report);
	(void)!chdir("/");
	fvm_helper_report(report, &err);
	return r < 0 || fvm_relay_loop(&q->relay) < 0;
}

static int needs(struct request *q)
{
	scoped_resolv resolv = { 0 };
	int r = fvm_resolv_read("", &resolv);
	if (r < 0)
		return r;
	q->names = fvm_resolv_needs_relay(&resolv, q->net->address6[0] != '\0');
	q->resolver = resolv.host;
	return q->names || q->net->port_count > 0;
}

int fvm_net_needs_relay(const struct fvm_net *net)
{
	struct request q = { .net = net };
	return needs(&q);
}

pid_t fvm_net_serve(const struct fvm_net *net, pid_t init, struct fvm_error *err)
{
	struct request q = { .net = net, .init = init };
	int r = needs(&q);
	if (r < 0)
		return fvm_error_set(err, -r, "find the host's name servers");
	return r == 0 ? 0 : fvm_helper_start(relay_main, &q, err);
}
