/* Numbers that have names: flags and choices of system calls' arguments. */
#include <fcntl.h>
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vin/calls_priv.h"

struct word {
	uint64_t value;
	const char *name;
};

#define WORD(prefix, name)                                                                         \
	{                                                                                          \
		prefix##name, #prefix #name                                                        \
	}

static const struct word open_modes[] = { WORD(O_, RDONLY), WORD(O_, WRONLY), WORD(O_, RDWR) };

static const struct word open_flags[] = {
	/* those that contain others come first */
	WORD(O_, TMPFILE),
	WORD(O_, SYNC),
	WORD(O_, CREAT),
	WORD(O_, EXCL),
	WORD(O_, NOCTTY),
	WORD(O_, TRUNC),
	WORD(O_, APPEND),
	WORD(O_, NONBLOCK),
	WORD(O_, DSYNC),
	WORD(O_, DIRECT),
	WORD(O_, NOATIME),
	WORD(O_, CLOEXEC),
	WORD(O_, DIRECTORY),
	WORD(O_, NOFOLLOW),
	WORD(O_, PATH),
	WORD(O_, ASYNC),
	{ 0100000, "O_LARGEFILE" },
};

static const struct word protections[] = { WORD(PROT_, READ), WORD(PROT_, WRITE),
					   WORD(PROT_, EXEC) };

static const struct word map_flags[] = {
	{ 3, "MAP_SHARED_VALIDATE" }, WORD(MAP_, SHARED),	  WORD(MAP_, PRIVATE),
	WORD(MAP_, FIXED_NOREPLACE),  WORD(MAP_, FIXED),	  WORD(MAP_, ANONYMOUS),
	WORD(MAP_, GROWSDOWN),	      WORD(MAP_, LOCKED),	  WORD(MAP_, NORESERVE),
	WORD(MAP_, POPULATE),	      WORD(MAP_, NONBLOCK),	  WORD(MAP_, STACK),
	WORD(MAP_, HUGETLB),	      { 0x800, "MAP_DENYWRITE" },
};

static const struct word clone_flags[] = {
	WORD(CLONE_, VM),
	WORD(CLONE_, FS),
	WORD(CLONE_, FILES),
	WORD(CLONE_, SIGHAND),
	WORD(CLONE_, PIDFD),
	WORD(CLONE_, PTRACE),
	WORD(CLONE_, VFORK),
	WORD(CLONE_, PARENT),
	WORD(CLONE_, THREAD),
	WORD(CLONE_, NEWNS),
	WORD(CLONE_, SYSVSEM),
	WORD(CLONE_, SETTLS),
	WORD(CLONE_, PARENT_SETTID),
	WORD(CLONE_, CHILD_CLEARTID),
	WORD(CLONE_, UNTRACED),
	WORD(CLONE_, CHILD_SETTID),
	WORD(CLONE_, NEWCGROUP),
	WORD(CLONE_, NEWUTS),
	WORD(CLONE_, NEWIPC),
	WORD(CLONE_, NEWUSER),
	WORD(CLONE_, NEWPID),
	WORD(CLONE_, NEWNET),
	WORD(CLONE_, IO),
	WORD(, SIGCHLD),
};

static const struct word message_flags[] = {
	WORD(MSG_, OOB),      WORD(MSG_, PEEK),	       WORD(MSG_, DONTROUTE), WORD(MSG_, CTRUNC),
	WORD(MSG_, TRUNC),    WORD(MSG_, DONTWAIT),    WORD(MSG_, EOR),	      WORD(MSG_, WAITALL),
	WORD(MSG_, CONFIRM),  WORD(MSG_, ERRQUEUE),    WORD(MSG_, NOSIGNAL),  WORD(MSG_, MORE),
	WORD(MSG_, FASTOPEN), WORD(MSG_, CMSG_CLOEXEC)
};

static const struct word access_modes[] = { WORD(, R_OK), WORD(, W_OK), WORD(, X_OK) };

