/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Every entry point of the stage1 image, selected by the name that it is called by (images/stage1-aci/README.md). By the
 * name of a dynamic program of the image it becomes that, with the image's own loader. Else it
 * starts the bundled Python; for `run` as a child that prepares and writes down how the VMM is to be started. Then it
 * has the VMM started (vmm.c) and stays, as the process that holds rkt's lock: with it the VMM ends, and it with the VMM.
 */
#include "error.h"
#include "format.h"
#include "relay.h"
#include "spec.h"
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4u
#endif
#define HOME "usr/lib/clearpod"
#define PYTHON HOME "/python"
#define START HOME "/start.pyc"

extern char **environ;

enum { ARGUMENTS = 64, SPEC_LIMIT = 1 << 20 };

static const char *const variables[] = {"CLEARPOD_SPEC_FD", "CLEARPOD_LAUNCH_FD", "CLEARPOD_COPY_FD"};
static char root[PATH_MAX];   /* of the stage1 image */
static const char *uuid = ""; /* the last argument of run */
static int ourselves = -1;    /* our pidfd */

static void take_standard_fds(void)
{
    int fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= 2)
        fd = dup(fd);
    if (fd > 2)
        close(fd);
}

/* What was meant for another Python, or for another dynamic loader. */
static void clean_environment(void)
{
    char **to = environ;
    for (char **from = environ; *from; from++)
        if (strncmp(*from, "PYTHON", 6) && strncmp(*from, "LD_", 3))
            *to++ = *from;
    *to = NULL;
}

/* Above all rkt's lock: as long as anybody has it, the pod seems to run. It is ours alone. */
static void keep_to_ourselves(void)
{
    const char *lock = getenv("RKT_LOCK_FD");
    if (lock)
        fcntl(atoi(lock), F_SETFD, FD_CLOEXEC);
    unsetenv("RKT_LOCK_FD");
    syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC); /* an old kernel can't; nothing of rkt's needs it */
}

static bool find_root(void)
{
    ssize_t length = readlink("/proc/self/exe", root, sizeof root - 1);
    root[length < 0 ? 0 : length] = 0;
    char *slash = strrchr(root, '/');
    if (!slash)
        return false;
    *slash = 0;
    return true;
}

/* Becomes a program of the image that is dynamic, with the image's loader and libraries; returns when there is none of
 * that name. It is known by the name that we were called by: a VMM is found by its command line. */
static void exec_program(const char *name, int argc, char **argv)
{
    static const char *const places[] = {"bin", "plugins"};
    static char loader[PATH_MAX + 64], library[PATH_MAX + 64], program[2 * PATH_MAX];
    format(loader, sizeof loader, "%s/" PYTHON "/ld.so", root);
    format(library, sizeof library, "%s/" PYTHON "/lib", root);
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        format(program, sizeof program, "%s/" HOME "/%s/%s", root, places[i], name);
        char *first[] = {argv[0], "--library-path", library, program}, **all;
        if (access(program, X_OK) < 0 || !(all = malloc(sizeof first + (size_t)argc * sizeof *all)))
            continue;
        memcpy(all, first, sizeof first);
        memcpy(all + sizeof first / sizeof *first, argv + 1, (size_t)argc * sizeof *all);
        execv(loader, all);
        report_error("%s can't be started: %s; the stage1 image is damaged, fetch it anew", loader, strerror(errno));
        _exit(FAILED);
    }
}

/* Becomes Python; returns only if that is not possible. */
static void exec_python(const char *name, char *const *arguments)
{
    static char loader[PATH_MAX + 64], library[PATH_MAX + 64], python[PATH_MAX + 64], start[PATH_MAX + 64];
    char *first[] = {loader, "--library-path",       library, "--argv0", python, python, "-I", "-S", "-B", "-X", "utf8",
                     start,  (char *)(uintptr_t)name};
    char *argv[ARGUMENTS];
    size_t count = sizeof first / sizeof *first;
    format(loader, sizeof loader, "%s/" PYTHON "/ld.so", root);
    format(library, sizeof library, "%s/" PYTHON "/lib", root);
    format(python, sizeof python, "%s/" PYTHON "/bin/python3", root);
    format(start, sizeof start, "%s/" START, root);
    size_t given = 0;
    while (arguments[given])
        given++;
    char **all = count + given < ARGUMENTS ? argv : malloc((count + given + 1) * sizeof *all);
    if (all) {
        memcpy(all, first, sizeof first);
        memcpy(all + count, arguments, (given + 1) * sizeof *all);
        execv(loader, all);
    }
    report_error("%s can't be started: %s; the stage1 image is damaged, fetch it anew", loader, strerror(errno));
}

/* In a child: to end with us, and to be deaf to nothing. */
static void begin_child(void)
{
    struct pollfd parent = {.fd = ourselves, .events = POLLIN};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (poll(&parent, 1, 0) > 0) /* it ended before the line above */
        _exit(FAILED);
}

