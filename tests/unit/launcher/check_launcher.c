/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about what the launcher reads: the launch spec of `run`, and the records of the agent. */
#include "check.h"
#include "ending.h"
#include "spec.h"
#include "records.h"

#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MARK "\nclearpod-console\n"

static bool parse(const char *text, size_t size, struct launch_spec *spec)
{
    static char bytes[65536];
    memcpy(bytes, text, size);
    return spec_parse(bytes, size, spec);
}

CASE(a_launch_spec_has_what_is_special)
{
    static const char text[] = "j/jailer\0s/agent.sock\0c/log\0l/logs\0t\0i";
    struct launch_spec spec;
    CHECK(parse(text, sizeof text, &spec));
    CHECK(!strcmp(spec.jailer, "/jailer") && !strcmp(spec.listener, "/agent.sock") && spec.interactive &&
          spec.terminal);
    CHECK(!strcmp(spec.console, "/log") && !strcmp(spec.logs, "/logs"));
}

CASE(a_kernel_of_the_image_has_a_status_and_a_convention_for_its_code)
{
    static const char poweroff[] = "j/jailer\0kp/status/app", debug[] = "j/jailer\0kd/s", solo5[] = "j/jailer\0ks/s",
                      hermit[] = "j/jailer\0kh/s";
    struct launch_spec spec;
    CHECK(parse(poweroff, sizeof poweroff, &spec) && !strcmp(spec.status, "/status/app"));
    CHECK(spec_code(&spec, 0, "") == 0 && spec_code(&spec, 1, "") == 1 && spec_code(&spec, 83, "") == 83);
    CHECK(parse(debug, sizeof debug, &spec) && spec_code(&spec, 83, "") == 41 && spec_code(&spec, 1, "") == 0);
    CHECK(parse(solo5, sizeof solo5, &spec) && spec_code(&spec, 83, "") == 0 && spec_code(&spec, 3, "") == 1);
    CHECK(parse(hermit, sizeof hermit, &spec) && spec_code(&spec, 3, "") == 0 && spec_code(&spec, 1, "") == 1 &&
          spec_code(&spec, 15, "") == 7);
    CHECK(!parse("j/jailer\0k", 11, &spec));
}

CASE(a_reset_is_no_success_of_a_kernel_that_can_power_off)
{
    static const char poweroff[] = "j/jailer\0kp/s\0m{}\n", reset[] = "j/jailer\0kr/s\0m{}\n",
                      debug[] = "j/jailer\0kd/s";
    static const char was_reset[] =
        "{\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\r\n";
    struct launch_spec spec;
    CHECK(parse(poweroff, sizeof poweroff, &spec) && !strcmp(spec.monitor, "{}\n"));
    CHECK(spec_code(&spec, 0, was_reset) == RESET_CODE &&
          spec_code(&spec, 0, "{\"event\": \"GUEST_PANICKED\"}") == PANIC_CODE &&
          spec_code(&spec, 0, "\"guest-shutdown\"") == 0 && spec_code(&spec, 1, was_reset) == 1);
    CHECK(parse(debug, sizeof debug, &spec) && spec_code(&spec, 0, was_reset) == RESET_CODE);
    CHECK(parse(reset, sizeof reset, &spec) && spec_code(&spec, 0, was_reset) == 0 &&
          spec_code(&spec, 0, "{\"event\": \"GUEST_PANICKED\"}") == PANIC_CODE);
}

CASE(of_what_a_monitor_says_the_end_is_kept)
{
    static char text[3 * ENDING_MAX];
    struct ending ending = {0};
    ending_take(&ending, "abc", 3);
    CHECK(!strcmp(ending.output, "abc"));
    memset(text, 'x', sizeof text);
    for (size_t size = 1; size < sizeof text; size += 37) {
        ending_take(&ending, text, size);
        ending_take(&ending, "guest-", 6);
        ending_take(&ending, "reset", 5);
        CHECK(ending.bytes <= ENDING_MAX && strlen(ending.output) == ending.bytes);
        CHECK(!strcmp(ending.output + ending.bytes - 11, "guest-reset"));
    }
}

CASE(a_monitor_is_heard_without_waiting_and_to_its_end)
{
    int pair[2];
    struct ending ending = {0};
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK(ending_read(&ending, pair[0]) < 0);
    CHECK(write(pair[1], "word", 4) == 4 && close(pair[1]) == 0);
    CHECK(ending_read(&ending, pair[0]) == 4 && ending_read(&ending, pair[0]) == 0 && !strcmp(ending.output, "word"));
    close(pair[0]);
}

CASE(a_launch_spec_may_leave_out_all_but_the_jailer)
{
    static const char text[] = "j/jailer";
    struct launch_spec spec;
    CHECK(parse(text, sizeof text, &spec));
    CHECK(!spec.listener && !spec.console && !spec.logs && !spec.interactive && !spec.terminal);
}

CASE(a_copy_has_a_template_and_what_its_monitor_is_told)
{
    static const char both[] = "j/jailer\0v/templates/a\0m{}\n", one[] = "j/jailer\0v/templates/a";
    struct launch_spec spec;
    CHECK(parse(both, sizeof both, &spec) && !strcmp(spec.template, "/templates/a") && !strcmp(spec.monitor, "{}\n"));
    CHECK(!parse(one, sizeof one, &spec) && !parse("j/jailer\0mx", 12, &spec));
}

