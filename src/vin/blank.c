#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <xxhash.h>

#include "vin/blank.h"
#include "vin/maps.h"
#include "vin/status.h"

#define LOAD_AT	  0x20000ULL /* above what the kernel keeps free at the bottom */
#define WAIT_MS	  10000
#define REAPED_MS 100 /* for PID 1 to reap a guest */
#define OPTIONS                                                                                    \
	(PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL | PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK |    \
	 PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC)

/* ---- the program ---- */

static int write_program(int fd)
{
	size_t len;
	const void *code = vin_arch_init(&len);
	struct {
		Elf64_Ehdr head;
		Elf64_Phdr load, stack;
	} elf = { .head = { .e_type = ET_EXEC,
			    .e_machine = EM_X86_64,
			    .e_version = EV_CURRENT,
			    .e_entry = LOAD_AT + sizeof(elf),
			    .e_phoff = sizeof(Elf64_Ehdr),
			    .e_ehsize = sizeof(Elf64_Ehdr),
			    .e_phentsize = sizeof(Elf64_Phdr),
			    .e_phnum = 2 },
		  .load = { .p_type = PT_LOAD,
			    .p_flags = PF_R | PF_X,
			    .p_vaddr = LOAD_AT,
			    .p_filesz = sizeof(elf) + len,
			    .p_memsz = sizeof(elf) + len,
			    .p_align = 4096 },
		  .stack = { .p_type = PT_GNU_STACK, .p_flags = PF_R | PF_W } };
	memcpy(elf.head.e_ident, ELFMAG, SELFMAG);
	elf.head.e_ident[EI_CLASS] = ELFCLASS64;
	elf.head.e_ident[EI_DATA] = ELFDATA2LSB;
	elf.head.e_ident[EI_VERSION] = EV_CURRENT;
	int r = fvm_write_all(fd, &elf, sizeof(elf));
	return r < 0 ? r : fvm_write_all(fd, code, len);
}

static int map_ids(pid_t pid)
{
	char path[40], line[64];
	snprintf(path, sizeof(path), "/proc/%d/setgroups", pid);
	int r = fvm_write_file(AT_FDCWD, path, "deny");
	snprintf(path, sizeof(path), "/proc/%d/uid_map", pid);
	snprintf(line, sizeof(line), "%u %u 1", geteuid(), geteuid());
	if (r == 0)
		r = fvm_write_file(AT_FDCWD, path, line);
	snprintf(path, sizeof(path), "/proc/%d/gid_map", pid);
	snprintf(line, sizeof(line), "%u %u 1", getegid(), getegid());
	return r < 0 ? r : fvm_write_file(AT_FDCWD, path, line);
}

/* ---- PID 1 ---- */

/* It waits for its orders until it executes the program. */
static int to_first_instruction(struct vin_nest *nest, struct fvm_error *err)
{
	const struct vin_order go = { .what = VIN_ORDER_GO };
	const pid_t pid = nest->init.thread.pid;
	int status;
	int r = fvm_send_fds(nest->line, &go, sizeof(go), NULL, 0);
	if (r == 0)
		r = vin_thread_wait(pid, WAIT_MS, &status);
	if (r == 0 && status >> 16 != PTRACE_EVENT_EXEC)
		r = -ENOEXEC;
	/* from the event on, what one writes into the result's register is overwritten */
	if (r == 0 &&
	    (ptrace(PTRACE_INTERRUPT, pid, 0, 0) < 0 || ptrace(PTRACE_CONT, pid, 0, 0) < 0))
		r = -errno;
	if (r < 0)
		return fvm_error_set(err, -r, "start the first process");
	return vin_thread_settle(pid, pid, WAIT_MS, &nest->init.thread, err);
}

static int give_orders(const struct vin_nest *nest, const struct vin_kept *kept)
{
	struct vin_order order = { .what = VIN_ORDER_PROGRAM, .count = 1 };
	scoped_fd program = memfd_create("vin", MFD_CLOEXEC);
	int r = program < 0 ? -errno : write_program(program);
	if (r == 0)
		r = fvm_send_fds(nest->line, &order, sizeof(order), &program, 1);
	for (size_t from = 0; r == 0 && from < kept->count; from += order.count) {
		const size_t left = kept->count - from;
		order = (struct vin_order){ .what = VIN_ORDER_KEEP,
					    .count = left < VIN_ORDER_FDS ? (uint32_t)left
									  : VIN_ORDER_FDS };
		for (size_t i = 0; i < order.count; i++)
			order.numbers[i] = kept->fds[from + i];
		r = fvm_send_fds(nest->line, &order, sizeof(order), kept->fds + from, order.count);
	}
	return r;
}

