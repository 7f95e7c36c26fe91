/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about the log files of apps. */
#include "check.h"
#include "error.h"
#include "log.h"

#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char place[64], file[80], text[70000], warned[400];

void report_error(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(warned, sizeof warned, format, args);
    va_end(args);
}

/* A directory with a link for the log `number`, whose file is not there. */
static void begin(unsigned number)
{
    char link[96];
    strcpy(place, "/tmp/check_log.XXXXXX");
    CHECK(mkdtemp(place));
    snprintf(file, sizeof file, "%s/file", place);
    snprintf(link, sizeof link, "%s/%u", place, number);
    CHECK(symlink(file, link) == 0);
    *warned = 0;
    log_begin(place);
}

/* Remove it all. */
static void end(unsigned number)
{
    char link[96];
    log_end();
    snprintf(link, sizeof link, "%s/%u", place, number);
    unlink(link);
    unlink(file);
    CHECK(rmdir(place) == 0);
}

static void take(unsigned number, bool is_error, const char *bytes)
{
    log_take((uint8_t)number, is_error, (const uint8_t *)bytes, strlen(bytes));
}

/* What is in the file, each time replaced by a T. */
static const char *content(const char *path)
{
    static char line[70000];
    size_t used = 0;
    FILE *stream = fopen(path, "r");
    if (!stream)
        return NULL;
    *text = 0;
    while (fgets(line, sizeof line, stream)) {
        int year, month, day, hour, minute, second, digits = 0;
        CHECK(sscanf(line, "%4d-%2d-%2dT%2d:%2d:%2d.%*9dZ%n", &year, &month, &day, &hour, &minute, &second, &digits) ==
              6);
        CHECK(digits == 30 && year > 2000);
        used += (size_t)snprintf(text + used, sizeof text - used, "T%s", line + digits);
    }
    fclose(stream);
    return text;
}

CASE(each_line_says_when_and_where_it_came_from)
{
    begin(1);
    take(1, false, "one\ntwo\n");
    take(1, true, "wrong\n");
    take(1, false, "\n");
    CHECK(!strcmp(content(file), "T stdout one\nT stdout two\nT stderr wrong\nT stdout \n"));
    end(1);
}

CASE(pieces_of_lines_wait_for_their_end_apart_from_each_other)
{
    begin(2);
    take(2, false, "be");
    take(2, true, "wro");
    CHECK(!*content(file));
    take(2, false, "gin\nnext");
    take(2, true, "ng\n");
    CHECK(!strcmp(content(file), "T stdout begin\nT stderr wrong\n"));
    take(2, false, "");
    CHECK(!strcmp(content(file), "T stdout begin\nT stderr wrong\nT stdout next\n"));
    take(2, true, "left");
    log_end();
    CHECK(!strcmp(content(file), "T stdout begin\nT stderr wrong\nT stdout next\nT stderr left\n"));
    end(2);
}

CASE(a_long_line_becomes_several)
{
    static char line[40001];
    memset(line, 'x', sizeof line - 1);
    line[sizeof line - 2] = '\n';
    begin(3);
    for (size_t at = 0; at < sizeof line - 1; at += 4000)
        log_take(3, false, (const uint8_t *)line + at, 4000);
    const char *logged = content(file);
    CHECK(strlen(logged) == 39999 + 3 * strlen("T stdout \n") &&
          strlen(strrchr(logged, 'T')) == 39999 - 2 * 16384 + 10);
    end(3);
}

CASE(a_file_that_was_renamed_or_cut_is_no_trouble)
{
    char other[96];
    begin(4);
    take(4, false, "one\n");
    snprintf(other, sizeof other, "%s/other", place);
    CHECK(rename(file, other) == 0);
    take(4, false, "two\n");
    CHECK(!strcmp(content(other), "T stdout one\n") && !strcmp(content(file), "T stdout two\n"));
    CHECK(truncate(file, 0) == 0);
    take(4, false, "three\n");
    CHECK(!strcmp(content(file), "T stdout three\n"));
    unlink(other);
    end(4);
}

CASE(no_link_leads_out_of_the_directory_and_only_files_are_written)
{
    char victim[96];
    begin(5);
    snprintf(victim, sizeof victim, "%s/victim", place);
    close(open(victim, O_WRONLY | O_CREAT, 0600));
    CHECK(symlink(victim, file) == 0);
    take(5, false, "bad\n");
    CHECK(!*content(victim));
    CHECK(strstr(warned, "the log 5 in"));
    unlink(file);
    CHECK(mkfifo(file, 0600) == 0);
    int reader = open(file, O_RDONLY | O_NONBLOCK);
    take(5, false, "bad\n");
    char byte;
    CHECK(read(reader, &byte, 1) == 0);
    close(reader);
    unlink(victim);
    end(5);
}

CASE(a_number_without_a_link_is_thrown_away_and_logged_once)
{
    begin(6);
    take(7, false, "lost\n");
    CHECK(strstr(warned, "the log 7 in"));
    *warned = 0;
    take(7, false, "lost\n");
    CHECK(!*warned && !content(file));
    log_begin(NULL);
    take(6, false, "lost\n");
    CHECK(!content(file));
    log_begin(place);
    end(6);
}
