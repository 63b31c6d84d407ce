/*
 * fvm/caps - the capabilities that VMs of root take, which of them are not here, and giving them up
 *
 * Containers run their root without some. CAP_SYS_ADMIN is what tells root from an ordinary user
 * (store.c); the others are asked for where a start would fail without them, and by fvm doctor.
 */
#ifndef FVM_CAPS_H
#define FVM_CAPS_H

#include <linux/capability.h>

#include "common/common.h"

#define FVM_CAPS_TEXT 400

/**
 * fvm_caps_missing() - as options of docker and podman: "--cap-add SYS_PTRACE --cap-add .."
 * @nat: also what only a VM with a network needs
 * Return: whether any is missing; @ret is "" if not
 */
bool fvm_caps_missing(bool nat, char ret[FVM_CAPS_TEXT]);

#define FVM_CAP(name) (1U << CAP_##name)

/** fvm_caps_keep() - have the capabilities @kept, FVM_CAP()s, alone from here on, and no program
 *  that gives any back (NO_NEW_PRIVS). Return: 0 or negative errno */
int fvm_caps_keep(unsigned int kept);

/** fvm_caps_lower() - act without @lowered, FVM_CAP()s; they can be raised again */
int fvm_caps_lower(unsigned int lowered);

#endif
