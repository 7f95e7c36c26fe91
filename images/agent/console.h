/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an autonomous pod's apps write, and what is typed for them: records between helpers here and the launcher on the
 * host (docs/dev/link.md, "The console of an autonomous pod"). Helpers block, so that the agent's loop never does.
 */
#ifndef CLEARPOD_CONSOLE_H
#define CLEARPOD_CONSOLE_H

#include "fault.h"
#include "process.h"

enum { RECORD_HEADER = 4, RECORD_MAX = 4096 - RECORD_HEADER, LOG_OUT = 256 };
enum record_kind { R_OUT = 1, R_ERR, R_END, R_IN, R_EOF, R_SIZE };

/* Open the device, and be heard by the launcher. */
int console_open(struct fault *why);
/* The process's ends of its pipes, where it has no streams: output and error, and with `stdio.console` its input. With
 * `stdio.log` the ends that it has lead past the log. */
int console_lend(const struct process *process, int ends[3], struct fault *why);
/* The process's terminal is the launcher's; owned from here on. */
void console_terminal(int tty);
/* Let everything be written that was, and tell how the pod ended. The launcher then ends the VM. */
void console_end(int code, const char *why);

/* Pure: the header of a record, and the length that it announces; -1 when it is none. */
void record_pack(uint8_t to[RECORD_HEADER], enum record_kind kind, size_t size);
int record_unpack(const uint8_t from[RECORD_HEADER], enum record_kind *kind);

#endif
