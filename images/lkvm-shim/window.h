/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The window's control socket: a unix socket (SOCK_SEQPACKET) where the pod's owner maps images into a running VM, served by a thread
 * of its own. A request is one message, "map OFFSET BYTES" with the file's descriptor (SCM_RIGHTS) or "unmap OFFSET BYTES"; the
 * answer is "ok" or one sentence. Peers are root and the VMM's own user; others are hung up on. A socket that was handed to us has
 * peers who could reach it, and our user namespace may have no number for them.
 */
#ifndef CLEARPOD_SHIM_WINDOW_H
#define CLEARPOD_SHIM_WINDOW_H

#include "fault.h"
#include "region.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct window {
    struct region region;
    pthread_t thread;
    int listener;
    bool is_given;
};

struct request {
    bool is_map;
    uint64_t offset, bytes;
};

/* Bind `socket_path` (it must not exist; mode 0600) and start the thread. `window->region` is reserved already. With `given`,
 * the number of a descriptor that listens, nothing is bound; NULL without. */
int window_open(struct window *window, const char *socket_path, const char *given, struct fault *why);
/* End the thread; what is mapped stays. For tests: in a VMM the thread lives as long as the process. */
void window_close(struct window *window);
/* False: not a request. Pure. */
bool window_parse(const char *text, struct request *request);

#endif
