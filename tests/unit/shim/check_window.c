/* SPDX-License-Identifier: Apache-2.0 */
/* The window's socket: requests as the daemon makes them, and as others might. */
#include "plan.h"
#include "window.h"
#include "check.h"
#include "scene.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = PAGE_BYTES, PAGES = 512 };

static struct window window;
static struct fault why;
static char socket_path[108];
static char reply[512];

static void open_window(void)
{
    snprintf(socket_path, sizeof socket_path, "%s", path_of("dax.sock"));
    CHECK(region_reserve(&window.region, PAGES * PAGE, &why) == 0);
    CHECK(window_open(&window, socket_path, NULL, &why) == 0);
}

static void close_window(void)
{
    window_close(&window);
    region_release(&window.region);
    unlink(socket_path);
}

static int dial(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    return connect(fd, (struct sockaddr *)&address, sizeof address) == 0 ? fd : (close(fd), -1);
}

static void send_message(int peer, const char *text, size_t length, const int *fds, size_t count)
{
    union {
        char buffer[CMSG_SPACE(4 * sizeof(int))];
        struct cmsghdr head;
    } control = {0};
    struct iovec part = {(void *)(uintptr_t)text, length};
    struct msghdr header = {.msg_iov = &part, .msg_iovlen = 1};
    if (count) {
        control.head = (struct cmsghdr){CMSG_LEN(count * sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        memcpy(CMSG_DATA(&control.head), fds, count * sizeof(int));
        header.msg_control = control.buffer;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
    }
    CHECK(sendmsg(peer, &header, MSG_NOSIGNAL) == (ssize_t)length);
}

static const char *receive_reply(int peer)
{
    ssize_t got = recv(peer, reply, sizeof reply - 1, 0);
    reply[got > 0 ? got : 0] = 0;
    return reply;
}

/* One request on a connection of its own; `fd` (-1: none) is closed. */
static const char *ask(const char *text, int fd)
{
    int peer = dial();
    CHECK(peer >= 0);
    send_message(peer, text, strlen(text), &fd, fd >= 0);
    receive_reply(peer);
    close(peer);
    if (fd >= 0)
        close(fd);
    return reply;
}

static bool is(const char *text, const char *expected)
{
    return strcmp(text, expected) == 0;
}

/* The thread may still hold its end of the last connection for a moment. */
static bool are_descriptors(int expected)
{
    for (int i = 0; i < 1000 && descriptor_count() != expected; i++)
        usleep(1000);
    return descriptor_count() == expected;
}

CASE(requests_are_read_strictly)
{
    struct request request;
    CHECK(window_parse("map 4096 8192", &request) && request.is_map && request.offset == 4096 && request.bytes == 8192);
    CHECK(window_parse("unmap 0 0x1000", &request) && !request.is_map && request.bytes == 4096);
    static const char *const wrong[] = {"",
                                        "map",
                                        "map ",
                                        "map 1",
                                        "map 1 ",
                                        "map 1 2 ",
                                        "map 1 2 3",
                                        "map  1 2",
                                        "Map 1 2",
                                        "map -1 2",
                                        "map 1 2\n",
                                        "unmap",
                                        "map 1 99999999999999999999",
                                        "mapp 1 2"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        CHECK(!window_parse(wrong[i], &request));
}

CASE(an_image_is_mapped_and_unmapped_while_it_is_served)
{
    int before = descriptor_count();
    open_window();
    CHECK(is(ask("map 8192 4096", file_of(PAGE, 'a')), "ok") && window.region.base[8192] == 'a');
    CHECK(is(ask("unmap 8192 4096", -1), "ok") && window.region.base[8192] == 0);
    CHECK(is(ask("unmap 0 2097152", -1), "ok"));
    close_window();
    CHECK(descriptor_count() == before);
}

CASE(many_requests_go_through_one_connection)
{
    open_window();
    int peer = dial(), fd = file_of(PAGE, 'a');
    for (int i = 0; i < 100; i++) {
        send_message(peer, "map 0 4096", 10, &fd, 1);
        CHECK(is(receive_reply(peer), "ok"));
        send_message(peer, "unmap 0 4096", 12, NULL, 0);
        CHECK(is(receive_reply(peer), "ok"));
    }
    close(fd);
    close(peer);
    close_window();
}

CASE(what_is_refused_says_why_and_changes_nothing)
{
    open_window();
    int before = descriptor_count();
    CHECK(strstr(ask("map 2097152 4096", file_of(PAGE, 'a')), "outside"));
    CHECK(strstr(ask("map 1 4096", file_of(PAGE, 'a')), "whole pages"));
    CHECK(strstr(ask("map 0 8192", file_of(PAGE, 'a')), "promised"));
    CHECK(strstr(ask("map 0 4096", -1), "no descriptor"));
    CHECK(strstr(ask("unmap 0 4096", file_of(PAGE, 'a')), "nobody asked"));
    CHECK(strstr(ask("hello", file_of(PAGE, 'a')), "not a request"));
    CHECK(window.region.base[0] == 0 && are_descriptors(before));
    CHECK(is(ask("map 0 4096", file_of(PAGE, 'b')), "ok"));
    CHECK(strstr(ask("map 0 4096", file_of(PAGE, 'a')), "there already") && window.region.base[0] == 'b');
    close_window();
}

CASE(odd_messages_leak_no_descriptor)
{
    char large[4096];
    open_window();
    int before = descriptor_count();
    int peer = dial();
    int fds[4] = {file_of(PAGE, 'a'), file_of(PAGE, 'b'), file_of(PAGE, 'c'), file_of(PAGE, 'd')};
    memset(large, 'x', sizeof large);
    for (size_t count = 2; count <= 4; count++) {
        send_message(peer, "map 0 4096", 10, fds, count);
        CHECK(is(receive_reply(peer), "not a request"));
    }
    send_message(peer, large, sizeof large, fds, 1);
    CHECK(is(receive_reply(peer), "not a request"));
    send_message(peer, "map 0 4096\0x", 12, fds, 1);
    CHECK(is(receive_reply(peer), "not a request"));
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    close(peer);
    CHECK(are_descriptors(before) && window.region.base[0] == 0);
    close_window();
}

CASE(a_peer_that_hangs_up_or_says_nothing_stops_nobody)
{
    open_window();
    int silent = dial();
    int peer = dial();
    send_message(peer, "unmap 0 4096", 12, NULL, 0);
    close(peer);
    CHECK(is(ask("unmap 0 4096", -1), "ok")); /* after the silent one's two seconds */
    close(silent);
    close_window();
}

CASE(the_socket_is_for_root_and_the_own_user_only)
{
    struct stat st;
    open_window();
    CHECK(stat(socket_path, &st) == 0 && (st.st_mode & 07777) == 0600);
    if (geteuid() != 0) {
        printf("not tried as another user: needs root\n");
        close_window();
        return;
    }
    CHECK(chmod(socket_path, 0666) == 0 && chmod(path_of(""), 0711) == 0);
    pid_t child = fork();
    if (child == 0) {
        int peer = setresuid(65534, 65534, 65534) == 0 ? dial() : -1;
        if (peer < 0)
            _exit(2);
        send(peer, "unmap 0 4096", 12, MSG_NOSIGNAL);
        _exit(recv(peer, reply, sizeof reply, 0) <= 0 ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(is(ask("unmap 0 4096", -1), "ok"));
    close_window();
}

CASE(a_socket_that_was_handed_over_serves_whoever_can_reach_it)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char number[16];
    int listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), status = -1;
    snprintf(socket_path, sizeof socket_path, "%s", path_of("dax.sock"));
    snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path);
    CHECK(bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && chmod(socket_path, 0666) == 0 &&
          chmod(path_of(""), 0711) == 0);
    snprintf(number, sizeof number, "%d", listener);
    CHECK(window_open(&window, socket_path, number, &why) < 0 && strstr(why.text, "no socket that listens"));
    CHECK(listen(listener, 4) == 0 && region_reserve(&window.region, PAGES * PAGE, &why) == 0);
    CHECK(window_open(&window, socket_path, "1x", &why) < 0 && strstr(why.text, "not the number"));
    CHECK(window_open(&window, socket_path, "99999", &why) < 0 && strstr(why.text, "no socket that listens"));
    CHECK(window_open(&window, socket_path, number, &why) == 0);
    pid_t child = fork();
    if (child == 0) {
        int peer = setuid(1) == 0 ? dial() : -1;
        _exit(peer >= 0 && send(peer, "unmap 0 4096", 12, MSG_NOSIGNAL) == 12 && recv(peer, reply, sizeof reply, 0) == 2
                  ? 0
                  : 1);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == (geteuid() ? 1 : 0));
    close_window();
}

CASE(a_socket_that_can_not_be_made_is_an_error)
{
    char longest[300];
    int before = descriptor_count();
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    CHECK(window_open(&window, longest, NULL, &why) < 0 && strstr(why.text, "longer than 107"));
    CHECK(window_open(&window, "/nowhere/dax.sock", NULL, &why) < 0 && strstr(why.text, "No such file"));
    CHECK(window_open(&window, file_at("taken", 1, 'x'), NULL, &why) < 0 && strstr(why.text, "in use"));
    CHECK(descriptor_count() == before);
}
