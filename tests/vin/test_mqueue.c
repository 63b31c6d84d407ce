/* Descriptors of message queues, as mq_overview(7), mq_open(3) and mq_notify(3) have them. The
 * queues with names are those of this test's IPC namespace, which stays; test_ipc.c moves them. */
#include <mqueue.h>

#include "carry.h"

#define AT 5 /* where all cases have the descriptor */

static struct mq_attr small = { .mq_maxmsg = 4, .mq_msgsize = 64 };

static void open_at(int number, const char *name, int flags)
{
	mqd_t q = mq_open(name, flags | O_CREAT, 0600, &small);
	CHECK(q >= 0 && dup3(q, number, O_CLOEXEC) == number);
	CHECK(q == number || mq_close(q) == 0);
}

static void post(int number, const char *text, unsigned int priority)
{
	CHECK(mq_send(number, text, strlen(text), priority) == 0);
}

static void take(int number, const char *text, unsigned int priority)
{
	char got[64];
	unsigned int p;
	CHECK(mq_receive(number, got, sizeof(got), &p) == (ssize_t)strlen(text));
	CHECK(p == priority && memcmp(got, text, strlen(text)) == 0);
}

static bool is_there(const char *name)
{
	mqd_t q = mq_open(name, O_RDONLY);
	return q >= 0 && mq_close(q) == 0;
}

static void named(void)
{
	mq_unlink("/named");
	open_at(AT, "/named", O_RDWR);
	post(AT, "one", 1);
	post(AT, "two", 2);
}

static void the_named(void)
{
	struct mq_attr a;
	CHECK(mq_getattr(AT, &a) == 0 && a.mq_maxmsg == 4 && a.mq_msgsize == 64);
	CHECK((fcntl(AT, F_GETFL) & O_ACCMODE) == O_RDWR && !(a.mq_flags & O_NONBLOCK));
	CHECK(fcntl(AT, F_GETFD) == FD_CLOEXEC);
	/* two programs follow one after the other */
	take(AT, "two", 2);
	post(AT, "two", 2);
}

static void a_queue_with_a_name(void **state)
{
	(void)state;
	carried(named, the_named);
	assert_true(is_there("/named"));
}

static void reader(void)
{
	mq_unlink("/read");
	open_at(AT, "/read", O_RDONLY | O_NONBLOCK);
}

static void the_reader(void)
{
	char got[64];
	struct mq_attr a;
	CHECK(mq_getattr(AT, &a) == 0 && (a.mq_flags & O_NONBLOCK));
	CHECK(mq_send(AT, "x", 1, 0) < 0 && errno == EBADF);
	CHECK(mq_receive(AT, got, sizeof(got), NULL) < 0 && errno == EAGAIN);
}

static void one_for_reading_that_does_not_wait(void **state)
{
	(void)state;
	carried(reader, the_reader);
}

static void writer(void)
{
	mq_unlink("/write");
	open_at(AT, "/write", O_WRONLY);
}

static void the_writer(void)
{
	char got[64];
	CHECK(mq_receive(AT, got, sizeof(got), NULL) < 0 && errno == EBADF);
	post(AT, "said", 3);
}

static void one_for_writing(void **state)
{
	(void)state;
	carried(writer, the_writer);
}

static void unlinked(void)
{
	mq_unlink("/gone");
	open_at(AT, "/gone", O_RDWR);
	post(AT, "b", 1);
	post(AT, "a", 5);
	post(AT, "", 0);
	post(AT, "c", 1);
	CHECK(fchmod(AT, 0640) == 0 && mq_unlink("/gone") == 0);
}

static void the_unlinked(void)
{
	struct mq_attr a;
	struct stat st;
	CHECK(!is_there("/gone") && fstat(AT, &st) == 0 && st.st_nlink == 0);
	CHECK((st.st_mode & 07777) == 0640);
	CHECK(mq_getattr(AT, &a) == 0 && a.mq_maxmsg == 4 && a.mq_curmsgs == 4);
	take(AT, "a", 5);
	take(AT, "b", 1);
	take(AT, "c", 1);
	take(AT, "", 0);
}

static void one_without_a_name_has_its_messages(void **state)
{
	(void)state;
	carried(unlinked, the_unlinked);
}

static void two_ends(void)
{
	mq_unlink("/gone");
	open_at(AT, "/gone", O_RDONLY);
	open_at(AT + 1, "/gone", O_WRONLY);
	CHECK(dup2(AT, AT + 2) == AT + 2);
	CHECK(mq_unlink("/gone") == 0);
	post(AT + 1, "before", 0);
}

static void the_two_ends(void)
{
	post(AT + 1, "after", 0);
	take(AT, "before", 0);
	take(AT + 2, "after", 0);
	/* the flag is the description's */
	struct mq_attr a = { .mq_flags = O_NONBLOCK };
	CHECK(mq_setattr(AT, &a, NULL) == 0 && mq_getattr(AT + 2, &a) == 0);
	CHECK(a.mq_flags & O_NONBLOCK);
	CHECK(mq_getattr(AT + 1, &a) == 0 && !(a.mq_flags & O_NONBLOCK));
}

static void reader_and_writer_of_one_without_a_name(void **state)
{
	(void)state;
	carried(two_ends, the_two_ends);
}

static void replaced(void)
{
	unlinked();
	open_at(AT + 1, "/gone", O_RDWR);
	post(AT + 1, "new", 0);
}

static void the_replaced(void)
{
	struct mq_attr a;
	take(AT, "a", 5);
	CHECK(mq_getattr(AT + 1, &a) == 0 && a.mq_curmsgs == 1);
	CHECK(is_there("/gone"));
}

static void one_whose_name_another_has(void **state)
{
	(void)state;
	mq_unlink("/gone");
	carried(replaced, the_replaced);
}

static void told(void)
{
	struct sigevent e = { .sigev_notify = SIGEV_NONE };
	mq_unlink("/told");
	open_at(AT, "/told", O_RDWR);
	CHECK(mq_notify(AT, &e) == 0);
}

static void one_that_tells_of_messages_is_refused(void **state)
{
	(void)state;
	refused(told, "notified");
}

static int run(void)
{
	const struct CMUnitTest tests[] = {
		CARRY(a_queue_with_a_name),
		CARRY(one_for_reading_that_does_not_wait),
		CARRY(one_for_writing),
		CARRY(one_without_a_name_has_its_messages),
		CARRY(reader_and_writer_of_one_without_a_name),
		CARRY(one_whose_name_another_has),
		CARRY(one_that_tells_of_messages_is_refused),
	};
	/* queues of our own; who is root's user has none of root's */
	if (unshare(CLONE_NEWIPC) < 0) {
		print_message("no IPC namespace to be had: not tried\n");
		return 77;
	}
	return cmocka_run_group_tests(tests, carry_setup, carry_teardown);
}

int main(void)
{
	return carry_main(run);
}
