/* Objects of System V, as svipc(7), shmop(2), shmctl(2), semop(2), semctl(2) and msgop(2) have
 * them; and POSIX queues that have a name, of mq_overview(7). */
#include <limits.h>
#include <mqueue.h>
#include <pthread.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>

#include "worlds.h"

#define PAGE 4096UL

static int id, other;
static volatile unsigned char *at, *second;
static char lines[2048];
static size_t segment_size = 10 * PAGE - 100;

static void goes_on_ipc(void (*make)(void), void (*look)(void))
{
	goes_on(make, look, CLONE_NEWIPC);
}

/* ---- segments ---- */

static void fill(volatile unsigned char *to, size_t pages, int seed)
{
	for (size_t i = 0; i < pages; i++)
		to[i * PAGE + i * 31 % PAGE] = (unsigned char)(seed + (int)i * 5 + 1);
}

static void still(const volatile unsigned char *of, size_t pages, int seed)
{
	for (size_t i = 0; i < pages; i++)
		CHECK(of[i * PAGE + i * 31 % PAGE] == (unsigned char)(seed + (int)i * 5 + 1));
}

/* What /proc/self/maps shows of segments. */
static void segment_lines(char *to, size_t room)
{
	char line[512];
	size_t len = 0;
	FILE *f = fopen("/proc/self/maps", "r");
	CHECK(f);
	while (fgets(line, sizeof(line), f)) {
		if (strstr(line, "/SYSV"))
			len += (size_t)snprintf(to + len, room - len, "%s", line);
	}
	fclose(f);
}

static void same_lines(void)
{
	char now[sizeof(lines)] = "";
	segment_lines(now, sizeof(now));
	CHECK(strcmp(now, lines) == 0);
}

static void a_segment(void)
{
	CHECK((id = shmget(0x2a1b, segment_size, IPC_CREAT | IPC_EXCL | 0640)) >= 0);
	CHECK((at = shmat(id, NULL, 0)) != (void *)-1);
	fill(at, 7, 1);
	segment_lines(lines, sizeof(lines));
}

static void the_segment(void)
{
	struct shmid_ds ds;
	still(at, 7, 1);
	CHECK(at[9 * PAGE] == 0);
	CHECK(shmctl(id, IPC_STAT, &ds) == 0);
	CHECK(ds.shm_perm.__key == 0x2a1b && ds.shm_segsz == 10 * PAGE - 100);
	CHECK((ds.shm_perm.mode & 0777) == 0640 && ds.shm_nattch == 1);
	CHECK(ds.shm_perm.cuid == geteuid() && ds.shm_perm.uid == geteuid());
	CHECK(shmget(0x2a1b, 0, 0) == id);
	same_lines();
	CHECK(shmdt((void *)(uintptr_t)at) == 0 && shmctl(id, IPC_RMID, NULL) == 0);
}

static void a_segment_keeps_id_key_place_and_bytes(void **state)
{
	(void)state;
	goes_on_ipc(a_segment, the_segment);
}

static void a_lonely_segment(void)
{
	a_segment();
	CHECK(shmdt((void *)(uintptr_t)at) == 0);
}

static void the_lonely_segment(void)
{
	struct shmid_ds ds;
	CHECK(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 0);
	CHECK((at = shmat(id, NULL, 0)) != (void *)-1);
	still(at, 7, 1);
}

static void a_segment_that_nobody_has_attached_stays(void **state)
{
	(void)state;
	goes_on_ipc(a_lonely_segment, the_lonely_segment);
}

static void two_views(void)
{
	a_segment();
	CHECK((second = shmat(id, NULL, SHM_RDONLY)) != (void *)-1);
	segment_lines(lines, sizeof(lines));
}

static void both_views(void)
{
	same_lines();
	at[0] = 77;
	CHECK(second[0] == 77);
	CHECK(mprotect((void *)(uintptr_t)second, PAGE, PROT_READ | PROT_WRITE) < 0 &&
	      errno == EACCES);
	CHECK(shmdt((void *)(uintptr_t)second) == 0);
}

static void one_attached_twice_once_for_reading(void **state)
{
	(void)state;
	goes_on_ipc(two_views, both_views);
}

