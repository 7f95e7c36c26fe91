/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about the kernel's numbers as texts, and about what a tree takes. */
#include "check.h"
#include "kernel/usage.h"

#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

CASE(limits_that_are_no_number_are_none)
{
    CHECK(plain_number("max\n") == 0 && plain_number("") == 0 && plain_number("4096\n") == 4096);
    CHECK(plain_number("18446744073709551615\n") == UINT64_MAX);
}

CASE(the_numbers_of_all_devices_are_summed)
{
    const char *io =
        "254:0 rbytes=4096 wbytes=10 rios=1 wios=2 dbytes=0 dios=0\n254:16 rbytes=100 wbytes=0 rios=3 wios=0\n";
    CHECK(summed_number(io, "rbytes") == 4196 && summed_number(io, "rios") == 4 && summed_number(io, "wbytes") == 10);
    CHECK(summed_number("", "rbytes") == 0 && summed_number("254:0 rbytes\n", "rbytes") == 0);
    CHECK(summed_number(io, "bytes") == 0);
}

CASE(interfaces_are_read_and_lo_is_not)
{
    clearpod_agent_InterfaceStats stats;
    CHECK(interface_line("  eth0:  1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n", &stats) && !strcmp(stats.name, "eth0"));
    CHECK(stats.rx_bytes == 1 && stats.rx_packets == 2 && stats.rx_errors == 3 && stats.rx_dropped == 4);
    CHECK(stats.tx_bytes == 5 && stats.tx_packets == 6 && stats.tx_errors == 7 && stats.tx_dropped == 8);
    CHECK(interface_line("eth10:123456789012 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n", &stats) &&
          stats.rx_bytes == 123456789012);
    CHECK(interface_line(" fifteen-letters:1 2 3 4 5 6 7 8 9 10 11 12", &stats) && stats.tx_dropped == 12);
    CHECK(!interface_line("sixteen-letters-:1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n", &stats));
    CHECK(!interface_line("  eth0:  1 2 3 4 0 0 0 0 5 6 7\n", &stats) && !interface_line("  eth0:", &stats) &&
          !interface_line(": 1 2 3 4 0 0 0 0 5 6 7 8", &stats) && !interface_line("", &stats));
    CHECK(!interface_line("    lo: 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n", &stats));
    CHECK(!interface_line("Inter-|   Receive                        |  Transmit\n", &stats));
}

static void make_file(const char *path, size_t size)
{
    static char bytes[8192];
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, bytes, size) == (ssize_t)size && fsync(fd) == 0);
    close(fd);
}

CASE(a_tree_is_counted_and_a_file_of_two_names_once)
{
    char top[] = "/tmp/usage-XXXXXX", deep[64], first[64], second[64];
    struct usage before, after;
    CHECK(mkdtemp(top));
    usage_of(top, &before);
    CHECK(before.bytes == 0 && before.inodes == 0);
    snprintf(deep, sizeof deep, "%s/deep", top);
    snprintf(first, sizeof first, "%s/first", top);
    snprintf(second, sizeof second, "%s/deep/second", top);
    CHECK(mkdir(deep, 0700) == 0);
    usage_of(top, &before);
    make_file(first, 8192);
    usage_of(top, &after);
    CHECK(after.inodes == 2 && after.bytes - before.bytes >= 8192 && after.bytes - before.bytes < 65536);
    CHECK(link(first, second) == 0);
    before = after;
    usage_of(top, &after);
    CHECK(after.inodes == 2 && after.bytes >= before.bytes && after.bytes - before.bytes < 8192);
    CHECK(unlink(second) == 0 && unlink(first) == 0 && rmdir(deep) == 0 && rmdir(top) == 0);
    usage_of(top, &after);
    CHECK(after.inodes == 0);
}
