/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Fuzzes what the launcher reads as text: the launch spec, the last lines of a VMM and its kernel, codes that a guest
 * writes. Each input is in memory of just its size. What is for people must be printable, and must fit.
 */
#include "notice.h"
#include "spec.h"
#include "statuses.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

static void require(bool holds)
{
    if (!holds)
        abort();
}

static bool is_inside(const char *text, const char *bytes, size_t size)
{
    return !text || (text >= bytes && text + strlen(text) < bytes + size);
}

static void read_spec(char *bytes, size_t size)
{
    struct launch_spec spec;
    if (!spec_parse(bytes, size, &spec))
        return;
    const char *const all[] = {spec.jailer,   spec.listener, spec.console, spec.logs, spec.status,
                               spec.template, spec.monitor,  spec.told,    spec.codes};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        require(is_inside(all[i], bytes, size));
    require(spec.jailer && !spec.told == !spec.codes);
    static const char *const said[] = {"", "\"guest-reset\"", "\"GUEST_PANICKED\""};
    for (int code = 0; code < 256; code++)
        for (size_t i = 0; i < sizeof said / sizeof *said; i++)
            require(spec_code(&spec, code, said[i]) >= 0);
}

static void read_notice(const char *bytes, size_t size)
{
    char to[NOTICE_MAX], *clean = malloc(size + 1);
    unsigned lines = 0;
    require(clean && notice_clean(bytes, size, clean) <= size);
    for (const char *at = clean; *at; at++)
        require(*at >= ' ' && *at < 0x7f);
    free(clean);
    for (int is_cut = 0; is_cut < 2; is_cut++, lines = 0) {
        require(notice(bytes, size, is_cut, to) == strlen(to));
        for (const char *at = to; *at; at++)
            lines += *at == '\n', require(*at == '\n' || (*at >= ' ' && *at < 0x7f));
        require(lines <= NOTICE_LINES);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    char *copy = malloc(size ? size : 1);
    require(copy);
    memcpy(copy, bytes, size);
    int code = status_code(copy, size);
    require(code >= -1 && code < 256);
    read_notice(copy, size);
    read_spec(copy, size);
    free(copy);
    return 0;
}
