/* SPDX-License-Identifier: Apache-2.0 */
/* See vmm.h. */
#include "vmm.h"

#include "error.h"
#include "format.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* Descriptors of the jailer; all but the first two are handed on to the VMM (stage1/vm/spec.py and template.py). */
enum { DESCRIPTION = 3, RESULT = 4, LISTENER = 10, CONSOLE = 11, MONITOR = 12, STATE = 13, RAM = 14 };
enum { ABOVE = 64, ANSWER_MAX = 1024, COPY_S = 60 };

struct inherited {
    int fd, number;
};

static bool open_pipes(int in[2], int out[2])
{
    return pipe2(in, O_CLOEXEC) == 0 && pipe2(out, O_CLOEXEC) == 0;
}

/* One terminal for both directions, which changes no byte. */
static bool open_terminal(int in[2], int out[2])
{
    struct termios raw;
    char name[32];
    int number;
    in[1] = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (in[1] < 0 || unlockpt(in[1]) < 0 || ioctl(in[1], TIOCGPTN, &number) < 0)
        return false;
    format(name, sizeof name, "/dev/pts/%d", number);
    in[0] = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (in[0] < 0 || tcgetattr(in[0], &raw) < 0)
        return false;
    cfmakeraw(&raw);
    out[0] = fcntl(in[1], F_DUPFD_CLOEXEC, 0);
    out[1] = fcntl(in[0], F_DUPFD_CLOEXEC, 0);
    return tcsetattr(in[0], TCSANOW, &raw) == 0 && out[0] >= 0 && out[1] >= 0;
}

/* A socket that listens at `path`; it never has a wider mode than root's. -1 when there can't be one. */
static int listen_at(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path) {
        errno = ENAMETOOLONG;
        return -1;
    }
    memcpy(address.sun_path, path, strlen(path));
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || fchmod(fd, 0600) < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(fd, 4) < 0)
        return -1;
    return fd;
}

/* What a copy of a template has in addition: a monitor, which has its commands already, and read-only files. A
 * kernel of the image has the monitor alone. */
struct copy {
    int ours, monitor, state, ram;
};

static int open_file(const char *directory, const char *name)
{
    char path[PATH_MAX];
    format(path, sizeof path, "%s/%s", directory, name);
    return open(path, O_RDONLY | O_CLOEXEC);
}

static bool open_copy(const struct launch_spec *spec, struct copy *copy)
{
    int pair[2];
    *copy = (struct copy){-1, -1, -1, -1};
    if (!spec->monitor)
        return true;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return false;
    copy->ours = pair[0];
    copy->monitor = pair[1];
    size_t size = strlen(spec->monitor);
    if (write(copy->ours, spec->monitor, size) != (ssize_t)size)
        return false;
    if (!spec->template)
        return true;
    copy->state = open_file(spec->template, "state");
    copy->ram = open_file(spec->template, "ram");
    return copy->state >= 0 && copy->ram >= 0;
}

static void close_copy(const struct copy *copy)
{
    const int all[] = {copy->ours, copy->monitor, copy->state, copy->ram};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        close(all[i]);
}

/* Gives each its number; first copies above all of them, since one may have the number of another. */
static bool take_numbers(struct inherited *descriptors, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (descriptors[i].fd >= 0 && (descriptors[i].fd = fcntl(descriptors[i].fd, F_DUPFD_CLOEXEC, ABOVE)) < 0)
            return false;
    for (size_t i = 0; i < count; i++)
        if (descriptors[i].fd >= 0 && dup2(descriptors[i].fd, descriptors[i].number) < 0)
            return false;
    return true;
}

