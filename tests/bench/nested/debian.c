/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first program of the traditional guest, in an initramfs: the modules for its disk, then Debian's own init from
 * there. Quicker than Debian's initramfs, which looks for hardware: the comparison leans to the other side.
 * As `debian ready` it is what a unit runs when systemd has reached its default target: it writes the mark.
 */
#include "stage.h"

enum { TRIES = 5000 }; /* of 1 ms */

static void enter_disk(void)
{
    for (int i = 0; i < TRIES && access("/dev/vda", F_OK) < 0; i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    mkdir("/disk", 0755);
    if (mount("/dev/vda", "/disk", "ext4", MS_RDONLY, NULL) < 0)
        fail("can't mount", "/dev/vda");
    if (mount("/dev", "/disk/dev", NULL, MS_MOVE, NULL) < 0 || chdir("/disk") < 0 ||
        mount(".", "/", NULL, MS_MOVE, NULL) < 0 || chroot(".") < 0 || chdir("/") < 0)
        fail("can't move into", "/disk");
}

int main(int argc, char **argv)
{
    uint64_t tsc = __rdtsc();
    if (argc > 1) {
        if (!freopen("/dev/console", "w", stdout))
            return 1;
        mark(argv[1], tsc);
        return 0;
    }
    mark("pid1", tsc);
    mount_at("devtmpfs", "/dev");
    for_each("/modules", load_module);
    enter_disk();
    execl("/sbin/init", "/sbin/init", (char *)NULL);
    fail("can't run", "/sbin/init");
}
