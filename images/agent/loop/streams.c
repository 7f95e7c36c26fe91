/* SPDX-License-Identifier: Apache-2.0 */
/* See streams.h. */
#include "loop/streams.h"

#include "base/files.h"
#include "loop/loop.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static unsigned index_of(const struct process *process)
{
    return (unsigned)(process - processes);
}

static struct process *owner_of(uint32_t stream)
{
    for (unsigned i = 0; stream && i < process_count(); i++) {
        struct process *p = &processes[i];
        if (p->state != P_FREE && (p->in.id == stream || p->out[0].id == stream || p->out[1].id == stream))
            return p;
    }
    return NULL;
}

static bool is_taken(const clearpod_agent_Stdio *stdio)
{
    const uint32_t ids[3] = {stdio->stdin, stdio->stdout, stdio->tty ? 0 : stdio->stderr};
    for (int i = 0; i < 3; i++)
        if (ids[i] && (owner_of(ids[i]) || ids[i] == ids[(i + 1) % 3]))
            return true;
    return false;
}

int streams_open(struct process *process, const clearpod_agent_Stdio *stdio, struct fault *why)
{
    if (is_taken(stdio))
        return fault_set(why, FAULT_EXISTS, "a stream of %s is in use already", process->container);
    if (stdio->stdin) {
        void *buffer =
            mmap(NULL, INPUT_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (buffer == MAP_FAILED)
            return fault_errno(why, "no memory for the stdin of %s", process->container);
        process->in.buffer = buffer;
    }
    process->stdio = *stdio;
    process->in.id = stdio->stdin;
    process->out[0].id = stdio->stdout;
    process->out[1].id = stdio->tty ? 0 : stdio->stderr;
    process->out[0].credit = process->out[1].credit = INITIAL_CREDIT;
    return 0;
}

void streams_attach(struct process *process, int ends[3])
{
    int *to[3] = {&process->in.fd, &process->out[0].fd, &process->out[1].fd};
    for (int i = 0; i < 3; i++) {
        if (ends[i] >= 0)
            fcntl(ends[i], F_SETFL, fcntl(ends[i], F_GETFL) | O_NONBLOCK);
        *to[i] = ends[i];
        ends[i] = -1;
    }
}

int streams_attach_tty(struct process *process, int tty, struct fault *why)
{
    int ends[3] = {-1, tty, -1};
    if (process->in.id && (ends[0] = fcntl(tty, F_DUPFD_CLOEXEC, 0)) < 0) {
        close(tty);
        return fault_errno(why, "dup of the terminal of %s", process->container);
    }
    streams_attach(process, ends);
    return 0;
}

static void close_watched(int *fd, bool *polled)
{
    if (*fd < 0)
        return;
    if (*polled)
        unwatch(*fd);
    close(*fd);
    *fd = -1;
    *polled = false;
}

static void output_end(struct output *out)
{
    close_watched(&out->fd, &out->polled);
    out->end_due = out->id != 0;
}

static void input_close(struct input *in)
{
    close_watched(&in->fd, &in->polled);
    in->consumed += in->size; /* without a reader; the host gets its credit back */
    in->size = 0;
}

void streams_retract(struct process *process)
{
    close_watched(&process->in.fd, &process->in.polled);
    for (int i = 0; i < 2; i++)
        close_watched(&process->out[i].fd, &process->out[i].polled);
}

void streams_close(struct process *process)
{
    streams_retract(process);
    if (process->in.buffer)
        munmap(process->in.buffer, INPUT_BYTES);
    process->in.buffer = NULL;
    process->in.id = process->out[0].id = process->out[1].id = 0;
}

void streams_abandon(struct process *process)
{
    for (int i = 0; i < 2; i++)
        if (process->out[i].fd >= 0)
            output_end(&process->out[i]);
}

void streams_drain(struct process *process)
{
    for (int i = 0; i < 2; i++) {
        struct output *out = &process->out[i];
        if (out->fd < 0)
            continue;
        out->left = (uint32_t)unread_bytes(out->fd);
        out->draining = true;
        if (!out->left)
            output_end(out);
    }
}

/* How much of this output may be read now. */
static size_t output_credit(const struct output *out)
{
    size_t available = ring_free(&agent.link.ring);
    if (available < RING_RESERVE + FRAME_HEADER + DATA_MAX)
        return 0;
    size_t most = out->draining && out->left < DATA_MAX ? out->left : DATA_MAX;
    return out->credit < most ? out->credit : most;
}

bool streams_moved(struct process *process)
{
    bool moved = false;
    for (int i = 0; i < 2; i++) {
        struct output *out = &process->out[i];
        moved |= out->moved || (out->fd >= 0 && !output_credit(out) && unread_bytes(out->fd) > 0);
        out->moved = false;
    }
    return moved;
}

bool streams_ended(const struct process *process)
{
    for (int i = 0; i < 2; i++)
        if (process->out[i].fd >= 0 || process->out[i].end_due)
            return false;
    return true;
}

/* An app's output without a reader is discarded; no host will come to read it. */
static bool is_lossy(const struct process *process)
{
    return agent.arguments.plan && !process->exec;
}

void output_ready(struct process *process, unsigned which)
{
    struct output *out = &process->out[which];
    size_t available = output_credit(out);
    uint8_t lost[1024];
    struct iovec piece[2] = {{lost, out->draining && out->left < sizeof lost ? out->left : sizeof lost}};
    if (out->fd < 0 || (!available && !is_lossy(process)))
        return;
    int count = available ? ring_space(&agent.link.ring, available, piece) : 1;
    ssize_t got = readv(out->fd, piece, count);
    out->moved |= got > 0;
    if (got > 0) {
        struct frame frame = {.length = (uint32_t)got, .kind = K_DATA, .stream = out->id};
        if (available) {
            ring_commit(&agent.link.ring, &frame);
            out->credit -= (uint32_t)got;
        }
        out->left -= out->draining ? (uint32_t)got : 0;
        if (out->draining && !out->left)
            output_end(out);
    } else if (got == 0 || (errno != EAGAIN && errno != EINTR)) {
        output_end(out); /* a terminal returns EIO once it is not open any more */
    } else if (out->draining && errno == EAGAIN) {
        output_end(out);
    }
}

void input_ready(struct process *process)
{
    struct input *in = &process->in;
    while (in->fd >= 0 && in->size) {
        size_t run = INPUT_BYTES - in->at < in->size ? INPUT_BYTES - in->at : in->size;
        ssize_t put = write(in->fd, in->buffer + in->at, run);
        if (put < 0 && (errno == EAGAIN || errno == EINTR))
            return;
        if (put < 0) { /* the reader is gone */
            input_close(in);
            return;
        }
        in->at = (in->at + (uint32_t)put) % INPUT_BYTES;
        in->size -= (uint32_t)put;
        in->consumed += (uint32_t)put;
    }
    if (in->fd >= 0 && in->ended && !in->size && !process->stdio.tty) {
        if (process->connection)
            shutdown(in->fd, SHUT_WR); /* the output's descriptor is the same socket */
        close_watched(&in->fd, &in->polled);
    }
}

/* Further writes get EPIPE, as where the reader is a process. Terminals and containers continue. */
static void cut_output(struct process *process, uint32_t stream)
{
    for (int i = 0; process->exec && !process->stdio.tty && !process->connection && i < 2; i++)
        if (process->out[i].id == stream && process->out[i].fd >= 0)
            output_end(&process->out[i]);
}

void streams_on_data(uint32_t stream, bool end, const uint8_t *bytes, size_t size)
{
    struct process *process = owner_of(stream);
    if (!process || process->in.id != stream) {
        if (process && end)
            cut_output(process, stream);
        return;
    }
    struct input *in = &process->in;
    size_t available = INPUT_BYTES - in->size;
    in->ended |= end;
    if (size > available) /* more than was credited; see docs/dev/link.md about epochs */
        size = available;
    for (size_t done = 0; done < size;) {
        size_t to = (in->at + in->size) % INPUT_BYTES;
        size_t run = INPUT_BYTES - to < size - done ? INPUT_BYTES - to : size - done;
        memcpy(in->buffer + to, bytes + done, run);
        in->size += (uint32_t)run;
        done += run;
    }
    if (in->fd < 0 && process->state != P_CREATED && process->state != P_STARTING)
        input_close(in);
    input_ready(process);
}

void streams_on_credit(uint32_t stream, uint32_t bytes)
{
    struct process *process = owner_of(stream);
    for (int i = 0; process && i < 2; i++) {
        struct output *out = &process->out[i];
        if (out->id == stream)
            out->credit = bytes > UINT32_MAX - out->credit ? UINT32_MAX : out->credit + bytes;
    }
}

void streams_new_epoch(void)
{
    for (unsigned i = 0; i < process_count(); i++) {
        struct process *process = &processes[i];
        process->in.consumed = 0;
        process->in.foreign = process->in.size; /* not of the new host's credit */
        for (int k = 0; process->state != P_FREE && k < 2; k++) {
            size_t resent = ring_data_of(&agent.link.ring, process->out[k].id);
            process->out[k].credit = resent < INITIAL_CREDIT ? (uint32_t)(INITIAL_CREDIT - resent) : 0;
        }
    }
}

static void sync_output(struct process *process, unsigned which)
{
    struct output *out = &process->out[which];
    if (out->end_due) {
        struct frame frame = {.kind = K_DATA, .flags = FLAG_END, .stream = out->id};
        out->end_due = !link_send(&agent.link, &frame, NULL);
    }
    if (out->fd < 0 || process->state == P_STARTING)
        return; /* crun's own errors are no output */
    bool is_read = output_credit(out) || is_lossy(process);
    if (is_read && !out->polled)
        out->polled = watch(out->fd, EPOLLIN, which ? T_OUT1 : T_OUT0, index_of(process)) == 0;
    else if (!is_read && out->polled)
        out->polled = (unwatch(out->fd), false);
}

static void sync_input(struct process *process)
{
    struct input *in = &process->in;
    uint32_t void_bytes = in->consumed < in->foreign ? in->consumed : in->foreign;
    in->consumed -= void_bytes;
    in->foreign -= void_bytes;
    if (in->id && in->consumed && (in->consumed >= INITIAL_CREDIT / 4 || !in->size)) {
        uint8_t payload[4];
        struct frame frame = {.length = 4, .kind = K_CREDIT, .stream = in->id};
        put_u32(payload, in->consumed);
        if (link_send(&agent.link, &frame, payload))
            in->consumed = 0;
    }
    if (in->fd < 0)
        return;
    if (in->ended && !in->size)
        input_ready(process);
    if (in->fd < 0)
        return;
    if (in->size && !in->polled)
        in->polled = watch(in->fd, EPOLLOUT, T_IN, index_of(process)) == 0;
    else if (!in->size && in->polled)
        in->polled = (unwatch(in->fd), false);
}

void streams_sync(struct process *process)
{
    sync_input(process);
    sync_output(process, 0);
    sync_output(process, 1);
}
