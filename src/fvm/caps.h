/*
 * fvm/caps - the capabilities that VMs of root take, and which of them are not here
 *
 * Containers run their root without some. CAP_SYS_ADMIN is what tells root from an ordinary user
 * (store.c); the others are asked for where a start would fail without them, and by fvm doctor.
 */
#ifndef FVM_CAPS_H
#define FVM_CAPS_H

#include "common/common.h"

#define FVM_CAPS_TEXT 400

/**
 * fvm_caps_missing() - as options of docker and podman: "--cap-add SYS_PTRACE --cap-add .."
 * @nat: also what only a VM with a network needs
 * Return: whether any is missing; @ret is "" if not
 */
bool fvm_caps_missing(bool nat, char ret[FVM_CAPS_TEXT]);

#endif
