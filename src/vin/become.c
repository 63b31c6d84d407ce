#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/common.h"
#include "vin/become.h"

struct kept {
	int *numbers;
	size_t count;
};

/* The rights that a new user namespace gives are lost at an exec, unless they are ambient. */
static void keep_rights(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct caps[2];
	if (syscall(SYS_capget, &head, caps) < 0)
		return;
	for (int i = 0; i < 2; i++)
		caps[i].inheritable = caps[i].permitted;
	(void)syscall(SYS_capset, &head, caps);
	for (unsigned int cap = 0; cap < 64; cap++) {
		if (caps[cap / 32].permitted >> cap % 32 & 1)
			(void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
	}
}

static int move_above(int *fd, int highest)
{
	int moved = fcntl(*fd, F_DUPFD_CLOEXEC, highest + 1);
	if (moved < 0)
		return -errno;
	close(*fd);
	*fd = moved;
	return 0;
}

/* A number may be that of another one that just came, or of the program: all are moved out of the
 * way first. */
static int place(int *fds, const int32_t *numbers, size_t count, int *program)
{
	int highest = 0;
	for (size_t i = 0; i < count; i++)
		highest = numbers[i] > highest ? numbers[i] : highest;
	int r = *program < 0 ? 0 : move_above(program, highest);
	for (size_t i = 0; r == 0 && i < count; i++)
		r = move_above(&fds[i], highest);
	if (r < 0)
		return r;
	for (size_t i = 0; i < count; i++) {
		if (numbers[i] <= VIN_LINE || dup3(fds[i], numbers[i], O_CLOEXEC) < 0)
			return numbers[i] <= VIN_LINE ? -EINVAL : -errno;
		close(fds[i]);
	}
	return 0;
}

static int keep(struct kept *kept, const struct vin_order *order, int *fds, size_t count,
		int *program)
{
	int *more = realloc(kept->numbers, (kept->count + count) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	kept->numbers = more;
	for (size_t i = 0; i < count; i++)
		more[kept->count++] = order->numbers[i];
	return place(fds, order->numbers, count, program);
}

static void execute(const struct kept *kept, int program, bool user)
{
	char *args[] = { (char *)"vin", NULL }, *env[] = { NULL };
	if (user)
		keep_rights();
	if (close_range(VIN_LINE + 1, ~0U, CLOSE_RANGE_CLOEXEC) < 0)
		return;
	for (size_t i = 0; i < kept->count; i++) {
		if (fcntl(kept->numbers[i], F_SETFD, 0) < 0)
			return;
	}
	syscall(SYS_execveat, program, "", args, env, AT_EMPTY_PATH);
}

void vin_become(int line, bool user)
{
	struct kept kept = { 0 };
	int program = -1, r = 0;
	fvm_raise_descriptors(NULL);
	if (line != VIN_LINE && dup2(line, VIN_LINE) < 0)
		_exit(1);
	(void)prctl(PR_SET_DUMPABLE, 1);
	if (send(VIN_LINE, VIN_ORDER_HELLO, 1, MSG_NOSIGNAL) != 1)
		_exit(1);
	while (r == 0) {
		struct vin_order order;
		int fds[VIN_ORDER_FDS];
		size_t count;
		ssize_t n =
			fvm_recv_fds(VIN_LINE, &order, sizeof(order), fds, VIN_ORDER_FDS, &count);
		if (n != sizeof(order) || count != order.count)
			break;
		if (order.what == VIN_ORDER_PROGRAM && count == 1)
			program = fds[0];
		else if (order.what == VIN_ORDER_KEEP)
			r = keep(&kept, &order, fds, count, &program);
		else if (order.what == VIN_ORDER_GO)
			execute(&kept, program, user);
	}
	_exit(1);
}