/* Our own first process. */
static int start_here(int ours, int line, bool user, pid_t *ret, struct fvm_error *err)
{
	struct clone_args args = { .flags = CLONE_NEWPID | (user ? CLONE_NEWUSER : 0),
				   .exit_signal = SIGCHLD };
	pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
	if (pid < 0)
		return fvm_error_set(err, errno, "make a pid namespace");
	if (pid == 0) {
		/* its end tells that nobody is there to give orders */
		close(ours);
		vin_become(line, user);
	}
	*ret = pid;
	int r = user ? map_ids(pid) : 0;
	return r < 0 ? fvm_error_set(err, -r, "map the ids of a user namespace") : 0;
}

/* Who says that it is there: the kernel adds its number as we count. */
static int await_hello(int line, pid_t *ret)
{
	struct pollfd p = { .fd = line, .events = POLLIN };
	char byte, control[CMSG_SPACE(sizeof(struct ucred))];
	struct iovec piece = { &byte, 1 };
	struct msghdr m = { .msg_iov = &piece,
			    .msg_iovlen = 1,
			    .msg_control = control,
			    .msg_controllen = sizeof(control) };
	struct ucred who;
	if (poll(&p, 1, WAIT_MS) != 1)
		return -ETIMEDOUT;
	if (recvmsg(line, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1)
		return -ECONNRESET;
	const struct cmsghdr *c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_type != SCM_CREDENTIALS || c->cmsg_len != CMSG_LEN(sizeof(who)))
		return -EPROTO;
	memcpy(&who, CMSG_DATA(c), sizeof(who));
	*ret = who.pid;
	return who.pid > 0 ? 0 : -ESRCH;
}

int vin_nest_begin(const struct vin_nest_options *options, struct vin_nest *nest,
		   struct fvm_error *err)
{
	int line[2], on = 1;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line) < 0)
		return fvm_error_set(err, errno, "make a socket");
	nest->line = line[0];
	scoped_fd theirs = line[1];
	if (setsockopt(nest->line, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on)) < 0)
		return fvm_error_set(err, errno, "make a socket");
	nest->guest = options->start != NULL;
	int r = options->start ? options->start(options->arg, theirs, options->number, err)
			       : start_here(nest->line, theirs, options->user,
					    &nest->init.thread.pid, err);
	fvm_fd_closep(&theirs);
	if (r < 0)
		return r;
	r = await_hello(nest->line, &nest->init.thread.pid);
	nest->init.thread.tid = nest->init.thread.pid;
	return r < 0 ? fvm_error_set(err, -r, "start the first process") : 0;
}

static int start(struct vin_nest *nest, const struct vin_nest_options *options,
		 struct fvm_error *err)
{
	int r = nest->init.thread.pid ? 0 : vin_nest_begin(options, nest, err);
	if (r < 0)
		return r;
	if (ptrace(PTRACE_SEIZE, nest->init.thread.pid, 0, OPTIONS) < 0)
		r = -errno;
	if (r == 0)
		r = give_orders(nest, &options->kept);
	if (r < 0)
		return fvm_error_set(err, -r, "start the first process");
	return to_first_instruction(nest, err);
}

int vin_vdso_sum(pid_t pid, uint64_t at, uint64_t size, uint64_t *ret)
{
	scoped_free void *text = size >= VIN_STUB_SIZE && size <= 1 << 20 ? malloc(size) : NULL;
	int r = text ? vin_mem_read(pid, at, text, size) : -ENOMEM;
	/* its very end may hold our stub */
	if (r == 0)
		*ret = XXH3_64bits(text, size - VIN_STUB_SIZE);
	return r;
}

static int park_one(struct vin_nest *nest, const struct vin_vma *v, uint64_t *at,
		    struct fvm_error *err)
{
	const uint64_t size = v->end - v->start;
	if (nest->parked_count == VIN_PARKED || *at + size > nest->hole + VIN_HOLE_SIZE)
		return fvm_error_say(err, EOPNOTSUPP, "this kernel's vdso is too large");
	struct vin_parked *p = &nest->parked[nest->parked_count];
	snprintf(p->name, sizeof(p->name), "%s", v->name);
	p->at = *at;
	p->size = size;
	const pid_t pid = nest->init.thread.pid;
	if (strcmp(v->name, "[vdso]") == 0 &&
	    vin_vdso_sum(pid, v->start, size, &nest->vdso_sum) < 0)
		return fvm_error_say(err, EIO, "the vdso of process %d can't be read", pid);
	struct vin_call move = { SYS_mremap,
				 { v->start, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, *at } };
	int r = vin_call(&nest->init.post, &nest->init.thread, "mremap", &move, NULL, err);
	if (r < 0)
		return r;
	nest->parked_count++;
	*at += size;
	return 0;
}

