/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Serves a pod's volumes to its guest by FUSE:   volume-server FD ROOT [CID]
 *
 * FD is the number of a descriptor with the stream to the guest, ROOT the directory below which the volumes are mounted. With CID the
 * descriptor is a listening socket of vsock, at which the guest of that number connects once. The server is in the jail of the pod's VMM, ends with the stream, and says why in one sentence on
 * standard error when that is not how it should be. README.md has the stream.
 */
#include "call.h"
#include "handles.h"
#include "nodes.h"
#include "requests.h"
#include "stream.h"
#include "volumes.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <linux/vm_sockets.h>

enum exit_code { ENDED = 0, CANT_BEGIN = 1, MALFORMED = 2, STREAM_BROKEN = 3 };

enum { THREADS_MAX = 8, DESCRIPTORS_KEPT = 64 /* for what is open during a request */ };

static atomic_int threads;

_Noreturn static void give_up(enum exit_code code, const char *what, const char *value, int error)
{
    fprintf(stderr, "volume-server: %s%s%s%s\n", what, value, error ? ": " : "", error ? strerror(error) : "");
    _exit(code);
}

_Noreturn static void end(enum stream_result why)
{
    if (why == STREAM_END)
        _exit(ENDED);
    if (why == STREAM_MALFORMED)
        give_up(MALFORMED, "the guest sent what is no message of a volume", "", 0);
    give_up(STREAM_BROKEN, "the stream to the guest broke", "", errno);
}

/* Touched only as far as a message needs it. */
static char *make_buffer(size_t size)
{
    char *made = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return made == MAP_FAILED ? NULL : made;
}

/* Handles message after message. When nobody else waits for the next one, there is to be one more of us. */
static void *work(void *nothing)
{
    char *body = make_buffer(BODY_MAX), *reply = make_buffer(REPLY_MAX);
    size_t size, reply_size;
    uint32_t volume;
    pthread_t one_more;
    if (!body || !reply)
        give_up(CANT_BEGIN, "no memory for ", "a thread", ENOMEM);
    for (;;) {
        enum stream_result result = stream_receive(&volume, body, &size);
        if (result != STREAM_MESSAGE)
            end(result);
        if (!stream_waiting() && atomic_load(&threads) < THREADS_MAX && atomic_fetch_add(&threads, 1) < THREADS_MAX)
            if (pthread_create(&one_more, NULL, work, NULL) != 0)
                atomic_fetch_sub(&threads, 1); /* those that are there do it, slower */
        if (!requests_handle(volume, body, size, reply, &reply_size))
            end(STREAM_MALFORMED);
        if (reply_size)
            result = stream_send(volume, reply, reply_size);
        if (result == STREAM_MESSAGE && requests_are_to_ask(volume, reply, &reply_size))
            result = stream_send(0, reply, reply_size);
        stream_done();
        if (result == STREAM_FAILED)
            end(result);
    }
    return nothing;
}

/* Three quarters of the descriptors are for what the guest knows, the rest for what it has open. */
static void bound_tables(void)
{
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0)
        give_up(CANT_BEGIN, "can't ask for ", "the limit of descriptors", errno);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    rlim_t all = files.rlim_max == RLIM_INFINITY ? NODES_MAX * 2 : files.rlim_max;
    if (all < 4 * DESCRIPTORS_KEPT)
        give_up(CANT_BEGIN, "can't serve with so few descriptors", "", EMFILE);
    all -= DESCRIPTORS_KEPT;
    nodes_begin((uint32_t)(all / 4 * 3 < NODES_MAX ? all / 4 * 3 : NODES_MAX));
    handles_begin((uint32_t)(all / 4 < HANDLES_MAX ? all / 4 : HANDLES_MAX));
}

/* -1 if it is not one of 32 bits. */
static int64_t number_of(const char *text)
{
    char *end;
    long long number = strtoll(text, &end, 10);
    return *text && !*end && number >= 0 && number <= UINT32_MAX ? number : -1;
}

/* The connection of the guest; others are closed. */
static int accept_from(int listener, uint32_t guest)
{
    for (;;) {
        struct sockaddr_vm peer = {0};
        socklen_t size = sizeof peer;
        int stream = accept4(listener, (struct sockaddr *)&peer, &size, SOCK_CLOEXEC);
        if (stream < 0 && errno != EINTR && errno != ECONNABORTED)
            give_up(STREAM_BROKEN, "can't take the guest's connection", "", errno);
        if (stream >= 0 && peer.svm_family == AF_VSOCK && peer.svm_cid == guest) {
            close(listener);
            return stream;
        }
        if (stream >= 0)
            close(stream);
    }
}

int main(int argc, char **argv)
{
    int64_t stream = argc < 3 ? -1 : number_of(argv[1]), guest = argc == 4 ? number_of(argv[3]) : 0;
    if (argc > 4 || stream < 0 || stream > INT32_MAX || guest < 0) {
        fputs("usage: volume-server FD ROOT [CID]\n", stderr);
        return CANT_BEGIN;
    }
    int root = open(argv[2], O_PATH | O_DIRECTORY | O_CLOEXEC), fd = (int)stream;
    if (root < 0)
        give_up(CANT_BEGIN, "can't open ", argv[2], errno);
    if (argc == 4)
        fd = accept_from(fd, (uint32_t)guest);
    if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0 || fcntl(fd, F_SETFL, 0) < 0) /* not O_NONBLOCK */
        give_up(CANT_BEGIN, "can't use the descriptor ", argv[1], errno);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    umask(0);
    bound_tables();
    stream_begin(fd, BODY_MAX);
    volumes_begin(root);
    atomic_store(&threads, 1);
    work(NULL);
}
