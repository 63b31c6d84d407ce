/* Real programs, captured while they are at work and made again: what they write shows whether
 * anything was lost or done twice. */
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

#include "images.h"

#define HOPS 3

static char directory[] = "/tmp/vin-whole-XXXXXX", output[64];
static struct vin_watch watch;
static pid_t last;

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(directory))
		return -1;
	snprintf(output, sizeof(output), "%s/output", directory);
	outside = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	vin_watch_begin(&watch);
	return outside < 0 ? -1 : 0;
}

static int teardown(void **state)
{
	(void)state;
	vin_watch_end(&watch);
	(void)unlink(output);
	return rmdir(directory);
}

static int each_teardown(void **state)
{
	(void)state;
	if (last > 0 && kill(last, 0) == 0) {
		kill_family(last);
		waitpid(last, NULL, 0);
	}
	last = 0;
	return 0;
}

/* What it writes goes to the file, and it has nothing else that is open. */
static pid_t start(char *const argv[])
{
	(void)unlink(output);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		vin_watch_end(&watch);
		(void)setsid();
		int in = open("/dev/null", O_RDONLY);
		int out = open(output, O_WRONLY | O_CREAT | O_TRUNC, 0600);
		if (in < 0 || out < 0 || dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(out, 2) < 0 ||
		    close_range(3, ~0U, 0) < 0)
			_exit(99);
		execvp(argv[0], argv);
		_exit(98);
	}
	last = pid;
	return pid;
}

static size_t lines(void)
{
	size_t n = 0;
	FILE *f = fopen(output, "r");
	for (int c; f && (c = getc(f)) != EOF;)
		n += c == '\n';
	if (f)
		fclose(f);
	return n;
}

static void wait_for_lines(size_t want)
{
	for (int i = 0; i < 30000 && lines() < want; i++)
		nap(1);
	assert_true(lines() >= want);
}

static pid_t only_child(pid_t init)
{
	char path[64];
	pid_t child = 0;
	snprintf(path, sizeof(path), "/proc/%d/task/%d/children", init, init);
	FILE *f = fopen(path, "r");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%d", &child), 1);
	fclose(f);
	return child;
}

/* Some hops, at lines of its output; then it comes to its end by itself. */
static void hop_and_end(pid_t pid, size_t step)
{
	static const struct vin_capture_options options = { .root = -1 };
	int status;
	for (size_t hop = 1; hop <= HOPS; hop++) {
		wait_for_lines(hop * step);
		fclose(image_capture(pid, &options, true));
		FILE *image = image_capture(pid, &options, false);
		assert_int_equal(waitpid(last, &status, 0), last);
		last = 0;
		struct vin_replay *r = image_build(image);
		last = vin_replay_init(r);
		OK(vin_replay_go(r, &err));
		vin_replay_close(r);
		fclose(image);
		pid = only_child(last);
	}
	assert_int_equal(waitpid(last, &status, 0), last);
	last = 0;
	assert_int_equal(status, 0);
}

/* Lines 1 to @count, and then "done". */
static void all_was_written_once(size_t count)
{
	char line[80], want[80];
	FILE *f = fopen(output, "r");
	assert_non_null(f);
	for (size_t i = 1; i <= count + 1; i++) {
		snprintf(want, sizeof(want), i > count ? "done\n" : "%zu\n", i);
		assert_non_null(fgets(line, sizeof(line), f));
		assert_string_equal(line, want);
	}
	assert_null(fgets(line, sizeof(line), f));
	fclose(f);
}

static void a_shell_with_jobs_pipes_and_traps(void **state)
{
	(void)state;
	static char script[] =
		"(n=; trap 'n=x$n' USR1; trap 'exit ${#n}' TERM\n"
		" while :; do sleep 0.02; kill -USR1 $BASHPID; done) & job=$!\n"
		"i=0\n"
		"while [ $i -lt 120 ]; do\n"
		"	i=$(( $(echo $i | { read n; echo $n; }) + 1 )); echo $i; sleep 0.01\n"
		"done\n"
		"kill $job; wait $job; [ $? -gt 5 ] && echo done";
	char *const argv[] = { (char *)"bash", (char *)"-c", script, NULL };
	hop_and_end(start(argv), 30);
	all_was_written_once(120);
}

