/*
 * common - errors, descriptors, memory, quoting, log, time: what every part of fvm stands on
 */
#ifndef FVM_COMMON_H
#define FVM_COMMON_H

#include "common/clock.h"
#include "common/dir.h"
#include "common/error.h"
#include "common/fd.h"
#include "common/log.h"
#include "common/mem.h"
#include "common/quote.h"

#endif
