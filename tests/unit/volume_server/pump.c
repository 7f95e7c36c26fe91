/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest's part of the volume server's stream, on the host:   pump SERVER ROOT [NAME:PATH...]
 *
 * In a mount namespace of its own it starts SERVER for ROOT, attaches each NAME, mounts it at PATH by FUSE, writes "mounted" to standard
 * output, and carries messages until its standard input ends. With FILTER in the environment, a file, the server has that filter of system
 * calls. Exit code: the server's, or 100 when something failed.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MESSAGE_MAX = 8 + 4096 + (256 << 10), VOLUMES_MAX = 16, FAILED = 100 };

struct header {
    uint32_t length, volume;
};

static int stream, devices[VOLUMES_MAX];
static const char *places[VOLUMES_MAX];
static pthread_mutex_t sending = PTHREAD_MUTEX_INITIALIZER;

static void need(int is_well, const char *what)
{
    if (is_well)
        return;
    perror(what);
    exit(FAILED);
}

static void send_message(uint32_t volume, const void *body, size_t size)
{
    struct header header = {(uint32_t)(sizeof header + size), volume};
    struct iovec parts[] = {{&header, sizeof header}, {(void *)body, size}};
    pthread_mutex_lock(&sending);
    need(writev(stream, parts, 2) == (ssize_t)header.length, "write to the server");
    pthread_mutex_unlock(&sending);
}

static int read_fully(void *bytes, size_t size)
{
    for (size_t have = 0; have < size;) {
        ssize_t some = read(stream, (char *)bytes + have, size - have);
        if (some <= 0)
            return 0;
        have += (size_t)some;
    }
    return 1;
}

static void *to_server(void *which)
{
    uint32_t volume = (uint32_t)(uintptr_t)which;
    char *body = malloc(MESSAGE_MAX);
    for (;;) {
        ssize_t size = read(devices[volume], body, MESSAGE_MAX - sizeof(struct header));
        if (size >= 0)
            send_message(volume, body, (size_t)size);
        else if (errno != EINTR && errno != ENOENT && errno != EAGAIN)
            return NULL;
    }
}

/* Apart from what carries messages: it writes back what is dirty. */
static void *forget(void *which)
{
    mount(NULL, places[(uintptr_t)which], NULL, MS_REMOUNT | MS_NOSUID | MS_NODEV, NULL);
    return NULL;
}

static void take_message(const char *body)
{
    pthread_t thread;
    uint32_t volume;
    memcpy(&volume, body + 4, sizeof volume);
    if (body[0] == 3 && pthread_create(&thread, NULL, forget, (void *)(uintptr_t)volume) == 0)
        pthread_detach(thread);
}

static void *to_kernel(void *nothing)
{
    char *body = malloc(MESSAGE_MAX);
    struct header header;
    while (read_fully(&header, sizeof header) && read_fully(body, header.length - sizeof header))
        if (header.volume == 0)
            take_message(body);
        else if (write(devices[header.volume], body, header.length - sizeof header) < 0 && errno != ENOENT)
            fprintf(stderr, "pump: the kernel does not take %u bytes for %u: %s\n", header.length, header.volume,
                    strerror(errno));
    return nothing;
}

static void install_filter(const char *path)
{
    static struct sock_filter filter[BPF_MAXINSNS];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = read(fd, filter, sizeof filter);
    struct sock_fprog program = {.len = (unsigned short)(size / 8), .filter = filter};
    need(fd >= 0 && size > 0 && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
             prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0,
         path);
}

static pid_t start(const char *server, const char *root)
{
    int pair[2];
    need(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    stream = pair[0];
    pid_t child = fork();
    if (child == 0) {
        dup2(pair[1], 10);
        if (getenv("FILTER"))
            install_filter(getenv("FILTER"));
        execl(server, server, "10", root, (char *)NULL);
        _exit(FAILED);
    }
    close(pair[1]);
    return child;
}

static void attach(uint32_t volume, const char *name, const char *path)
{
    struct {
        uint16_t operation, zero;
        uint32_t volume;
        char path[256];
    } in = {1, 0, volume, ""};
    struct {
        struct header header;
        uint16_t operation, zero;
        uint32_t volume;
        int32_t error;
        uint32_t mode;
    } out;
    char options[128];
    snprintf(in.path, sizeof in.path, "%s", name);
    send_message(0, &in, 8 + strlen(name));
    need(read_fully(&out, sizeof out), "read the answer");
    errno = -out.error;
    need(out.error == 0, name);
    places[volume] = path;
    devices[volume] = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    need(devices[volume] >= 0, "/dev/fuse");
    snprintf(options, sizeof options,
             "fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other,max_read=262144", devices[volume],
             out.mode);
    need(mount("volume", path, "fuse", MS_NOSUID | MS_NODEV, options) == 0, path);
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int status;
    char byte;
    signal(SIGPIPE, SIG_IGN);
    need(argc >= 3, "usage: pump SERVER ROOT [NAME:PATH...]");
    need(unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0, "unshare");
    pid_t server = start(argv[1], argv[2]);
    for (int i = 3; i < argc && i - 2 < VOLUMES_MAX; i++) {
        char *colon = strchr(argv[i], ':');
        need(colon != NULL, argv[i]);
        *colon = 0;
        attach((uint32_t)(i - 2), argv[i], colon + 1);
    }
    need(pthread_create(&thread, NULL, to_kernel, NULL) == 0, "thread");
    for (int i = 3; i < argc; i++)
        for (int twice = 0; twice < 2; twice++)
            need(pthread_create(&thread, NULL, to_server, (void *)(uintptr_t)(i - 2)) == 0, "thread");
    printf("mounted\n");
    fflush(stdout);
    while (read(0, &byte, 1) > 0)
        continue;
    pthread_mutex_lock(&sending); /* for good */
    shutdown(stream, SHUT_WR);
    need(waitpid(server, &status, 0) == server, "wait");
    _exit(WIFEXITED(status) ? WEXITSTATUS(status) : FAILED);
}
