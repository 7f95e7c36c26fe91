/* SPDX-License-Identifier: Apache-2.0 */
/* Opens what carries the link. Never blocks; called again until it works. */
#ifndef CLEARPOD_TRANSPORT_H
#define CLEARPOD_TRANSPORT_H

/* The virtio-serial port named clearpod.agent; -1 while it is not there. */
int open_serial(void);
/* A connection to `port` of the host that may still be under way; -1 with errno. */
int connect_vsock(unsigned port);
/* A unix socket to accept connections from, not blocking; -1 with errno. */
int listen_unix(const char *path);
/* 0 when a connection that was under way is made; -1 with errno. */
int connection_state(int fd);

#endif
