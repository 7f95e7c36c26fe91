/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bytes between a process's pipes (or terminal) and the link. Output is read straight into the link's ring and only
 * while the ring and the stream's credit have room; input waits in a buffer as large as the credit that was given.
 */
#ifndef CLEARPOD_STREAMS_H
#define CLEARPOD_STREAMS_H

#include "loop/process.h"

/* Of the ring, what output leaves for replies, events and credit. */
enum { RING_RESERVE = 48 * 1024 };

/* Give the process its stream ids. Fails when one is taken or there is no memory. */
int streams_open(struct process *process, const clearpod_agent_Stdio *stdio, struct fault *why);
/* The agent's ends: stdin, stdout, stderr (-1: none), or the terminal in `tty`. They are owned from here on. */
void streams_attach(struct process *process, int ends[3]);
int streams_attach_tty(struct process *process, int tty, struct fault *why);
/* Undo attach without telling the host: the process never ran, and may be started again. */
void streams_retract(struct process *process);
void streams_close(struct process *process);
/* Throw away what was not read yet (Delete): ends at once. */
void streams_abandon(struct process *process);
/* The process is gone, and the time for other holders of its pipes is over: end with what is in them now. */
void streams_drain(struct process *process);
/* Was something read since this was last asked, or is there something that the host has no room for? */
bool streams_moved(struct process *process);
/* Is every output's end in the ring? */
bool streams_ended(const struct process *process);

void streams_on_data(uint32_t stream, bool end, const uint8_t *bytes, size_t size);
void streams_on_credit(uint32_t stream, uint32_t bytes);
void streams_new_epoch(void);
void output_ready(struct process *process, unsigned which);
void input_ready(struct process *process);
/* Put due frames into the ring and watch exactly the descriptors that can make progress. Called once per iteration of the loop. */
void streams_sync(struct process *process);

#endif
