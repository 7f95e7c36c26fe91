/* SPDX-License-Identifier: Apache-2.0 */
/* Applies the network part of Configure by rtnetlink; the messages are those of netlink.c. */
#ifndef CLEARPOD_NETWORK_H
#define CLEARPOD_NETWORK_H

#include "link/message.h"

int network_configure(const clearpod_agent_Configure *settings, struct fault *why);
/* Routes and neighbours go when the device goes down, and so do addresses of IPv6. */
int network_undo(const clearpod_agent_Configure *settings, struct fault *why);
/* Move the devices to the network namespace that `netns` is open on. */
int network_give(const clearpod_agent_Configure *settings, int netns, struct fault *why);

#endif
