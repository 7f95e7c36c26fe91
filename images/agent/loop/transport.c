/* SPDX-License-Identifier: Apache-2.0 */
/* See transport.h. */
#include "loop/transport.h"

#include "loop/endpoint.h"
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { READS_PER_TURN = 4, FIRST_RETRY_MS = 1, LAST_RETRY_MS = 100 };

static struct {
    int fd;
    bool connecting, readable, writable;
    int retry_ms;
    uint64_t retry_at_ns;
} transport = {.fd = -1, .retry_ms = FIRST_RETRY_MS};

static int listener = -1; /* for clients of an agent on a host, and of an autonomous pod */

static void retry_later(void)
{
    if (transport.fd >= 0) {
        unwatch(transport.fd);
        close(transport.fd);
    }
    transport.fd = -1;
    transport.connecting = transport.readable = transport.writable = false;
    transport.retry_at_ns = monotonic_ns() + (uint64_t)transport.retry_ms * 1000000;
    if (listener >= 0)
        transport.retry_at_ns = 0; /* the listener becomes readable for the next client */
    if (transport.retry_ms < LAST_RETRY_MS)
        transport.retry_ms *= 2;
    link_reconnected(&agent.link);
}

int transport_listen(const char *path, struct fault *why)
{
    listener = listen_unix(path);
    return listener < 0 ? fault_errno(why, "listen on %s", path) : 0;
}

int transport_listen_vsock(unsigned from, struct fault *why)
{
    listener = listen_vsock(from);
    return listener < 0 ? fault_errno(why, "listen on port %u", from) : 0;
}

int transport_watch_listener(void)
{
    return listener < 0 ? 0 : watch(listener, EPOLLIN | EPOLLET, T_LISTENER, 0);
}

void transport_open(void)
{
    unsigned port = listener < 0 ? agent.arguments.vsock_port : 0;
    if (transport.fd >= 0 || monotonic_ns() < transport.retry_at_ns)
        return;
    if (listener >= 0)
        transport.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    else
        transport.fd = port ? connect_vsock(port) : open_serial("clearpod.agent", O_NONBLOCK);
    if (listener >= 0 && transport.fd < 0)
        return;
    if (transport.fd < 0 || watch(transport.fd, EPOLLIN | EPOLLOUT | EPOLLET, T_LINK, 0) < 0) {
        retry_later();
        return;
    }
    transport.connecting = port != 0;
    transport.readable = transport.writable = !port;
    if (!port)
        transport.retry_ms = FIRST_RETRY_MS;
}

void transport_event(uint32_t events)
{
    if (transport.fd < 0)
        return;
    if (transport.connecting && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        if (connection_state(transport.fd) < 0) {
            retry_later();
            return;
        }
        transport.connecting = false;
        transport.retry_ms = FIRST_RETRY_MS;
    }
    transport.readable |= (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
    transport.writable |= (events & EPOLLOUT) != 0;
}

/* The host's end is gone. A vsock or a socket is made anew. A port stays, gets an edge when the next host comes, and the link must
 * not be touched: events of a host's end and start may arrive after the first bytes of the next one. */
static void hung_up(void)
{
    transport.readable = false;
    if (agent.arguments.vsock_port || listener >= 0)
        retry_later();
    if (listener >= 0)
        transport_open(); /* a client that came meanwhile: its event was consumed already */
}

void transport_read(void)
{
    for (int i = 0; i < READS_PER_TURN && transport.readable && !transport.connecting; i++) {
        struct iovec space = link_space(&agent.link);
        ssize_t got = read(transport.fd, space.iov_base, space.iov_len);
        if (got > 0)
            link_received(&agent.link, (size_t)got);
        else if (got < 0 && errno == EAGAIN)
            transport.readable = false;
        else if (got == 0 || errno != EINTR)
            hung_up();
    }
}

void transport_write(void)
{
    struct iovec piece[2];
    int count;
    while (transport.writable && !transport.connecting && (count = link_output(&agent.link, piece)) > 0) {
        ssize_t put = writev(transport.fd, piece, count);
        if (put > 0)
            link_written(&agent.link, (size_t)put);
        else if (put < 0 && errno == EINTR)
            continue;
        else
            transport.writable = false; /* the reading side finds out about errors */
    }
}

bool transport_is_idle(void)
{
    struct iovec piece[2];
    return transport.fd < 0 || link_output(&agent.link, piece) == 0;
}

int transport_timeout_ms(void)
{
    if (transport.fd < 0)
        return listener < 0 ? ms_until(transport.retry_at_ns) : -1;
    return transport.readable && !transport.connecting ? 0 : -1;
}
