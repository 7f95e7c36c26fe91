/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what the agent reads as text: the kernel command line, addresses, ids and paths out of requests, sysctls, crun's
 * messages, the kernel's statistics. Each function gets the whole input with a zero behind it, in memory of just that size.
 */
#include "base/arguments.h"
#include "base/texts.h"
#include "helpers/records.h"
#include "kernel/netlink.h"
#include "kernel/usage.h"
#include "link/message.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static void read_arguments(const char *text)
{
    struct arguments arguments;
    char bad[64];
    if (!arguments_parse(text, &arguments, bad))
        require(memchr(bad, 0, sizeof bad));
    const char *argv[] = {"agent", text, NULL};
    if (!host_arguments_parse(argv, &arguments.host, bad))
        require(memchr(bad, 0, sizeof bad));
}

static void read_addresses(const char *text)
{
    struct address address;
    uint8_t mac[6];
    struct nl_message message;
    if (address_parse(text, &address)) {
        require(address.size == 4 || address.size == 16);
        require(address.prefix <= 8 * address.size);
        nl_address(&message, 1, &address);
        require(nl_size(&message) <= NL_BYTES);
        nl_route(&message,
                 &(struct route){.to = address, .gateway = address, .index = 1, .metric = 1, .mtu = 1, .advmss = 1});
        require(nl_size(&message) <= NL_BYTES);
    }
    if (mac_parse(text, mac) && is_file_name(text)) {
        nl_link(&message, 1, text, 1500, mac);
        require(nl_size(&message) <= NL_BYTES);
    }
}

static void read_names(const char *text)
{
    char path[128], line[100];
    if (is_id(text))
        require(strlen(text) <= 99 && is_file_name(text) && is_path_beneath(text));
    if (is_path_beneath(text))
        require(text[0] != '/' && strncmp(text, "../", 3) && !strstr(text, "/../"));
    if (sysctl_path(text, path, sizeof path))
        require(!strncmp(path, "/proc/sys/", 10) && !strstr(path, "..") && strlen(path) < sizeof path);
    is_command_error(text);
    crun_message(text, line, sizeof line);
    require(memchr(line, 0, sizeof line) && !strchr(line, '\n'));
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *text = malloc(size + 1);
    clearpod_agent_InterfaceStats stats;
    enum record_kind kind;
    memcpy(text, bytes, size);
    text[size] = 0;
    read_arguments(text);
    read_addresses(text);
    read_names(text);
    plain_number(text);
    summed_number(text, "rbytes");
    if (interface_line(text, &stats))
        require(strcmp(stats.name, "lo") != 0);
    if (size >= RECORD_HEADER)
        require(record_unpack(bytes, &kind) <= RECORD_MAX);
    free(text);
    return 0;
}
