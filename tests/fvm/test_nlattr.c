#include <errno.h>
#include <string.h>

#include "fvm/nlattr.h"
#include "tests/box.h"

struct message {
	_Alignas(struct nlmsghdr) char bytes[512];
};

static struct nlmsghdr *begin(struct message *m, uint16_t type, uint32_t seq)
{
	struct nlmsghdr *nlh = (struct nlmsghdr *)(void *)m->bytes;
	memset(m, 0xee, sizeof(*m));
	*nlh = (struct nlmsghdr){ .nlmsg_len = NLMSG_HDRLEN, .nlmsg_type = type, .nlmsg_seq = seq };
	return nlh;
}

static void what_was_put_is_read_again(void **state)
{
	struct message m;
	size_t seen = 0;
	(void)state;
	struct nlmsghdr *nlh = begin(&m, NLMSG_MIN_TYPE, 1);
	memset(fvm_nl_put_struct(nlh, 6), 1, 6);
	fvm_nl_put_u8(nlh, 1, 200);
	struct nlattr *nest = fvm_nl_nest(nlh, 2);
	fvm_nl_put_u32(nlh, 3, 70000);
	fvm_nl_put_text(nlh, 4, "eth0");
	fvm_nl_nest_end(nlh, nest);
	fvm_nl_put_u64(nlh, 5, 1ULL << 40);
	assert_int_equal(nlh->nlmsg_len % 4, 0);
	assert_int_equal(((const char *)fvm_nl_family(nlh, 6))[5], 1);
	fvm_nl_each(attr, nlh, 6)
	{
		seen++;
		if (fvm_nl_type(attr) == 1)
			assert_int_equal(fvm_nl_get_u8(attr), 200);
		if (fvm_nl_type(attr) == 5)
			assert_true(fvm_nl_get_u64(attr) == 1ULL << 40);
		if (fvm_nl_type(attr) != 2)
			continue;
		fvm_nl_each_in(inner, attr)
		{
			seen++;
			if (fvm_nl_type(inner) == 3)
				assert_int_equal(fvm_nl_get_u32(inner), 70000);
			else
				assert_string_equal(fvm_nl_data(inner), "eth0");
		}
	}
	assert_int_equal(seen, 5);
}

static void a_number_of_another_length_is_none(void **state)
{
	struct message m;
	(void)state;
	struct nlmsghdr *nlh = begin(&m, NLMSG_MIN_TYPE, 1);
	fvm_nl_put_u8(nlh, 1, 9);
	fvm_nl_each(attr, nlh, 0)
	{
		assert_int_equal(fvm_nl_get_u32(attr), 0);
		assert_int_equal(fvm_nl_get_u64(attr), 0);
	}
}

static void what_does_not_fit_is_not_read(void **state)
{
	static const uint16_t lengths[] = { 0, 3, 9, 13, 65535 };
	struct message m;
	(void)state;
	for (size_t i = 0; i < FVM_COUNT(lengths); i++) {
		struct nlmsghdr *nlh = begin(&m, NLMSG_MIN_TYPE, 1);
		fvm_nl_put_u32(nlh, 1, 9);
		((struct nlattr *)(void *)(m.bytes + NLMSG_HDRLEN))->nla_len = lengths[i];
		assert_null(fvm_nl_first(nlh, 0));
	}
	struct nlmsghdr *nlh = begin(&m, NLMSG_MIN_TYPE, 1);
	struct nlattr *nest = fvm_nl_nest(nlh, 1);
	fvm_nl_put_u32(nlh, 2, 9);
	nest->nla_len = NLA_HDRLEN + 7; /* what is in it is longer */
	fvm_nl_each_in(attr, nest) fail();
	nlh->nlmsg_len = NLMSG_HDRLEN + 4;
	assert_null(fvm_nl_family(nlh, 8));
	assert_null(fvm_nl_first(nlh, 8));
}

static int count(const struct nlmsghdr *nlh, void *arg)
{
	(void)nlh;
	++*(int *)arg;
	return *(int *)arg == 3 ? FVM_NL_STOP : FVM_NL_MORE;
}

/* @n messages of no content, and one more of @type that says @error. Return: bytes */
static size_t answer(struct message *m, int n, uint16_t type, int error)
{
	size_t at = 0;
	struct message one;
	for (int i = 0; i <= n; i++) {
		struct nlmsghdr *nlh = begin(&one, i < n ? NLMSG_MIN_TYPE : type, 7);
		if (i == n)
			memcpy(fvm_nl_put_struct(nlh, sizeof(struct nlmsgerr)), &error,
			       sizeof(error));
		memcpy(m->bytes + at, &one, nlh->nlmsg_len);
		at += nlh->nlmsg_len;
	}
	return at;
}

static void a_walk_ends_where_the_kernel_says(void **state)
{
	struct message m;
	int seen = 0;
	(void)state;
	size_t len = answer(&m, 2, NLMSG_DONE, 0);
	assert_int_equal(fvm_nl_walk(&m, len, 7, count, &seen), FVM_NL_STOP);
	assert_int_equal(seen, 2);
	assert_int_equal(fvm_nl_walk(&m, len, 8, count, &seen), -EPROTO);
	seen = 0;
	len = answer(&m, 2, NLMSG_ERROR, -ENODEV);
	assert_int_equal(fvm_nl_walk(&m, len, 7, count, &seen), -ENODEV);
	seen = 0;
	len = answer(&m, 5, NLMSG_DONE, 0);
	assert_int_equal(fvm_nl_walk(&m, len, 7, count, &seen), FVM_NL_STOP);
	assert_int_equal(seen, 3);
	seen = 0; /* cut off, and not to be read beyond */
	assert_int_equal(fvm_nl_walk(&m, NLMSG_HDRLEN * 2 - 1, 7, count, &seen), FVM_NL_MORE);
	assert_int_equal(seen, 1);
	((struct nlmsghdr *)(void *)&m)->nlmsg_flags = NLM_F_DUMP_INTR;
	assert_int_equal(fvm_nl_walk(&m, len, 7, count, &seen), -EINTR);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_was_put_is_read_again),
		cmocka_unit_test(a_number_of_another_length_is_none),
		cmocka_unit_test(what_does_not_fit_is_not_read),
		cmocka_unit_test(a_walk_ends_where_the_kernel_says),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