static int park_vdso(struct vin_nest *nest, struct fvm_error *err)
{
	scoped_maps maps = { 0 };
	uint64_t at = nest->hole + VIN_POST_SIZE;
	int r = vin_maps_read(nest->init.thread.pid, false, &maps, err);
	for (size_t i = 0; r == 0 && i < maps.count; i++) {
		const char *name = maps.vmas[i].name;
		if (strncmp(name, "[vvar", 5) == 0 || strcmp(name, "[vdso]") == 0)
			r = park_one(nest, &maps.vmas[i], &at, err);
	}
	return r;
}

int vin_nest_open(uint64_t hole, const struct vin_nest_options *options, struct vin_nest *ret,
		  struct fvm_error *err)
{
	struct vin_blank *init = &ret->init;
	ret->hole = hole;
	int r = start(ret, options, err);
	if (r == 0)
		r = vin_post_open_at(&init->post, &init->thread, hole, VIN_HOLE_SIZE, err);
	if (r == 0) {
		/* its vdso is about to move; the trampoline itself makes calls as well */
		init->post.bare = init->post.place.code;
		r = park_vdso(ret, err);
	}
	if (r < 0) {
		vin_nest_kill(ret);
		return fvm_error_wrap(err, r, "make a place for programs");
	}
	return 0;
}

static void forget(struct vin_nest *nest)
{
	if (nest->line >= 0)
		close(nest->line);
	free(nest->made);
	*nest = (struct vin_nest){ .line = -1 };
}

int vin_nest_release(struct vin_nest *nest, struct fvm_error *err)
{
	struct vin_blank *init = &nest->init;
	struct vin_call close_all = { SYS_close_range, { 0, ~0U, 0 } };
	int r = nest->guest ? 0
			    : vin_call(&init->post, &init->thread, "close_range", &close_all, NULL,
				       err);
	if (r == 0 && !nest->guest)
		r = vin_post_close(&init->post, &init->thread, err);
	if (r == 0 && !nest->guest)
		r = vin_thread_release(&init->thread, err);
	if (r == 0)
		forget(nest);
	return r;
}

/* Tracees are ours to reap, threads before their leaders, and PID 1 ends only when they are gone.
 */
void vin_nest_kill(struct vin_nest *nest)
{
	pid_t init = nest->init.thread.pid;
	if (init > 0)
		kill(init, SIGKILL);
	/* with a PID 1 of ours goes its namespace; with a guest, nobody */
	for (size_t i = 0; nest->guest && i < nest->made_count; i++) {
		if (nest->made[i])
			kill(nest->made[i], SIGKILL);
	}
	for (size_t left = nest->made_count; left > 0; usleep(100)) {
		left = 0;
		for (size_t i = 0; i < nest->made_count; i++) {
			if (nest->made[i] && waitpid(nest->made[i], NULL, __WALL | WNOHANG) == 0)
				left++;
			else
				nest->made[i] = 0;
		}
	}
	if (init > 0)
		(void)waitpid(init, NULL, __WALL);
	forget(nest);
}

/* ---- blanks ---- */

/* A child that could not be noted would never be reaped, so there is room before it is born. */
static int born(struct vin_nest *nest, struct vin_blank *parent, uint64_t flags, int exit_signal,
		pid_t number, pid_t *ret, struct fvm_error *err)
{
	pid_t *more = realloc(nest->made, fvm_room(nest->made_count + 1) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "make task %d", number);
	nest->made = more;
	int r = vin_clone(&parent->post, &parent->thread, flags, exit_signal, number, ret, err);
	if (r == 0)
		nest->made[nest->made_count++] = *ret;
	return r;
}

static int blank_fork(struct vin_nest *nest, struct vin_blank *parent, uint64_t flags,
		      int exit_signal, pid_t number, struct vin_blank *ret, struct fvm_error *err)
{
	struct vin_blank child = { .line = parent->line };
	pid_t pid = 0;
	int r = born(nest, parent, flags, exit_signal, number, &pid, err);
	if (r == 0)
		r = vin_thread_settle(pid, pid, WAIT_MS, &child.thread, err);
	if (r == 0)
		r = vin_post_inherit(&child.post, &parent->post, &child.thread, err);
	if (r == 0)
		*ret = child;
	return r;
}

