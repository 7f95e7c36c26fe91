/* SPDX-License-Identifier: Apache-2.0 */
/* Moves bytes between the link and its transport: a virtio-serial port, a vsock or a unix socket, which is opened again when it
 * broke. Called by main's loop only. */
#ifndef CLEARPOD_TRANSPORT_H
#define CLEARPOD_TRANSPORT_H

#include "base/fault.h"

#include <stdbool.h>
#include <stdint.h>

/* On a host, instead of a device: wait for the daemon on a unix socket, which is made. */
int transport_listen(const char *path, struct fault *why);
/* In an autonomous pod, which has no host to connect to. */
int transport_listen_vsock(unsigned from, struct fault *why);
int transport_watch_listener(void);
/* Open or connect if it is time to. */
void transport_open(void);
/* Handle epoll's events. Edge-triggered: a port without a host would stay readable. */
void transport_event(uint32_t events);
void transport_read(void);
void transport_write(void);
/* Nothing is left to write, or it can't be written. */
bool transport_is_idle(void);
/* Until the next transport_open or read has something to do; -1: only after an event. */
int transport_timeout_ms(void);

#endif
