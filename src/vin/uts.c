/* Host and domain name: two words, each at most as long as the kernel has room. */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "vin/spaces.h"

static int capture(void *arg, struct fvm_buf *to, struct fvm_error *err)
{
	struct utsname now;
	(void)arg;
	if (uname(&now) < 0)
		return fvm_error_set(err, errno, "ask for the host name");
	vin_put_string(to, now.nodename);
	vin_put_string(to, now.domainname);
	return 0;
}

/* What is as it was may be set by who has no right to. */
static int set(const char *host, const char *domain, struct fvm_error *err)
{
	struct utsname now;
	if (uname(&now) < 0)
		return fvm_error_set(err, errno, "ask for the host name");
	if (strcmp(now.nodename, host) != 0 && sethostname(host, strlen(host)) < 0)
		return fvm_error_set(err, errno, "set the host name to '%s'", host);
	if (strcmp(now.domainname, domain) != 0 && setdomainname(domain, strlen(domain)) < 0)
		return fvm_error_set(err, errno, "set the domain name to '%s'", domain);
	return 0;
}

static int make(struct vin_payload *p, struct vin_moved *moved, struct fvm_error *err)
{
	(void)moved;
	struct utsname now;
	scoped_free char *host = vin_get_string(p), *domain = vin_get_string(p);
	if (vin_get_done(p) < 0 || strlen(host) >= sizeof(now.nodename) ||
	    strlen(domain) >= sizeof(now.domainname))
		return -EBADMSG;
	return set(host, domain, err);
}

const struct vin_space_kind vin_space_uts = { .space = CLONE_NEWUTS,
					      .capture = capture,
					      .make = make };
