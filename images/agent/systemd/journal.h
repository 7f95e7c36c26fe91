/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The journal: where it is kept, how containers write into it, and its end. A stream belongs to the unit of the process
 * that connected; see "Stream protocol" in systemd's JOURNAL_NATIVE_PROTOCOL and sd_journal_stream_fd(3).
 */
#ifndef CLEARPOD_JOURNAL_H
#define CLEARPOD_JOURNAL_H

#include "systemd/units.h"

/* A stream into the journal, -1 without one. */
int journal_stream(const char *id);
/* The container's ends of two new pipes instead of `stdio`, from where a process of ours moves on what comes, until `stop`
 * is closed or has no writer any more. Its pid, 0 when there is nothing to copy. */
pid_t journal_copy(const struct unit_spec *spec, const char *id, int stdio[3], int *stop);
/* Let journald write down what it has, and end. */
void journal_end(void);
/* Bind the journal's directory in the share to where journald looks for it. */
int journal_mount(struct fault *why);

#endif
