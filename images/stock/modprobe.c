/* SPDX-License-Identifier: Apache-2.0 */
/*
 * modprobe -q -- NAME: what the kernel starts when a program needs what is a module, in the guest's own root and with all
 * rights, whoever that program is (/proc/sys/kernel/modprobe). NAME, which a program may have chosen, is compared with the
 * first words of the index (Index in build.py) and is no part of a path:
 *
 *     NAME MODULE[,PARAMETERS] ...    modules in the order in which they are loaded; `-` is `_` everywhere
 *
 * Ends with 0 when all of a line are in the kernel, else with 1.
 */
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef DIRECTORY
#define DIRECTORY "/usr/lib/clearpod/modules"
#define LOADED "/sys/module"
#endif

#ifndef MODULE_INIT_COMPRESSED_FILE /* linux/module.h; musl does not have it */
#define MODULE_INIT_COMPRESSED_FILE 4
#endif

enum { LINE = 4096, PLACE = 300, ARGUMENTS = 4 };

static void normalise(char *name)
{
    for (; *name; name++)
        if (*name == '-')
            *name = '_';
}

/* The modules behind NAME in the index, in `line`; false when there are none. */
static bool look_up(const char *name, char line[LINE])
{
    FILE *index = strchr(name, ' ') ? NULL : fopen(DIRECTORY "/index", "re");
    size_t length = strlen(name);
    bool is_found = false;
    while (index && !is_found && fgets(line, LINE, index))
        is_found = !strncmp(line, name, length) && line[length] == ' ';
    if (index)
        fclose(index);
    line[strcspn(line, "\n")] = 0;
    return is_found;
}

static bool load(char *module)
{
    char path[PLACE];
    char *parameters = strchr(module, ',');
    if (parameters)
        *parameters++ = 0;
    snprintf(path, sizeof path, LOADED "/%s", module);
    if (access(path, F_OK) == 0)
        return true;
    int flags = 0;
    snprintf(path, sizeof path, DIRECTORY "/%s.ko", module);
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) { /* packed, as distributions have them; the kernel unpacks it */
        snprintf(path, sizeof path, DIRECTORY "/%s.ko.xz", module);
        file = open(path, O_RDONLY | O_CLOEXEC);
        flags = MODULE_INIT_COMPRESSED_FILE;
    }
    bool is_loaded = file >= 0 && syscall(SYS_finit_module, file, parameters ? parameters : "", flags) == 0;
    if (file >= 0)
        close(file);
    snprintf(path, sizeof path, LOADED "/%s", module);
    /* Another modprobe may have been quicker. */
    return is_loaded || access(path, F_OK) == 0;
}

int main(int argc, char **argv)
{
    char line[LINE] = "";
    bool are_loaded = true;
    if (argc != ARGUMENTS)
        return 1;
    normalise(argv[ARGUMENTS - 1]);
    if (!look_up(argv[ARGUMENTS - 1], line))
        return 1;
    strtok(line, " ");
    for (char *module = strtok(NULL, " "); module; module = strtok(NULL, " "))
        are_loaded &= load(module);
    return are_loaded ? 0 : 1;
}
