/* SPDX-License-Identifier: Apache-2.0 */
/* See netlink.h. Layouts: linux/rtnetlink.h, if_addr.h, if_link.h, neighbour.h. */
#include "kernel/netlink.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <linux/if.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool address_parse(const char *text, struct address *address)
{
    char host[64];
    size_t length = strcspn(text, "/");
    memset(address, 0, sizeof *address);
    if (length >= sizeof host)
        return false;
    memcpy(host, text, length);
    host[length] = 0;
    address->family = strchr(host, ':') ? AF_INET6 : AF_INET;
    address->size = address->family == AF_INET6 ? 16 : 4;
    address->prefix = (uint8_t)(address->size * 8);
    if (inet_pton(address->family, host, address->bytes) != 1)
        return false;
    if (!text[length])
        return true;
    char *end;
    const char *digits = text + length + 1;
    unsigned long prefix = strtoul(digits, &end, 10);
    if (*digits < '0' || *digits > '9' || *end || prefix > address->prefix)
        return false;
    address->prefix = (uint8_t)prefix;
    return true;
}

/* Not by sscanf, which would bring its floating point along: 10 KB of the agent. */
bool mac_parse(const char *text, uint8_t mac[6])
{
    if (strlen(text) != 17)
        return false;
    for (int i = 0; i < 17; i++) {
        int digit = isdigit(text[i]) ? text[i] - '0' : (text[i] | 0x20) - 'a' + 10;
        if (i % 3 == 2 ? text[i] != ':' : !isxdigit(text[i]))
            return false;
        if (i % 3 == 0)
            mac[i / 3] = (uint8_t)(digit << 4);
        else if (i % 3 == 1)
            mac[i / 3] |= (uint8_t)digit;
    }
    return true;
}

static struct nlmsghdr *header(struct nl_message *message)
{
    return (struct nlmsghdr *)(void *)message->bytes;
}

size_t nl_size(const struct nl_message *message)
{
    return ((const struct nlmsghdr *)(const void *)message->bytes)->nlmsg_len;
}

/* Returns the body, zeroed. */
static void *start(struct nl_message *message, uint16_t type, uint16_t flags, size_t body)
{
    memset(message, 0, sizeof *message);
    header(message)->nlmsg_len = (uint32_t)NLMSG_LENGTH(body);
    header(message)->nlmsg_type = type;
    header(message)->nlmsg_flags = (uint16_t)(NLM_F_REQUEST | NLM_F_ACK | flags);
    return NLMSG_DATA(header(message));
}

static void attribute(struct nl_message *message, uint16_t type, const void *value, size_t size)
{
    size_t at = NLMSG_ALIGN(header(message)->nlmsg_len);
    struct rtattr attr = {.rta_len = (uint16_t)RTA_LENGTH(size), .rta_type = type};
    memcpy(message->bytes + at, &attr, sizeof attr);
    memcpy(message->bytes + at + RTA_LENGTH(0), value, size);
    header(message)->nlmsg_len = (uint32_t)(at + RTA_ALIGN(attr.rta_len));
}

void nl_link(struct nl_message *message, int index, const char *name, uint32_t mtu, const uint8_t mac[6])
{
    struct ifinfomsg *body = start(message, RTM_NEWLINK, 0, sizeof *body);
    body->ifi_family = AF_UNSPEC;
    body->ifi_index = index;
    body->ifi_flags = body->ifi_change = IFF_UP;
    if (*name)
        attribute(message, IFLA_IFNAME, name, strlen(name) + 1);
    if (mtu)
        attribute(message, IFLA_MTU, &mtu, sizeof mtu);
    if (mac)
        attribute(message, IFLA_ADDRESS, mac, 6);
}

void nl_down(struct nl_message *message, int index)
{
    struct ifinfomsg *body = start(message, RTM_NEWLINK, 0, sizeof *body);
    body->ifi_index = index;
    body->ifi_change = IFF_UP;
}