int vin_blank_fork(struct vin_nest *nest, struct vin_blank *parent, uint64_t flags, pid_t number,
		   struct vin_blank *ret, struct fvm_error *err)
{
	return blank_fork(nest, parent, flags, SIGCHLD, number, ret, err);
}

int vin_blank_ghost(struct vin_nest *nest, struct vin_blank *parent, pid_t number,
		    struct vin_blank *ret, struct fvm_error *err)
{
	return blank_fork(nest, parent, 0, 0, number, ret, err);
}

/* It makes its last call, and we hear of its end. */
static int end(const struct vin_blank *blank)
{
	const pid_t tid = blank->thread.tid;
	struct vin_regs regs = blank->thread.regs;
	struct vin_call last = { SYS_exit_group, { 0 } };
	int status;
	vin_arch_single(&regs, &last, &blank->post.place);
	int r = vin_arch_set(tid, &regs);
	if (r == 0 && ptrace(PTRACE_CONT, tid, 0, 0) < 0)
		r = -errno;
	return r < 0 ? r : vin_thread_wait(tid, WAIT_MS, &status) == -ESRCH ? 0 : -EIO;
}

int vin_blank_end(struct vin_nest *nest, struct vin_blank *blank, struct fvm_error *err)
{
	int r = end(blank);
	for (size_t i = 0; r == 0 && i < nest->made_count; i++) {
		if (nest->made[i] == blank->thread.pid)
			nest->made[i] = 0;
	}
	return r < 0 ? fvm_error_set(err, -r, "end process %d", blank->thread.pid) : 0;
}

int vin_nest_leave(struct vin_nest *nest, struct fvm_error *err)
{
	struct vin_thread *t = &nest->init.thread;
	int r = nest->guest && t->pid ? end(&nest->init) : 0;
	if (r < 0)
		return fvm_error_set(err, -r, "end the first process");
	if (!nest->guest)
		return 0;
	/* whoever looks at the programs next shall not find it among them, as a zombie */
	for (int ms = 0; t->pid && ms < REAPED_MS && kill(t->pid, 0) == 0; ms++)
		fvm_sleep_ms(1);
	t->pid = t->tid = 0;
	return 0;
}

#define OF_THREAD (CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM)

int vin_blank_thread(struct vin_nest *nest, struct vin_blank *blank, pid_t number,
		     struct vin_thread *ret, struct fvm_error *err)
{
	pid_t tid = 0;
	int r = born(nest, blank, OF_THREAD, 0, number, &tid, err);
	if (r == 0)
		r = vin_thread_settle(blank->thread.pid, tid, WAIT_MS, ret, err);
	return r < 0 ? r : vin_post_move(&blank->post, ret, err);
}

#define AT_ONCE 256 /* threads by one batch */

/* What clone3(2) is given, in the blank's memory. */
struct birth {
	struct clone_args args;
	int64_t number;
};

_Static_assert(AT_ONCE <= VIN_BATCH_MAX && AT_ONCE * sizeof(struct birth) <= VIN_DATA_SIZE, "room");

/* The thread that makes them does not stop for each, as it does where births are told: they are
 * traced as it is (CLONE_PTRACE) and stop before their first instruction, so nobody goes on in the
 * batch but itself. */
static int bear_all(struct vin_blank *blank, const pid_t *numbers, size_t count,
		    struct fvm_error *err)
{
	struct birth births[AT_ONCE];
	struct vin_call calls[AT_ONCE];
	const pid_t pid = blank->thread.pid;
	size_t done = 0;
	for (size_t i = 0; i < count; i++) {
		const uint64_t at = blank->post.data + i * sizeof(*births);
		births[i] = (struct birth){
			.args = { .flags = OF_THREAD | CLONE_PTRACE,
				  .set_tid = at + offsetof(struct birth, number),
				  .set_tid_size = 1 },
			.number = numbers[i],
		};
		calls[i] = (struct vin_call){ SYS_clone3, { at, sizeof(births[i].args) } };
	}
	int r = vin_mem_write(blank->post.pid, blank->post.data, births, count * sizeof(*births));
	if (r == 0 && ptrace(PTRACE_SETOPTIONS, pid, 0, OPTIONS & ~PTRACE_O_TRACECLONE) < 0)
		r = -errno;
	if (r < 0)
		return fvm_error_set(err, -r, "have process %d make threads", pid);
	r = vin_batch(&blank->post, &blank->thread, calls, count, false, &done, NULL);
	if (ptrace(PTRACE_SETOPTIONS, pid, 0, OPTIONS) < 0 && r == 0)
		r = -errno;
	return r < 0 ? fvm_error_set(err, -r, "have process %d make task %d", pid,
				     numbers[done ? done - 1 : 0])
		     : 0;
}

