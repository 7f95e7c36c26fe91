/* SPDX-License-Identifier: Apache-2.0 */
/* See carrier.h. */
#include "carrier.h"

#include "agent.h"
#include "transport.h"

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
} carrier = {.fd = -1, .retry_ms = FIRST_RETRY_MS};

static int listener = -1; /* where whoever has something to say connects: on a host, and to an autonomous pod */

static void retry_later(void)
{
    if (carrier.fd >= 0) {
        unwatch(carrier.fd);
        close(carrier.fd);
    }
    carrier.fd = -1;
    carrier.connecting = carrier.readable = carrier.writable = false;
    carrier.retry_at_ns = monotonic_ns() + (uint64_t)carrier.retry_ms * 1000000;
    if (listener >= 0)
        carrier.retry_at_ns = 0; /* the listener tells when somebody comes */
    if (carrier.retry_ms < LAST_RETRY_MS)
        carrier.retry_ms *= 2;
    link_reconnected(&agent.link);
}

int carrier_listen(const char *path, struct fault *why)
{
    listener = listen_unix(path);
    return listener < 0 ? fault_errno(why, "listen on %s", path) : 0;
}

int carrier_listen_vsock(unsigned from, struct fault *why)
{
    listener = listen_vsock(from);
    return listener < 0 ? fault_errno(why, "listen on port %u", from) : 0;
}

int carrier_watch_listener(void)
{
    return listener < 0 ? 0 : watch(listener, EPOLLIN | EPOLLET, T_LISTENER, 0);
}

void carrier_open(void)
{
    unsigned port = listener < 0 ? agent.words.vsock_port : 0;
    if (carrier.fd >= 0 || monotonic_ns() < carrier.retry_at_ns)
        return;
    if (listener >= 0)
        carrier.fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    else
        carrier.fd = port ? connect_vsock(port) : open_serial("clearpod.agent", O_NONBLOCK);
    if (listener >= 0 && carrier.fd < 0)
        return;
    if (carrier.fd < 0 || watch(carrier.fd, EPOLLIN | EPOLLOUT | EPOLLET, T_LINK, 0) < 0) {
        retry_later();
        return;
    }
    carrier.connecting = port != 0;
    carrier.readable = carrier.writable = !port;
    if (!port)
        carrier.retry_ms = FIRST_RETRY_MS;
}

void carrier_event(uint32_t events)
{
    if (carrier.fd < 0)
        return;
    if (carrier.connecting && events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) {
        if (connection_state(carrier.fd) < 0) {
            retry_later();
            return;
        }
        carrier.connecting = false;
        carrier.retry_ms = FIRST_RETRY_MS;
    }
    carrier.readable |= (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) != 0;
    carrier.writable |= (events & EPOLLOUT) != 0;
}

/* The host's end is gone. A vsock or a socket is made anew. A port stays, gets an edge when the next host comes, and the link must
 * not be touched: news of the host going and coming may reach us later than the first bytes of the next one. */
static void hung_up(void)
{
    carrier.readable = false;
    if (agent.words.vsock_port || listener >= 0)
        retry_later();
    if (listener >= 0)
        carrier_open(); /* who came meanwhile: the listener has told us already */
}

void carrier_read(void)
{
    for (int i = 0; i < READS_PER_TURN && carrier.readable && !carrier.connecting; i++) {
        struct iovec room = link_room(&agent.link);
        ssize_t got = read(carrier.fd, room.iov_base, room.iov_len);
        if (got > 0)
            link_received(&agent.link, (size_t)got);
        else if (got < 0 && errno == EAGAIN)
            carrier.readable = false;
        else if (got == 0 || errno != EINTR)
            hung_up();
    }
}

void carrier_write(void)
{
    struct iovec piece[2];
    int count;
    while (carrier.writable && !carrier.connecting && (count = link_output(&agent.link, piece)) > 0) {
        ssize_t put = writev(carrier.fd, piece, count);
        if (put > 0)
            link_written(&agent.link, (size_t)put);
        else if (put < 0 && errno == EINTR)
            continue;
        else
            carrier.writable = false; /* the reading side finds out about errors */
    }
}

bool carrier_is_idle(void)
{
    struct iovec piece[2];
    return carrier.fd < 0 || link_output(&agent.link, piece) == 0;
}

int carrier_timeout_ms(void)
{
    uint64_t now = monotonic_ns();
    if (carrier.fd < 0 && listener >= 0)
        return -1;
    if (carrier.fd < 0)
        return carrier.retry_at_ns <= now ? 0 : (int)((carrier.retry_at_ns - now) / 1000000) + 1;
    return carrier.readable && !carrier.connecting ? 0 : -1;
}