static void pieces(void)
{
	segment_size = 10 * PAGE; /* shmdt(2) leaves a piece that ends behind it */
	a_segment();
	CHECK(munmap((void *)(uintptr_t)(at + 2 * PAGE), PAGE) == 0);
	CHECK(mprotect((void *)(uintptr_t)(at + 4 * PAGE), PAGE, PROT_READ) == 0);
	CHECK(mprotect((void *)(uintptr_t)(at + 6 * PAGE), PAGE, PROT_NONE) == 0);
	segment_lines(lines, sizeof(lines));
}

static void all_pieces(void)
{
	same_lines();
	still(at, 2, 1);
	still(at + 3 * PAGE, 0, 1);
	CHECK(at[5 * PAGE + 5 * 31] == 1 + 25 + 1);
	CHECK((second = shmat(id, NULL, 0)) != (void *)-1);
	still(second, 7, 1);
	/* shmdt(2) finds all of its pieces */
	CHECK(shmdt((void *)(uintptr_t)at) == 0);
	CHECK(shmdt((void *)(uintptr_t)second) == 0);
	struct shmid_ds ds;
	CHECK(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 0);
}

static void one_that_was_cut_and_protected(void **state)
{
	(void)state;
	goes_on_ipc(pieces, all_pieces);
}

static void removed(void)
{
	a_segment();
	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
}

static void still_removed(void)
{
	struct shmid_ds ds;
	still(at, 7, 1);
	same_lines();
	CHECK(shmget(0x2a1b, 0, 0) < 0 && errno == ENOENT);
	CHECK(shmctl(id, IPC_STAT, &ds) == 0 && (ds.shm_perm.mode & SHM_DEST) &&
	      ds.shm_nattch == 1);
	CHECK(shmdt((void *)(uintptr_t)at) == 0);
	CHECK(shmctl(id, IPC_STAT, &ds) < 0);
}

static void a_removed_one_lives_as_long_as_it_is_attached(void **state)
{
	(void)state;
	goes_on_ipc(removed, still_removed);
}

static void key_twice(void)
{
	a_segment();
	CHECK((other = shmget(0x77, PAGE, IPC_CREAT | 0600)) >= 0);
	CHECK(shmctl(id, IPC_RMID, NULL) == 0);
	CHECK((other = shmget(0x2a1b, 2 * PAGE, IPC_CREAT | IPC_EXCL | 0600)) >= 0);
}

static void the_younger_has_the_key(void)
{
	still(at, 7, 1);
	CHECK(shmget(0x2a1b, 0, 0) == other && other != id);
}

static void a_key_whose_first_segment_is_removed(void **state)
{
	(void)state;
	goes_on_ipc(key_twice, the_younger_has_the_key);
}

static void with_child(void)
{
	a_segment();
	if (fork_below() == 0) {
		while (at[8 * PAGE] != 1)
			nap(1);
		at[8 * PAGE + 1] = 2;
		_exit(0);
	}
}

static void the_child_answers(void)
{
	struct shmid_ds ds;
	CHECK(shmctl(id, IPC_STAT, &ds) == 0 && ds.shm_nattch == 2);
	at[8 * PAGE] = 1;
	for (int i = 0; i < 30000 && at[8 * PAGE + 1] != 2; i++)
		nap(1);
	CHECK(at[8 * PAGE + 1] == 2);
	CHECK(wait(NULL) > 0);
}

static void two_processes_share_it_again(void **state)
{
	(void)state;
	goes_on_ipc(with_child, the_child_answers);
}

static void locked(void)
{
	a_segment();
	CHECK(shmctl(id, SHM_LOCK, NULL) == 0);
}

static void still_locked(void)
{
	struct shmid_ds ds;
	CHECK(shmctl(id, IPC_STAT, &ds) == 0 && (ds.shm_perm.mode & SHM_LOCKED));
}

static void a_locked_segment_stays_locked(void **state)
{
	(void)state;
	goes_on_ipc(locked, still_locked);
}

static void anothers(void)
{
	struct shmid_ds ds = { .shm_perm = { .uid = 12, .gid = 34, .mode = 0604 } };
	if (user_of_machine)
		return;
	pid_t pid = fork();
	if (pid == 0)
		_exit(setresgid(77, 77, 77) < 0 || setresuid(88, 88, 88) < 0 ||
		      shmget(5, PAGE, IPC_CREAT | 0600) < 0);
	int status;
	CHECK(waitpid(pid, &status, 0) == pid && status == 0);
	CHECK((id = shmget(5, 0, 0)) >= 0);
	CHECK(shmctl(id, IPC_SET, &ds) == 0);
}

