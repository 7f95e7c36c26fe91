/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Moves data over TCP, UDP and SCTP and checks every byte of it. Runs in pods, in other network namespaces and on the
 * host, for tests/cri and tests/bench. No library but the C library, since it is static.
 *
 *   net_probe serve                        until it is killed: TCP and SCTP on port 7000, UDP echo on port 7000
 *   net_probe get|put HOST PORT MIB        that many MiB over TCP from or to a server
 *   net_probe udp HOST PORT SIZE COUNT     datagrams there and back, one at a time, each within a second
 *   net_probe sctp HOST PORT SIZE COUNT    messages there and back over one association
 *
 * It prints "BYTES NANOSECONDS" of what it moved, and ends with 1 and a sentence when a byte was wrong or none came.
 * The data is a sequence of random-looking words; a server that was sent some answers with its checksum.
 */
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PORT = 7000, CHUNK = 1 << 18, MIB = 1 << 20, WAIT_S = 60 };

struct order {
    uint64_t is_get, bytes;
};

static uint64_t buffer[CHUNK / 8];

static void die(const char *what)
{
    fprintf(stderr, "net_probe: %s: %s\n", what, strerror(errno));
    exit(1);
}

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

static uint64_t added(uint64_t sum, const uint64_t *words, size_t count)
{
    for (size_t i = 0; i < count; i++)
        sum = sum * 0x9e3779b97f4a7c15 + words[i];
    return sum;
}

static void send_all(int fd, const void *data, size_t size)
{
    while (size > 0) {
        ssize_t done = send(fd, data, size, MSG_NOSIGNAL);
        if (done < 0)
            die("send");
        data = (const char *)data + done;
        size -= (size_t)done;
    }
}

static void take_all(int fd, void *data, size_t size)
{
    while (size > 0) {
        ssize_t done = recv(fd, data, size, 0);
        errno = done == 0 ? ECONNRESET : errno;
        if (done <= 0)
            die("receive");
        data = (char *)data + done;
        size -= (size_t)done;
    }
}

/* Sends so many bytes, a multiple of CHUNK; returns their checksum. */
static uint64_t pour(int fd, uint64_t bytes)
{
    uint64_t state = 88172645463325252, sum = 0;
    for (; bytes > 0; bytes -= CHUNK) {
        for (size_t i = 0; i < CHUNK / 8; i++)
            buffer[i] = next(&state);
        sum = added(sum, buffer, CHUNK / 8);
        send_all(fd, buffer, CHUNK);
    }
    return sum;
}

static uint64_t drink(int fd, uint64_t bytes)
{
    uint64_t sum = 0;
    for (; bytes > 0; bytes -= CHUNK) {
        take_all(fd, buffer, CHUNK);
        sum = added(sum, buffer, CHUNK / 8);
    }
    return sum;
}

/* A child that ends with us. */
static int child(void)
{
    if (fork() != 0)
        return 0;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    return 1;
}

static void serve_one(int fd)
{
    struct order order;
    take_all(fd, &order, sizeof order);
    uint64_t sum = order.is_get ? pour(fd, order.bytes) : drink(fd, order.bytes);
    send_all(fd, &sum, sizeof sum);
}

static int bound(int kind, int protocol)
{
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(PORT)};
    int on = 1, fd = socket(AF_INET6, kind, protocol);
    if (fd < 0)
        return -1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)(void *)&here, sizeof here) < 0)
        die("bind");
    if (kind != SOCK_DGRAM && listen(fd, 16) < 0)
        die("listen");
    return fd;
}

static void serve_streams(void)
{
    int listener = bound(SOCK_STREAM, IPPROTO_TCP);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        if (fd >= 0 && child()) {
            serve_one(fd);
            exit(0);
        }
        close(fd);
    }
}

