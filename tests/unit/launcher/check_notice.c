/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about what is shown of the last words of a VMM. */
#include "check.h"
#include "notice.h"

#include <stdbool.h>
#include <string.h>

static char lines[NOTICE_MAX];

static bool shows(const char *text, const char *expected)
{
    notice(text, strlen(text), 0, lines);
    return !strcmp(lines, expected);
}

CASE(escape_sequences_and_control_characters_are_left_out)
{
    static const char from[] = "a\x1b[1;31mred\x1b[0m\x1b]b\r\t\x07\x7f\x9b\xc3\xa9z\x1b[12";
    char to[sizeof from];
    CHECK(notice_clean(from, sizeof from - 1, to) == strlen(to));
    CHECK(!strcmp(to, "aredb???z"));
    CHECK(notice_clean("\x1b", 1, to) == 0 && notice_clean("", 0, to) == 0);
}

CASE(what_a_kernel_says_in_passing_is_left_out)
{
    CHECK(shows("[    1.952726] PCI: Fatal: No config space access function found\r\n", ""));
    CHECK(shows("[    1.9] x\n[   12.000001] Kernel panic - not syncing: Attempted to kill init!\r\n[ 12.1] CPU: 0\n",
                "Kernel panic - not syncing: Attempted to kill init!\n"));
    CHECK(shows("[    2.0] ---[ end Kernel panic - not syncing: x ]---\n", ""));
    CHECK(shows("[    2.0] Out of memory: Killed process 1 (agent)\n", "Out of memory: Killed process 1 (agent)\n"));
    CHECK(shows("  # lkvm run -k x\n  Info: Placing fdt\n  Fatal: no\n", "  Fatal: no\n"));
    CHECK(shows("qemu: no such device\n\n  \n\x1b[0m\nclearpod agent: no plan",
                "qemu: no such device\nclearpod agent: no plan\n"));
}

CASE(a_long_line_keeps_its_end_which_has_the_reason)
{
    static const char reason[] = "': Permission denied\n";
    static char much[6000];
    for (size_t size = 100; size < sizeof much - sizeof reason; size += 37) {
        memset(much, 'x', sizeof much);
        memcpy(much, "qemu-system-x86_64: -drive", 26);
        strcpy(much + size, reason);
        size_t length = notice(much, strlen(much), 0, lines);
        CHECK(length < NOTICE_MAX && length > sizeof reason && !strncmp(lines, "qemu-system-x86_64: -drive", 26));
        CHECK(!strcmp(lines + length - strlen(reason), reason));
    }
}

CASE(a_flood_leaves_the_last_lines_and_none_without_its_beginning)
{
    static char much[8000];
    CHECK(shows("1\n2\n3\n4\n5\n6\n", "3\n4\n5\n6\n"));
    CHECK(notice("half\nwhole\n", 11, 1, lines) == 6 && !strcmp(lines, "whole\n"));
    memset(much, 'x', sizeof much);
    for (size_t i = 1500; i < sizeof much; i += 1500)
        much[i] = '\n';
    size_t size = notice(much, sizeof much, 0, lines);
    CHECK(size < NOTICE_MAX && size == strlen(lines) && size > 900);
}
