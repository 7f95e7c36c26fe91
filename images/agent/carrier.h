/* SPDX-License-Identifier: Apache-2.0 */
/* Moves bytes between the link and what carries it; opens it again when it broke. Called by main's loop only. */
#ifndef CLEARPOD_CARRIER_H
#define CLEARPOD_CARRIER_H

#include "fault.h"

#include <stdbool.h>
#include <stdint.h>

/* On a host, instead of a device: wait for the daemon on a unix socket, which is made. */
int carrier_listen(const char *path, struct fault *why);
/* In an autonomous pod, which has no host to connect to. */
int carrier_listen_vsock(unsigned from, struct fault *why);
int carrier_watch_listener(void);
/* Open or connect if it is time to. */
void carrier_open(void);
/* epoll has something to say about it. Edges only: a port without a host would be readable for ever. */
void carrier_event(uint32_t events);
void carrier_read(void);
void carrier_write(void);
/* Nothing is left to write, or there is no way to. */
bool carrier_is_idle(void);
/* Until the next carrier_open or read has something to do; -1: only an event can tell. */
int carrier_timeout_ms(void);

#endif
