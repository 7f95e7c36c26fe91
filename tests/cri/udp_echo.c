/* SPDX-License-Identifier: Apache-2.0 */
/* Sends each datagram to port 9 back to where it came from, over IPv4 and IPv6. Runs in a pod of test_network.py. */
#include <netinet/in.h>
#include <sys/socket.h>

int main(void)
{
    static char buffer[65536];
    struct sockaddr_in6 here = {.sin6_family = AF_INET6, .sin6_port = htons(9)}, there;
    int udp = socket(AF_INET6, SOCK_DGRAM, 0);
    if (bind(udp, (struct sockaddr *)(void *)&here, sizeof here) < 0)
        return 1;
    for (;;) {
        socklen_t size = sizeof there;
        ssize_t length = recvfrom(udp, buffer, sizeof buffer, 0, (struct sockaddr *)(void *)&there, &size);
        if (length >= 0)
            sendto(udp, buffer, (size_t)length, 0, (struct sockaddr *)(void *)&there, size);
    }
}
