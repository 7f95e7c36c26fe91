/* SPDX-License-Identifier: Apache-2.0 */
/* See boot.h. */
#include "boot/boot.h"

#include "base/files.h"
#include "helpers/rootfs.h"
#include "kernel/cgroup.h"
#include "kernel/dax.h"
#include "kernel/device.h"
#include "kernel/shares.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/klog.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define SYSTEM "/system"

enum { CONSOLE_OFF = 6, CONSOLE_ON = 7 }; /* syslog(2) */

struct mount_row {
    const char *type, *target, *options;
    unsigned long flags;
    bool make, optional;
};

static const struct mount_row system_rows[] = {
    {"sysfs", "/sys", "", MS_NOSUID | MS_NODEV | MS_NOEXEC, false, false},
    {"devpts", "/dev/pts", "mode=620,ptmxmode=666", MS_NOSUID | MS_NOEXEC, true, false},
    {"tmpfs", "/dev/shm", "mode=1777", MS_NOSUID | MS_NODEV, true, false},
    {"mqueue", "/dev/mqueue", "", MS_NOSUID | MS_NODEV | MS_NOEXEC, true, true},
    {"cgroup2", "/sys/fs/cgroup", "", MS_NOSUID | MS_NODEV | MS_NOEXEC, false, false},
    {"tmpfs", "/run", "mode=755", MS_NOSUID | MS_NODEV, false, false},
    {"tmpfs", "/tmp", "mode=1777", MS_NOSUID | MS_NODEV, false, false},
};

static const char *const run_dirs[] = {"/run/clearpod",
                                       "/run/clearpod/layers",
                                       "/run/clearpod/volumes",
                                       "/run/clearpod/scratch",
                                       "/run/clearpod/containers",
                                       "/run/clearpod/crun",
                                       "/run/clearpod/layers/warm-up"}; /* seen until the share is mounted above it */

static int mount_row(const struct mount_row *row, struct fault *why)
{
    if (row->make && make_dir(row->target, 0755) < 0)
        return fault_errno(why, "mkdir %s", row->target);
    if (mount(row->type, row->target, row->type, row->flags, row->options) < 0 && !row->optional)
        return fault_errno(why, "mount %s on %s", row->type, row->target);
    return 0;
}

/* Descriptors 0 to 2 must be taken: a pipe that got such a number would be closed by the first dup2. */
static void take_standard_fds(void)
{
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd < 2)
        fd = dup(fd);
    if (fd > 2)
        close(fd);
}

int boot_early(struct arguments *arguments, struct fault *why)
{
    char line[COMMAND_LINE_BYTES], bad[64];
    make_dir("/dev", 0755);
    make_dir("/proc", 0755);
    /* The kernel may have mounted devtmpfs itself. */
    if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=755") < 0 && errno != EBUSY)
        return fault_errno(why, "mount devtmpfs on /dev");
    if (mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "") < 0 && errno != EBUSY)
        return fault_errno(why, "mount proc on /proc");
    if (file_read("/proc/cmdline", line, sizeof line) < 0)
        return fault_errno(why, "read /proc/cmdline");
    if (!arguments_parse(line, arguments, bad))
        return fault_set(why, FAULT_INVALID, "the kernel parameter '%s' is invalid", bad);
    if (!arguments->system[0])
        return fault_set(why, FAULT_INVALID, "the kernel parameter clearpod.system= is missing");
    take_standard_fds();
    return 0;
}

static int enter_system(const struct arguments *arguments, struct fault *why)
{
    const char *options = dax_option(arguments->system);
    close(device_open(arguments->system)); /* each mount of a missing device would log a line */
    make_dir(SYSTEM, 0755);
    if (mount(arguments->system, SYSTEM, "erofs", MS_RDONLY | MS_NODEV, options) < 0)
        return fault_errno(why, "mount the system image %s", arguments->system);
    if (mount("/dev", SYSTEM "/dev", NULL, MS_MOVE, NULL) < 0 ||
        mount("/proc", SYSTEM "/proc", NULL, MS_MOVE, NULL) < 0)
        return fault_errno(why, "move /dev and /proc into the system image");
    unlink("/init"); /* its memory comes back with the initramfs's page cache */
    if (chdir(SYSTEM) < 0 || mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        return fault_errno(why, "move into the system image");
    return 0;
}

/* The kernel logs each missing share on the console. On a serial port each character is an exit to the host. */
static int mount_shares(const struct arguments *arguments, struct fault *why)
{
    klogctl(CONSOLE_OFF, NULL, 0);
    int result = shares_mount(arguments, why);
    klogctl(CONSOLE_ON, NULL, 0);
    return result;
}

int boot_mounts(const struct arguments *arguments, struct fault *why)
{
    if (enter_system(arguments, why) < 0)
        return -1;
    for (size_t i = 0; i < sizeof system_rows / sizeof *system_rows; i++)
        if (mount_row(&system_rows[i], why) < 0)
            return -1;
    for (size_t i = 0; i < sizeof run_dirs / sizeof *run_dirs; i++)
        if (make_dir(run_dirs[i], 0711) < 0)
            return fault_errno(why, "mkdir %s", run_dirs[i]);
    /* Without shared propagation at the top, slave and shared volumes silently act private. */
    if (mount(NULL, "/", NULL, MS_REC | MS_SHARED, NULL) < 0)
        return fault_errno(why, "make / shared");
    if (cgroup_boot(true, why) < 0)
        return -1;
    /* A copy mounts it no more; its disk is as the one that was mounted. Under rkt they were not compared. */
    if (arguments->template && !arguments->plan && arguments->scratch[0] && scratch_mount(arguments, why) < 0)
        return -1;
    if (arguments->template) /* what crun ever reads of it is in memory before there are copies */
        file_write("/sys/block/vda/queue/read_ahead_kb", "4096");
    return arguments->template ? 0 : mount_shares(arguments, why);
}

void boot_end(void)
{
    if (access("/run/clearpod/hosts", F_OK) == 0)
        sync(); /* maps of the host's files, while what carries them there still runs */
    kill(-1, SIGKILL);
    sync();
    reboot(RB_AUTOBOOT);
    for (;;) /* a VMM that does not know how to reboot a guest kills it some time */
        pause();
}
