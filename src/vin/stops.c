#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "vin/status.h"
#include "vin/stops.h"

#define PATIENCE_MS 10000

#define CHLD	    (1ULL << (SIGCHLD - 1))

int vin_stop_told(const struct vin_post *post, struct vin_thread *t, pid_t number,
		  struct fvm_error *err)
{
	siginfo_t info = { 0 };
	struct vin_call ask = {
		SYS_waitid, { P_PID, (uint64_t)number, post->data, WSTOPPED | WNOHANG | WNOWAIT, 0 }
	};
	int r = vin_mem_write(post->pid, post->data, &info, sizeof(info));
	if (r == 0)
		r = vin_call(post, t, "waitid", &ask, NULL, err);
	if (r == 0)
		r = vin_mem_read(post->pid, post->data, &info, sizeof(info));
	return r < 0 ? fvm_error_set(err, -r, "ask process %d for its child", t->pid)
		     : info.si_pid == 0;
}

bool vin_stop_signalled(const struct vin_thread *t)
{
	scoped_status st = { 0 };
	return vin_status_read(t->pid, t->tid, &st, NULL) == 0 &&
	       (st.pending | st.process_pending) & CHLD;
}

static int await_stop(const struct vin_post *post, struct vin_thread *t, pid_t number)
{
	struct vin_call wait = { SYS_wait4, { (uint64_t)number, 0, WUNTRACED | WNOHANG, 0 } };
	int64_t found = 0;
	for (int ms = 0; found == 0 && ms < PATIENCE_MS; ms++) {
		if (ms)
			usleep(1000);
		int r = vin_call(post, t, "wait4", &wait, &found, NULL);
		if (r < 0)
			return r;
	}
	return found == number ? 0 : -ETIMEDOUT;
}

static void forget_signal(const struct vin_post *post, struct vin_thread *t)
{
	const struct {
		uint64_t set;
		struct timespec at_once;
	} args = { .set = CHLD };
	struct vin_call take = { SYS_rt_sigtimedwait,
				 { post->data, 0, post->data + sizeof(args.set),
				   sizeof(args.set) } };
	int64_t ignored;
	if (vin_mem_write(post->pid, post->data, &args, sizeof(args)) == 0)
		(void)vin_call(post, t, "rt_sigtimedwait", &take, &ignored, NULL);
}

void vin_stop_take(struct vin_thread *t, pid_t number, bool signalled)
{
	struct vin_post post;
	if (vin_post_open(&post, t, NULL) < 0)
		return;
	if (await_stop(&post, t, number) == 0 && !signalled)
		forget_signal(&post, t);
	(void)vin_post_close(&post, t, NULL);
}
