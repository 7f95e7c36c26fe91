/* SPDX-License-Identifier: Apache-2.0 */
/* Texts from outside that are checked before they are used: ids, file names, sysctl keys, crun's error messages. Pure. */
#ifndef CLEARPOD_TEXTS_H
#define CLEARPOD_TEXTS_H

#include <stdbool.h>
#include <stddef.h>

/* Letters, digits, '.', '_', '-', not starting with '.' or '-'; at most 99 bytes. */
bool is_id(const char *text);
/* One component of a path: not empty, no '/', not "." or "..", no control characters. */
bool is_file_name(const char *text);
/* A relative path of such components. */
bool is_path_beneath(const char *text);
/* net.ipv4.ip_forward -> /proc/sys/net/ipv4/ip_forward */
bool sysctl_path(const char *key, char *to, size_t capacity);
/* Whether crun's error is that the command is missing or can't be executed. */
bool is_command_error(const char *text);
/* And that it is missing? */
bool is_missing_command(const char *text);
/* Whether crun's error is about the process's working directory. */
bool is_directory_error(const char *text);
/* crun's log as one line: the last message, without what only warns; of a long one the middle is left out. */
void crun_message(const char *log, char *to, size_t capacity);

#endif
