/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about codes of apps that a guest writes, whatever else it makes in their place, and about a console that grows. */
#include "check.h"
#include "statuses.h"
#include "watch.h"

#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void put(const char *path, const char *text)
{
    FILE *file = fopen(path, "w");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0)
        abort();
}

static bool holds(const char *path, const char *text)
{
    char there[64] = "";
    FILE *file = fopen(path, "r");
    if (!file)
        return !text;
    size_t size = fread(there, 1, sizeof there - 1, file);
    there[size] = 0;
    return fclose(file) == 0 && text && !strcmp(there, text);
}

static bool is_there(const char *path)
{
    struct stat about;
    return lstat(path, &about) == 0;
}

/* A pod's directory with two apps, as the working directory. */
static void enter_pod(void)
{
    static char place[64];
    snprintf(place, sizeof place, "/tmp/check-statuses-XXXXXX");
    if (!mkdtemp(place) || chdir(place) < 0 || mkdir("appsinfo", 0700) < 0 || mkdir("appsinfo/one", 0700) < 0 ||
        mkdir("appsinfo/two", 0700) < 0 || mkdir("told", 0700) < 0 || mkdir("codes", 0700) < 0)
        abort();
}

static void leave_pod(void)
{
    char place[64], line[128];
    if (!getcwd(place, sizeof place) || chdir("/") < 0)
        abort();
    snprintf(line, sizeof line, "rm -rf %s", place);
    if (system(line) != 0)
        abort();
}

CASE(a_code_is_a_number_of_one_byte)
{
    static const struct {
        const char *text;
        int code;
    } cases[] = {{"0\n", 0},  {"7", 7},         {"255\n", 255}, {"256\n", -1}, {"", -1},
                 {"\n", -1},  {"-1\n", -1},     {"1\n\n", -1},  {"1x\n", -1},  {" 1\n", -1},
                 {"0x1", -1}, {"99999999", -1}, {"000007\n", 7}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        CHECK(status_code(cases[i].text, strlen(cases[i].text)) == cases[i].code);
}

CASE(codes_are_handed_on_and_taken_away)
{
    enter_pod();
    put("told/one", "7\n");
    put("told/stranger", "8\n");
    put("told/.new", "9\n");
    statuses_take("told", "codes");
    CHECK(holds("codes/one", "7\n") && holds("codes/two", NULL) && !is_there("codes/stranger"));
    CHECK(!is_there("told/one") && is_there("told/stranger") && is_there("told/.new"));
    put("told/one", "0\n");
    statuses_take("told", "codes");
    CHECK(holds("codes/one", "0\n") && !is_there("codes/one~"));
    leave_pod();
}

CASE(what_is_no_file_with_a_code_is_removed_and_nothing_waits_or_is_followed)
{
    enter_pod();
    put("secret", "7\n");
    for (int kind = 0; kind < 6; kind++) {
        int made = kind == 0   ? symlink("../secret", "told/one")
                   : kind == 1 ? mkfifo("told/one", 0600)
                   : kind == 2 ? mkdir("told/one", 0700)
                   : kind == 3 ? symlink("/dev/zero", "told/one")
                   : kind == 4 ? (put("told/one", "no code"), 0)
                               : (put("told/one", ""), 0);
        CHECK(made == 0);
        statuses_take("told", "codes");
        CHECK(!is_there("codes/one") && !is_there("told/one") && holds("secret", "7\n"));
    }
    CHECK(rmdir("told") == 0 && symlink("appsinfo", "told") == 0);
    statuses_take("told", "codes");
    CHECK(is_there("appsinfo/one"));
    leave_pod();
}

CASE(a_code_that_can_not_be_written_is_kept_for_the_next_time)
{
    enter_pod();
    put("told/one", "7\n");
    statuses_take("told", "missing");
    CHECK(is_there("told/one"));
    statuses_take("told", "codes");
    CHECK(holds("codes/one", "7\n"));
    leave_pod();
}

static void step(void)
{
    struct pollfd ready = {.fd = watch_fd(), .events = POLLIN};
    poll(&ready, 1, watch_limit_ms());
    watch_step(ready.revents);
}

CASE(a_code_is_handed_on_when_the_guest_has_renamed_it_and_nobody_wakes_before)
{
    struct launch_spec spec = {.told = "told", .codes = "codes"};
    enter_pod();
    watch_begin(&spec);
    CHECK(watch_limit_ms() == -1);
    for (int i = 0; i < 3; i++) {
        put("told/.new", i % 2 ? "1\n" : "0\n");
        CHECK(rename("told/.new", "told/two") == 0);
        while (is_there("told/two"))
            step();
        CHECK(holds("codes/two", i % 2 ? "1\n" : "0\n"));
    }
    put("told/one", "3\n");
    watch_end();
    CHECK(holds("codes/one", "3\n"));
    leave_pod();
}

CASE(of_a_console_that_grows_the_end_is_kept)
{
    static char piece[1 << 16];
    struct launch_spec spec = {.console = "console"};
    struct stat about;
    enter_pod();
    put("console", "");
    watch_begin(&spec);
    int fd = open("console", O_WRONLY | O_APPEND);
    memset(piece, 'x', sizeof piece);
    for (int i = 0; i < 64; i++)
        CHECK(write(fd, piece, sizeof piece) == (ssize_t)sizeof piece);
    CHECK(write(fd, "the end", 7) == 7);
    for (int64_t until = now_ms() + 10000; now_ms() < until;) {
        step();
        if (fstat(fd, &about) == 0 && about.st_blocks <= (2 << 20) / 512)
            break;
    }
    CHECK(about.st_size == 64 * (off_t)sizeof piece + 7 && about.st_blocks <= (2 << 20) / 512);
    char last[8] = "";
    int read_fd = open("console", O_RDONLY);
    CHECK(pread(read_fd, last, 7, about.st_size - 7) == 7 && !strcmp(last, "the end"));
    close(read_fd);
    close(fd);
    watch_end();
    leave_pod();
}
