/* SPDX-License-Identifier: Apache-2.0 */
/* See pump.h. */
#include "pump.h"

#include "base/files.h"
#include "base/scope.h"
#include "loop/endpoint.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum {
    HEADER = 8,
    MAX_WRITE = 256 << 10,
    MESSAGE = HEADER + 4096 + MAX_WRITE, /* the longest, with what /dev/fuse puts before the bytes of a write */
    FUSE_REPLY = 16,                     /* the shortest reply */
    SLOT_BITS = 9,
    VOLUMES = 1 << SLOT_BITS,
    USES = 7,         /* of a slot, with a number for each; the highest is 4095, the host's */
    LARGE = 64 << 10, /* buffers of which more was used are given back after a rest */
    REST_MS = 2000,
    FORGET_MS = 200,  /* between two times */
    REACH_MS = 20000, /* for the host's end of the stream */
    REACH_STEP_MS = 5
};
enum { ATTACH = 1, DETACH = 2, FORGET = 3 };
enum { PORT, LISTENER, CLIENT }; /* in the epoll, where each other number is that of a volume */

struct request {
    uint32_t length, volume;
    uint16_t opcode, zero;
    uint32_t subject;
    char path[PUMP_NAME];
};

struct answer {
    uint16_t opcode, zero;
    uint32_t subject;
    int32_t error;
    uint32_t mode;
};

struct volume {
    int fuse;        /* -1: the slot is free, unless it is being attached or left */
    uint32_t number; /* the slot in its low bits; those above differ each time that it is used */
    enum { FREE, ATTACHING, MOUNTING, MOUNTED, LEAVING } state;
};

struct buffer {
    size_t length, done, most;
    _Alignas(4096) char bytes[MESSAGE];
};

static struct pump {
    int port, listener, client, epoll;
    struct volume *asked; /* what the client wants attached */
    char name[PUMP_NAME];
    bool must_ask;
    unsigned leaving, used; /* slots in that state, and those that are not free */
    uint32_t uses;
    uint64_t forgot_ms;
    struct volume volumes[VOLUMES];
} pump;
static struct buffer out, in;

static void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void say(const char *format, ...)
{
    va_list args;
    scoped_fd int console = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
    va_start(args, format);
    if (console >= 0)
        vdprintf(console, format, args);
    va_end(args);
}

/* Programs that wait for a volume would wait for ever, and others believe that they have written. */
static void end_vm(const char *what) __attribute__((noreturn));
static void end_vm(const char *what)
{
    if (pump.used) {
        say("clearpod-pump: %s, so this guest ends\n", what);
        reboot(RB_AUTOBOOT);
    }
    _exit(0); /* nothing is lost; in a copy of a guest the next volume starts another pump */
}

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static struct volume *find(uint32_t number)
{
    struct volume *volume = &pump.volumes[number & (VOLUMES - 1)];
    return volume->state != FREE && volume->number == number ? volume : NULL;
}

static struct volume *new_volume(void)
{
    for (uint32_t slot = 0; slot < VOLUMES; slot++)
        if (pump.volumes[slot].state == FREE) {
            pump.uses = pump.uses % USES + 1;
            pump.used++;
            pump.volumes[slot] = (struct volume){-1, pump.uses << SLOT_BITS | slot, ATTACHING};
            return &pump.volumes[slot];
        }
    return NULL;
}

static void leave(struct volume *volume)
{
    close_fd(&volume->fuse); /* an epoll forgets what is closed */
    volume->state = LEAVING;
    pump.leaving++;
}

/* -- to the host -- */

static void put_request(uint16_t opcode, uint32_t subject, const char *path)
{
    struct request request = {.opcode = opcode, .subject = subject};
    size_t length = strlen(path);
    memcpy(request.path, path, length);
    request.length = (uint32_t)(offsetof(struct request, path) + length);
    memcpy(out.bytes, &request, request.length);
    out.length = request.length;
}

static void put_leave(void)
{
    for (struct volume *volume = pump.volumes;; volume++)
        if (volume->state == LEAVING) {
            put_request(DETACH, volume->number, "");
            volume->state = FREE;
            pump.leaving--;
            pump.used--;
            return;
        }
}

/* The next request of a file system. */
static void put_fuse(struct volume *volume)
{
    ssize_t got = read(volume->fuse, out.bytes + HEADER, sizeof out.bytes - HEADER);
    if (got > 0) {
        const uint32_t header[2] = {(uint32_t)(HEADER + got), volume->number};
        memcpy(out.bytes, header, HEADER);
        out.length = (size_t)(HEADER + got);
    } else if (got == 0 || errno == ENODEV || errno == EPERM) {
        leave(volume); /* unmounted everywhere */
    }
}

