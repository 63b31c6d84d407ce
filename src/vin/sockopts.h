/*
 * vin/sockopts - the table of socket options that are kept
 */
#ifndef VIN_SOCKOPTS_H
#define VIN_SOCKOPTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct vin_sock_option {
	int level, name;
	bool late; /* not before all else is done */
	bool once; /* not when all is done: bind(2) has changed it */
	const char *word;
};

extern const struct vin_sock_option vin_sock_options[];
extern const size_t vin_sock_option_count;

/** vin_sock_option_find() - the entry of a level and name, or NULL */
const struct vin_sock_option *vin_sock_option_find(uint64_t level, uint64_t name);

/** vin_sock_option_fits() - whether sockets of a family and protocol have it */
bool vin_sock_option_fits(const struct vin_sock_option *o, int family, int protocol);

#endif
