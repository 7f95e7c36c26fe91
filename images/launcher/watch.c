/* SPDX-License-Identifier: Apache-2.0 */
/* See watch.h. */
#include "watch.h"

#include "statuses.h"

#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { REST_MS = 20, TRIM_MS = 1000, KEEP_BYTES = 1 << 20, BLOCK = 512 };

static struct {
    const struct launch_spec *spec;
    int fd;                   /* inotify's; -1: there is none */
    int64_t rest_ms, trim_ms; /* until when events are ignored; when the console is trimmed; 0: no such time */
} us;

int64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Where the host allows no more watches, we poll once a second. */
static void watch(const char *path, uint32_t events)
{
    if (us.fd < 0 || !path || inotify_add_watch(us.fd, path, events) >= 0)
        return;
    close(us.fd);
    us.fd = -1;
}

/* One-shot: a guest that writes without end wakes us once for each check. */
static void await_console(void)
{
    watch(us.spec->console, IN_MODIFY | IN_ONESHOT);
    us.trim_ms = us.fd >= 0 ? 0 : now_ms() + TRIM_MS;
}

void watch_begin(const struct launch_spec *spec)
{
    us.spec = spec;
    us.fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    watch(spec->told, IN_MOVED_TO | IN_ONLYDIR);
    await_console();
}

int watch_fd(void)
{
    return us.rest_ms ? -1 : us.fd;
}

int watch_limit_ms(void)
{
    int64_t next = us.rest_ms && (!us.trim_ms || us.rest_ms < us.trim_ms) ? us.rest_ms : us.trim_ms;
    int64_t left = next - now_ms();
    return !next ? -1 : left > 0 ? (int)left : 0;
}

/* Its length stays, for others append to it; what is before its end reads as zeros. Behind it there is nothing. */
static void trim_console(void)
{
    struct stat about;
    int fd = us.spec->console ? open(us.spec->console, O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC) : -1;
    if (fd >= 0 && fstat(fd, &about) == 0 && about.st_blocks > 2 * (KEEP_BYTES / BLOCK)) {
        off_t excess = (about.st_size - KEEP_BYTES) & ~(off_t)4095;
        if (excess > 0)
            fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, excess);
        off_t end = (about.st_size + 4095) & ~(off_t)4095;
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, end, LLONG_MAX - end);
    }
    if (fd >= 0)
        close(fd);
}

static void take(void)
{
    if (us.spec->told)
        statuses_take(us.spec->told, us.spec->codes);
}

void watch_step(int rings)
{
    char events[1024];
    int64_t now = now_ms();
    bool is_due = us.trim_ms && us.trim_ms <= now;
    us.rest_ms = us.rest_ms > now ? us.rest_ms : 0;
    if (rings && read(us.fd, events, sizeof events) > 0) {
        us.rest_ms = now + REST_MS;
        us.trim_ms = us.trim_ms ? us.trim_ms : now + TRIM_MS;
    }
    if (rings || (is_due && us.fd < 0))
        take();
    if (!is_due)
        return;
    trim_console();
    await_console();
}

void watch_end(void)
{
    take();
    trim_console();
    if (us.fd >= 0)
        close(us.fd);
    us.fd = -1;
    us.rest_ms = us.trim_ms = 0;
}
