/* SPDX-License-Identifier: Apache-2.0 */
/*
 * volumes make|refresh|drop CONTAINER: the volumes of a container that are no part of an image. Those that its guest has
 * itself are in the file guest_volumes of the container's bundle, one per line (stage1/pod/guest_volumes.py), those of the
 * host in the file host_volumes (host.h). The agent runs it (images/agent/helpers/volumes.c), and unmounts what it has mounted
 * in the container's directory; `drop` unmounts those of the host. A fault is one sentence in /run/clearpod/volumes.log.
 * volumes pump PORT: the process that carries requests to the host (pump.h), which `make` starts.
 *
 *     disk INDEX MODE UID GID NAME[/BELOW]   a directory of the pod's disk, or what is below it: disk.h
 *     limited INDEX PARTITION MODE ...       the same on a partition of the disk, which has only so much room
 *     tmpfs INDEX BYTES MODE UID GID NAME... the same in a tmpfs of the pod, which gets its new size when it is refreshed
 *     memory INDEX NUMBER BYTES              a copy of what the host shows as mount NUMBER of the bundle: memory.h
 *     output INDEX NUMBER BYTES              a file that is copied to there when it is refreshed, and begins as what is there
 */
#include "base/files.h"
#include "base/scope.h"
#include "disk.h"
#include "host.h"
#include "memory.h"
#include "pump.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define RUN "/run/clearpod"

enum { PATH_BYTES = 400, LINE = 4608, LISTENER = 3 };

static int one(char *line, const char *id, const char *bundle, bool is_new, struct fault *why)
{
    char kind[9], place[PATH_BYTES];
    unsigned index;
    int used = 0;
    if (sscanf(line, "%8s %u %n", kind, &index, &used) != 2)
        return fault_set(why, FAULT_INVALID, "'%s' is no volume", line);
    snprintf(place, sizeof place, RUN "/containers/%.100s/volumes/%u", id, index);
    if (!strcmp(kind, "output") && !is_new)
        return memory_output(line + used, bundle, place, why);
    if (!strcmp(kind, "tmpfs"))
        return tmpfs_volume(line + used, place, is_new, why);
    if (!strcmp(kind, "memory") || !strcmp(kind, "output"))
        return memory_volume(line + used, bundle, place, is_new, why);
    return is_new ? disk_volume(line + used, place, !strcmp(kind, "limited"), why) : 0;
}

static int all(const char *id, bool is_new, struct fault *why)
{
    char path[PATH_BYTES], bundle[PATH_BYTES - 32], line[LINE];
    snprintf(bundle, sizeof bundle, RUN "/volumes/containers/%.100s", id);
    snprintf(path, sizeof path, RUN "/containers/%.100s/volumes", id);
    if (is_new && make_dir(path, 0711) < 0)
        return fault_errno(why, "mkdir %s", path);
    if (is_new && host_volumes(id, bundle, why) < 0)
        return -1;
    snprintf(path, sizeof path, "%s/guest_volumes", bundle);
    FILE *list = fopen(path, "re");
    if (!list)
        return errno == ENOENT ? 0 : fault_errno(why, "open %s", path);
    int result = 0;
    /* Once they are there, one that can't be copied keeps no other from it, nor what goes back to the host. */
    while ((result == 0 || !is_new) && fgets(line, sizeof line, list)) {
        struct fault other = {0};
        line[strcspn(line, "\n")] = 0;
        if (one(line, id, bundle, is_new, result ? &other : why) < 0)
            result = -1;
    }
    fclose(list);
    return result;
}

static void tell(const struct fault *why)
{
    scoped_fd int fd = open(RUN "/volumes.log", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd >= 0 && write(fd, why->text, strlen(why->text)) < 0)
        perror("volumes.log");
}

int main(int argc, char **argv)
{
    struct fault why = {0};
    bool is_new = argc == 3 && !strcmp(argv[1], "make");
    if (argc == 3 && !strcmp(argv[1], "pump"))
        pump_main(LISTENER, (unsigned)strtoul(argv[2], NULL, 10));
    bool was_used = disk_was_used();
    bool is_over = argc == 3 && !strcmp(argv[1], "drop");
    umask(0);
    if (argc != 3 || (is_over ? host_volumes_drop(argv[2], &why) : all(argv[2], is_new, &why)) < 0) {
        tell(&why);
        return 1;
    }
    if (is_new && was_used)
        disk_clean_later();
    return 0;
}
