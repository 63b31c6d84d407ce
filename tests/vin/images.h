/* Programs into an image and out of it, for tests that include setjmp.h and cmocka.h before. */
#ifndef FVM_TESTS_IMAGES_H
#define FVM_TESTS_IMAGES_H

#include <stdio.h>
#include <unistd.h>

#include "checks.h"
#include "vin/capture.h"
#include "vin/replay.h"

static int outside = -1; /* the root that programs' paths begin at */

/* The rest of an image of programs that are stopped, who go on or are ended. */
static void image_finish(struct vin_capture *c, struct vin_out *out, bool resume)
{
	OK(vin_capture_write(c, out, &err));
	OK(vin_out_end(out, &err));
	vin_out_close(out);
	if (resume)
		vin_capture_resume(c);
	else
		vin_capture_kill(c);
	vin_capture_close(c);
}

/* All of @roots and their descendants, who go on or are ended. */
static FILE *image_capture_all(const pid_t *roots, size_t count,
			       const struct vin_capture_options *options, bool resume)
{
	struct vin_capture *c;
	struct vin_out *out;
	FILE *image = tmpfile();
	assert_non_null(image);
	OK(vin_capture_open(roots, count, options, &c, &err));
	OK(vin_capture_stop(c, 30000, &err));
	OK(vin_out_open(fileno(image), &out, &err));
	image_finish(c, out, resume);
	return image;
}

/* @pid and its descendants. */
__attribute__((unused)) static FILE *
image_capture(pid_t pid, const struct vin_capture_options *options, bool resume)
{
	return image_capture_all(&pid, 1, options, resume);
}

static struct vin_replay *image_build_with(FILE *image, const struct vin_replay_options *options)
{
	struct vin_replay *r = NULL;
	struct vin_in *in;
	assert_int_equal(lseek(fileno(image), 0, SEEK_SET), 0);
	OK(vin_in_open(fileno(image), &in, &err));
	OK(vin_replay_build(in, options, &r, &err));
	vin_in_close(in);
	return r;
}

__attribute__((unused)) static struct vin_replay *image_build(FILE *image)
{
	const struct vin_replay_options options = { .root = outside, .user = geteuid() != 0 };
	return image_build_with(image, &options);
}

#endif