static void still_anothers(void)
{
	struct shmid_ds ds;
	if (user_of_machine)
		return;
	CHECK(shmctl(id, IPC_STAT, &ds) == 0);
	CHECK(ds.shm_perm.cuid == 88 && ds.shm_perm.cgid == 77);
	CHECK(ds.shm_perm.uid == 12 && ds.shm_perm.gid == 34 && ds.shm_perm.mode == 0604);
}

static void owner_and_creator_of_others(void **state)
{
	(void)state;
	goes_on_ipc(anothers, still_anothers);
}

static int ids[8];

static void gaps(void)
{
	for (int i = 0; i < 8; i++)
		CHECK((ids[i] = shmget(IPC_PRIVATE, PAGE, 0600)) >= 0);
	for (int i = 0; i < 8; i += 3)
		CHECK(shmctl(ids[i], IPC_RMID, NULL) == 0);
	CHECK((ids[0] = shmget(IPC_PRIVATE, 3 * PAGE, 0600)) >= 0);
}

static void same_gaps(void)
{
	struct shmid_ds ds;
	for (int i = 0; i < 8; i++)
		CHECK((shmctl(ids[i], IPC_STAT, &ds) == 0) == (i == 0 || i % 3 != 0));
	CHECK(shmctl(ids[0], IPC_STAT, &ds) == 0 && ds.shm_segsz == 3 * PAGE);
}

static void ids_with_gaps_between_them(void **state)
{
	(void)state;
	goes_on_ipc(gaps, same_gaps);
}

static void host_segment(void)
{
	CHECK((at = shmat(other, NULL, 0)) != (void *)-1);
	CHECK(unshare(CLONE_NEWIPC) == 0);
}