CASE(an_invalid_launch_spec_is_refused)
{
    struct launch_spec spec;
    CHECK(!parse("", 0, &spec) && !parse("j/jailer", 8, &spec)); /* no end */
    CHECK(!parse("c/log", 6, &spec));                            /* nothing to start */
    CHECK(!parse("j/vm\0z", 7, &spec) && !parse("j/vm\0\0", 6, &spec));
}

static struct records records;

static void feed(const void *bytes, size_t size)
{
    uint8_t *to;
    CHECK(records_space(&records, &to) >= size);
    memcpy(to, bytes, size);
    records_received(&records, size);
}

static void feed_record(enum record_kind kind, const char *text)
{
    uint8_t header[RECORD_HEADER];
    record_pack(header, kind, strlen(text));
    feed(header, sizeof header);
    feed(text, strlen(text));
}

static bool next_is(enum record_kind kind, const char *text)
{
    const uint8_t *payload;
    size_t size;
    return records_next(&records, &payload, &size) == kind && size == strlen(text) && !memcmp(payload, text, size);
}

static bool nothing_is_next(void)
{
    const uint8_t *payload;
    size_t size;
    return records_next(&records, &payload, &size) == R_NONE;
}

CASE(records_come_after_the_mark_whatever_was_before)
{
    memset(&records, 0, sizeof records);
    feed("  # lkvm run", 12);
    feed_record(R_OUT, "noise");
    CHECK(nothing_is_next());
    feed(MARK, sizeof MARK - 1);
    CHECK(records.marked && nothing_is_next());
    feed_record(R_OUT, "out");
    feed_record(R_ERR, "");
    CHECK(next_is(R_OUT, "out") && next_is(R_ERR, "") && nothing_is_next());
    CHECK(!memcmp(records.before, "  # lkvm run", 12));
}

CASE(a_record_may_be_for_a_log)
{
    memset(&records, 0, sizeof records);
    feed(MARK "\001\011\002\0ab", sizeof MARK - 1 + 6);
    CHECK(next_is(R_OUT, "ab") && records.log == 9);
    feed_record(R_ERR, "x");
    CHECK(next_is(R_ERR, "x") && records.log == 0);
}

CASE(bytes_may_come_one_by_one)
{
    static const char text[] = "x" MARK "\001\0\002\0ab\003\0\001\0\007";
    memset(&records, 0, sizeof records);
    for (size_t i = 0; i < sizeof text - 1; i++) {
        const uint8_t *payload;
        size_t size;
        feed(text + i, 1);
        enum record_kind kind = records_next(&records, &payload, &size);
        CHECK(kind == (i == sizeof text - 7 ? R_OUT : i == sizeof text - 2 ? R_END : R_NONE));
    }
    CHECK(records.before_bytes == 1 && records.used == 0);
}

CASE(only_the_end_of_what_came_early_is_kept)
{
    memset(&records, 0, sizeof records);
    for (int i = 0; i < 3000; i++)
        feed("0123456789", 10);
    feed("last" MARK, 4 + sizeof MARK - 1);
    CHECK(records.marked && records.before_bytes == BEFORE_MAX && records.used == 0);
    CHECK(!memcmp(records.before + BEFORE_MAX - 6, "89last", 6));
}

CASE(what_looked_like_the_mark_is_kept_too)
{
    memset(&records, 0, sizeof records);
    feed("panic" MARK, 10);
    CHECK(records.before_bytes == 0);
    records_over(&records);
    CHECK(records.before_bytes == 10 && !memcmp(records.before, "panic\nclea", 10));
}

CASE(what_is_no_record_is_passed_on_as_it_is_and_all_that_follows)
{
    static const char bad[][4] = {{0, 0, 1, 0}, {R_IN, 0, 1, 0}, {R_END, 1, 1, 0}, {R_OUT, 0, (char)0xfd, 0x0f}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&records, 0, sizeof records);
        feed(MARK, sizeof MARK - 1);
        feed(bad[i], 4);
        const uint8_t *payload;
        size_t size;
        CHECK(records_next(&records, &payload, &size) == R_ERR && size == 4 && !memcmp(payload, bad[i], 4));
        CHECK(records.broken && nothing_is_next());
        feed("panic", 5);
        CHECK(next_is(R_ERR, "panic"));
    }
}

CASE(without_an_agent_all_is_output)
{
    memset(&records, 0, sizeof records);
    records.plain = true;
    feed("hello" MARK, sizeof "hello" MARK - 1);
    CHECK(next_is(R_OUT, "hello" MARK) && next_is(R_NONE, ""));
}

CASE(whatever_comes_is_taken_in_the_end)
{
    unsigned seed = 1;
    for (int run = 0; run < 2000; run++) {
        memset(&records, 0, sizeof records);
        records.marked = run % 2;
        for (int piece = 0; piece < 20; piece++) {
            uint8_t *to;
            const uint8_t *payload;
            size_t size, space = records_space(&records, &to);
            CHECK(space > 0);
            space = space < 1000 ? space : 1000;
            for (size_t i = 0; i < space; i++)
                to[i] = (uint8_t)((seed = seed * 1103515245 + 12345) >> 16) % 5;
            records_received(&records, space);
            while (records_next(&records, &payload, &size) != R_NONE)
                CHECK(size <= RECORD_MAX);
        }
    }
}

CASE(a_record_of_the_largest_size_fits)
{
    static char text[RECORD_MAX + 1];
    memset(&records, 0, sizeof records);
    memset(text, 'x', RECORD_MAX);
    feed(MARK, sizeof MARK - 1);
    feed_record(R_OUT, text);
    feed_record(R_ERR, "y");
    CHECK(next_is(R_OUT, text) && next_is(R_ERR, "y"));
}