static const struct word at_flags[] = {
	WORD(AT_, SYMLINK_NOFOLLOW), WORD(AT_, SYMLINK_FOLLOW), WORD(AT_, EMPTY_PATH),
	WORD(AT_, NO_AUTOMOUNT),     WORD(AT_, REMOVEDIR),
};

static const struct word wait_options[] = {
	WORD(W, NOHANG), WORD(W, UNTRACED),	   WORD(W, CONTINUED),	       WORD(W, EXITED),
	WORD(W, NOWAIT), { 0x40000000, "__WALL" }, { 0x80000000, "__WCLONE" },
};

static const struct word families[] = {
	WORD(AF_, UNSPEC),  WORD(AF_, UNIX),   WORD(AF_, INET),	 WORD(AF_, INET6),
	WORD(AF_, NETLINK), WORD(AF_, PACKET), WORD(AF_, VSOCK), WORD(AF_, ALG),
};

static const struct word socket_types[] = {
	WORD(SOCK_, STREAM), WORD(SOCK_, DGRAM),     WORD(SOCK_, RAW),
	WORD(SOCK_, RDM),    WORD(SOCK_, SEQPACKET),
};

static const struct word socket_flags[] = { WORD(SOCK_, CLOEXEC), WORD(SOCK_, NONBLOCK) };

static const struct word fcntl_commands[] = {
	WORD(F_, DUPFD),	 WORD(F_, GETFD),      WORD(F_, SETFD),	     WORD(F_, GETFL),
	WORD(F_, SETFL),	 WORD(F_, GETLK),      WORD(F_, SETLK),	     WORD(F_, SETLKW),
	WORD(F_, SETOWN),	 WORD(F_, GETOWN),     WORD(F_, SETSIG),     WORD(F_, GETSIG),
	WORD(F_, SETOWN_EX),	 WORD(F_, GETOWN_EX),  WORD(F_, OFD_GETLK),  WORD(F_, OFD_SETLK),
	{ 38, "F_OFD_SETLKW" },	 WORD(F_, SETLEASE),   WORD(F_, GETLEASE),   WORD(F_, NOTIFY),
	WORD(F_, DUPFD_CLOEXEC), WORD(F_, SETPIPE_SZ), WORD(F_, GETPIPE_SZ), WORD(F_, ADD_SEALS),
	WORD(F_, GET_SEALS),
};

static const struct word whences[] = {
	WORD(SEEK_, SET), WORD(SEEK_, CUR), WORD(SEEK_, END), WORD(SEEK_, DATA), WORD(SEEK_, HOLE),
};

static const struct word clocks[] = {
	WORD(CLOCK_, REALTIME),
	WORD(CLOCK_, MONOTONIC),
	WORD(CLOCK_, PROCESS_CPUTIME_ID),
	WORD(CLOCK_, THREAD_CPUTIME_ID),
	WORD(CLOCK_, MONOTONIC_RAW),
	WORD(CLOCK_, REALTIME_COARSE),
	WORD(CLOCK_, MONOTONIC_COARSE),
	WORD(CLOCK_, BOOTTIME),
	WORD(CLOCK_, REALTIME_ALARM),
	WORD(CLOCK_, BOOTTIME_ALARM),
	WORD(CLOCK_, TAI),
};

static const struct word epoll_commands[] = {
	WORD(EPOLL_CTL_, ADD),
	WORD(EPOLL_CTL_, DEL),
	WORD(EPOLL_CTL_, MOD),
};

static const struct word futex_commands[] = {
	WORD(FUTEX_, WAIT),	   WORD(FUTEX_, WAKE),	      WORD(FUTEX_, FD),
	WORD(FUTEX_, REQUEUE),	   WORD(FUTEX_, CMP_REQUEUE), WORD(FUTEX_, WAKE_OP),
	WORD(FUTEX_, LOCK_PI),	   WORD(FUTEX_, UNLOCK_PI),   WORD(FUTEX_, TRYLOCK_PI),
	WORD(FUTEX_, WAIT_BITSET), WORD(FUTEX_, WAKE_BITSET),
};

