/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about the agent where containers are units of systemd. */
#include "check.h"
#include "systemd/units.h"

#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static ino_t inode(int fd)
{
    struct stat st;
    CHECK(fstat(fd, &st) == 0);
    return st.st_ino;
}

CASE(a_message_brings_the_descriptors_that_there_are_in_their_order)
{
    int pair[2], other[2], got[3];
    struct unit_spec sent = {.given = {true, false, true}, .owner = 7}, spec;
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && pipe(other) == 0);
    CHECK(packet_send(pair[0], &sent, sizeof sent, (const int[3]){other[0], -1, pair[0]}));
    CHECK(packet_receive(pair[1], &spec, sizeof spec, got));
    CHECK(spec.owner == 7 && spec.given[2] && got[2] == -1);
    CHECK(inode(got[0]) == inode(other[0]) && inode(got[1]) == inode(pair[0]));
    CHECK(fcntl(got[0], F_GETFD) == FD_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        close(got[i]);
        close(pair[i]);
        close(other[i]);
    }
}

CASE(a_message_that_is_short_or_does_not_come_is_none)
{
    int pair[2], got[3];
    struct unit_spec spec = {0};
    CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    CHECK(packet_send(pair[0], "READY=1", 7, NULL) && !packet_receive(pair[1], &spec, sizeof spec, got));
    close(pair[0]);
    CHECK(!packet_receive(pair[1], &spec, sizeof spec, got) && got[0] == -1);
    CHECK(!packet_send(pair[1], &spec, sizeof spec, NULL));
    close(pair[1]);
}

CASE(a_socket_with_too_long_a_name_is_none)
{
    char path[200];
    memset(path, 'x', sizeof path);
    path[sizeof path - 1] = 0;
    CHECK(packet_listen(path, SOCK_DGRAM) < 0 && packet_connect(path, SOCK_DGRAM) < 0);
}

CASE(a_units_end_is_read_from_what_systemd_says)
{
    static const struct {
        const char *code, *status;
        int exit, signal;
    } rows[] = {{"exited", "0", 0, 0},       {"exited", "3", 3, 0},     {"exited", "255", 255, 0},
                {"killed", "KILL", 0, 9},    {"killed", "TERM", 0, 15}, {"dumped", "SEGV", 0, 11},
                {"killed", "RTMIN+3", 0, 9}, {NULL, NULL, 1, 0},        {"exited", NULL, 1, 0}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int status = unit_status(rows[i].code, rows[i].status);
        CHECK(WIFSIGNALED(status) ? WTERMSIG(status) == rows[i].signal : WEXITSTATUS(status) == rows[i].exit);
        CHECK(WIFSIGNALED(status) == (rows[i].signal != 0));
    }
}
