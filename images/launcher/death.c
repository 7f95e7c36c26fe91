/* SPDX-License-Identifier: Apache-2.0 */
/* See death.h. */
#include "death.h"

#include "error.h"
#include "format.h"
#include "notice.h"

#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { END_BYTES = 4096, KILLED = 128 + SIGKILL };

static void show(const char *text, size_t size, bool is_cut)
{
    char lines[NOTICE_MAX];
    notice(text, size, is_cut, lines);
    for (char *line = lines, *end; (end = strchr(line, '\n')); line = end + 1)
        report_error("%.*s", (int)(end - line), line);
}

static char text[END_BYTES];

/* The end of the file, in `text`; how long it is, and how long the file. */
static size_t read_end(const char *path, off_t *size)
{
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
    *size = fd >= 0 ? lseek(fd, 0, SEEK_END) : 0;
    ssize_t got = *size > 0 ? pread(fd, text, sizeof text, *size > END_BYTES ? *size - END_BYTES : 0) : 0;
    if (fd >= 0)
        close(fd);
    return got > 0 ? (size_t)got : 0;
}

static bool tells(const char *path, const char *word)
{
    off_t size;
    size_t got = read_end(path, &size);
    return memmem(text, got, word, strlen(word));
}

void death_show(const char *path)
{
    off_t size;
    size_t got = read_end(path, &size);
    if (got)
        show(text, got, size > END_BYTES);
}

/* A stop that kills the VMM first writes a file next to the console's (stage1/rkt/machine.py). */
static bool was_forced(const struct launch_spec *spec)
{
    char path[PATH_MAX];
    const char *slash = spec->console ? strrchr(spec->console, '/') : NULL;
    if (!slash)
        return false;
    format(path, sizeof path, "%.*s/killed", (int)(slash - spec->console), spec->console);
    return access(path, F_OK) == 0;
}

int death_explain(const struct launch_spec *spec, struct records *records, int status)
{
    bool killed = WIFSIGNALED(status);
    if (killed && WTERMSIG(status) == SIGKILL && was_forced(spec)) {
        report_error("the pod was killed: by a stop with --force, a second signal, or because it did not end in time");
        return KILLED;
    }
    records_over(records);
    show(records->before, records->before_bytes, records->before_bytes == BEFORE_MAX);
    death_show(spec->console);
    report_error("the virtual machine ended by itself (%s %d); the output of its kernel is in %s",
                 killed ? "signal" : "code", killed ? WTERMSIG(status) : WEXITSTATUS(status),
                 spec->console ? spec->console : "no file");
    return FAILED;
}

int death_of_kernel(const struct launch_spec *spec, int status, const char *output, bool was_asked)
{
    bool killed = WIFSIGNALED(status);
    if (!strstr(output, "\"GUEST_PANICKED\"") && tells(spec->console, POWERED_OFF))
        output = ""; /* one that also resets, to be sure, has powered off */
    int code = killed ? 128 + WTERMSIG(status) : spec_code(spec, WEXITSTATUS(status), output);
    if (code && !was_asked)
        death_show(spec->console);
    if (!killed && code == RESET_CODE && !WEXITSTATUS(status))
        report_error("the kernel of the image reset its machine instead of powering it off, as after a panic (code %d)",
                     code);
    else if (code)
        report_error("the kernel of the image ended with %s %d", killed ? "signal" : "code",
                     killed ? WTERMSIG(status) : code);
    return code;
}
