/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about texts from outside, addresses, netlink messages, the process table and small files. */
#include "base/arguments.h"
#include "base/files.h"
#include "base/texts.h"
#include "check.h"
#include "helpers/task.h"
#include "kernel/netlink.h"
#include "kernel/usage.h"
#include "loop/process.h"

#include <fcntl.h>
#include <linux/rtnetlink.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

CASE(the_kernel_line_is_understood)
{
    struct arguments arguments;
    char bad[64];
    CHECK(
        arguments_parse("quiet clearpod.link=vsock:5000 clearpod.system=/dev/pmem0 clearpod.mark\n", &arguments, bad));
    CHECK(arguments.vsock_port == 5000 && !strcmp(arguments.system, "/dev/pmem0") && arguments.mark &&
          !arguments.bench && !arguments.plan);
    CHECK(arguments_parse("clearpod.system=/dev/vda clearpod.plan", &arguments, bad) && arguments.plan);
    CHECK(arguments_parse("clearpod.system=/dev/vda clearpod.template", &arguments, bad) && arguments.template &&
          !arguments.plan);
    CHECK(arguments_parse("clearpod.system=/dev/vda clearpod.alike", &arguments, bad) && arguments.alike &&
          !arguments.template);
    CHECK(arguments_parse("clearpod.link=serial clearpod.scratch=/dev/vdb clearpod.bench clearpod.later=x", &arguments,
                          bad));
    CHECK(arguments.vsock_port == 0 && !strcmp(arguments.scratch, "/dev/vdb") && arguments.bench && !arguments.mark);
    CHECK(arguments_parse("clearpod.window=/dev/pmem1", &arguments, bad) && !strcmp(arguments.window, "/dev/pmem1"));
    CHECK(arguments_parse("", &arguments, bad));
}

CASE(the_command_line_on_a_host_is_understood)
{
    static const char *const all[] = {"agent",        "--directory=/run/p", "--cgroup=/c/p", "--crun=/usr/bin/crun",
                                      "--scratch=/s", "--network=own",      "--ipc=host",    NULL};
    static const char *const least[] = {
        "agent", "--directory=/run/p", "--cgroup=/c/p", "--crun=/usr/bin/crun", "--network=host", NULL};
    struct host_arguments host;
    char bad[64];
    CHECK(host_arguments_parse(all, &host, bad) && host.on && !strcmp(host.scratch, "/s") &&
          !strcmp(host.cgroup, "/c/p"));
    CHECK(host.own_network && !host.host_network && host.host_ipc && !host.own_ipc);
    CHECK(host_arguments_parse(least, &host, bad) && !host.scratch && host.host_network && !host.own_ipc &&
          !host.host_ipc);
}

CASE(invalid_arguments_on_a_host_are_named)
{
    static const struct {
        const char *word, *bad;
    } rows[] = {{"quiet", "quiet"},
                {"--network=none", "--network=none"},
                {"--crun=crun", "--crun=crun"},
                {"--scratch=/a/../b", "--scratch=/a/../b"},
                {"--scratch=/", "--scratch=/"},
                {"--crun=/c", "--directory="}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const char *argv[] = {"agent", rows[i].word, NULL};
        char bad[64];
        struct host_arguments host;
        CHECK(!host_arguments_parse(argv, &host, bad) && !strcmp(bad, rows[i].bad));
    }
}

CASE(invalid_kernel_parameters_are_named)
{
    static const char *const lines[] = {"clearpod.link=vsock:0",  "clearpod.link=vsock:x",
                                        "clearpod.link=tcp",      "clearpod.link=vsock:99999999999",
                                        "clearpod.system=vda",    "clearpod.system=/dev/../etc/passwd",
                                        "clearpod.scratch=/dev/", "clearpod.window=pmem1"};
    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        struct arguments arguments;
        char bad[64];
        CHECK(!arguments_parse(lines[i], &arguments, bad) && !strcmp(bad, lines[i]));
    }
}

