/* SPDX-License-Identifier: Apache-2.0 */
/* See host.h. */
#include "host.h"

#include "base/files.h"
#include "base/scope.h"
#include "pump.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN "/run/clearpod"
#define HOSTS RUN "/hosts"
#define SELF "/usr/lib/clearpod/volumes"

enum { PATH_BYTES = 400, LINE = 320, LISTENER = 3, CLIENTS = 16 };

/* Who mounts or unmounts one holds it: helpers of several containers run at a time. */
static int lock(struct fault *why)
{
    if (make_dir(HOSTS, 0711) < 0)
        return fault_errno(why, "mkdir " HOSTS);
    int fd = open(HOSTS, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0 || flock(fd, LOCK_EX) < 0)
        return fault_errno(why, "lock " HOSTS);
    return fd;
}

static const struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = PUMP_SOCKET};

/* It lives as long as the guest, so the memory killer must not choose it, nor a signal of ours end it. */
static void become_pump(int listener, unsigned port)
{
    char number[16];
    const char *const args[] = {"clearpod-pump", "pump", number, NULL};
    snprintf(number, sizeof number, "%u", port);
    if (fork() != 0) /* the agent, which reaps, is its parent then */
        _exit(0);
    setsid();
    if (listener == LISTENER)
        fcntl(LISTENER, F_SETFD, 0);
    else
        dup2(listener, LISTENER);
    close_all_but((int[]){LISTENER}, 1);
    file_write("/proc/self/oom_score_adj", "-1000");
    execve(SELF, (char **)(uintptr_t)args, NULL);
    _exit(127);
}

/* The socket listens before there is a pump: nobody has to wait for it. */
static int start_pump(unsigned port, struct fault *why)
{
    scoped_fd int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    unlink(PUMP_SOCKET);
    if (listener < 0 || bind(listener, (const struct sockaddr *)&address, sizeof address) < 0 ||
        chmod(PUMP_SOCKET, 0600) < 0 || listen(listener, CLIENTS) < 0)
        return fault_errno(why, "listen at " PUMP_SOCKET);
    pid_t pid = fork();
    if (pid == 0)
        become_pump(listener, port);
    if (pid < 0)
        return fault_errno(why, "start the pump of volumes");
    waitpid(pid, NULL, 0);
    return 0;
}

static int reach_pump(unsigned port, struct fault *why)
{
    for (int tries = 0; tries < 3; tries++) {
        scoped_fd int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, (const struct sockaddr *)&address, sizeof address) == 0)
            return steal_fd(&fd);
        if (start_pump(port, why) < 0)
            return -1;
    }
    return fault_errno(why, "connect to " PUMP_SOCKET);
}

