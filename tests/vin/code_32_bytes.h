/* The program of 32 bits (small/code_32.c) as bytes; none where the compiler makes no such program. */
#ifndef FVM_TESTS_VIN_CODE_32_BYTES_H
#define FVM_TESTS_VIN_CODE_32_BYTES_H

static const unsigned char code_32_bytes[] = { 0 /* a comma follows */
#ifdef HAS_CODE_32
#include "code_32.h"
#endif
};
#define CODE_32_BYTES (code_32_bytes + 1)
#define CODE_32_SIZE  (sizeof(code_32_bytes) - 1)

#endif
