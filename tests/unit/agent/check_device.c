/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about devices that come late. A socket's file stands in for that of a device without a driver: ENXIO. */
#include "check.h"
#include "kernel/dax.h"
#include "kernel/device.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static char directory[32];
static struct sockaddr_un device = {.sun_family = AF_UNIX};
static char real[64];

static void prepare(void)
{
    strcpy(directory, "/tmp/check-device-XXXXXX");
    CHECK(mkdtemp(directory));
    snprintf(device.sun_path, sizeof device.sun_path, "%s/device", directory);
    snprintf(real, sizeof real, "%s/real", directory);
    int fd = open(real, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    CHECK(fd >= 0 && write(fd, "x", 1) == 1);
    close(fd);
}

static void clean(void)
{
    unlink(device.sun_path);
    unlink(real);
    CHECK(rmdir(directory) == 0);
}

static void bind_device(void)
{
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&device, sizeof device) == 0);
    close(fd);
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){.tv_nsec = ms * 1000000}, NULL);
}

/* A child that makes the file, when there is none, and then the device. */
static pid_t find_later(bool with_file)
{
    pid_t pid = fork();
    if (pid)
        return pid;
    pause_ms(20);
    if (with_file) {
        bind_device();
        pause_ms(20);
    }
    _exit(rename(real, device.sun_path) == 0 ? 0 : 1);
}

static void check_found(pid_t pid)
{
    char byte = 0;
    int status, fd = device_open(device.sun_path);
    CHECK(fd >= 0 && read(fd, &byte, 1) == 1 && byte == 'x');
    close(fd);
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    clean();
}

CASE(a_device_whose_file_is_there_before_it_is_waited_for)
{
    prepare();
    bind_device();
    CHECK(open(device.sun_path, O_RDONLY) < 0 && errno == ENXIO);
    check_found(find_later(false));
}

CASE(a_device_without_a_file_is_waited_for)
{
    prepare();
    check_found(find_later(true));
}

/* A file stands in for the window: it is opened, and then it has no size of a device. */
CASE(a_window_without_a_device_is_waited_for)
{
    const clearpod_agent_MountImage image = {.name = "i", .bytes = 4096};
    struct fault why;
    int status;
    prepare();
    pid_t pid = find_later(true);
    CHECK(dax_mount(device.sun_path, &image, &why) < 0 && strstr(why.text, "size"));
    CHECK(waitpid(pid, &status, 0) == pid && status == 0);
    clean();
}

CASE(what_is_no_device_is_not_waited_for)
{
    CHECK(device_open("/dev/null/below") < 0 && errno == ENOTDIR);
}