static pid_t start_jailer(const char *path, struct inherited *descriptors, size_t count, const char *name,
                          void (*prepare)(void))
{
    char *argv[] = {(char *)(uintptr_t)path, "3", "4", (char *)(uintptr_t)name, NULL}, *env[] = {NULL};
    pid_t pid = fork();
    if (pid)
        return pid;
    prepare();
    if (take_numbers(descriptors, count))
        execve(path, argv, env);
    char text[ANSWER_MAX];
    format(text, sizeof text, "failed %s can't be started: %s\n", path, strerror(errno));
    if (write(RESULT, text, strlen(text)) < 0)
        report_error("%s", text);
    _exit(FAILED);
}

/* Until jailer and VMM have closed it: the one at its end, the other when it has become the VMM. */
static void read_answer(int fd, char text[static ANSWER_MAX])
{
    size_t length = 0;
    for (ssize_t got = 1; got && length < ANSWER_MAX - 1;) {
        got = read(fd, text + length, ANSWER_MAX - 1 - length);
        if (got < 0 && errno != EINTR)
            break;
        length += got > 0 ? (size_t)got : 0;
    }
    text[length] = 0;
}

/* The VMM's pid; 0 when there is none, and the reason is reported. See images/jailer/README.md. */
static pid_t find_pid(const char *text)
{
    int pid = strncmp(text, "pid ", 4) ? 0 : atoi(text + 4);
    if (pid > 0 && strstr(text, "\nok\n"))
        return pid;
    if (pid > 0 && kill(pid, SIGKILL) == 0)
        waitpid(pid, NULL, 0);
    const char *failed = strstr(text, "failed "), *why = failed ? failed + 7 : "the jailer was killed";
    report_error("the VMM's jail can't be set up: %.*s", (int)strcspn(why, "\n"), why);
    return 0;
}

static time_t now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

bool copy_failed(const struct vmm *vmm, bool monitor_speaks)
{
    char text[2048];
    ssize_t got = monitor_speaks ? read(vmm->monitor, text, sizeof text - 1) : 1;
    if (!monitor_speaks || got <= 0)
        return got <= 0 || now_s() > vmm->give_up_s;
    text[got] = 0;
    return strstr(text, "\"error\"") || strstr(text, "\"failed\"");
}

bool start_vmm(const struct launch_spec *spec, int description, const char *name, void (*prepare)(void),
               struct vmm *vmm)
{
    char text[ANSWER_MAX];
    int in[2], out[2], result[2];
    struct copy copy;
    int listener = spec->listener ? listen_at(spec->listener) : -1;
    if (!open_copy(spec, &copy) || (spec->listener && listener < 0) || pipe2(result, O_CLOEXEC) < 0 ||
        !(spec->terminal ? open_terminal : open_pipes)(in, out)) {
        report_error("the VMM's streams and socket can't be made: %s", strerror(errno));
        close_copy(&copy);
        close(listener);
        return false;
    }
    /* A VMM writes much; it goes into the console file, of which the end is shown should the VMM die. */
    int console = spec->console ? open(spec->console, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    struct inherited descriptors[] = {
        {in[0], STDIN_FILENO}, {out[1], STDOUT_FILENO}, {console, STDERR_FILENO}, {description, DESCRIPTION},
        {result[1], RESULT},   {listener, LISTENER},    {console, CONSOLE},       {copy.monitor, MONITOR},
        {copy.state, STATE},   {copy.ram, RAM}};
    pid_t jailer = start_jailer(spec->jailer, descriptors, sizeof descriptors / sizeof *descriptors, name, prepare);
    const int theirs[] = {in[0], out[1], console, result[1], listener, copy.monitor, copy.state, copy.ram};
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++)
        close(theirs[i]); /* one that was not opened is none */
    read_answer(result[0], text);
    close(result[0]);
    while (jailer > 0 && waitpid(jailer, NULL, 0) < 0 && errno == EINTR)
        continue;
    vmm->pid = find_pid(text);
    vmm->in = in[1];
    vmm->out = out[0];
    vmm->monitor = copy.ours;
    vmm->give_up_s = now_s() + COPY_S;
    return vmm->pid > 0;
}
