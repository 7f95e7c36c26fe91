/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about the records of the console. */
#include "check.h"
#include "helpers/records.h"

CASE(a_record_says_its_kind_and_length)
{
    uint8_t header[RECORD_HEADER];
    enum record_kind kind;
    record_pack(header, R_ERR, RECORD_MAX);
    CHECK(record_unpack(header, &kind) == RECORD_MAX && kind == R_ERR);
    record_pack(header, R_EOF, 0);
    CHECK(record_unpack(header, &kind) == 0 && kind == R_EOF);
}

CASE(what_is_no_record_is_refused)
{
    static const uint8_t bad[][RECORD_HEADER] = {{0, 0, 1, 0}, {7, 0, 1, 0}, {1, 1, 1, 0}, {1, 0, 0xfd, 0x0f}};
    enum record_kind kind;
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        CHECK(record_unpack(bad[i], &kind) < 0);
}
