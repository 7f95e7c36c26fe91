/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The first program in the initrd of a Linux that an image brings, where the pod's environment or arguments do not fit a
 * command line: it reads them from the file OWN_INIT_VALUES, removes our files from the root, and executes the program that Linux
 * was to start. stage1/rootfs/own_initrd.py puts both there, stage1/pod/own_command_line.py says what is in the file: texts
 * with a zero behind each, that begin with
 *
 *     P    the program; A one of its arguments, which replace those that Linux has; E a variable NAME=VALUE
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef DIRECTORY
#define DIRECTORY "/.clearpod"
#endif

enum { FAILED = 127 };

extern char **environ;

static int fail(const char *what, const char *of)
{
    dprintf(STDERR_FILENO, "clearpod: %s %s: %s\n", what, of, strerror(errno));
    return FAILED;
}

/* The whole file with a zero at its end; NULL: it can't be read. */
static char *content(const char *path, size_t *length)
{
    struct stat status;
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0 || fstat(file, &status))
        return NULL;
    char *text = calloc(1, (size_t)status.st_size + 1);
    ssize_t got = text ? read(file, text, (size_t)status.st_size) : -1;
    close(file);
    *length = got < 0 ? 0 : (size_t)got;
    return got < 0 ? NULL : text;
}

/* How many texts of the kind are there. */
static size_t count(const char *text, size_t length, char kind)
{
    size_t found = 0;
    for (const char *at = text; at < text + length; at += strlen(at) + 1)
        found += *at == kind;
    return found;
}

/* Those of the kind behind `into`, of which the first `from` stay, and NULL. */
static void collect(char *text, size_t length, char kind, char **into, size_t from)
{
    for (char *at = text; at < text + length; at += strlen(at) + 1)
        if (*at == kind)
            into[from++] = at + 1;
    into[from] = NULL;
}

/* Ours win over what Linux has put there, HOME and TERM. */
static int set_environment(char *text, size_t length)
{
    for (char *at = text; at < text + length; at += strlen(at) + 1)
        if (*at == 'E' && strchr(at, '=') && putenv(at + 1))
            return -1;
    return 0;
}

int main(int argc, char **argv)
{
    size_t length = 0;
    char *text = content(DIRECTORY "/carried", &length), *program[2] = {NULL, NULL};
    if (!text)
        return fail("can't read", DIRECTORY "/carried");
    unlink(DIRECTORY "/carried");
    unlink(DIRECTORY "/init");
    rmdir(DIRECTORY);

    if (count(text, length, 'P') != 1)
        return fail("no program in", DIRECTORY "/carried");
    collect(text, length, 'P', program, 0);
    size_t arguments = count(text, length, 'A');
    char **used = arguments ? calloc(arguments + 2, sizeof *used) : argv;
    if (!used || argc < 1 || set_environment(text, length))
        return fail("no memory for", program[0]);
    used[0] = program[0];
    if (arguments)
        collect(text, length, 'A', used, 1);
    execve(program[0], used, environ);
    return fail("can't execute", program[0]);
}