static const struct word futex_flags[] = {
	{ FUTEX_PRIVATE_FLAG, "FUTEX_PRIVATE" },
	{ FUTEX_CLOCK_REALTIME, "FUTEX_CLOCK_REALTIME" },
};

static const struct word mask_ways[] = { WORD(SIG_, BLOCK), WORD(SIG_, UNBLOCK),
					 WORD(SIG_, SETMASK) };

#define WORDS(list) list, FVM_COUNT(list)

/* A number of one of @choices in the bits of @mask, and of flags in the others. */
static const struct kind {
	char kind;
	uint64_t mask;
	const struct word *choices;
	size_t choice_count;
	const struct word *flags;
	size_t flag_count;
	const char *none; /* for 0 without choices */
} kinds[] = {
	{ 'o', 3, WORDS(open_modes), WORDS(open_flags), NULL },
	{ 'O', 0, NULL, 0, WORDS(open_flags), "0" },
	{ 'P', 0, NULL, 0, WORDS(protections), "PROT_NONE" },
	{ 'M', 0, NULL, 0, WORDS(map_flags), "0" },
	{ 'c', 0, NULL, 0, WORDS(clone_flags), "0" },
	{ 'k', 0, NULL, 0, WORDS(message_flags), "0" },
	{ 'A', 0, NULL, 0, WORDS(access_modes), "F_OK" },
	{ 'T', 0, NULL, 0, WORDS(at_flags), "0" },
	{ 'W', 0, NULL, 0, WORDS(wait_options), "0" },
	{ 'f', ~0ULL, WORDS(families), NULL, 0, NULL },
	{ 't', 15, WORDS(socket_types), WORDS(socket_flags), NULL },
	{ 'F', ~0ULL, WORDS(fcntl_commands), NULL, 0, NULL },
	{ 'w', ~0ULL, WORDS(whences), NULL, 0, NULL },
	{ 'g', ~0ULL, WORDS(clocks), NULL, 0, NULL },
	{ 'E', ~0ULL, WORDS(epoll_commands), NULL, 0, NULL },
	{ 'H', 127, WORDS(futex_commands), WORDS(futex_flags), NULL },
	{ 'K', ~0ULL, WORDS(mask_ways), NULL, 0, NULL },
};

static void add_choice(const struct kind *k, uint64_t value, struct fvm_buf *to)
{
	for (size_t i = 0; i < k->choice_count; i++) {
		if (k->choices[i].value == value) {
			fvm_buf_puts(to, k->choices[i].name);
			return;
		}
	}
	fvm_buf_printf(to, "%d", (int)value);
}

static void add_flags(const struct kind *k, uint64_t value, bool first, struct fvm_buf *to)
{
	for (size_t i = 0; i < k->flag_count; i++) {
		const struct word *w = &k->flags[i];
		if ((value & w->value) != w->value)
			continue;
		fvm_buf_printf(to, "%s%s", first ? "" : "|", w->name);
		value &= ~w->value;
		first = false;
	}
	if (value)
		fvm_buf_printf(to, "%s0x%llx", first ? "" : "|", (unsigned long long)value);
	else if (first)
		fvm_buf_puts(to, k->none);
}

static void add_signal(uint64_t value, struct fvm_buf *to)
{
	const char *name = value && value < 32 ? sigabbrev_np((int)value) : NULL;
	if (name)
		fvm_buf_printf(to, "SIG%s", name);
	else
		fvm_buf_printf(to, "%d", (int)value);
}

bool vin_call_word(char kind, uint64_t value, struct fvm_buf *to)
{
	value = (uint32_t)value; /* all of them are ints */
	if (kind == 'S') {
		add_signal(value, to);
		return true;
	}
	for (size_t i = 0; i < FVM_COUNT(kinds); i++) {
		const struct kind *k = &kinds[i];
		if (k->kind != kind)
			continue;
		if (k->choices)
			add_choice(k, value & k->mask, to);
		if (!k->choices || (value & ~k->mask))
			add_flags(k, value & ~k->mask, !k->choices, to);
		return true;
	}
	return false;
}