static void put_own(void)
{
    if (pump.leaving) {
        put_leave();
    } else if (pump.must_ask) {
        put_request(ATTACH, pump.asked->number, pump.name);
        pump.must_ask = false;
    }
}

static void send_out(void)
{
    out.most = out.length > out.most ? out.length : out.most;
    while (out.length) {
        ssize_t put = write(pump.port, out.bytes + out.done, out.length - out.done);
        if (put < 0 && errno == EINTR)
            continue;
        if (put < 0 && errno == EAGAIN)
            return;
        if (put <= 0)
            end_vm("the host's server of volumes takes no more");
        out.done += (size_t)put;
        if (out.done == out.length)
            out.length = out.done = 0;
    }
}

static void watch(int fd, uint32_t what, uint32_t how)
{
    struct epoll_event event = {.events = EPOLLIN | how, .data.u32 = what};
    if (epoll_ctl(pump.epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
        say("clearpod-pump: epoll_ctl: %s\n", strerror(errno));
        _exit(1);
    }
}

/* One client at a time is heard; the others wait in the listener's queue. */
static void take_client(void)
{
    if (pump.client < 0 && (pump.client = accept4(pump.listener, NULL, NULL, SOCK_CLOEXEC)) >= 0)
        watch(pump.client, CLIENT, 0);
}

/* -- from the host -- */

static void forget_client(void)
{
    close_fd(&pump.client);
    if (pump.asked && pump.asked->state == ATTACHING && pump.must_ask) { /* the host knows nothing of it */
        pump.asked->state = FREE;
        pump.used--;
    } else if (pump.asked && pump.asked->state == MOUNTING) {
        leave(pump.asked);
    } /* else its answer finds nobody, and it leaves then */
    pump.asked = NULL;
    pump.must_ask = false;
    take_client();
}

/* The host is short of descriptors for what the guest knows but does not use. A process of its own has the kernel forget that:
 * it may have to wait for what goes through here. */
static void forget_unused(void)
{
    uint64_t now = now_ms();
    if (now - pump.forgot_ms < FORGET_MS)
        return;
    pump.forgot_ms = now;
    if (fork() == 0) {
        file_write("/proc/sys/vm/drop_caches", "2");
        _exit(0);
    }
}

static void take_answer(const char *body, size_t length)
{
    struct answer answer;
    if (length != sizeof answer)
        end_vm("the host's server of volumes has sent what is no answer");
    memcpy(&answer, body, sizeof answer);
    if (answer.opcode == FORGET)
        forget_unused();
    struct volume *volume = find(answer.subject);
    if (answer.opcode != ATTACH || !volume || volume->state != ATTACHING)
        return; /* of a volume that has left */
    struct attached told = {-answer.error, answer.mode};
    volume->state = MOUNTING;
    if (answer.error) {
        volume->state = FREE;
        pump.used--;
    } else if (volume != pump.asked) {
        leave(volume);
    }
    if (volume != pump.asked)
        return;
    if (answer.error)
        pump.asked = NULL;
    if (send(pump.client, &told, sizeof told, MSG_NOSIGNAL) < 0 || answer.error)
        forget_client();
}

/* An error is that of one request whose program was killed, or of a file system that is gone. */
static void take_message(uint32_t number, const char *body, size_t length)
{
    struct volume *volume = number ? find(number) : NULL;
    if (!number)
        take_answer(body, length);
    else if (volume && volume->state == MOUNTED && length >= FUSE_REPLY && write(volume->fuse, body, length) < 0)
        return;
}

static void take_messages(void)
{
    uint32_t header[2];
    size_t at = 0;
    for (; in.length - at >= HEADER; at += header[0]) {
        memcpy(header, in.bytes + at, HEADER);
        if (header[0] < HEADER || header[0] > MESSAGE)
            end_vm("the host's server of volumes has sent what is no message");
        if (in.length - at < header[0])
            break;
        take_message(header[1], in.bytes + at + HEADER, header[0] - HEADER);
    }
    memmove(in.bytes, in.bytes + at, in.length - at);
    in.length -= at;
}

static void receive(void)
{
    ssize_t got = read(pump.port, in.bytes + in.length, sizeof in.bytes - in.length);
    if (got == 0 || (got < 0 && errno != EAGAIN && errno != EINTR))
        end_vm("the host's server of volumes has ended");
    if (got < 0)
        return;
    in.length += (size_t)got;
    in.most = in.length > in.most ? in.length : in.most;
    take_messages();
}

/* -- from who mounts -- */

static void refuse(int error)
{
    struct attached told = {error, 0};
    send(pump.client, &told, sizeof told, MSG_NOSIGNAL);
    forget_client();
}

static void take_fuse(int fuse)
{
    struct volume *volume = pump.asked;
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = volume->number};
    volume->fuse = fuse;
    if (epoll_ctl(pump.epoll, EPOLL_CTL_ADD, fuse, &event) < 0) {
        forget_client();
        return;
    }
    volume->state = MOUNTED;
    send(pump.client, "m", 1, MSG_NOSIGNAL);
    pump.asked = NULL;
    forget_client();
}