static void python_with_threads_a_child_and_a_timer(void **state)
{
	(void)state;
	static char program[] =
		"import hashlib, queue, signal, subprocess, sys, threading, time\n"
		"ticks = 0\n"
		"def tick(*_):\n"
		"    global ticks\n"
		"    ticks += 1\n"
		"signal.signal(signal.SIGALRM, tick)\n"
		"signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\n"
		"cat = subprocess.Popen(['cat'], stdin=subprocess.PIPE, stdout=subprocess.PIPE)\n"
		"todo, ready = queue.Queue(3), queue.Queue(3)\n"
		"def work():\n"
		"    while (n := todo.get()) is not None:\n"
		"        ready.put((n, hashlib.sha256(str(n).encode() * 5000).hexdigest()))\n"
		"threads = [threading.Thread(target=work) for _ in range(3)]\n"
		"for t in threads: t.start()\n"
		"for n in range(1, 121):\n"
		"    todo.put(n)\n"
		"    m, digest = ready.get()\n"
		"    assert m == n and digest == hashlib.sha256(str(n).encode() * "
		"5000).hexdigest()\n"
		"    cat.stdin.write(b'%d\\n' % n); cat.stdin.flush()\n"
		"    assert cat.stdout.readline() == b'%d\\n' % n\n"
		"    print(n, flush=True); time.sleep(0.01)\n"
		"for t in threads: todo.put(None)\n"
		"for t in threads: t.join()\n"
		"cat.stdin.close(); cat.wait()\n"
		"signal.setitimer(signal.ITIMER_REAL, 0)\n"
		"assert ticks > 5, ticks\n"
		"print('done')\n";
	char *const argv[] = { (char *)"python3", (char *)"-c", program, NULL };
	hop_and_end(start(argv), 30);
	all_was_written_once(120);
}

/* A child by its pidfd, in an epoll; files of /proc/self; a directory that is watched; a pipe that
 * sends signals. */
static void python_that_watches_a_process_files_and_itself(void **state)
{
	(void)state;
	static char program[] =
		"import ctypes, fcntl, os, select, signal, struct, time\n"
		"libc = ctypes.CDLL(None)\n"
		"there = os.path.dirname(os.readlink('/proc/self/fd/1'))\n"
		"child = os.fork()\n"
		"if child == 0:\n"
		"    while True: signal.pause()\n"
		"held = os.pidfd_open(child)\n"
		"ep = select.epoll(); ep.register(held, select.EPOLLIN)\n"
		"stat = os.open('/proc/self/stat', os.O_RDONLY)\n"
		"uts = os.open('/proc/self/ns/uts', os.O_RDONLY)\n"
		"ino = libc.inotify_init1(os.O_NONBLOCK)\n"
		"assert libc.inotify_add_watch(ino, there.encode(), 0x100) == 1\n"
		"ios = 0\n"
		"def io(*_):\n"
		"    global ios\n"
		"    ios += 1\n"
		"signal.signal(signal.SIGIO, io)\n"
		"r, w = os.pipe()\n"
		"fcntl.fcntl(r, fcntl.F_SETOWN, os.getpid())\n"
		"fcntl.fcntl(r, fcntl.F_SETFL, os.O_ASYNC | os.O_NONBLOCK)\n"
		"def seen(name):\n"
		"    got = os.read(ino, 4096)\n"
		"    wd, mask, _, n = struct.unpack('iIII', got[:16])\n"
		"    lost = wd == -1 and mask == 0x4000\n"
		"    assert lost or (wd == 1 and got[16:16 + n].rstrip(b'\\0') == name), got\n"
		"for n in range(1, 121):\n"
		"    name = '%s/%d' % (there, n)\n"
		"    os.close(os.open(name, os.O_CREAT | os.O_WRONLY)); os.unlink(name)\n"
		"    seen(b'%d' % n)\n"
		"    assert ep.poll(0) == []\n"
		"    signal.pidfd_send_signal(held, 0)\n"
		"    mine = os.pread(stat, 100, 0).split()[0].decode()\n"
		"    assert mine == os.readlink('/proc/self'), mine\n"
		"    assert os.fstat(uts).st_ino == os.stat('/proc/self/ns/uts').st_ino\n"
		"    before = ios\n"
		"    os.write(w, b'x'); assert os.read(r, 1) == b'x'\n"
		"    for _ in range(1000):\n"
		"        if ios > before: break\n"
		"        time.sleep(0.001)\n"
		"    assert ios > before\n"
		"    print(n, flush=True); time.sleep(0.01)\n"
		"signal.pidfd_send_signal(held, signal.SIGTERM)\n"
		"assert ep.poll(10) == [(held, select.EPOLLIN)]\n"
		"assert os.waitid(os.P_PIDFD, held, os.WEXITED).si_pid == child\n"
		"print('done')\n";
	char *const argv[] = { (char *)"python3", (char *)"-c", program, NULL };
	hop_and_end(start(argv), 30);
	all_was_written_once(120);
}

