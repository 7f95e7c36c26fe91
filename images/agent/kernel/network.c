/* SPDX-License-Identifier: Apache-2.0 */
/* See network.h. */
#include "kernel/network.h"

#include "base/scope.h"
#include "base/texts.h"
#include "kernel/netlink.h"

#include <errno.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

/* Send one message and wait for the kernel's verdict; -1 with errno. */
static int ask(int netlink, const struct nl_message *message)
{
    _Alignas(4) uint8_t buffer[1024];
    const struct nlmsghdr *header = (const struct nlmsghdr *)(const void *)buffer;
    if (send(netlink, message->bytes, nl_size(message), 0) < 0)
        return -1;
    if (recv(netlink, buffer, sizeof buffer, 0) < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)))
        return -1;
    const struct nlmsgerr *verdict = NLMSG_DATA(header);
    errno = header->nlmsg_type == NLMSG_ERROR ? -verdict->error : EPROTO;
    return errno ? -1 : 0;
}

static int open_netlink(struct fault *why)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
    return fd < 0 ? fault_errno(why, "open a netlink socket") : fd;
}

/* What is asked about a device by its name; `any` is any socket, so the one that is open already. */
static struct ifreq device_named(const char *name)
{
    struct ifreq request = {0};
    memcpy(request.ifr_name, name, strnlen(name, IF_NAMESIZE - 1));
    return request;
}

static bool has_mac(int any, const char *name, const uint8_t address[6])
{
    struct ifreq request = device_named(name);
    return ioctl(any, SIOCGIFHWADDR, &request) == 0 && !memcmp(address, request.ifr_hwaddr.sa_data, 6);
}

/* 0 when there is none. */
static int index_named(int any, const char *name)
{
    struct ifreq request = device_named(name);
    return ioctl(any, SIOCGIFINDEX, &request) == 0 ? request.ifr_ifindex : 0;
}

/* The index of the device with this hardware address in our network namespace (/sys shows that of the boot), 0 when
 * there is none. It mostly has the name already that it is to have, which is quicker to see than all devices. */
static int index_by_mac(int any, const char *mac, const char *name)
{
    uint8_t address[6];
    int index = 0;
    if (!mac_parse(mac, address))
        return 0;
    if (has_mac(any, name, address))
        return index_named(any, name);
    struct if_nameindex *list = if_nameindex();
    for (struct if_nameindex *at = list; at && at->if_index && !index; at++)
        if (has_mac(any, at->if_name, address))
            index = (int)at->if_index;
    if (list)
        if_freenameindex(list);
    return index;
}

static int find(int netlink, const clearpod_agent_Interface *interface, struct fault *why)
{
    const char *mac = *interface->found_mac ? interface->found_mac : interface->mac;
    int index = index_by_mac(netlink, mac, interface->name);
    return index ? index : fault_set(why, FAULT_NOT_FOUND, "no network device has the address '%s'", mac);
}

static int index_of(int netlink, const char *device, struct fault *why)
{
    int index = index_named(netlink, device);
    return index ? index : fault_set(why, FAULT_NOT_FOUND, "no network device '%s'", device);
}

/* Which of the devices the kernel calls eth0 depends on the order in which it met them: take the name off another. */
static int free_name(int netlink, const char *name, int index, struct fault *why)
{
    struct nl_message message;
    char other[IF_NAMESIZE];
    int taken = index_named(netlink, name);
    if (!taken || taken == index)
        return 0;
    snprintf(other, sizeof other, "was%d", taken);
    nl_name(&message, taken, other);
    return ask(netlink, &message) < 0 ? fault_errno(why, "take the name %s off another device", name) : 0;
}

static int set_interface(int netlink, const clearpod_agent_Interface *interface, struct fault *why)
{
    struct nl_message message;
    struct address address;
    uint8_t mac[6];
    int index = find(netlink, interface, why);
    if (index < 0)
        return -1;
    if (!mac_parse(interface->mac, mac))
        return fault_set(why, FAULT_INVALID, "'%s' is no hardware address", interface->mac);
    if (!is_file_name(interface->name))
        return fault_set(why, FAULT_INVALID, "'%s' can't be the name of a network device", interface->name);
    if (free_name(netlink, interface->name, index, why) < 0)
        return -1;
    nl_link(&message, index, interface->name, interface->mtu, *interface->found_mac ? mac : NULL);
    if (ask(netlink, &message) < 0)
        return fault_errno(why, "set up %s", interface->name);
    for (unsigned i = 0; i < interface->addresses_count; i++) {
        if (!address_parse(interface->addresses[i], &address))
            return fault_set(why, FAULT_INVALID, "'%s' is no address", interface->addresses[i]);
        nl_address(&message, index, &address);
        if (ask(netlink, &message) < 0)
            return fault_errno(why, "give %s the address %s", interface->name, interface->addresses[i]);
    }
    return 0;
}

