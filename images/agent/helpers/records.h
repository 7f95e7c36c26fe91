/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records between an autonomous pod and the launcher on the host (docs/dev/link.md, "The console of an autonomous pod"), and the
 * helpers that move what apps write into them, and what is typed out of them. A helper blocks as long as its peers do.
 */
#ifndef CLEARPOD_RECORDS_H
#define CLEARPOD_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RECORD_HEADER = 4, RECORD_MAX = 4096 - RECORD_HEADER };
enum record_kind { R_OUT = 1, R_ERR, R_END, R_IN, R_EOF, R_SIZE, R_GO };

/* What one helper moves: from `sources` to the launcher through `port`, and from there to `sink`; -1: nothing. With a `log`
 * it is for that one, and goes on to `next` too. */
struct flow {
    int port, sources[2], sink, next[2];
    uint8_t log; /* 0: none, and then there is no `next` */
};

/* Pure: the header of a record, and the length that it announces; -1 when it is none. */
void record_pack(uint8_t to[RECORD_HEADER], enum record_kind kind, size_t size);
int record_unpack(const uint8_t from[RECORD_HEADER], enum record_kind *kind);
/* Write the header in `record` and the `size` bytes behind it. False: there is no reader. */
bool record_write(int port, uint8_t *record, size_t size);
/* The body of a helper: returns when all sources are at their end and, unless it `is_tty`, the launcher has no more input. */
void records_move(struct flow flow, bool is_tty);

#endif