/* A namespace of our own, with loopback only. Return: whether we may have one */
static bool own_network(void)
{
	struct ifreq lo = { .ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING };
	if (unshare(CLONE_NEWNET) < 0)
		return false;
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_true(fd >= 0 && ioctl(fd, SIOCSIFFLAGS, &lo) == 0);
	close(fd);
	return true;
}

/* Each number goes both ways by TCP, with much behind it, and by UDP. */
static void python_that_talks_to_itself_over_the_network(void **state)
{
	(void)state;
	static char program[] =
		"import os, socket, sys, threading, time\n"
		"def exactly(s, n):\n"
		"    data = b''\n"
		"    while len(data) < n:\n"
		"        piece = s.recv(min(n - len(data), 65536))\n"
		"        assert piece\n"
		"        data += piece\n"
		"    return data\n"
		"listener = socket.create_server(('127.0.0.1', 0))\n"
		"six = socket.create_server(('::1', 0), family=socket.AF_INET6)\n"
		"udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
		"udp.bind(('127.0.0.1', 0))\n"
		"if os.fork() == 0:\n"
		"    def serve(l):\n"
		"        s, _ = l.accept()\n"
		"        while (head := s.recv(8, socket.MSG_WAITALL)):\n"
		"            s.sendall(head + exactly(s, int(head)))\n"
		"    t = [threading.Thread(target=serve, args=(l,)) for l in (listener, six)]\n"
		"    for each in t: each.start()\n"
		"    def echo():\n"
		"        while True: udp.sendto(*udp.recvfrom(100))\n"
		"    threading.Thread(target=echo, daemon=True).start()\n"
		"    for each in t: each.join()\n"
		"    os._exit(0)\n"
		"c = [socket.create_connection(l.getsockname()[:2]) for l in (listener, six)]\n"
		"u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
		"u.connect(udp.getsockname()); u.settimeout(1)\n"
		"def say(s, data):\n"
		"    s.sendall(b'%08d' % len(data) + data)\n"
		"for n in range(1, 121):\n"
		"    data = os.urandom(n * 5000)\n"
		"    for s in c: threading.Thread(target=say, args=(s, data)).start()\n"
		"    for s in c: assert int(exactly(s, 8)) == len(data) and exactly(s, len(data)) "
		"== data\n"
		"    while True:\n"
		"        try:\n"
		"            u.send(b'%d' % n)\n"
		"            while u.recv(100) != b'%d' % n: pass\n"
		"            break\n"
		"        except TimeoutError: pass\n"
		"    print(n, flush=True); time.sleep(0.005)\n"
		"for s in c: s.close()\n"
		"assert os.wait()[1] == 0\n"
		"print('done')\n";
	char *const argv[] = { (char *)"python3", (char *)"-c", program, NULL };
	if (!own_network()) {
		print_message("no network namespaces here: %s\n", strerror(errno));
		skip();
	}
	hop_and_end(start(argv), 30);
	all_was_written_once(120);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_shell_with_jobs_pipes_and_traps, each_teardown),
		cmocka_unit_test_teardown(python_with_threads_a_child_and_a_timer, each_teardown),
		cmocka_unit_test_teardown(python_that_watches_a_process_files_and_itself,
					  each_teardown),
		cmocka_unit_test_teardown(python_that_talks_to_itself_over_the_network,
					  each_teardown),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
