/* SPDX-License-Identifier: Apache-2.0 */
/* What the host asks for: each request of agent.proto, from its bytes to its reply. */
#ifndef CLEARPOD_REQUESTS_H
#define CLEARPOD_REQUESTS_H

#include "base/fault.h"

#include <stddef.h>
#include <stdint.h>

void request_arrived(uint32_t id, const uint8_t *payload, size_t size);
/* The same for the plan (autonomous.h), and what an app needs of it: apps_started gets the result. */
void request_from(uint64_t epoch, uint32_t id, const uint8_t *payload, size_t size);
int request_start(const char *container, struct fault *why);
/* The host process that asked is gone: kill its execs. */
void requests_new_epoch(void);

#endif
