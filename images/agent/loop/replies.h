/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What comes of requests: helpers that are done change the state of the process, and whoever asked gets the reply.
 */
#ifndef CLEARPOD_REPLIES_H
#define CLEARPOD_REPLIES_H

#include "link/message.h"
#include "loop/apps.h"

enum { PLAN_EPOCH = 0 }; /* no host has it */

/* To the plan, or to the host if it is still the one that asked. */
void answer(const struct asker *asker, const struct reply *reply);
/* Who gets the replies to requests of the plan. */
void answer_plan_by(void (*plan_answered)(uint32_t request, const struct reply *reply));
/* Answer for helpers that are done. Called once per turn of the loop. */
void jobs_sync(void);

#endif