static int set_route(int netlink, const clearpod_agent_Route *settings, struct fault *why)
{
    struct nl_message message;
    struct route route = {.metric = settings->metric, .mtu = settings->mtu, .advmss = settings->advmss};
    route.index = index_of(netlink, settings->device, why);
    if (route.index < 0)
        return -1;
    if (!address_parse(settings->destination, &route.to))
        return fault_set(why, FAULT_INVALID, "'%s' is no destination of a route", settings->destination);
    if (*settings->gateway &&
        (!address_parse(settings->gateway, &route.gateway) || route.gateway.family != route.to.family))
        return fault_set(why, FAULT_INVALID, "'%s' is no gateway to %s", settings->gateway, settings->destination);
    nl_route(&message, &route);
    if (ask(netlink, &message) < 0)
        return fault_errno(why, "add the route to %s by %s", settings->destination, settings->device);
    return 0;
}

static int set_neighbour(int netlink, const clearpod_agent_Neighbour *neighbour, struct fault *why)
{
    struct nl_message message;
    struct address address;
    uint8_t mac[6];
    int index = index_of(netlink, neighbour->device, why);
    if (index < 0)
        return -1;
    if (!address_parse(neighbour->address, &address) || !mac_parse(neighbour->mac, mac))
        return fault_set(why, FAULT_INVALID, "'%s at %s' is no neighbour", neighbour->address, neighbour->mac);
    nl_neighbour(&message, index, &address, mac);
    if (ask(netlink, &message) < 0)
        return fault_errno(why, "add the neighbour %s", neighbour->address);
    return 0;
}

static int loopback_up(int netlink, struct fault *why)
{
    struct nl_message message;
    nl_link(&message, 1, "", 0, NULL); /* lo is always number 1 */
    return ask(netlink, &message) < 0 ? fault_errno(why, "set up lo") : 0;
}

int network_give(const clearpod_agent_Configure *settings, int netns, struct fault *why)
{
    struct nl_message message;
    scoped_fd int netlink = open_netlink(why);
    if (netlink < 0)
        return -1;
    for (unsigned i = 0; i < settings->interfaces_count; i++) {
        int index = find(netlink, &settings->interfaces[i], why);
        if (index < 0)
            return -1;
        nl_give(&message, index, netns);
        if (ask(netlink, &message) < 0)
            return fault_errno(why, "give the device %d to the pod's network namespace", index);
    }
    return 0;
}

int network_undo(const clearpod_agent_Configure *settings, struct fault *why)
{
    struct nl_message message;
    struct address address;
    scoped_fd int netlink = open_netlink(why);
    for (unsigned i = 0; netlink >= 0 && i < settings->interfaces_count; i++) {
        const clearpod_agent_Interface *interface = &settings->interfaces[i];
        int index = index_of(netlink, interface->name, why);
        nl_down(&message, index);
        if (index < 0 || ask(netlink, &message) < 0)
            return fault_errno(why, "set %s down", interface->name);
        for (unsigned n = 0; n < interface->addresses_count; n++) {
            address_parse(interface->addresses[n], &address);
            nl_address(&message, index, &address);
            nl_not(&message);
            if (ask(netlink, &message) < 0 && errno != EADDRNOTAVAIL) /* those of IPv6 go with the link */
                return fault_errno(why, "take %s from %s", interface->addresses[n], interface->name);
        }
    }
    return netlink < 0 ? -1 : 0;
}

int network_configure(const clearpod_agent_Configure *settings, struct fault *why)
{
    scoped_fd int netlink = open_netlink(why);
    if (netlink < 0 || loopback_up(netlink, why) < 0)
        return -1;
    for (unsigned i = 0; i < settings->interfaces_count; i++)
        if (set_interface(netlink, &settings->interfaces[i], why) < 0)
            return -1;
    for (unsigned i = 0; i < settings->routes_count; i++)
        if (set_route(netlink, &settings->routes[i], why) < 0)
            return -1;
    for (unsigned i = 0; i < settings->neighbours_count; i++)
        if (set_neighbour(netlink, &settings->neighbours[i], why) < 0)
            return -1;
    return 0;
}
