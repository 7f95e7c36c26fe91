/* SPDX-License-Identifier: Apache-2.0 */
/* PID 1 of test_dax.py: looks at /dev/pmem*, then obeys one word after the other that the host writes into the share. */
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define IMAGE "/image"

/* /proc/meminfo's line, in KiB. */
static long memory(const char *name)
{
    char line[128];
    long value = -1;
    FILE *file = fopen("/proc/meminfo", "r");
    while (file && fgets(line, sizeof line, file))
        if (strncmp(line, name, strlen(name)) == 0)
            sscanf(line + strlen(name), ": %ld", &value);
    if (file)
        fclose(file);
    return value;
}

static void head(const char *device)
{
    unsigned char bytes[4096];
    int fd = open(device, O_RDONLY), sum = 0;
    if (fd >= 0)
        ioctl(fd, BLKFLSBUF, 0);
    ssize_t got = fd < 0 ? -1 : pread(fd, bytes, sizeof bytes, 1024);
    for (ssize_t i = 0; i < got; i++)
        sum += bytes[i];
    if (fd >= 0)
        close(fd);
    printf("probe head %s %s\n", device, got < 0 ? "absent" : sum ? "data" : "zeros");
}

static void scribble(const char *device)
{
    int fd = open(device, O_RDWR | O_SYNC);
    ssize_t put = fd < 0 ? -1 : pwrite(fd, "written-by-guest", 16, 0);
    if (fd >= 0)
        close(fd);
    printf("probe wrote %d\n", (int)put);
}

/* The mount's options, as the kernel says them. */
static void show_mount(void)
{
    char line[512];
    FILE *file = fopen("/proc/mounts", "r");
    while (file && fgets(line, sizeof line, file))
        if (strstr(line, " " IMAGE " "))
            printf("probe mount %s", line);
    if (file)
        fclose(file);
}

static void attach(const char *device)
{
    if (mount(device, IMAGE, "erofs", MS_RDONLY, "dax=always") < 0)
        printf("probe mount refused %m\n");
    else
        show_mount();
}

/* Reads it all: its sum, and what that added to the guest's page cache. */
static void read_file(const char *path)
{
    static unsigned char block[65536];
    unsigned long sum = 0, zeros = 0;
    long before = memory("Cached"), got;
    int fd = open(path, O_RDONLY);
    while (fd >= 0 && (got = read(fd, block, sizeof block)) > 0)
        for (long i = 0; i < got; i++)
            sum += block[i], zeros += block[i] == 0;
    if (fd >= 0)
        close(fd);
    printf("probe read %s sum %lu zeros %lu cached %ld\n", path, sum, zeros, memory("Cached") - before);
}

/* Reads it in the same way in long words, for much of it: their sum. */
static void read_words(const char *path)
{
    static unsigned long block[16384];
    unsigned long sum = 0, bytes = 0;
    long before = memory("Cached"), got;
    int fd = open(path, O_RDONLY);
    while (fd >= 0 && (got = read(fd, block, sizeof block)) > 0) {
        for (long i = 0; i < got / 8; i++)
            sum += block[i];
        bytes += (unsigned long)got;
    }
    if (fd >= 0)
        close(fd);
    printf("probe words %s sum %lu bytes %lu cached %ld\n", path, sum, bytes, memory("Cached") - before);
}

/* What a page at `at` of a device holds, and one at its very end. */
static void beyond(const char *device, unsigned long at)
{
    unsigned char bytes[4096];
    int fd = open(device, O_RDONLY), sum = 0;
    off_t end = lseek(fd, 0, SEEK_END);
    ssize_t behind = pread(fd, bytes, sizeof bytes, (off_t)at);
    for (ssize_t i = 0; i < behind; i++)
        sum += bytes[i];
    ssize_t outside = pread(fd, bytes, sizeof bytes, end);
    close(fd);
    printf("probe beyond %ld sum %d end %d of %ld\n", (long)behind, sum, (int)outside, (long)end);
}

static void obey(const char *word)
{
    char device[32];
    unsigned long at;
    if (sscanf(word, "beyond %lu", &at) == 1)
        beyond("/dev/pmem0", at);
    if (strcmp(word, "words") == 0)
        read_words(IMAGE "/data");
    snprintf(device, sizeof device, "/dev/pmem%c", word[strlen(word) - 1]);
    if (strncmp(word, "head", 4) == 0)
        head(device);
    if (strncmp(word, "mount", 5) == 0)
        attach(device);
    if (strncmp(word, "write", 5) == 0)
        scribble(device);
    if (strcmp(word, "read") == 0)
        read_file(IMAGE "/data");
    if (strcmp(word, "umount") == 0)
        printf("probe umount %d\n", umount(IMAGE));
    if (strcmp(word, "reboot") == 0)
        reboot(RB_AUTOBOOT);
}

/* The host renames number-N into the share once it has written it. */
static void serve(int number)
{
    char path[64], word[64] = "";
    int fd;
    snprintf(path, sizeof path, "/share/number-%d", number);
    while ((fd = open(path, O_RDONLY)) < 0)
        nanosleep(&(struct timespec){.tv_nsec = 20000000}, 0);
    ssize_t got = read(fd, word, sizeof word - 1);
    word[got > 0 ? got : 0] = 0;
    close(fd);
    obey(word);
    printf("probe done %d\n", number);
}

int main(void)
{
    mkdir("/dev", 0755), mkdir("/proc", 0755), mkdir("/share", 0755), mkdir(IMAGE, 0755);
    mount("dev", "/dev", "devtmpfs", 0, 0);
    mount("proc", "/proc", "proc", 0, 0);
    int console = open("/dev/console", O_RDWR);
    dup2(console, 1), dup2(console, 2);
    setvbuf(stdout, 0, _IOLBF, 0);
    mount("share", "/share", "9p", 0, "trans=virtio,version=9p2000.L,msize=131072,cache=none");
    printf("probe total %ld\n", memory("MemTotal"));
    for (int number = 0;; number++)
        serve(number);
}
