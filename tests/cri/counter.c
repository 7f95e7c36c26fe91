/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A web server that keeps a counter in its memory: `counter PORT [WORD]` answers each request with the count of those so
 * far. After SIGTERM it writes "stopped at COUNT" to /dev/termination-log and ends with 3. No library but the C library,
 * since it is static.
 */
#include <netinet/in.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static volatile sig_atomic_t is_over;

static void end(int signal)
{
    (void)signal;
    is_over = 1;
}

static void answer(int fd, unsigned count)
{
    char text[256], body[32];
    int size = snprintf(body, sizeof body, "%u\n", count);
    if (read(fd, text, sizeof text) < 0)
        return;
    snprintf(text, sizeof text, "HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, body);
    if (write(fd, text, strlen(text)) < 0)
        perror("write");
}

int main(int argc, char **argv)
{
    struct sockaddr_in6 at = {.sin6_family = AF_INET6,
                              .sin6_port = htons((unsigned short)atoi(argc > 1 ? argv[1] : "80"))};
    unsigned count = 0;
    int yes = 1, listener = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&at, sizeof at) < 0 || listen(listener, 16) < 0)
        return 1;
    sigaction(SIGTERM, &(struct sigaction){.sa_handler = end}, NULL);
    while (!is_over) {
        int fd = accept(listener, NULL, NULL);
        if (fd < 0)
            continue;
        answer(fd, ++count);
        close(fd);
    }
    FILE *log = fopen("/dev/termination-log", "w");
    if (log) {
        fprintf(log, "stopped at %u", count);
        fclose(log);
    }
    return 3;
}
