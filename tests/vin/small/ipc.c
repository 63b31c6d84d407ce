/* What processes leave with the kernel for others, as shmget(2), shmop(2), semget(2), semop(2),
 * msgop(2), mq_overview(7) and sem_overview(7) have it. */
#include <mqueue.h>
#include <semaphore.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>

#include "small.h"

#define KEY 0x51230000

static int id;
static pid_t child;
static char *memory;
static mqd_t queue;

/* Cases share a namespace: each has keys of its own. */
static key_t key_of(int number)
{
	return KEY + number;
}

/* A child that waits to be killed, when @fn is done. */
static pid_t keeps(void (*fn)(void))
{
	int line[2];
	char c;
	CHECK(pipe(line) == 0);
	const pid_t pid = fork();
	if (pid == 0) {
		(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
		fn();
		(void)!write(line[1], "x", 1);
		for (;;)
			pause();
	}
	CHECK(pid > 0 && read(line[0], &c, 1) == 1 && close(line[0]) == 0 && close(line[1]) == 0);
	return pid;
}

static void ends(pid_t pid)
{
	CHECK(kill(pid, SIGKILL) == 0 && waitpid(pid, NULL, 0) == pid);
}

/* ---- shmget(2), shmop(2) ---- */

static void segment_make(void)
{
	id = shmget(key_of(1), 3 * PAGE, IPC_CREAT | IPC_EXCL | 0640);
	CHECK(id >= 0);
	memory = shmat(id, NULL, 0);
	CHECK(memory != (char *)-1);
	strcpy(memory + 2 * PAGE, "shared");
}

static void segment_check(void)
{
	struct shmid_ds now;
	CHECK(shmget(key_of(1), 0, 0) == id && shmctl(id, IPC_STAT, &now) == 0);
	CHECK(now.shm_segsz == 3 * PAGE && (now.shm_perm.mode & 0777) == 0640);
	CHECK(now.shm_nattch == 1 && now.shm_perm.__key == key_of(1));
	char *again = shmat(id, NULL, SHM_RDONLY);
	CHECK(again != (char *)-1 && strcmp(again + 2 * PAGE, "shared") == 0);
	memory[0]++;
	CHECK(again[0] == memory[0] && shmdt(again) == 0);
}

/* It lives as long as somebody has it, and nobody finds it any more. */
static void removed_segment_make(void)
{
	id = shmget(key_of(2), PAGE, IPC_CREAT | IPC_EXCL | 0600);
	memory = shmat(id, NULL, 0);
	CHECK(id >= 0 && memory != (char *)-1 && shmctl(id, IPC_RMID, NULL) == 0);
	memory[7] = 42;
}

static void removed_segment_check(void)
{
	struct shmid_ds now;
	CHECK(memory[7] == 42 && shmget(key_of(2), 0, 0) < 0 && errno == ENOENT);
	CHECK(shmctl(id, IPC_STAT, &now) == 0 && now.shm_perm.mode & SHM_DEST);
	char *again = shmat(id, NULL, 0);
	CHECK(again != (char *)-1 && again[7] == 42 && shmdt(again) == 0);
}

/* ---- semget(2), semop(2) ---- */

static void set_make(void)
{
	unsigned short values[3] = { 3, 0, 700 };
	id = semget(key_of(3), 3, IPC_CREAT | IPC_EXCL | 0620);
	CHECK(id >= 0 && semctl(id, 0, SETALL, values) == 0);
	struct sembuf up = { 1, 2, 0 };
	CHECK(semop(id, &up, 1) == 0);
}

static void set_check(void)
{
	unsigned short values[3];
	struct semid_ds now;
	CHECK(semget(key_of(3), 3, 0) == id && semctl(id, 0, GETALL, values) == 0);
	CHECK(values[0] == 3 && values[1] == 2 && values[2] == 700);
	CHECK(semctl(id, 0, IPC_STAT, &now) == 0 && (now.sem_perm.mode & 0777) == 0620);
	CHECK(semctl(id, 1, GETPID) == getpid());
}

static void takes_two(void)
{
	struct sembuf down[] = { { 0, -2, SEM_UNDO }, { 1, 1, SEM_UNDO } };
	if (semop(id, down, 2) < 0)
		_exit(1);
}

static void undo_make(void)
{
	unsigned short values[2] = { 5, 5 };
	id = semget(IPC_PRIVATE, 2, 0600);
	CHECK(id >= 0 && semctl(id, 0, SETALL, values) == 0);
	child = keeps(takes_two);
}

/* Its end gives back what it has taken, both ways. */
static void undo_check(void)
{
	unsigned short values[2];
	CHECK(semctl(id, 0, GETALL, values) == 0 && values[0] == 3 && values[1] == 6);
	ends(child);
	CHECK(semctl(id, 0, GETALL, values) == 0 && values[0] == 5 && values[1] == 5);
	child = keeps(takes_two);
}

static void waits_for_three(void)
{
	if (fork() > 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct sembuf down = { 0, -3, 0 }, up = { 1, 1, 0 };
	for (;;) {
		if (semop(id, &down, 1) == 0)
			(void)semop(id, &up, 1);
	}
}

static void waiter_make(void)
{
	id = semget(IPC_PRIVATE, 2, 0600);
	CHECK(id >= 0);
	child = keeps(waits_for_three);
	for (int i = 0; i < 30000 && semctl(id, 0, GETNCNT) != 1; i++)
		small_nap(1);
}

static void waiter_check(void)
{
	struct sembuf up = { 0, 3, 0 }, down = { 1, -1, 0 };
	const struct timespec patience = { 30, 0 };
	for (int i = 0; i < 30000 && semctl(id, 0, GETNCNT) != 1; i++)
		small_nap(1);
	CHECK(semctl(id, 0, GETNCNT) == 1);
	CHECK(semop(id, &up, 1) == 0 && semtimedop(id, &down, 1, &patience) == 0);
	CHECK(semctl(id, 0, GETVAL) == 0);
}

/* ---- msgop(2) ---- */

struct message {
	long type;
	char text[32];
};

static void send_one(long type, const char *text)
{
	struct message m = { .type = type };
	strcpy(m.text, text);
	CHECK(msgsnd(id, &m, strlen(text), IPC_NOWAIT) == 0);
}

static void send_four(void)
{
	send_one(5, "five");
	send_one(2, "two");
	send_one(5, "five again");
	send_one(9, "");
}

static void messages_make(void)
{
	id = msgget(key_of(4), IPC_CREAT | IPC_EXCL | 0660);
	CHECK(id >= 0);
	send_four();
}

static bool takes(long wanted, int flags, long type, const char *text)
{
	struct message m = { 0 };
	const ssize_t n = msgrcv(id, &m, sizeof(m.text), wanted, flags | IPC_NOWAIT);
	return n == (ssize_t)strlen(text) && m.type == type && memcmp(m.text, text, (size_t)n) == 0;
}

/* By type, by the lowest up to one, by any but one, and in their order. */
static void messages_check(void)
{
	struct msqid_ds now;
	CHECK(msgget(key_of(4), 0) == id && msgctl(id, IPC_STAT, &now) == 0);
	CHECK(now.msg_qnum == 4 && now.__msg_cbytes == 17);
	CHECK(takes(-4, 0, 2, "two"));
	CHECK(takes(5, MSG_EXCEPT, 9, ""));
	CHECK(takes(0, 0, 5, "five"));
	CHECK(takes(5, 0, 5, "five again"));
	struct message none;
	CHECK(msgrcv(id, &none, sizeof(none.text), 0, IPC_NOWAIT) < 0 && errno == ENOMSG);
	send_four();
}

static void limit_make(void)
{
	struct msqid_ds s;
	id = msgget(IPC_PRIVATE, 0600);
	CHECK(id >= 0 && msgctl(id, IPC_STAT, &s) == 0);
	s.msg_qbytes = 40;
	CHECK(msgctl(id, IPC_SET, &s) == 0);
	send_one(1, "twenty-five bytes of text");
}

/* A full queue takes no more, until there is room. */
static void limit_check(void)
{
	struct message m = { 1, "" };
	CHECK(msgsnd(id, &m, 20, IPC_NOWAIT) < 0 && errno == EAGAIN);
	CHECK(takes(0, 0, 1, "twenty-five bytes of text"));
	CHECK(msgsnd(id, &m, 20, IPC_NOWAIT) == 0);
	CHECK(msgrcv(id, &m, 32, 0, IPC_NOWAIT) == 20);
	send_one(1, "twenty-five bytes of text");
}

/* ---- mq_overview(7) ---- */

static mqd_t open_queue(const char *name, int flags, long most)
{
	struct mq_attr attr = { .mq_maxmsg = most, .mq_msgsize = 64 };
	const mqd_t q = mq_open(name, flags | O_RDWR | O_CREAT | O_EXCL, 0600, &attr);
	CHECK(q >= 0);
	return q;
}

static void put_three(void)
{
	CHECK(mq_send(queue, "low", 3, 1) == 0 && mq_send(queue, "high", 4, 20) == 0 &&
	      mq_send(queue, "high too", 8, 20) == 0);
}

static bool gets(const char *text, unsigned int priority)
{
	char got[64];
	unsigned int p = 0;
	const ssize_t n = mq_receive(queue, got, sizeof(got), &p);
	return n == (ssize_t)strlen(text) && memcmp(got, text, (size_t)n) == 0 && p == priority;
}

static void priorities_make(void)
{
	queue = open_queue("/small-priorities", O_NONBLOCK, 4);
	put_three();
}

static void priorities_check(void)
{
	struct mq_attr attr;
	char got[64];
	CHECK(mq_getattr(queue, &attr) == 0 && attr.mq_maxmsg == 4 && attr.mq_msgsize == 64);
	CHECK(attr.mq_curmsgs == 3 && attr.mq_flags == O_NONBLOCK);
	CHECK(gets("high", 20) && gets("high too", 20) && gets("low", 1));
	CHECK(mq_receive(queue, got, sizeof(got), NULL) < 0 && errno == EAGAIN);
	const mqd_t again = mq_open("/small-priorities", O_RDONLY);
	CHECK(again >= 0 && mq_close(again) == 0);
	put_three();
}

static void unlinked_make(void)
{
	queue = open_queue("/small-unlinked", 0, 2);
	CHECK(mq_unlink("/small-unlinked") == 0 && mq_send(queue, "left", 4, 3) == 0);
}

static void unlinked_check(void)
{
	CHECK(gets("left", 3) && mq_send(queue, "left", 4, 3) == 0);
	CHECK(mq_open("/small-unlinked", O_RDONLY) < 0 && errno == ENOENT);
}

/* ---- sem_overview(7) ---- */

static sem_t *semaphore;

static void waits_for_semaphore(void)
{
	if (fork() > 0)
		return;
	(void)prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (;;) {
		if (sem_wait(&semaphore[0]) == 0)
			(void)sem_post(&semaphore[1]);
	}
}

static void semaphore_make(void)
{
	semaphore = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(semaphore != MAP_FAILED && sem_init(&semaphore[0], 1, 0) == 0);
	CHECK(sem_init(&semaphore[1], 1, 0) == 0);
	child = keeps(waits_for_semaphore);
}

static void semaphore_check(void)
{
	struct timespec until;
	CHECK(clock_gettime(CLOCK_REALTIME, &until) == 0);
	until.tv_sec += 30;
	CHECK(sem_post(&semaphore[0]) == 0 && sem_timedwait(&semaphore[1], &until) == 0);
}

const struct small_case ipc_cases[] = {
	{ "shmget(2): size, mode, key and attachments of a segment", segment_make, segment_check,
	  0 },
	{ "shmctl(2): IPC_RMID: a segment that lives while it is attached", removed_segment_make,
	  removed_segment_check, 0 },
	{ "semget(2): values, mode and the last process of a set", set_make, set_check, 0 },
	{ "semop(2): SEM_UNDO: a process that ends gives back", undo_make, undo_check, 0 },
	{ "semop(2): a process that waits for more than there is", waiter_make, waiter_check, 0 },
	{ "msgop(2): by type, MSG_EXCEPT and order; an empty one", messages_make, messages_check,
	  0 },
	{ "msgctl(2): msg_qbytes: a full queue", limit_make, limit_check, 0 },
	{ "mq_overview(7): priorities, attributes, O_NONBLOCK", priorities_make, priorities_check,
	  0 },
	{ "mq_unlink(3): a queue without a name, with a message", unlinked_make, unlinked_check,
	  0 },
	{ "sem_overview(7): a process that waits for a semaphore in shared memory", semaphore_make,
	  semaphore_check, 0 },
	{ 0 },
};
