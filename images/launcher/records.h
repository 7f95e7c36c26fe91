/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Records between the launcher and the agent (docs/dev/link.md, "The console of an autonomous pod"): bytes of the VMM's
 * output in, pieces for stdout and stderr out. Pure.
 */
#ifndef CLEARPOD_RECORDS_H
#define CLEARPOD_RECORDS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { RECORD_HEADER = 4, RECORD_MAX = 4096 - RECORD_HEADER, BEFORE_MAX = 2048 };
enum record_kind { R_NONE, R_OUT, R_ERR, R_END, R_IN, R_EOF, R_SIZE, R_GO };

struct records {
    bool marked, broken; /* the agent has begun; what follows is no record any more */
    bool plain;          /* there is no agent: all of it is output */
    uint8_t log;         /* that the last record is for; 0: it is for our own output */
    size_t used, before_bytes;
    uint8_t bytes[8192];     /* not taken yet */
    char before[BEFORE_MAX]; /* the last of what came before the mark */
};

/* Where to read to, and how much. */
size_t records_space(struct records *records, uint8_t **to);
void records_received(struct records *records, size_t size);
/* The next whole record, whose payload is valid until the next call of any of these; R_NONE: there is none. Once
 * something was no record, all that comes is R_ERR. */
enum record_kind records_next(struct records *records, const uint8_t **payload, size_t *size);
/* Nothing more comes: what could have been the beginning of the mark was none. */
void records_over(struct records *records);
/* A header for `size` bytes. */
void record_pack(uint8_t to[RECORD_HEADER], enum record_kind kind, size_t size);

#endif
