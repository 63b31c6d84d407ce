#include "tests/box.h"

#include <errno.h>

#include "fvm/ids.h"

static int64_t set(struct fvm_ids *ids, bool group, enum fvm_id_call call, uint32_t a, uint32_t b,
		   uint32_t c)
{
	const uint32_t args[3] = { a, b, c };
	return fvm_ids_set(ids, group, call, args);
}

#define KEEP UINT32_MAX

static void root_that_drops_for_good_gets_a_namespace(void **state)
{
	struct fvm_ids ids;
	(void)state;
	fvm_ids_init(&ids, 0, 0);
	assert_int_equal(set(&ids, true, FVM_SET, 33, 0, 0), 0);
	assert_int_equal(fvm_ids_outcome(&ids, 0, 0), FVM_IDS_LIE); /* root with another group */
	assert_int_equal(set(&ids, false, FVM_SET, 33, 0, 0), 0);
	assert_int_equal(fvm_ids_outcome(&ids, 0, 0), FVM_IDS_NEST);
	assert_int_equal(ids.uid[FVM_ID_FS], 33);
	assert_int_equal(ids.gid[FVM_ID_EFFECTIVE], 33);
}

static void half_drop_can_be_taken_back(void **state)
{
	struct fvm_ids ids;
	(void)state;
	fvm_ids_init(&ids, 0, 0);
	assert_int_equal(set(&ids, false, FVM_SETRES, KEEP, 33, KEEP), 0);
	assert_int_equal(fvm_ids_outcome(&ids, 0, 0), FVM_IDS_LIE);
	assert_int_equal(ids.uid[FVM_ID_SAVED], 0);
	/* meanwhile it is nobody special */
	assert_int_equal(set(&ids, true, FVM_SET, 5, 0, 0), -EPERM);
	assert_int_equal(set(&ids, false, FVM_SETRES, KEEP, 34, KEEP), -EPERM);
	assert_int_equal(set(&ids, false, FVM_SETRES, KEEP, 0, KEEP), 0);
	assert_int_equal(fvm_ids_outcome(&ids, 0, 0), FVM_IDS_TRUE);
}

static void dropped_task_never_comes_back(void **state)
{
	struct fvm_ids ids;
	(void)state;
	fvm_ids_init(&ids, 33, 33);
	assert_int_equal(set(&ids, false, FVM_SET, 0, 0, 0), -EPERM);
	assert_int_equal(set(&ids, false, FVM_SETRE, KEEP, 0, 0), -EPERM);
	assert_int_equal(set(&ids, false, FVM_SETRES, KEEP, 0, KEEP), -EPERM);
	assert_int_equal(set(&ids, true, FVM_SETRES, 0, KEEP, KEEP), -EPERM);
	assert_int_equal(set(&ids, false, FVM_SETFS, 0, 0, 0), 33); /* tells the old id, stays */
	assert_int_equal(set(&ids, false, FVM_SETFS, KEEP, 0, 0), 33);
	assert_int_equal(fvm_ids_outcome(&ids, 33, 33), FVM_IDS_TRUE);
}

static void setreuid_sets_the_saved_id_as_the_kernel_does(void **state)
{
	struct fvm_ids ids;
	(void)state;
	fvm_ids_init(&ids, 0, 0);
	assert_int_equal(set(&ids, false, FVM_SETRE, KEEP, 33, 0), 0);
	assert_int_equal(ids.uid[FVM_ID_SAVED], 33); /* another than the real one was */
	assert_int_equal(ids.uid[FVM_ID_REAL], 0);
	assert_int_equal(set(&ids, false, FVM_SETRE, 33, KEEP, 0), 0); /* to its effective one */
	assert_int_equal(fvm_ids_outcome(&ids, 0, 0), FVM_IDS_NEST);
}

static void an_id_of_minus_one_is_refused_or_kept(void **state)
{
	struct fvm_ids ids;
	(void)state;
	fvm_ids_init(&ids, 0, 0);
	assert_int_equal(set(&ids, false, FVM_SET, KEEP, 0, 0), -EINVAL);
	assert_int_equal(set(&ids, false, FVM_SETRES, KEEP, KEEP, KEEP), 0);
	assert_int_equal(fvm_ids_outcome(&ids, 0, 0), FVM_IDS_TRUE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(root_that_drops_for_good_gets_a_namespace),
		cmocka_unit_test(half_drop_can_be_taken_back),
		cmocka_unit_test(dropped_task_never_comes_back),
		cmocka_unit_test(setreuid_sets_the_saved_id_as_the_kernel_does),
		cmocka_unit_test(an_id_of_minus_one_is_refused_or_kept),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