static int send_descriptor(int pump, int fd)
{
    union {
        struct cmsghdr header;
        char buffer[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec piece = {(char[]){'m'}, 1};
    struct msghdr message = {
        .msg_iov = &piece, .msg_iovlen = 1, .msg_control = control.buffer, .msg_controllen = sizeof control.buffer};
    control.header.cmsg_len = CMSG_LEN(sizeof fd);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    return sendmsg(pump, &message, MSG_NOSIGNAL) == 1 ? 0 : -1;
}

static int make_place(const char *place, mode_t mode)
{
    if (S_ISDIR(mode))
        return make_dir(place, 0711);
    scoped_fd int fd = open(place, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
    return fd < 0 ? -1 : 0;
}

/* Where it is a module, its device is not there until somebody opens it. */
static int open_fuse(void)
{
    enum { MAJOR = 10, MINOR = 229 };
    int fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && mknod("/dev/fuse", S_IFCHR | 0600, makedev(MAJOR, MINOR)) == 0)
        fd = open("/dev/fuse", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return fd;
}

static int mount_one(const char *name, const char *place, unsigned port, struct fault *why)
{
    struct attached answer = {.error = ECONNRESET};
    char options[128];
    scoped_fd int pump = reach_pump(port, why);
    if (pump < 0)
        return -1;
    if (send(pump, name, strlen(name), MSG_NOSIGNAL) < 0 || recv(pump, &answer, sizeof answer, 0) != sizeof answer ||
        answer.error) {
        errno = answer.error;
        return fault_errno(why, "ask the host for the volume %s", name);
    }
    scoped_fd int fuse = open_fuse();
    if (fuse < 0)
        return fault_errno(why, "open /dev/fuse");
    snprintf(options, sizeof options,
             "fd=%d,rootmode=%o,user_id=0,group_id=0,default_permissions,allow_other,max_read=262144", fuse,
             answer.mode & S_IFMT);
    if (make_place(place, answer.mode) < 0 || mount("host", place, "fuse.clearpod", 0, options) < 0)
        return fault_errno(why, "mount the volume %s", name);
    if (send_descriptor(pump, fuse) < 0 || recv(pump, options, 1, 0) != 1) { /* until the pump has it */
        umount2(place, MNT_DETACH);
        return fault_errno(why, "give the volume %s to the pump", name);
    }
    return 0;
}

/* One whose server is gone can't be looked at, and is replaced. */
static bool is_mounted(const char *place)
{
    struct stat above, here;
    if (stat(place, &here) == 0)
        return stat(HOSTS, &above) == 0 && here.st_dev != above.st_dev;
    umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW);
    return false;
}

static bool is_name(const char *name)
{
    return *name && *name != '.' && !strchr(name, '/') && strlen(name) < PUMP_NAME;
}

static int use_one(const char *id, const char *name, unsigned port, struct fault *why)
{
    char place[PATH_BYTES + PUMP_NAME];
    if (!is_name(name))
        return fault_set(why, FAULT_INVALID, "'%s' is no volume of the host", name);
    snprintf(place, sizeof place, HOSTS "/%s", name);
    if (!is_mounted(place) && mount_one(name, place, port, why) < 0)
        return -1;
    snprintf(place, sizeof place, RUN "/containers/%.100s/hosts/%s", id, name);
    scoped_fd int used = open(place, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    return used < 0 ? fault_errno(why, "open %s", place) : 0;
}

int host_volumes(const char *id, const char *bundle, struct fault *why)
{
    char path[PATH_BYTES], line[LINE];
    unsigned port = 0;
    int result = 0;
    snprintf(path, sizeof path, "%s/host_volumes", bundle);
    FILE *list = fopen(path, "re");
    if (!list)
        return errno == ENOENT ? 0 : fault_errno(why, "open %s", path);
    snprintf(path, sizeof path, RUN "/containers/%.100s/hosts", id);
    scoped_fd int held = make_dir(path, 0700) < 0 ? fault_errno(why, "mkdir %s", path) : lock(why);
    if (held < 0)
        result = -1;
    while (result == 0 && fgets(line, sizeof line, list)) {
        line[strcspn(line, "\n")] = 0;
        if (sscanf(line, "port %u", &port) != 1)
            result = use_one(id, line, port, why);
    }
    fclose(list);
    return result;
}

static bool is_used(const char *name)
{
    char path[PATH_BYTES + 2 * PUMP_NAME];
    bool result = false;
    scoped_dir DIR *containers = opendir(RUN "/containers");
    for (struct dirent *entry; !result && containers && (entry = readdir(containers));) {
        snprintf(path, sizeof path, RUN "/containers/%s/hosts/%s", entry->d_name, name);
        result = entry->d_name[0] != '.' && access(path, F_OK) == 0;
    }
    return result;
}

int host_volumes_drop(const char *id, struct fault *why)
{
    char path[PATH_BYTES], place[PATH_BYTES + PUMP_NAME];
    snprintf(path, sizeof path, RUN "/containers/%.100s/hosts", id);
    if (access(path, F_OK) < 0)
        return 0;
    scoped_fd int held = lock(why);
    scoped_dir DIR *list = held < 0 ? NULL : opendir(path);
    for (struct dirent *entry; list && (entry = readdir(list));) {
        if (entry->d_name[0] == '.')
            continue;
        snprintf(place, sizeof place, "%s/%s", path, entry->d_name);
        unlink(place);
        if (is_used(entry->d_name))
            continue;
        snprintf(place, sizeof place, HOSTS "/%s", entry->d_name);
        umount2(place, MNT_DETACH | UMOUNT_NOFOLLOW); /* a process in another mount namespace may still use it */
        remove(place);
    }
    return held < 0 ? -1 : 0;
}
