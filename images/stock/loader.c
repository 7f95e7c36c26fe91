/* SPDX-License-Identifier: Apache-2.0 */
/*
 * /init of the initramfs for a distribution's kernel: loads the modules that a pod needs to boot, in the order of the file
 * /modules/order (a name a line), and becomes the agent. What it has read is removed: the memory of an initramfs is the
 * guest's. A module that the kernel does not take is named on the console; the agent then says what it lacks.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ORDER "/modules/order"
#define AGENT "/agent"
#define MODPROBE "/usr/lib/clearpod/modprobe" /* in the system image, which is the root by then */

enum { NAME = 128, PLACE = 160 };

static void load(const char *name)
{
    char path[PLACE];
    snprintf(path, sizeof path, "/modules/%s", name);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || syscall(SYS_finit_module, file, "", 0) < 0)
        perror(path);
    if (file >= 0)
        close(file);
    unlink(path);
}

int main(int argc, char **argv)
{
    char name[NAME];
    FILE *order = fopen(ORDER, "re");
    while (order && fgets(name, sizeof name, order)) {
        name[strcspn(name, "\n")] = 0;
        load(name);
    }
    if (order)
        fclose(order);
    unlink(ORDER);
    rmdir("/modules");
    mkdir("/proc", 0755);
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, "");
    int program = open("/proc/sys/kernel/modprobe", O_WRONLY | O_CLOEXEC);
    if (program < 0 || write(program, MODPROBE, sizeof MODPROBE - 1) < 0)
        perror("/proc/sys/kernel/modprobe");
    if (program >= 0)
        close(program);
    (void)argc;
    rename(AGENT, "/init"); /* which the agent removes */
    execv("/init", argv);
    perror(AGENT);
    return 1;
}
