/* SPDX-License-Identifier: Apache-2.0 */
/* The agent's arguments: in a guest those of the kernel's command line, on a host those of its own. Pure. */
#ifndef CLEARPOD_ARGUMENTS_H
#define CLEARPOD_ARGUMENTS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The agent's command line on a host (docs/admin/kubernetes.md). Paths are absolute; `scratch` is NULL without one. */
struct host_arguments {
    bool on; /* false: this is a guest */
    const char *directory, *cgroup, *crun, *scratch;
    bool own_network, own_ipc;   /* make a namespace */
    bool host_network, host_ipc; /* the host's is the pod's; else the one that the agent was started in is */
};

/* The parameters on the kernel's command line that are the agent's (docs/dev/link.md). */
struct arguments {
    struct host_arguments host;
    char system[64], scratch[64], window[64];
    unsigned vsock_port; /* 0: virtio-serial */
    bool mark, bench;
    bool plan;     /* autonomous: the plan is a file in the share */
    bool alike;    /* two roots may have the same inode numbers, by which 9p identifies files */
    bool template; /* the VM is saved before Configure, and goes on as many: shares come with that */
};

enum { COMMAND_LINE_BYTES = 2048 + 1 }; /* what x86 kernels have for it, and its end */

/* False: a parameter of ours is invalid; `bad` gets it. */
bool arguments_parse(const char *line, struct arguments *arguments, char bad[64]);
/* `--name=value`, the program's name first. False: an argument is invalid or missing; `bad` gets it. */
bool host_arguments_parse(const char *const *argv, struct host_arguments *arguments, char bad[64]);

#endif
