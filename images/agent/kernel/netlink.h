/* SPDX-License-Identifier: Apache-2.0 */
/* Builds rtnetlink messages and reads addresses. Pure; network.c sends them. */
#ifndef CLEARPOD_NETLINK_H
#define CLEARPOD_NETLINK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NL_BYTES = 512 };

/* One message under construction; aligned for struct nlmsghdr. */
struct nl_message {
    _Alignas(4) uint8_t bytes[NL_BYTES];
};

/* An address with its prefix length; family 0: none. */
struct address {
    int family;
    uint8_t bytes[16], size, prefix;
};

/* A gateway of family 0 means on link; 0 leaves a number to the kernel. */
struct route {
    struct address to, gateway;
    int index; /* of the device */
    uint32_t metric, mtu, advmss;
};

/* "10.88.0.5/16", "fd00::5"; without a prefix it is the whole length. */
bool address_parse(const char *text, struct address *address);
bool mac_parse(const char *text, uint8_t mac[6]);
size_t nl_size(const struct nl_message *message);
/* Set the hardware address (NULL: leave), rename, set the mtu (0: leave) and set up, in an order of the kernel's own. */
void nl_link(struct nl_message *message, int index, const char *name, uint32_t mtu, const uint8_t mac[6]);
void nl_down(struct nl_message *message, int index);
/* Rename a device that is down. */
void nl_name(struct nl_message *message, int index, const char *name);
/* Move a device to the network namespace that `netns` is open on. */
void nl_give(struct nl_message *message, int index, int netns);
void nl_address(struct nl_message *message, int index, const struct address *address);
/* Make the message of nl_address one that takes the address away. */
void nl_not(struct nl_message *message);
void nl_route(struct nl_message *message, const struct route *route);
void nl_neighbour(struct nl_message *message, int index, const struct address *address, const uint8_t mac[6]);

#endif
