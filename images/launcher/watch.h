/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a guest does to files while its pod lives, and what is to be done then: codes of apps are handed on to rkt, and
 * of the console only the end is kept, since it lies in the host's memory. There are no wakeups while nothing happens.
 */
#ifndef CLEARPOD_WATCH_H
#define CLEARPOD_WATCH_H

#include "spec.h"

#include <stdint.h>

int64_t now_ms(void); /* monotonic */
void watch_begin(const struct launch_spec *spec);
/* What to poll for input, -1: nothing now; and for how long at most, -1: without a limit. */
int watch_fd(void);
int watch_limit_ms(void);
/* After poll. `rings`: there was input. */
void watch_step(int rings);
/* The VM is over: what it has written last. */
void watch_end(void);

#endif