CASE(ids_and_file_names_stay_in_their_directory)
{
    static const struct {
        const char *text;
        bool id, file, path;
    } rows[] = {
        {"abc", true, true, true},       {"a-b_c.9", true, true, true}, {"", false, false, false},
        {".", false, false, false},      {"..", false, false, false},   {"a/b", false, false, true},
        {"a/../b", false, false, false}, {"/a", false, false, false},   {"a/", false, false, false},
        {"a//b", false, false, false},   {"-a", false, true, true},     {".a", false, true, true},
        {"a b", false, true, true},      {"a\nb", false, false, false}, {"..a/b..", false, false, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        CHECK(is_id(rows[i].text) == rows[i].id);
        CHECK(is_file_name(rows[i].text) == rows[i].file);
        CHECK(is_path_beneath(rows[i].text) == rows[i].path);
    }
}

CASE(sysctls_become_paths_below_proc_sys)
{
    char path[64];
    CHECK(sysctl_path("net.ipv4.ip_forward", path, sizeof path) && !strcmp(path, "/proc/sys/net/ipv4/ip_forward"));
    CHECK(!sysctl_path("net/ipv4", path, sizeof path) && !sysctl_path("", path, sizeof path));
    CHECK(!sysctl_path("..", path, sizeof path) && !sysctl_path("a..b", path, sizeof path));
    CHECK(!sysctl_path("kernel.a_name_that_is_much_longer_than_the_room_that_there_is", path, sizeof path));
}

CASE(crun_says_which_failures_are_the_commands)
{
    CHECK(is_command_error("executable file `nope` not found in $PATH: No such file or directory"));
    CHECK(is_command_error("cannot find `` in $PATH: No such file or directory"));
    CHECK(is_missing_command("cannot find `` in $PATH: No such file or directory"));
    CHECK(is_command_error("the path `/etc/passwd` exists but it is not executable: Permission denied"));
    CHECK(is_command_error("the path `/etc` is not a regular file: Operation not permitted"));
    CHECK(!is_command_error("mount `proc` to `proc`: Operation not permitted"));
    CHECK(is_missing_command("executable file `nope` not found in $PATH: No such file or directory"));
    CHECK(is_command_error("cannot open `/bin/loop`: Too many levels of symbolic links"));
    CHECK(!is_missing_command("cannot open `/bin/loop`: Too many levels of symbolic links"));
    CHECK(is_command_error("cannot open `/bin/true/x`: Not a directory"));
    CHECK(is_missing_command("cannot open `/bin/true/x`: Not a directory"));
    CHECK(is_command_error("cannot open `/aaa`: File name too long"));
    CHECK(is_missing_command("cannot open `/aaa`: File name too long"));
    CHECK(!is_command_error("cannot open `/proc/self/x`: Permission denied"));
    CHECK(!is_command_error("mount `/a` to `b`: Too many levels of symbolic links"));
    CHECK(is_directory_error("crun run: chdir to `/v/no`: No such file or directory"));
    CHECK(is_directory_error("crun run: chdir to `/v/file`: Not a directory"));
    CHECK(!is_directory_error("mkdir `/proc/x`: No such file or directory"));
    CHECK(!is_missing_command("the path `/etc` is not a regular file: Operation not permitted"));
    char line[64];
    crun_message("executable file `/a/very/long/path/of/a/command/with/many/components` not found: No such file", line,
                 sizeof line);
    CHECK(strlen(line) == 63 && strstr(line, "executable file `/a") == line && strstr(line, "...") &&
          strstr(line, "No such file"));
    crun_message("a warning\nthe error\n\n", line, sizeof line);
    CHECK(!strcmp(line, "the error"));
    crun_message("", line, sizeof line);
    CHECK(!*line);
}

CASE(addresses_are_parsed_strictly)
{
    struct address a;
    CHECK(address_parse("10.88.0.5/16", &a) && a.prefix == 16 && a.size == 4 && a.bytes[3] == 5);
    CHECK(address_parse("fd00::5", &a) && a.prefix == 128 && a.size == 16);
    CHECK(address_parse("0.0.0.0/0", &a) && a.prefix == 0);
    static const char *const bad[] = {"",  "10.88.0.5/33", "10.88.0/8", "10.0.0.1/", "10.0.0.1/-1", "::/129",
                                      "x", "1.2.3.4/8x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(!address_parse(bad[i], &a));
    uint8_t mac[6];
    CHECK(mac_parse("52:54:00:12:34:ff", mac) && mac[5] == 0xff);
    CHECK(mac_parse("5A:0b:00:9F:34:fF", mac) && mac[0] == 0x5a && mac[1] == 0x0b && mac[3] == 0x9f && mac[5] == 0xff);
    CHECK(!mac_parse(" 2:54:00:12:34:56", mac) && !mac_parse("+2:54:00:12:34:56", mac) &&
          !mac_parse("0x:54:00:12:34:56", mac) && !mac_parse("5g:54:00:12:34:56", mac));
    CHECK(!mac_parse("52:54:00:12:34", mac) && !mac_parse("52:54:00:12:34:5", mac) &&
          !mac_parse("52-54-00-12-34-56", mac));
}

static struct rtattr *find(struct nl_message *message, size_t body, uint16_t type)
{
    for (size_t at = NLMSG_LENGTH(body); at < nl_size(message);) {
        struct rtattr *attribute = (void *)(message->bytes + at);
        if (attribute->rta_type == type)
            return attribute;
        at += RTA_ALIGN(attribute->rta_len);
    }
    return NULL;
}

CASE(a_route_names_its_gateway_and_calls_it_on_link)
{
    struct nl_message message;
    struct route route = {.index = 3};
    CHECK(address_parse("0.0.0.0/0", &route.to) && address_parse("169.254.1.1", &route.gateway));
    nl_route(&message, &route);
    const struct rtmsg *body = (const void *)(message.bytes + NLMSG_HDRLEN);
    CHECK(body->rtm_flags & RTNH_F_ONLINK && !find(&message, sizeof *body, RTA_DST));
    CHECK(!memcmp(RTA_DATA(find(&message, sizeof *body, RTA_GATEWAY)), route.gateway.bytes, 4));
    CHECK(!find(&message, sizeof *body, RTA_PRIORITY) && !find(&message, sizeof *body, RTA_METRICS));
    struct route on_link = {.index = 3};
    CHECK(address_parse("10.1.0.0/16", &on_link.to));
    nl_route(&message, &on_link);
    CHECK(body->rtm_scope == RT_SCOPE_LINK && find(&message, sizeof *body, RTA_DST));
}

CASE(a_route_has_its_metric_and_only_the_numbers_that_were_given)
{
    struct nl_message message;
    struct route route = {.index = 3, .metric = 50, .advmss = 1200};
    uint32_t number;
    CHECK(address_parse("fd00::/64", &route.to));
    nl_route(&message, &route);
    memcpy(&number, RTA_DATA(find(&message, sizeof(struct rtmsg), RTA_PRIORITY)), sizeof number);
    CHECK(number == 50);
    struct rtattr *outer = find(&message, sizeof(struct rtmsg), RTA_METRICS);
    struct rtattr *inner = RTA_DATA(outer);
    CHECK(outer->rta_len == RTA_LENGTH(RTA_SPACE(4)) && inner->rta_type == RTAX_ADVMSS);
    memcpy(&number, RTA_DATA(inner), sizeof number);
    CHECK(number == 1200);
    route.mtu = 1300;
    nl_route(&message, &route);
    CHECK(find(&message, sizeof(struct rtmsg), RTA_METRICS)->rta_len == RTA_LENGTH(2 * RTA_SPACE(4)));
}

CASE(an_ipv6_address_skips_duplicate_detection_and_an_ipv4_one_gets_its_broadcast)
{
    struct nl_message message;
    struct address a;
    const struct ifaddrmsg *body = (const void *)(message.bytes + NLMSG_HDRLEN);
    CHECK(address_parse("fd00::5/64", &a));
    nl_address(&message, 2, &a);
    CHECK(body->ifa_flags == IFA_F_NODAD && body->ifa_prefixlen == 64);
    CHECK(address_parse("10.88.1.5/16", &a));
    nl_address(&message, 2, &a);
    CHECK(!memcmp(RTA_DATA(find(&message, sizeof *body, IFA_BROADCAST)), "\x0a\x58\xff\xff", 4));
}

CASE(the_table_of_processes_has_its_limits)
{
    char name[16];
    for (int i = 0; i < MAX_CONTAINERS; i++) {
        snprintf(name, sizeof name, "c%d", i);
        CHECK(process_add(name, 0));
    }
    CHECK(!process_add("more", 0));
    for (uint32_t i = 1; i <= MAX_PROCESSES - MAX_CONTAINERS; i++)
        CHECK(process_add("c1", i));
    CHECK(!process_add("c1", 9999) && process_find("c1", 5) && !process_find("c2", 5));
    process_free(process_find("c1", 5));
    CHECK(process_add("c2", 7) == process_find("c2", 7));
    for (unsigned i = 0; i < process_count(); i++)
        process_free(&processes[i]);
}

CASE(an_exit_that_nobody_waited_for_yet_is_remembered)
{
    struct early_exit ended;
    early_remember(77, 3 << 8, 5);
    CHECK(!early_take(78, &ended) && early_take(77, &ended) && exit_code_of(ended.status) == 3);
    CHECK(!early_take(77, &ended));
    CHECK(exit_code_of(9) == 137 && exit_code_of(15) == 143 && exit_code_of(0) == 0);
}

CASE(numbers_are_read_behind_their_whole_key)
{
    static const char text[] = "low 0\nhigh 3\noom 1\noom_kill 12\noom_group_kill 0\n";
    CHECK(keyed_number(text, "oom_kill") == 12 && keyed_number(text, "oom") == 1);
    CHECK(keyed_number(text, "kill") == 0 && keyed_number("", "oom") == 0);
}

CASE(a_tree_is_removed_however_deep_it_is)
{
    char top[] = "/tmp/check-agent-XXXXXX", path[8];
    struct fault why;
    CHECK(mkdtemp(top));
    int dir = open(top, O_RDONLY | O_DIRECTORY);
    for (int i = 0; i < 300; i++) {
        snprintf(path, sizeof path, "d%d", i);
        CHECK(mkdirat(dir, path, 0755) == 0 && symlinkat("/etc", dir, "link") == 0);
        int next = openat(dir, path, O_RDONLY | O_DIRECTORY);
        close(dir);
        dir = next;
    }
    close(dir);
    CHECK(remove_tree(top, &why) == 0 && access(top, F_OK) < 0 && access("/etc/passwd", F_OK) == 0);
    CHECK(remove_tree(top, &why) == 0);
}

CASE(bytes_on_their_way_through_a_terminal_are_counted)
{
    for (int i = 0; i < 200; i++) {
        int ours = posix_openpt(O_RDWR | O_NOCTTY), its;
        CHECK(ours >= 0 && grantpt(ours) == 0 && unlockpt(ours) == 0);
        CHECK((its = open(ptsname(ours), O_RDWR | O_NOCTTY)) >= 0);
        CHECK(write(its, "24 80", 5) == 5 && close(its) == 0);
        CHECK(unread_bytes(ours) == 5);
        CHECK(close(ours) == 0);
    }
    int ends[2];
    CHECK(pipe(ends) == 0 && unread_bytes(ends[0]) == 0 && write(ends[1], "ab", 2) == 2);
    CHECK(unread_bytes(ends[0]) == 2 && unread_bytes(-1) == 0);
    CHECK(close(ends[0]) == 0 && close(ends[1]) == 0);
}
