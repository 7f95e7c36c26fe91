/* SPDX-License-Identifier: Apache-2.0 */
/* See records.h. */
#include "helpers/records.h"

#include "base/scope.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <termios.h>

void record_pack(uint8_t to[RECORD_HEADER], enum record_kind kind, size_t size)
{
    to[0] = (uint8_t)kind;
    to[1] = 0;
    to[2] = (uint8_t)size;
    to[3] = (uint8_t)(size >> 8);
}

int record_unpack(const uint8_t from[RECORD_HEADER], enum record_kind *kind)
{
    int size = from[2] | from[3] << 8;
    *kind = (enum record_kind)from[0];
    return from[0] < R_OUT || from[0] > R_SIZE || from[1] || size > RECORD_MAX ? -1 : size;
}

/* All of it, or false. */
static bool transfer(ssize_t (*call)(int, void *, size_t), int fd, uint8_t *at, size_t size)
{
    while (size) {
        ssize_t done = call(fd, at, size);
        if (done == 0 || (done < 0 && errno != EINTR))
            return false;
        at += done > 0 ? done : 0;
        size -= done > 0 ? (size_t)done : 0;
    }
    return true;
}

static ssize_t put_some(int fd, void *from, size_t size)
{
    return write(fd, from, size);
}

bool record_write(int port, uint8_t *record, size_t size)
{
    return transfer(put_some, port, record, RECORD_HEADER + size);
}

/* False: this source is at its end, which is recorded in a log. A record is one write, so that those of two helpers never
 * mix. */
static bool forward(const struct flow *flow, int i)
{
    uint8_t record[RECORD_HEADER + RECORD_MAX];
    ssize_t got = read(flow->sources[i], record + RECORD_HEADER, RECORD_MAX);
    if (got < 0 || (!got && !flow->log))
        return got < 0 && errno == EINTR;
    record_pack(record, i ? R_ERR : R_OUT, (size_t)got);
    record[1] = flow->log;
    bool is_sent = record_write(flow->port, record, (size_t)got);
    if (flow->log)
        transfer(put_some, flow->next[i], record + RECORD_HEADER, (size_t)got);
    return is_sent && got;
}

/* One record of the launcher's. False: there are no more. */
static bool receive(int port, int *sink)
{
    uint8_t header[RECORD_HEADER], payload[RECORD_MAX];
    enum record_kind kind;
    int size;
    if (!transfer(read, port, header, sizeof header) || (size = record_unpack(header, &kind)) < 0 ||
        !transfer(read, port, payload, (size_t)size))
        return false;
    if (kind == R_IN && *sink >= 0 && !transfer(put_some, *sink, payload, (size_t)size))
        close_fd(sink); /* there is no reader; continue, so that the launcher never blocks */
    if (kind == R_EOF)
        close_fd(sink);
    if (kind == R_SIZE && size == 4) {
        struct winsize window = {0}; /* rows and columns, as in the record */
        memcpy(&window, payload, 4);
        ioctl(*sink, TIOCSWINSZ, &window);
    }
    return true;
}

void records_move(struct flow flow, bool is_tty)
{
    bool listens = flow.sink >= 0;
    while (flow.sources[0] >= 0 || flow.sources[1] >= 0 || (listens && !is_tty)) {
        struct pollfd ready[3] = {{.fd = flow.sources[0], .events = POLLIN},
                                  {.fd = flow.sources[1], .events = POLLIN},
                                  {.fd = listens ? flow.port : -1, .events = POLLIN}};
        if (poll(ready, 3, -1) < 0)
            continue;
        for (int i = 0; i < 2; i++)
            if (ready[i].revents && !forward(&flow, i)) {
                close_fd(&flow.sources[i]);
                if (flow.log)
                    close_fd(&flow.next[i]);
            }
        if (ready[2].revents)
            listens = receive(flow.port, &flow.sink);
    }
}