static void serve_datagrams(void)
{
    struct sockaddr_in6 there;
    int fd = bound(SOCK_DGRAM, IPPROTO_UDP);
    for (;;) {
        socklen_t size = sizeof there;
        ssize_t length = recvfrom(fd, buffer, sizeof buffer, 0, (struct sockaddr *)(void *)&there, &size);
        if (length >= 0)
            sendto(fd, buffer, (size_t)length, 0, (struct sockaddr *)(void *)&there, size);
    }
}

/* A kernel without SCTP has nothing to serve. */
static void serve_messages(void)
{
    int listener = bound(SOCK_STREAM, IPPROTO_SCTP);
    while (listener >= 0) {
        int fd = accept(listener, NULL, NULL);
        for (ssize_t length; fd >= 0 && (length = recv(fd, buffer, sizeof buffer, 0)) > 0;)
            send_all(fd, buffer, (size_t)length);
        close(fd);
    }
    exit(0);
}

static void serve(void)
{
    signal(SIGCHLD, SIG_IGN);
    if (child())
        serve_datagrams();
    if (child())
        serve_messages();
    serve_streams();
}

static int connected(const char *host, const char *port, int kind, int protocol)
{
    struct addrinfo hints = {.ai_socktype = kind == SOCK_DGRAM ? SOCK_DGRAM : SOCK_STREAM}, *info;
    struct timeval limit = {.tv_sec = WAIT_S};
    if (getaddrinfo(host, port, &hints, &info) != 0)
        die(host);
    int fd = socket(info->ai_family, kind, protocol);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    if (connect(fd, info->ai_addr, info->ai_addrlen) < 0)
        die("connect");
    return fd;
}

static void transfer(int fd, struct order order)
{
    uint64_t sum, told;
    send_all(fd, &order, sizeof order);
    sum = order.is_get ? drink(fd, order.bytes) : pour(fd, order.bytes);
    take_all(fd, &told, sizeof told);
    errno = EBADMSG;
    if (sum != told)
        die("the checksum is wrong");
}

static void echo(int fd, size_t size, uint64_t count)
{
    static uint64_t back[CHUNK / 8];
    uint64_t state = 88172645463325252;
    for (; count > 0; count--) {
        for (size_t i = 0; i < size / 8; i++)
            buffer[i] = next(&state);
        send_all(fd, buffer, size);
        ssize_t length = recv(fd, back, sizeof back, 0);
        if (length < 0)
            die("receive");
        errno = EBADMSG;
        if ((size_t)length != size || memcmp(buffer, back, size) != 0)
            die("what came back is not what was sent");
    }
}

static int usage(void)
{
    fputs("usage: net_probe serve | get|put HOST PORT MIB | udp|sctp HOST PORT SIZE COUNT\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    struct timespec begun, ended;
    if (argc == 2 && strcmp(argv[1], "serve") == 0)
        serve();
    if (argc < 5)
        return usage();
    int is_udp = strcmp(argv[1], "udp") == 0, is_sctp = strcmp(argv[1], "sctp") == 0;
    uint64_t amount = strtoull(argv[4], NULL, 10), count = argc > 5 ? strtoull(argv[5], NULL, 10) : 1;
    int protocol = is_sctp ? IPPROTO_SCTP : is_udp ? IPPROTO_UDP : IPPROTO_TCP;
    int fd = connected(argv[2], argv[3], is_udp ? SOCK_DGRAM : SOCK_STREAM, protocol);
    clock_gettime(CLOCK_MONOTONIC, &begun);
    if (is_udp || is_sctp)
        echo(fd, amount, count);
    else
        transfer(fd, (struct order){strcmp(argv[1], "get") == 0, amount * MIB});
    clock_gettime(CLOCK_MONOTONIC, &ended);
    uint64_t bytes = is_udp || is_sctp ? 2 * amount * count : amount * MIB;
    int64_t ns = (ended.tv_sec - begun.tv_sec) * 1000000000LL + ended.tv_nsec - begun.tv_nsec;
    printf("%llu %lld\n", (unsigned long long)bytes, (long long)ns);
    return 0;
}