static void hear_client(void)
{
    union {
        struct cmsghdr header;
        char buffer[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec piece = {pump.name, sizeof pump.name - 1};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = sizeof control.buffer};
    ssize_t got = recvmsg(pump.client, &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    struct cmsghdr *sent = got > 0 ? CMSG_FIRSTHDR(&message) : NULL;
    int fuse = -1;
    if (sent && sent->cmsg_type == SCM_RIGHTS)
        memcpy(&fuse, CMSG_DATA(sent), sizeof fuse);
    if (got < 0 && errno == EAGAIN)
        return;
    if (got > 0 && pump.asked && pump.asked->state == MOUNTING && fuse >= 0) {
        take_fuse(fuse);
        return;
    }
    close_fd(&fuse);
    if (got <= 0 || pump.asked) {
        forget_client();
        return;
    }
    pump.name[got] = 0;
    pump.asked = new_volume();
    pump.must_ask = pump.asked != NULL;
    if (!pump.asked)
        refuse(ENFILE);
}

/* -- */

static bool open_port(unsigned port)
{
    struct pollfd state = {.events = POLLIN | POLLOUT};
    if (pump.port < 0)
        pump.port = port ? connect_vsock(port) : open_serial("clearpod.volumes", O_NONBLOCK);
    state.fd = pump.port;
    if (pump.port < 0)
        return false;
    bool is_known = poll(&state, 1, REACH_STEP_MS) > 0;
    if (is_known && (port ? connection_state(pump.port) == 0 : !(state.revents & POLLHUP)))
        return true;
    if (port && is_known)
        close_fd(&pump.port);
    return false;
}

/* The host's end may come a moment later than what made us start. */
static void reach_host(unsigned port)
{
    uint64_t until = now_ms() + REACH_MS;
    while (!open_port(port)) {
        if (now_ms() > until) {
            say("clearpod-pump: the host's server of volumes can't be reached\n");
            _exit(1);
        }
        usleep(REACH_STEP_MS * 1000);
    }
}

/* What a large transfer has used of the buffers is not kept for the next one. */
static void rest(void)
{
    if (out.most > LARGE && !out.length)
        madvise(out.bytes, sizeof out.bytes, MADV_DONTNEED);
    if (in.most > LARGE && !in.length)
        madvise(in.bytes, sizeof in.bytes, MADV_DONTNEED);
    out.most = in.most = 0;
}

/* While a message waits for room in the port nothing else is heard but what comes from there. */
static void wait_for_room(void)
{
    struct pollfd port = {.fd = pump.port, .events = POLLIN | POLLOUT};
    if (poll(&port, 1, -1) > 0 && port.revents & (POLLIN | POLLHUP | POLLERR))
        receive();
}

static void turn(void)
{
    struct epoll_event events[8];
    bool is_large = out.most > LARGE || in.most > LARGE;
    int count = epoll_wait(pump.epoll, events, sizeof events / sizeof *events, is_large ? REST_MS : -1);
    if (count == 0)
        rest();
    for (int i = 0; i < count; i++) {
        struct volume *volume = find(events[i].data.u32);
        if (events[i].data.u32 == PORT)
            receive();
        else if (events[i].data.u32 == CLIENT && pump.client >= 0)
            hear_client();
        else if (events[i].data.u32 == LISTENER)
            take_client();
        else if (volume && volume->state == MOUNTED && !out.length)
            put_fuse(volume);
        if (!out.length)
            put_own();
        for (send_out(); out.length; send_out())
            wait_for_room();
    }
    while (pump.leaving || pump.must_ask) {
        put_own();
        for (send_out(); out.length; send_out())
            wait_for_room();
    }
}

void pump_main(int listener, unsigned port)
{
    pump.port = pump.client = -1;
    pump.listener = listener;
    pump.epoll = epoll_create1(EPOLL_CLOEXEC);
    /* Memory that the kernel wants back from a file system may have to go through here. */
    prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGCHLD, SIG_IGN);
    reach_host(port);
    fcntl(listener, F_SETFL, O_NONBLOCK);
    watch(pump.port, PORT, 0);
    watch(listener, LISTENER, EPOLLET);
    for (;;)
        turn();
}