void nl_name(struct nl_message *message, int index, const char *name)
{
    struct ifinfomsg *body = start(message, RTM_NEWLINK, 0, sizeof *body);
    body->ifi_family = AF_UNSPEC;
    body->ifi_index = index;
    attribute(message, IFLA_IFNAME, name, strlen(name) + 1);
}

void nl_give(struct nl_message *message, int index, int netns)
{
    struct ifinfomsg *body = start(message, RTM_NEWLINK, 0, sizeof *body);
    body->ifi_family = AF_UNSPEC;
    body->ifi_index = index;
    attribute(message, IFLA_NET_NS_FD, &netns, sizeof netns);
}

void nl_address(struct nl_message *message, int index, const struct address *address)
{
    struct ifaddrmsg *body = start(message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, sizeof *body);
    body->ifa_family = (uint8_t)address->family;
    body->ifa_prefixlen = address->prefix;
    body->ifa_index = (uint32_t)index;
    /* The CNI plugin guarantees that the address is unique: no duplicate address detection. */
    body->ifa_flags = address->family == AF_INET6 ? IFA_F_NODAD : 0;
    attribute(message, IFA_LOCAL, address->bytes, address->size);
    attribute(message, IFA_ADDRESS, address->bytes, address->size);
    if (address->family == AF_INET && address->prefix < 31) {
        uint32_t whole, mask = htonl(~0u >> address->prefix);
        memcpy(&whole, address->bytes, sizeof whole);
        whole |= mask;
        attribute(message, IFA_BROADCAST, &whole, sizeof whole);
    }
}

void nl_not(struct nl_message *message)
{
    header(message)->nlmsg_type = RTM_DELADDR;
}

/* RTA_METRICS holds attributes of its own. */
static void route_metrics(struct nl_message *message, const struct route *route)
{
    const struct rtattr nested[] = {
        {.rta_len = RTA_LENGTH(sizeof route->mtu), .rta_type = RTAX_MTU},
        {.rta_len = RTA_LENGTH(sizeof route->advmss), .rta_type = RTAX_ADVMSS},
    };
    const uint32_t values[] = {route->mtu, route->advmss};
    uint8_t buffer[2 * RTA_SPACE(sizeof(uint32_t))];
    size_t size = 0;
    for (size_t i = 0; i < 2; i++)
        if (values[i]) {
            memcpy(buffer + size, &nested[i], sizeof *nested);
            memcpy(buffer + size + RTA_LENGTH(0), &values[i], sizeof *values);
            size += RTA_SPACE(sizeof *values);
        }
    if (size)
        attribute(message, RTA_METRICS, buffer, size);
}

void nl_route(struct nl_message *message, const struct route *route)
{
    const struct address *to = &route->to, *gateway = &route->gateway;
    struct rtmsg *body = start(message, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, sizeof *body);
    body->rtm_family = (uint8_t)to->family;
    body->rtm_dst_len = to->prefix;
    body->rtm_table = RT_TABLE_MAIN;
    body->rtm_protocol = RTPROT_STATIC;
    body->rtm_type = RTN_UNICAST;
    body->rtm_scope = gateway->family || to->family == AF_INET6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK;
    if (to->prefix)
        attribute(message, RTA_DST, to->bytes, to->size);
    if (gateway->family) {
        /* A gateway need not lie in a subnet of the interface: 169.254.1.1 is a usual one. */
        body->rtm_flags = RTNH_F_ONLINK;
        attribute(message, RTA_GATEWAY, gateway->bytes, gateway->size);
    }
    attribute(message, RTA_OIF, &route->index, sizeof route->index);
    if (route->metric)
        attribute(message, RTA_PRIORITY, &route->metric, sizeof route->metric);
    route_metrics(message, route);
}

void nl_neighbour(struct nl_message *message, int index, const struct address *address, const uint8_t mac[6])
{
    struct ndmsg *body = start(message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, sizeof *body);
    body->ndm_family = (uint8_t)address->family;
    body->ndm_ifindex = index;
    body->ndm_state = NUD_PERMANENT;
    attribute(message, NDA_DST, address->bytes, address->size);
    attribute(message, NDA_LLADDR, mac, 6);
}
