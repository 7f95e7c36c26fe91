/* SPDX-License-Identifier: Apache-2.0 */
/* What the host asks for: each request of agent.proto, from its bytes to its reply. */
#ifndef CLEARPOD_REQUESTS_H
#define CLEARPOD_REQUESTS_H

#include "apps.h"
#include "jobs.h"

enum { PLAN_EPOCH = 0 }; /* no host has it */

void request_arrived(uint32_t id, const uint8_t *payload, size_t size);
/* The same for the plan (autonomous.h), and what an app needs of it: apps_started tells what came of it. */
void request_from(uint64_t epoch, uint32_t id, const uint8_t *payload, size_t size);
int request_start(const char *container, struct fault *why);
/* replies.c: to the plan, or to the host if it is still the one that asked. */
void answer(const struct asker *asker, const struct reply *reply);
/* The host process that asked is gone: kill its execs. */
void requests_new_epoch(void);
/* Answer for helpers that are done. Called once per turn of the loop. */
void jobs_sync(void);

/* exits.c: a pid was reaped; exits that are due go to the host. */
void exit_reaped(pid_t pid, int status);
void exit_sync(struct process *process);
/* Milliseconds until exit_sync has something to do without any event; -1: never. */
int exit_timeout_ms(void);
void process_started(struct process *process, pid_t pid);

#endif
