/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Replies to requests: results of helpers change the state of the process, and the asker gets the reply.
 */
#ifndef CLEARPOD_REPLIES_H
#define CLEARPOD_REPLIES_H

#include "link/message.h"
#include "loop/apps.h"

enum { PLAN_EPOCH = 0 }; /* no host has it */

/* To the plan, or to the host if it is still the one that asked. */
void answer(const struct asker *asker, const struct reply *reply);
/* The receiver of replies to requests of the plan. */
void answer_plan_by(void (*plan_answered)(uint32_t request, const struct reply *reply));
/* Reply for helpers that have ended. Called once per iteration of the loop. */
void jobs_sync(void);

#endif