static pid_t start_stop(bool forcibly)
{
    char *arguments[] = {forcibly ? "--force" : (char *)(uintptr_t)uuid, forcibly ? (char *)(uintptr_t)uuid : NULL,
                         NULL};
    pid_t pid = fork();
    if (pid)
        return pid;
    begin_child();
    setsid(); /* a second Ctrl-C is for us */
    exec_python("stop", arguments);
    _exit(FAILED);
}

static void give(int fd, const char *variable)
{
    char number[16];
    format(number, sizeof number, "%d", fd);
    fcntl(fd, F_SETFD, 0);
    setenv(variable, number, 1);
}

/* Python writes into `files`: the launch spec, the launch description, and that of a copy; returns its exit code. It begins in the host's mounts, where the pod's
 * network belongs, and goes into ours, which it finds by its parent. */
static int prepare(const int files[3], int host_mounts, char *const *arguments)
{
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        begin_child();
        int here = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (setns(host_mounts, CLONE_NEWNS) < 0 || fchdir(here) < 0)
            _exit(FAILED);
        for (int i = 0; i < 3; i++)
            give(files[i], variables[i]);
        exec_python("run", arguments);
        _exit(FAILED);
    }
    while (pid < 0 || waitpid(pid, &status, 0) < 0)
        if (pid < 0 || errno != EINTR)
            return FAILED;
    return WIFEXITED(status) ? WEXITSTATUS(status) : FAILED;
}

/* What Python wrote: mapped, and never given back. */
static bool read_spec(int fd, struct launch_spec *spec)
{
    struct stat about;
    if (fstat(fd, &about) < 0 || about.st_size <= 0 || about.st_size > SPEC_LIMIT)
        return false;
    char *bytes = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    return bytes != MAP_FAILED && spec_parse(bytes, (size_t)about.st_size, spec);
}

/* Mounts that are made from here on are the pod's alone, and end with it; the host's still come in. */
static bool leave_mounts(void)
{
    return unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) == 0;
}

/* Rejects a template whose copy did not start; `gc` removes it (stage1/rkt/copies.py). */
static void reject(const char *template)
{
    char there[PATH_MAX], rejected[PATH_MAX];
    format(there, sizeof there, "%s/manifest.json", template);
    format(rejected, sizeof rejected, "%s/rejected", template);
    rename(there, rejected);
}

/* The pod's code, or AGAIN: the VM has to boot. Nothing of the pod has run then. */
static int run_copy(struct launch_spec *spec, int description)
{
    struct vmm vmm;
    int code = start_vmm(spec, description, uuid, begin_child, &vmm) ? relay(vmm, spec, start_stop) : AGAIN;
    if (code != AGAIN)
        return code;
    report_error("a copy of the template %s did not start, so the pod boots", spec->template);
    reject(spec->template);
    spec->template = spec->monitor = NULL;
    unlink(spec->listener);
    return AGAIN;
}

static int run(char *const *arguments)
{
    struct launch_spec spec;
    struct vmm vmm;
    ourselves = (int)syscall(SYS_pidfd_open, getpid(), 0);
    int fd = memfd_create("launch-spec", MFD_CLOEXEC), description = memfd_create("launch", MFD_CLOEXEC);
    int copy = memfd_create("launch-copy", MFD_CLOEXEC);
    int host_mounts = open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC);
    for (char *const *argument = arguments; *argument; argument++)
        uuid = *argument;
    if (fd < 0 || description < 0 || copy < 0 || host_mounts < 0 || !leave_mounts()) {
        report_error("no mount namespace can be created: %s; run rkt as root", strerror(errno));
        return FAILED;
    }
    int code = prepare((int[]){fd, description, copy}, host_mounts, arguments);
    close(host_mounts);
    if (code)
        return code;
    signal(SIGPIPE, SIG_IGN);
    if (!read_spec(fd, &spec)) {
        report_error("the preparation of the pod left no valid launch spec, which is a bug in clearpod; report it");
        return FAILED;
    }
    close(fd);
    if (spec.template && (code = run_copy(&spec, copy)) != AGAIN)
        return code;
    close(copy);
    if (!start_vmm(&spec, description, uuid, begin_child, &vmm))
        return FAILED;
    close(description);
    return relay(vmm, &spec, start_stop);
}

int main(int argc, char **argv)
{
    const char *name = argc ? strrchr(argv[0], '/') : NULL;
    name = name ? name + 1 : argc ? argv[0] : "";
    bool has_root = argc && find_root(), stays = !strcmp(name, "run");
    if (has_root && !stays) /* the paths that it makes would be kept as long as the pod lives */
        exec_program(name, argc, argv);
    take_standard_fds();
    keep_to_ourselves();
    clean_environment();
    if (!has_root) {
        report_error("/proc is not mounted, so the stage1 image can't be found");
        return FAILED;
    }
    if (stays)
        return run(argv + 1);
    exec_python(name, argv + 1);
    return FAILED;
}
