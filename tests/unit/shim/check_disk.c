/* SPDX-License-Identifier: Apache-2.0 */
/* Writes that find no room: which wait, and which fail. */
#include "check.h"
#include "disk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static struct host {
    int failures; /* so many writes fail */
    int error, pauses, calls;
} host;

static ssize_t fake_write(int fd, const struct iovec *pieces, int count, off_t offset)
{
    (void)fd, (void)offset;
    host.calls++;
    if (host.calls <= host.failures) {
        errno = host.error;
        return -1;
    }
    return (ssize_t)pieces[count - 1].iov_len;
}

static void fake_pause(void)
{
    host.pauses++;
}

static ssize_t write_once(const struct disk *disk, int fd, int failures, int code)
{
    host = (struct host){.failures = failures, .error = code};
    return disk_write(disk, fd, &(struct iovec){.iov_base = NULL, .iov_len = 512}, 1, 4096);
}

static int make_file(char *path)
{
    int fd = mkstemp(path);
    CHECK(fd >= 0);
    return fd;
}

CASE(a_write_to_the_disk_waits_until_there_is_room)
{
    struct disk disk = {.real = fake_write, .pause = fake_pause};
    char path[] = "/tmp/check-disk-XXXXXX", other[] = "/tmp/check-disk-XXXXXX";
    int fd = make_file(path), volume = make_file(other);
    disk_find(&disk, path);
    CHECK(disk.is_known);
    CHECK(write_once(&disk, fd, 0, 0) == 512 && host.pauses == 0);
    CHECK(write_once(&disk, fd, 3, ENOSPC) == 512 && host.pauses == 3);
    CHECK(write_once(&disk, fd, 1, EDQUOT) == 512 && host.pauses == 1);
    CHECK(write_once(&disk, fd, 1, EIO) == -1 && errno == EIO && host.pauses == 0);
    CHECK(write_once(&disk, volume, 1, ENOSPC) == -1 && errno == ENOSPC && host.pauses == 0);
    CHECK(write_once(&disk, -1, 1, ENOSPC) == -1 && errno == ENOSPC && host.pauses == 0);
    close(fd);
    close(volume);
    unlink(path);
    unlink(other);
}

CASE(without_a_disk_every_write_fails_at_once)
{
    struct disk disk = {.real = fake_write, .pause = fake_pause};
    const char *places[] = {NULL, "/absent/file", "/dev/null", "/tmp"};
    int fd = open("/dev/null", O_WRONLY | O_CLOEXEC);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        disk_find(&disk, places[i]);
        CHECK(!disk.is_known);
        CHECK(write_once(&disk, fd, 1, ENOSPC) == -1 && errno == ENOSPC && host.pauses == 0);
    }
    close(fd);
}
