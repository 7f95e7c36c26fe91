/* SPDX-License-Identifier: Apache-2.0 */
/*
 * AppArmor: what the guest's kernel needs before crun can apply a container's profile. The policy is compiled, and comes in
 * the container's bundle.
 */
#ifndef CLEARPOD_APPARMOR_H
#define CLEARPOD_APPARMOR_H

#include "base/fault.h"

/* Load, or replace, all profiles of the policy of container `id`. */
int apparmor_load(const char *id, struct fault *why);

#endif
