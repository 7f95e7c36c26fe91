/* SPDX-License-Identifier: Apache-2.0 */
/*
 * For `scripts/bench volumes`: small_files COUNT ROUNDS NAME=DIRECTORY... makes, asks for, reads and removes COUNT files
 * of 100 bytes in each directory, in turns. One line per directory: its name, and the microseconds per file of each, the
 * best of all rounds.
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAKE, STAT, READ, REMOVE, STEPS, MOST = 16, BYTES = 100 };

static void need(int works, const char *path)
{
    if (works)
        return;
    perror(path);
    exit(1);
}

static double now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e6 + now.tv_nsec / 1e3;
}

static void one(int what, const char *path)
{
    static char bytes[BYTES];
    struct stat about;
    if (what == STAT)
        need(stat(path, &about) == 0, path);
    else if (what == REMOVE)
        need(unlink(path) == 0, path);
    else {
        int fd = what == MAKE ? open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644) : open(path, O_RDONLY);
        need(fd >= 0, path);
        need((what == MAKE ? write(fd, bytes, BYTES) : read(fd, bytes, BYTES)) == BYTES, path);
        need(close(fd) == 0, path);
    }
}

static void measure(const char *directory, int count, double best[STEPS])
{
    char path[500];
    snprintf(path, sizeof path, "%s/many", directory);
    need(mkdir(path, 0755) == 0, path);
    for (int what = MAKE; what < STEPS; what++) {
        double begun = now_us();
        for (int i = 0; i < count; i++) {
            snprintf(path, sizeof path, "%s/many/%d", directory, i);
            one(what, path);
        }
        double each = (now_us() - begun) / count;
        best[what] = best[what] == 0 || each < best[what] ? each : best[what];
    }
    snprintf(path, sizeof path, "%s/many", directory);
    need(rmdir(path) == 0, path);
}

int main(int argc, char **argv)
{
    static double best[MOST][STEPS];
    char name[64], directory[400];
    for (int round = 0; argc > 3 && round < atoi(argv[2]); round++)
        for (int i = 3; i < argc && i - 3 < MOST; i++) {
            need(sscanf(argv[i], "%63[^=]=%399s", name, directory) == 2, argv[i]);
            measure(directory, atoi(argv[1]), best[i - 3]);
        }
    for (int i = 3; i < argc && i - 3 < MOST; i++) {
        const double *us = best[i - 3];
        sscanf(argv[i], "%63[^=]", name);
        printf("small-files %s %.1f %.1f %.1f %.1f\n", name, us[MAKE], us[STAT], us[READ], us[REMOVE]);
    }
    return 0;
}