/* Whoever is there is noted, after a failure too. */
static int find_born(struct vin_nest *nest, int space, pid_t pid, const pid_t *numbers,
		     size_t count, struct vin_thread *ret)
{
	int r = 0;
	for (size_t i = 0; i < count; i++) {
		ret[i].tid = vin_task_of(space, pid, numbers[i]);
		if (ret[i].tid > 0)
			nest->made[nest->made_count++] = ret[i].tid;
		else if (r == 0)
			r = ret[i].tid;
	}
	return r;
}

static int threads_at_once(struct vin_nest *nest, struct vin_blank *blank, int space,
			   const pid_t *numbers, size_t count, struct vin_thread *ret,
			   struct fvm_error *err)
{
	const pid_t pid = blank->thread.pid;
	pid_t *more = realloc(nest->made, fvm_room(nest->made_count + count) * sizeof(*more));
	if (!more)
		return fvm_error_set(err, ENOMEM, "make %zu threads", count);
	nest->made = more;
	int r = bear_all(blank, numbers, count, err);
	const int found = find_born(nest, space, pid, numbers, count, ret);
	if (r == 0 && found < 0)
		r = fvm_error_set(err, -found, "find the threads of process %d", pid);
	for (size_t i = 0; r == 0 && i < count; i++) {
		r = vin_thread_settle(pid, ret[i].tid, WAIT_MS, &ret[i], err);
		if (r == 0)
			r = vin_post_move(&blank->post, &ret[i], err);
	}
	return r;
}

int vin_blank_threads(struct vin_nest *nest, struct vin_blank *blank, const pid_t *numbers,
		      size_t count, struct vin_thread *ret, struct fvm_error *err)
{
	const pid_t pid = blank->thread.pid;
	scoped_fd space = vin_numbers_open(pid);
	int r = 0;
	if (space < 0 || vin_task_of(space, pid, vin_number_in(space, pid)) != pid)
		return -ENOTTY;
	for (size_t at = 0; r == 0 && at < count; at += AT_ONCE)
		r = threads_at_once(nest, blank, space, numbers + at,
				    count - at < AT_ONCE ? count - at : AT_ONCE, ret + at, err);
	return r;
}

/* What recvmsg(2) is given, in the blank's memory. */
struct inbox {
	struct msghdr head;
	struct iovec piece;
	char byte;
	_Alignas(8) char control[CMSG_SPACE(VIN_GIVE_MAX * sizeof(int))];
};

static int unpack(const struct inbox *in, size_t count, int *ret)
{
	struct cmsghdr head;
	memcpy(&head, in->control, sizeof(head));
	if (head.cmsg_len != CMSG_LEN(count * sizeof(int)) || head.cmsg_type != SCM_RIGHTS)
		return -EMFILE; /* not all of them found a place */
	memcpy(ret, in->control + CMSG_LEN(0), count * sizeof(int));
	return 0;
}

int vin_blank_give(const struct vin_nest *nest, struct vin_blank *blank, const int *fds,
		   size_t count, int *ret, struct fvm_error *err)
{
	const uint64_t at = blank->post.data;
	struct inbox in = {
		.head = { .msg_iov = (void *)(at + offsetof(struct inbox, piece)),
			  .msg_iovlen = 1,
			  .msg_control = (void *)(at + offsetof(struct inbox, control)),
			  .msg_controllen = CMSG_LEN(count * sizeof(int)) },
		.piece = { (void *)(at + offsetof(struct inbox, byte)), 1 },
	};
	struct vin_call receive = {
		SYS_recvmsg, { (uint64_t)blank->line, at, MSG_DONTWAIT | MSG_CMSG_CLOEXEC }
	};
	int r = count > VIN_GIVE_MAX ? -EINVAL : fvm_send_fds(nest->line, "f", 1, fds, count);
	if (r == 0)
		r = vin_mem_write(blank->post.pid, at, &in, sizeof(in));
	if (r < 0)
		return fvm_error_set(err, -r, "give %zu descriptors to process %d", count,
				     blank->post.pid);
	r = vin_call(&blank->post, &blank->thread, "recvmsg", &receive, NULL, err);
	if (r < 0)
		return r;
	r = vin_mem_read(blank->post.pid, at, &in, sizeof(in));
	if (r == 0)
		r = unpack(&in, count, ret);
	return r < 0 ? fvm_error_set(err, -r, "give %zu descriptors to process %d", count,
				     blank->post.pid)
		     : 0;
}
