/* SPDX-License-Identifier: Apache-2.0 */
/* See log.h. */
#include "log.h"

#include "error.h"
#include "format.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#define NO_LINKS (0x02 | 0x04) /* RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS; musl has no header for them */

enum { LOGS = 256, LINE = 16384 }; /* a longer line becomes several, as with other runtimes */

/* What has come of a line. */
struct line {
    size_t used;
    char bytes[LINE];
};

static const char *place;
static struct line *lines[LOGS][2];
static bool failed[LOGS];

void log_begin(const char *directory)
{
    place = directory;
}

/* The link was made on the host, but what lies in its directory may be an app's volume: no link in it is followed, and
 * only a file is written to. */
static int open_log(uint8_t number)
{
    char link[PATH_MAX], path[PATH_MAX];
    const uint64_t how[] = {O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, 0640, NO_LINKS};
    struct stat about;
    format(link, sizeof link, "%s/%u", place, number);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return -1;
    path[length] = 0;
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, how, sizeof how);
    if (fd >= 0 && (fstat(fd, &about) < 0 || !S_ISREG(about.st_mode))) {
        close(fd);
        errno = EINVAL;
        return -1;
    }
    return fd;
}

/* RFC 3339 in UTC, with nanoseconds. By hand: what strftime brings along is a fifth of the whole launcher. */
static size_t write_time(char *to, size_t size, struct timespec now)
{
    /* Years begin in March here, so that a leap day is the last one. */
    long days = now.tv_sec / 86400 + 719468, era = days / 146097, day = days % 146097;
    long year = (day - day / 1460 + day / 36524 - day / 146096) / 365;
    long of_year = day - (365 * year + year / 4 - year / 100), month = (5 * of_year + 2) / 153;
    long second = now.tv_sec % 86400;
    return format(to, size, "%04ld-%02ld-%02ldT%02ld:%02ld:%02ld.%09ldZ", era * 400 + year + (month > 9),
                  month < 10 ? month + 3 : month - 9, of_year - (153 * month + 2) / 5 + 1, second / 3600,
                  second / 60 % 60, second % 60, now.tv_nsec);
}

static bool put(int fd, struct line *line, bool is_error)
{
    char head[64];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    size_t length = write_time(head, sizeof head, now);
    memcpy(head + length, is_error ? " stderr " : " stdout ", 8);
    length += 8;
    struct iovec pieces[] = {{head, length}, {line->bytes, line->used}, {(char[]){'\n'}, 1}};
    length += line->used + 1;
    line->used = 0;
    return writev(fd, pieces, 3) == (ssize_t)length;
}

/* Write complete lines; at the `end` also an incomplete one. False: something could not be written. */
static bool take(int fd, bool is_error, struct line *line, const uint8_t *bytes, size_t size)
{
    bool well = true;
    for (size_t at = 0; at < size;) {
        const uint8_t *end = memchr(bytes + at, '\n', size - at);
        size_t length = end ? (size_t)(end - bytes) - at : size - at;
        if (length > LINE - line->used) {
            length = LINE - line->used;
            end = NULL;
        }
        memcpy(line->bytes + line->used, bytes + at, length);
        line->used += length;
        at += length + (end ? 1 : 0);
        if (end || line->used == LINE)
            well = put(fd, line, is_error) && well;
    }
    if (!size && line->used)
        well = put(fd, line, is_error) && well;
    return well;
}

void log_take(uint8_t number, bool is_error, const uint8_t *bytes, size_t size)
{
    struct line **line = &lines[number][is_error];
    if (!place)
        return;
    int fd = open_log(number);
    if (fd >= 0 && !*line) /* a guest may name numbers that are no app's: they cost nothing */
        *line = calloc(1, sizeof **line);
    if ((fd < 0 || !*line || !take(fd, is_error, *line, bytes, size)) && !failed[number]) {
        failed[number] = true;
        report_error(
            "the log %u in %s can't be written: %s; this is reported once, and output that does not fit is lost",
            number, place, strerror(errno));
    }
    if (fd >= 0)
        close(fd);
    else if (*line)
        (*line)->used = 0;
}

void log_end(void)
{
    for (unsigned number = 0; number < LOGS; number++)
        for (int is_error = 0; is_error < 2; is_error++)
            if (lines[number][is_error])
                log_take((uint8_t)number, is_error, NULL, 0);
}
