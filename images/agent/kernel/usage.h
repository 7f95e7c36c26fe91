/* SPDX-License-Identifier: Apache-2.0 */
/* Numbers out of the kernel's text files, and what a tree takes on its disk. */
#ifndef CLEARPOD_USAGE_H
#define CLEARPOD_USAGE_H

#include "link/message.h"

/* "max" and what is no number are 0. Pure. */
uint64_t plain_number(const char *text);
/* The number behind `key` in a file of "key number" lines; 0 when absent. Pure. */
unsigned long keyed_number(const char *text, const char *key);
/* The sum of all numbers behind `key=` in io.stat, which has a line for each device. Pure. */
uint64_t summed_number(const char *text, const char *key);
/* One interface of /proc/net/dev; false when the line has none, or it is lo. Pure. */
bool interface_line(const char *line, clearpod_agent_InterfaceStats *to);

struct usage {
    uint64_t bytes, inodes;
};

/* What is below `path`, itself not counted; a file with several names counts once in all. Absent is nothing. */
void usage_of(const char *path, struct usage *to);

#endif
