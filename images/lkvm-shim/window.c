/* SPDX-License-Identifier: Apache-2.0 */
/* See window.h. */
#include "window.h"

#include "plan.h"

#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { TEXT_MAX = 128, ANSWER_S = 2 };

/* A message as it came; `fd` is -1 without one. */
struct message {
    char text[TEXT_MAX];
    int fd;
    bool is_whole;
};

bool window_parse(const char *text, struct request *request)
{
    request->is_map = strncmp(text, "map ", 4) == 0;
    if (!request->is_map && strncmp(text, "unmap ", 6) != 0)
        return false;
    text += request->is_map ? 4 : 6;
    return plan_number(&text, &request->offset) && *text++ == ' ' && plan_number(&text, &request->bytes) && *text == 0;
}

/* Takes one descriptor and closes others: the kernel may have installed as many as the padding has room for. */
static void take_descriptors(struct msghdr *header, struct message *message)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(header); c; c = CMSG_NXTHDR(header, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        for (size_t at = CMSG_LEN(0); at + sizeof(int) <= c->cmsg_len; at += sizeof(int)) {
            int fd;
            memcpy(&fd, (unsigned char *)c + at, sizeof fd);
            if (message->fd >= 0) {
                message->is_whole = false;
                close(fd);
            } else {
                message->fd = fd;
            }
        }
    }
}

/* False: the peer is gone, or silent for too long. */
static bool receive(int peer, struct message *message)
{
    union {
        char buffer[CMSG_SPACE(sizeof(int))];
        struct cmsghdr align;
    } control;
    struct iovec part = {message->text, TEXT_MAX - 1};
    struct msghdr header = {
        .msg_iov = &part, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = sizeof control.buffer};
    *message = (struct message){.fd = -1};
    ssize_t length = recvmsg(peer, &header, MSG_CMSG_CLOEXEC);
    if (length <= 0)
        return false;
    message->is_whole = !(header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) && strlen(message->text) == (size_t)length;
    take_descriptors(&header, message);
    return true;
}

/* On success the descriptor belongs to the region. */
static int obey(const struct window *window, struct message *message, struct fault *why)
{
    struct request request;
    if (!message->is_whole || !window_parse(message->text, &request))
        return fault_set(why, "not a request");
    if (request.is_map != (message->fd >= 0))
        return fault_set(why,
                         request.is_map ? "no descriptor of an image came along" : "a descriptor nobody asked for");
    if (!request.is_map)
        return region_unmap(&window->region, request.offset, request.bytes, why);
    if (region_map(&window->region, request.offset, request.bytes, message->fd, why) < 0)
        return -1;
    message->fd = -1;
    return 0;
}

static void converse(const struct window *window, int peer)
{
    const struct timeval patience = {.tv_sec = ANSWER_S};
    struct message message;
    setsockopt(peer, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(peer, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    while (receive(peer, &message)) {
        struct fault why = {"ok"};
        obey(window, &message, &why);
        if (message.fd >= 0)
            close(message.fd);
        if (send(peer, why.text, strlen(why.text), MSG_NOSIGNAL) < 0)
            return;
    }
}

static bool is_allowed(int peer)
{
    struct ucred who;
    socklen_t length = sizeof who;
    if (getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &who, &length) < 0)
        return false;
    return who.uid == 0 || who.uid == geteuid();
}

static void *serve(void *argument)
{
    const struct window *window = argument;
    for (;;) {
        int peer = accept4(window->listener, NULL, NULL, SOCK_CLOEXEC);
        if (peer < 0 && (errno == EINVAL || errno == EBADF))
            return NULL; /* window_close */
        if (peer < 0) {
            nanosleep(&(struct timespec){.tv_nsec = 10000000}, NULL); /* out of descriptors: no busy loop */
            continue;
        }
        if (window->is_given || is_allowed(peer))
            converse(window, peer);
        close(peer);
    }
}

static int listen_at(const char *path, struct fault *why)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return fault_set(why, "the socket's path is longer than %zu bytes: %s", sizeof address.sun_path - 1, path);
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    /* fchmod before bind: the socket never has a wider mode, and the VMM's umask is left alone. */
    if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, 4) < 0) {
        fault_set(why, "the window's socket %s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return -1;
    }
    return fd;
}

/* Without any signal: those of the VMM are for its own threads. */
static int start_thread(struct window *window)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&window->thread, NULL, serve, window);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
}

static int take_listener(const char *text, struct fault *why)
{
    uint64_t number;
    int listens = 0;
    socklen_t length = sizeof listens;
    const char *at = text;
    if (!plan_number(&at, &number) || *at || number > INT32_MAX)
        return fault_set(why, "'%s' is not the number of a descriptor", text);
    if (getsockopt((int)number, SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) < 0 || !listens)
        return fault_set(why, "descriptor %s is no socket that listens", text);
    return (int)number;
}

int window_open(struct window *window, const char *socket_path, const char *given, struct fault *why)
{
    window->is_given = given != NULL;
    window->listener = given ? take_listener(given, why) : listen_at(socket_path, why);
    if (window->listener < 0)
        return -1;
    int error = start_thread(window);
    if (error) {
        close(window->listener);
        if (!given)
            unlink(socket_path);
        return fault_set(why, "no thread for the window: %s", strerror(error));
    }
    return 0;
}

void window_close(struct window *window)
{
    shutdown(window->listener, SHUT_RDWR);
    pthread_join(window->thread, NULL);
    close(window->listener);
}