static void a_segment_of_another_namespace_is_refused(void **state)
{
	(void)state;
	/* in one of the test's own, if it may not be the machine's */
	pid_t pid = fork_below();
	if (pid == 0) {
		if (unshare(CLONE_NEWIPC) < 0)
			_exit(1);
		other = shmget(IPC_PRIVATE, PAGE, 0600);
		world_refused(host_segment, "SysV segment", 0);
		_exit(0);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

/* ---- semaphores ---- */

union argument {
	int val;
	unsigned short *array;
	struct semid_ds *buf;
};

static void semaphores(void)
{
	unsigned short values[5] = { 0, 1, 32767, 5, 100 };
	CHECK((other = semget(IPC_PRIVATE, 2, 0600)) >= 0);
	CHECK((id = semget(0x51, 5, IPC_CREAT | 0606)) >= 0);
	CHECK(semctl(id, 0, SETALL, (union argument){ .array = values }) == 0);
	CHECK(semctl(other, 0, IPC_RMID) == 0);
}

static void the_semaphores(void)
{
	unsigned short values[5];
	struct semid_ds ds;
	CHECK(semget(0x51, 5, 0) == id);
	CHECK(semctl(id, 0, GETALL, (union argument){ .array = values }) == 0);
	CHECK(values[0] == 0 && values[1] == 1 && values[2] == 32767 && values[3] == 5 &&
	      values[4] == 100);
	CHECK(semctl(id, 0, IPC_STAT, (union argument){ .buf = &ds }) == 0);
	CHECK((ds.sem_perm.mode & 0777) == 0606 && ds.sem_nsems == 5);
	CHECK(semctl(other, 0, GETVAL) < 0);
}

static void semaphores_keep_their_values(void **state)
{
	(void)state;
	goes_on_ipc(semaphores, the_semaphores);
}

static void waits(void)
{
	semaphores();
	if (fork_below() == 0) {
		struct sembuf down = { 0, -1, 0 };
		CHECK(semop(id, &down, 1) == 0);
		board->seen[0] = 1;
		_exit(0);
	}
	while (semctl(id, 0, GETNCNT) != 1)
		nap(1);
}

static void is_woken(void)
{
	struct sembuf up = { 0, 1, 0 };
	board->seen[0] = 0;
	for (int i = 0; i < 30000 && semctl(id, 0, GETNCNT) != 1; i++)
		nap(1);
	CHECK(semctl(id, 0, GETNCNT) == 1);
	CHECK(semop(id, &up, 1) == 0);
	CHECK(wait(NULL) > 0 && board->seen[0] == 1);
	CHECK(semctl(id, 0, GETVAL) == 0);
}

static void who_waits_for_a_semaphore_is_woken(void **state)
{
	(void)state;
	goes_on_ipc(waits, is_woken);
}

/* ---- messages ---- */

struct message {
	long type;
	char text[64];
};

static void say(long type, const char *text)
{
	struct message m = { .type = type };
	memcpy(m.text, text, strlen(text));
	CHECK(msgsnd(id, &m, strlen(text), IPC_NOWAIT) == 0);
}

static void hear(long type, long want, const char *text)
{
	struct message m;
	ssize_t n = msgrcv(id, &m, sizeof(m.text), type, IPC_NOWAIT);
	CHECK(n == (ssize_t)strlen(text) && m.type == want && memcmp(m.text, text, (size_t)n) == 0);
}

static void messages(void)
{
	CHECK((id = msgget(0x99, IPC_CREAT | 0622)) >= 0);
	say(3, "three");
	say(1, "one");
	say(LONG_MAX, "");
	say(3, "another three");
	say(2, "two");
}

static void the_messages(void)
{
	struct msqid_ds ds;
	CHECK(msgget(0x99, 0) == id);
	CHECK(msgctl(id, IPC_STAT, &ds) == 0 && ds.msg_qnum == 5 &&
	      (ds.msg_perm.mode & 0777) == 0622);
	hear(2, 2, "two");
	hear(-2, 1, "one");
	hear(0, 3, "three");
	hear(0, LONG_MAX, "");
	hear(3, 3, "another three");
	CHECK(msgrcv(id, &ds, 1, 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
}

static void messages_keep_order_and_type(void **state)
{
	(void)state;
	goes_on_ipc(messages, the_messages);
}

static void little_room(void)
{
	struct msqid_ds ds;
	messages();
	CHECK(msgctl(id, IPC_STAT, &ds) == 0);
	ds.msg_qbytes = 7;
	CHECK(msgctl(id, IPC_SET, &ds) == 0);
}

static void still_little_room(void)
{
	struct msqid_ds ds;
	struct message m = { .type = 1 };
	CHECK(msgctl(id, IPC_STAT, &ds) == 0 && ds.msg_qbytes == 7);
	CHECK(msgsnd(id, &m, 1, IPC_NOWAIT) < 0 && errno == EAGAIN);
	the_messages();
}

static void a_queue_with_more_than_fits(void **state)
{
	(void)state;
	goes_on_ipc(little_room, still_little_room);
}

static void receiver(void)
{
	CHECK((id = msgget(IPC_PRIVATE, 0600)) >= 0);
	if (fork_below() == 0) {
		struct message m;
		CHECK(msgrcv(id, &m, sizeof(m.text), 5, 0) == 2);
		board->seen[1] = 1;
		_exit(0);
	}
	nap(20);
}

static void receives(void)
{
	board->seen[1] = 0;
	say(4, "no");
	say(5, "hi");
	CHECK(wait(NULL) > 0 && board->seen[1] == 1);
	hear(0, 4, "no");
}

static void who_waits_for_a_message_gets_it(void **state)
{
	(void)state;
	goes_on_ipc(receiver, receives);
}

/* ---- limits ---- */

static char limit[64];

static void read_limit(const char *path, char ret[64])
{
	scoped_free char *text = NULL;
	CHECK(fvm_read_file(AT_FDCWD, path, 64, &text, NULL) == 0);
	snprintf(ret, 64, "%.63s", text);
}

static void limits(void)
{
	/* an ordinary user may since Linux 6.9 */
	if (put("/proc/sys/kernel/shmmni", "77") < 0)
		return;
	(void)put("/proc/sys/kernel/msgmnb", "1234");
	(void)put("/proc/sys/kernel/sem", "10 200 20 30");
	(void)put("/proc/sys/fs/mqueue/msg_max", "7");
	read_limit("/proc/sys/kernel/sem", limit);
	messages();
}

static void same_limits(void)
{
	char now[64];
	if (!*limit)
		return;
	read_limit("/proc/sys/kernel/sem", now);
	CHECK(strcmp(now, limit) == 0);
	read_limit("/proc/sys/kernel/shmmni", now);
	CHECK(atoi(now) == 77);
	read_limit("/proc/sys/kernel/msgmnb", now);
	CHECK(atoi(now) == 1234);
	read_limit("/proc/sys/fs/mqueue/msg_max", now);
	CHECK(atoi(now) == 7);
	the_messages();
}

static void limits_of_the_namespace(void **state)
{
	(void)state;
	goes_on_ipc(limits, same_limits);
}

/* ---- POSIX queues ---- */

static void post(mqd_t q, const char *text, unsigned int priority)
{
	CHECK(mq_send(q, text, strlen(text), priority) == 0);
}

static void take(mqd_t q, const char *text, unsigned int priority)
{
	char got[128];
	unsigned int p;
	CHECK(mq_receive(q, got, sizeof(got), &p) == (ssize_t)strlen(text));
	CHECK(p == priority && memcmp(got, text, strlen(text)) == 0);
}

static void queues(void)
{
	struct mq_attr attr = { .mq_maxmsg = 5, .mq_msgsize = 128 };
	mode_t was = umask(0);
	mqd_t q = mq_open("/a queue", O_RDWR | O_CREAT | O_EXCL, 0642, &attr);
	umask(was);
	CHECK(q >= 0);
	post(q, "later", 1);
	post(q, "first", 9);
	post(q, "then", 9);
	post(q, "", 0);
	CHECK(mq_close(q) == 0);
	CHECK((q = mq_open("/empty", O_RDWR | O_CREAT, 0600, NULL)) >= 0 && mq_close(q) == 0);
}

static void the_queues(void)
{
	struct mq_attr attr;
	struct stat st;
	mqd_t q = mq_open("/a queue", O_RDWR | O_NONBLOCK);
	CHECK(q >= 0 && mq_getattr(q, &attr) == 0 && fstat(q, &st) == 0);
	CHECK(attr.mq_maxmsg == 5 && attr.mq_msgsize == 128 && attr.mq_curmsgs == 4);
	CHECK((st.st_mode & 07777) == 0642 && st.st_uid == geteuid());
	take(q, "first", 9);
	take(q, "then", 9);
	take(q, "later", 1);
	take(q, "", 0);
	CHECK(mq_close(q) == 0 && mq_unlink("/a queue") == 0);
	CHECK((q = mq_open("/empty", O_RDONLY)) >= 0 && mq_getattr(q, &attr) == 0);
	CHECK(attr.mq_curmsgs == 0 && mq_close(q) == 0);
}

static void named_queues_keep_messages_and_priorities(void **state)
{
	(void)state;
	goes_on_ipc(queues, the_queues);
}

static void notified(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1 };
	mqd_t q = mq_open("/told", O_RDWR | O_CREAT, 0600, NULL);
	CHECK(q >= 0 && mq_notify(q, &e) == 0);
}

static void a_queue_that_tells_somebody_is_refused(void **state)
{
	(void)state;
	world_refused(notified, "told", CLONE_NEWIPC);
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		WORLD(a_segment_keeps_id_key_place_and_bytes),
		WORLD(a_segment_that_nobody_has_attached_stays),
		WORLD(one_attached_twice_once_for_reading),
		WORLD(one_that_was_cut_and_protected),
		WORLD(a_removed_one_lives_as_long_as_it_is_attached),
		WORLD(a_key_whose_first_segment_is_removed),
		WORLD(two_processes_share_it_again),
		WORLD(a_locked_segment_stays_locked),
		WORLD(owner_and_creator_of_others),
		WORLD(ids_with_gaps_between_them),
		WORLD(a_segment_of_another_namespace_is_refused),
		WORLD(semaphores_keep_their_values),
		WORLD(who_waits_for_a_semaphore_is_woken),
		WORLD(messages_keep_order_and_type),
		WORLD(a_queue_with_more_than_fits),
		WORLD(who_waits_for_a_message_gets_it),
		WORLD(limits_of_the_namespace),
		WORLD(named_queues_keep_messages_and_priorities),
		WORLD(a_queue_that_tells_somebody_is_refused),
	};
	return cmocka_run_group_tests(tests, worlds_setup, worlds_teardown);
}

int main(void)
{
	return worlds_main(run);
}
