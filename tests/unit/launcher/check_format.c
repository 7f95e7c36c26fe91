/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about texts out of pieces: the same as of snprintf, for what the launcher asks for. */
#include "check.h"
#include "format.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#define SAME(capacity, ...)                                             \
    do {                                                                \
        char ours[64], theirs[64];                                      \
        memset(ours, 'x', sizeof ours);                                 \
        size_t size = format(ours, capacity, __VA_ARGS__);              \
        CHECK(size == (size_t)snprintf(theirs, capacity, __VA_ARGS__)); \
        CHECK(!strcmp(ours, theirs));                                   \
        CHECK(ours[(capacity)] == 'x');                                 \
    } while (0)

CASE(texts_and_numbers_are_as_of_snprintf)
{
    SAME(60, "%s", "");
    SAME(60, "plain");
    SAME(60, "%s/%s and %s", "a", "", "b");
    SAME(60, "%.*s|%.*s|%.*s", 2, "abc", 0, "abc", 9, "abc");
    SAME(60, "%d %d %d %u", 0, INT_MIN, INT_MAX, UINT_MAX);
    SAME(60, "%ld %ld", LONG_MIN, LONG_MAX);
    SAME(60, "%04ld-%02ld.%09ldZ", 2026L, 7L, 123L);
    SAME(60, "%02ld", 123L);
}

CASE(what_has_no_room_is_left_out_and_counted)
{
    static const struct {
        size_t capacity;
        const char *shown;
    } rows[] = {{9, "abcd1234"}, {8, "abcd123"}, {5, "abcd"}, {4, "abc"}, {1, ""}};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        char text[16];
        memset(text, 'x', sizeof text);
        CHECK(format(text, rows[i].capacity, "%s%s%d", "ab", "cd", 1234) == 8);
        CHECK(!strcmp(text, rows[i].shown) && text[rows[i].capacity] == 'x');
    }
    CHECK(format(NULL, 0, "%s", "") == 0);
}
