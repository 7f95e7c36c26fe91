/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Log files of apps in Kubernetes' format: each line of output becomes `TIME stdout LINE` or `TIME stderr LINE`. Log n is the
 * file that the link named n in the directory of logs names; stage1/rkt/logs.py makes both. The file is opened anew for
 * what comes, so that a host may rename or cut it at any time.
 */
#ifndef CLEARPOD_LOG_H
#define CLEARPOD_LOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* `directory` as in the launch spec; NULL: there are no logs, and what is for one is thrown away. It must stay. */
void log_begin(const char *directory);
/* Output for the log `number`; none at all is the end of that output. Output that can't be written is lost, and that is reported once. */
void log_take(uint8_t number, bool is_error, const uint8_t *bytes, size_t size);
/* Write what has no end of a line. Nothing more comes. */
void log_end(void);

#endif
