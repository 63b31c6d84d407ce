/*
 * vin/cloexec - which descriptors of a stopped process are closed when it executes something
 */
#ifndef VIN_CLOEXEC_H
#define VIN_CLOEXEC_H

#include "vin/files.h"
#include "vin/rcall.h"

/** vin_cloexec_settle() - find out what looking left unsure in @table, by calls of the parked @t.
 *  Return: 0 or negative errno */
int vin_cloexec_settle(struct vin_table *table, struct vin_thread *t, struct fvm_error *err);

#endif
