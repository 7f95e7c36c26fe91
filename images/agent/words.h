/* SPDX-License-Identifier: Apache-2.0 */
/* Texts from outside that must be checked before use: kernel words, ids, file names, crun's complaints. Pure. */
#ifndef CLEARPOD_WORDS_H
#define CLEARPOD_WORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The agent's command line on a host (docs/admin/kubernetes.md). Paths are absolute; `scratch` is NULL without one. */
struct host_words {
    bool on; /* false: this is a guest */
    const char *directory, *cgroup, *crun, *scratch;
    bool own_network, own_ipc; /* make a namespace */
    bool host_network, host_ipc; /* the host's is the pod's; else the one that the agent was started in is */
};

/* The agent's words of the kernel command line (docs/dev/link.md). */
struct words {
    struct host_words host;
    char system[64], scratch[64], window[64];
    unsigned vsock_port; /* 0: virtio-serial */
    bool mark, bench;
    bool plan; /* autonomous: told by a file in the share */
};

/* False: a word of ours makes no sense; `bad` gets it. */
bool words_parse(const char *line, struct words *words, char bad[64]);
/* `--name=value` words, the program's name first. False: one makes no sense or is missing; `bad` gets it. */
bool host_words_parse(const char *const *argv, struct host_words *words, char bad[64]);
/* Letters, digits, '.', '_', '-', not starting with '.' or '-'; at most 99 bytes. */
bool is_id(const char *text);
/* One component of a path: not empty, no '/', not "." or "..", no control characters. */
bool is_file_name(const char *text);
/* A relative path of such components. */
bool is_path_beneath(const char *text);
/* net.ipv4.ip_forward -> /proc/sys/net/ipv4/ip_forward */
bool sysctl_path(const char *key, char *to, size_t room);
/* Does crun say that the command is missing or can't be executed? */
bool is_command_error(const char *text);
/* And that it is missing? */
bool is_missing_command(const char *text);
/* crun's log as one line: the last message, without what only warns; of a long one the middle is left out. */
void crun_message(const char *log, char *to, size_t room);

#endif
