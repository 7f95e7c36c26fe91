/* SPDX-License-Identifier: Apache-2.0 */
/* The ends of connections with the host: opens devices and sockets. Never blocks; called again until it works. */
#ifndef CLEARPOD_ENDPOINT_H
#define CLEARPOD_ENDPOINT_H

/* The virtio-serial port of this name, opened with `flags`; -1 while it is not there. */
int open_serial(const char *port, int flags);
/* A connection to `port` of the host that may still be in progress; -1 with errno. */
int connect_vsock(unsigned port);
/* A port of the guest to accept connections on, not blocking; -1 with errno. */
int listen_vsock(unsigned port);
/* A unix socket to accept connections from, not blocking; -1 with errno. */
int listen_unix(const char *path);
/* 0 once a connection in progress is made; -1 with errno. */
int connection_state(int fd);

#endif
