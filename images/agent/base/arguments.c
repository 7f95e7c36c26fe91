/* SPDX-License-Identifier: Apache-2.0 */
/* See arguments.h. */
#include "base/arguments.h"

#include "base/texts.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool take_link(const char *value, struct arguments *arguments)
{
    char *end;
    if (strcmp(value, "serial") == 0)
        return true;
    if (strncmp(value, "vsock:", 6) != 0)
        return false;
    unsigned long port = strtoul(value + 6, &end, 10);
    arguments->vsock_port = (unsigned)port;
    return port > 0 && port < UINT32_MAX && *end == 0;
}

static bool take_device(const char *value, char to[64])
{
    snprintf(to, 64, "%s", value);
    return strncmp(value, "/dev/", 5) == 0 && strlen(value) < 64 && is_path_beneath(value + 1);
}

static const struct {
    char name[12];
    unsigned offset;
} flags[] = {
    {"mark", offsetof(struct arguments, mark)},         {"plan", offsetof(struct arguments, plan)},
    {"template", offsetof(struct arguments, template)}, {"alike", offsetof(struct arguments, alike)},
    {"bench", offsetof(struct arguments, bench)},
};

static bool take_parameter(const char *parameter, struct arguments *arguments)
{
    if (strncmp(parameter, "clearpod.", 9) != 0)
        return true;
    parameter += 9;
    if (strncmp(parameter, "link=", 5) == 0)
        return take_link(parameter + 5, arguments);
    if (strncmp(parameter, "system=", 7) == 0)
        return take_device(parameter + 7, arguments->system);
    if (strncmp(parameter, "scratch=", 8) == 0)
        return take_device(parameter + 8, arguments->scratch);
    if (strncmp(parameter, "window=", 7) == 0)
        return take_device(parameter + 7, arguments->window);
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++)
        if (strcmp(parameter, flags[i].name) == 0)
            *(bool *)((char *)arguments + flags[i].offset) = true;
    return true; /* a later host's */
}

bool arguments_parse(const char *line, struct arguments *arguments, char bad[64])
{
    memset(arguments, 0, sizeof *arguments);
    while (*line) {
        char parameter[128];
        size_t length = strcspn(line, " \t\n");
        snprintf(parameter, sizeof parameter, "%.*s", (int)(length < 127 ? length : 127), line);
        snprintf(bad, 64, "%.63s", parameter);
        if (!take_parameter(parameter, arguments))
            return false;
        line += length;
        line += strspn(line, " \t\n");
    }
    return true;
}

static bool take_path(const char *value, const char **to)
{
    *to = value;
    return *value == '/' && is_path_beneath(value + 1);
}

static bool take_namespace(const char *value, bool *own, bool *hosts)
{
    *own = strcmp(value, "own") == 0;
    *hosts = strcmp(value, "host") == 0;
    return *own || *hosts || strcmp(value, "given") == 0;
}

static bool take_host_argument(const char *argument, struct host_arguments *arguments)
{
    if (strncmp(argument, "--directory=", 12) == 0)
        return take_path(argument + 12, &arguments->directory);
    if (strncmp(argument, "--cgroup=", 9) == 0)
        return take_path(argument + 9, &arguments->cgroup);
    if (strncmp(argument, "--crun=", 7) == 0)
        return take_path(argument + 7, &arguments->crun);
    if (strncmp(argument, "--scratch=", 10) == 0)
        return take_path(argument + 10, &arguments->scratch);
    if (strncmp(argument, "--network=", 10) == 0)
        return take_namespace(argument + 10, &arguments->own_network, &arguments->host_network);
    if (strncmp(argument, "--ipc=", 6) == 0)
        return take_namespace(argument + 6, &arguments->own_ipc, &arguments->host_ipc);
    return false;
}

bool host_arguments_parse(const char *const *argv, struct host_arguments *arguments, char bad[64])
{
    memset(arguments, 0, sizeof *arguments);
    arguments->on = true;
    for (int i = 1; argv[0] && argv[i]; i++) {
        snprintf(bad, 64, "%.63s", argv[i]);
        if (!take_host_argument(argv[i], arguments))
            return false;
    }
    snprintf(bad, 64, "%s", !arguments->directory ? "--directory=" : !arguments->cgroup ? "--cgroup=" : "--crun=");
    return arguments->directory && arguments->cgroup && arguments->crun;
}
