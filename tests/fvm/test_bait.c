#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fvm/prove.h"
#include "tests/box.h"

static const struct fvm_hide nothing;
static const struct fvm_config config;

/* Somebody who has put up his bait, and waits. */
static pid_t other(struct fvm_bait *ret)
{
	int line[2];
	assert_int_equal(pipe(line), 0);
	pid_t pid = fork();
	if (pid == 0) {
		struct fvm_bait b;
		if (fvm_bait_put(&config, &nothing, &b, NULL) < 0 ||
		    write(line[1], &b, sizeof(b)) != sizeof(b))
			_exit(1);
		for (;;)
			pause();
	}
	close(line[1]);
	assert_int_equal(read(line[0], ret, sizeof(*ret)), sizeof(*ret));
	close(line[0]);
	return pid;
}

static void end(pid_t pid)
{
	assert_int_equal(kill(pid, SIGKILL), 0);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
}

/* How many of the four that outlive who made them are there. */
static int left(const struct fvm_bait *b)
{
	int queue = mq_open(b->queue, O_RDONLY | O_CLOEXEC);
	int memory = shm_open(b->queue, O_RDONLY | O_CLOEXEC, 0);
	int count = (queue >= 0) + (memory >= 0) + (shmget(b->shm_key, 0, 0) >= 0) +
		    (access(b->dir, F_OK) == 0);
	if (queue >= 0)
		mq_close(queue);
	if (memory >= 0)
		close(memory);
	return count;
}

static void what_is_taken_away_is_gone(void **state)
{
	struct fvm_bait b;
	(void)state;
	assert_int_equal(fvm_bait_put(&config, &nothing, &b, NULL), 0);
	assert_int_equal(left(&b), 4);
	assert_int_equal(fvm_bait_take(&b), 0);
	assert_int_equal(left(&b), 0);
}

static void the_next_sweeps_what_a_killed_one_left(void **state)
{
	struct fvm_bait killed, b;
	(void)state;
	end(other(&killed));
	assert_int_equal(left(&killed), 4);
	assert_int_equal(fvm_bait_put(&config, &nothing, &b, NULL), 0);
	assert_int_equal(left(&killed), 0);
	assert_int_equal(fvm_bait_take(&b), 0);
}

static void that_of_a_living_one_stays(void **state)
{
	struct fvm_bait living, b;
	(void)state;
	pid_t pid = other(&living);
	assert_int_equal(fvm_bait_put(&config, &nothing, &b, NULL), 0);
	assert_int_equal(left(&living), 4);
	assert_int_equal(fvm_bait_take(&b), 0);
	end(pid);
	assert_int_equal(fvm_bait_put(&config, &nothing, &b, NULL), 0);
	assert_int_equal(fvm_bait_take(&b), 0);
	assert_int_equal(left(&living), 0);
}

/* The key is a number that somebody else may have chosen. */
static void a_segment_with_another_content_is_not_swept(void **state)
{
	struct fvm_bait killed, b;
	(void)state;
	end(other(&killed));
	int id = shmget(killed.shm_key, 0, 0);
	char *at = shmat(id, NULL, 0);
	assert_ptr_not_equal(at, (void *)-1);
	strcpy(at, "mine");
	assert_int_equal(shmdt(at), 0);
	assert_int_equal(fvm_bait_put(&config, &nothing, &b, NULL), 0);
	assert_int_equal(left(&killed), 1);
	assert_int_equal(shmctl(id, IPC_RMID, NULL), 0);
	assert_int_equal(fvm_bait_take(&b), 0);
}

static void a_file_that_was_touched_is_told(void **state)
{
	struct fvm_bait b;
	char path[96];
	(void)state;
	assert_int_equal(fvm_bait_put(&config, &nothing, &b, NULL), 0);
	snprintf(path, sizeof(path), "%s/file", b.dir);
	assert_int_equal(truncate(path, 0), 0);
	assert_int_equal(fvm_bait_take(&b), -EBADE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_taken_away_is_gone),
		cmocka_unit_test(the_next_sweeps_what_a_killed_one_left),
		cmocka_unit_test(that_of_a_living_one_stays),
		cmocka_unit_test(a_segment_with_another_content_is_not_swept),
		cmocka_unit_test(a_file_that_was_touched_is_told),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
