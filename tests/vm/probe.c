/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of the boot tests: says on the console what devices the guest got, then does what the word probe= asks. */
#include <dirent.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *slurp(const char *path, char *text, size_t size)
{
    text[0] = 0;
    int fd = open(path, O_RDONLY);
    ssize_t got = fd < 0 ? -1 : read(fd, text, size - 1);
    if (fd >= 0)
        close(fd);
    text[got > 0 ? got : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return text;
}

/* One line for each entry of `directory`, with the first lines of up to two of its attributes. */
static void list(const char *directory, const char *first, const char *second)
{
    char path[512], a[256], b[256];
    DIR *dir = opendir(directory);
    for (struct dirent *e; dir && (e = readdir(dir));) {
        if (e->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s/%s", directory, e->d_name, first);
        slurp(path, a, sizeof a);
        snprintf(path, sizeof path, "%s/%s/%s", directory, e->d_name, second);
        printf("probe %s/%s %s %s\n", directory, e->d_name, a, slurp(path, b, sizeof b));
    }
    if (dir)
        closedir(dir);
}

static void head(const char *device)
{
    char text[17] = "";
    int fd = open(device, O_RDONLY);
    if (fd >= 0 && pread(fd, text, 16, 0) < 0)
        text[0] = 0;
    close(fd);
    printf("probe head %s %s\n", device, text);
}

static void scribble(const char *device)
{
    int fd = open(device, O_RDWR | O_SYNC);
    ssize_t put = fd < 0 ? -1 : pwrite(fd, "written-by-guest", 16, 4096);
    if (fd >= 0)
        close(fd);
    printf("probe write %s %s\n", device, put == 16 ? "ok" : "refused");
}

static void share(const char *tag)
{
    char path[64], text[64];
    snprintf(path, sizeof path, "/%s", tag);
    mkdir(path, 0755);
    if (mount(tag, path, "9p", 0, "trans=virtio,version=9p2000.L,msize=131072") != 0) {
        printf("probe share %s absent\n", tag);
        return;
    }
    snprintf(path, sizeof path, "/%s/hello", tag);
    slurp(path, text, sizeof text);
    snprintf(path, sizeof path, "/%s/from-guest", tag);
    int fd = open(path, O_WRONLY | O_CREAT, 0640);
    printf("probe share %s %s %s\n", tag, text, fd >= 0 ? "writable" : "read-only");
}

int main(void)
{
    char line[4096];
    mkdir("/dev", 0755), mkdir("/sys", 0755), mkdir("/proc", 0755);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    mount("sys", "/sys", "sysfs", 0, 0);
    mount("proc", "/proc", "proc", 0, 0);
    int console = open("/dev/console", O_RDWR);
    dup2(console, 1), dup2(console, 2);
    setvbuf(stdout, 0, _IOLBF, 0);
    printf("probe cmdline %s\n", slurp("/proc/cmdline", line, sizeof line));
    printf("probe cpus %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    list("/sys/block", "size", "ro");
    list("/sys/class/net", "address", "operstate");
    list("/sys/class/virtio-ports", "name", "dev");
    printf("probe rng %s\n", slurp("/sys/class/misc/hw_random/rng_current", line, sizeof line));
    head("/dev/vda"), head("/dev/vdb");
    scribble("/dev/vda"), scribble("/dev/vdb");
    share("layers"), share("volumes");
    printf("probe sctp %s\n", socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP) >= 0 ? "ok" : "refused");
    slurp("/proc/cmdline", line, sizeof line);
    printf("probe done\n");
    if (strstr(line, "probe=panic"))
        return 1; /* PID 1 ends: the kernel panics */
    if (strstr(line, "probe=reboot"))
        reboot(RB_AUTOBOOT);
    for (;;)
        pause();
}
