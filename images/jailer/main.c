/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a VMM in its jail:   jailer DESCRIPTION RESULT NAME
 *
 * DESCRIPTION is the number of a descriptor with the launch description (description.h), RESULT that of a pipe for the answer, NAME any
 * text, by which the process can be found. It makes a child in new namespaces, which is the child of whoever started us,
 * writes its pid and then "ok" or one sentence to RESULT, and ends. The child becomes the VMM. When one of the two or
 * their parent ends before that, all end.
 */
#include "failure.h"
#include "host.h"
#include "privileges.h"
#include "root.h"

#include <errno.h>
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum {
    DESCRIPTION_LIMIT = 1 << 20,
    APART = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC | CLONE_NEWUTS | CLONE_NEWCGROUP
};

/* One message of one line; the reader may be gone. */
static void answer(int result, const char *kind, const char *text)
{
    char line[SENTENCE_MAX + 16];
    int length = snprintf(line, sizeof line, "%s%s\n", kind, text);
    if (write(result, line, (size_t)length) != length)
        _exit(FAILED);
}

/* It reads our answer for as long as it lives. */
static bool is_caller_gone(int result)
{
    struct pollfd caller = {.fd = result};
    return poll(&caller, 1, 0) > 0 && (caller.revents & POLLERR);
}

/* From now on we end with the thread that started us. */
static void end_with_caller(int result)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (is_caller_gone(result)) /* it ended before the line above */
        _exit(FAILED);
}

static bool read_description(int fd, struct description *description)
{
    struct stat about;
    errno = EINVAL;
    if (fstat(fd, &about) < 0 || about.st_size <= 0 || about.st_size > DESCRIPTION_LIMIT)
        return failed("read", "the launch description");
    char *bytes = mmap(NULL, (size_t)about.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    if (bytes == MAP_FAILED || !description_parse(bytes, (size_t)about.st_size, description))
        return failed("read", "the launch description");
    return true;
}

static bool set_hostname(const struct description *description)
{
    return !description->hostname || sethostname(description->hostname, strlen(description->hostname)) == 0 ||
           failed("set the host name", description->hostname);
}

/* Returns only if that is not possible. `pair` is the parent's: it has ended if nothing comes from there. */
static void exec_vmm(const struct description *description, int ids, int pair, int result)
{
    int ruleset;
    char go;
    setsid();
    if (!(description->joined ? root_share() : root_change(description, ids)) || !set_hostname(description) ||
        !privileges_make_ruleset(description, &ruleset) || !privileges_give_up(description, ids, ruleset))
        return;
    end_with_caller(result); /* a change of user takes that back */
    if (send(pair, "", 1, MSG_NOSIGNAL) != 1 || recv(pair, &go, 1, 0) != 1)
        _exit(FAILED);
    if (!description->dies_with_parent)
        prctl(PR_SET_PDEATHSIG, 0);
    if (!privileges_close(description))
        return;
    execve(description->argv[0], description->argv, description->env);
    failed("start", description->argv[0]);
}

/* Until the child, which asks once whether we are still there, has become the VMM or has sent the reason why not. */
static bool attend(int pair)
{
    char text[SENTENCE_MAX];
    ssize_t length;
    while ((length = recv(pair, text, sizeof text - 1, 0)) > 0) {
        text[length] = 0;
        if (*text)
            failure_take(text);
        if (*text || send(pair, "", 1, MSG_NOSIGNAL) != 1)
            return false;
    }
    return true;
}

static bool start(const struct description *description, int ids, int result)
{
    int pair[2];
    char number[16];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return failed("make", "a pair of sockets");
    if (!host_join(description, APART))
        return false;
    unsigned long apart = description->joined ? CLONE_NEWNS : APART;
    pid_t child = (pid_t)syscall(SYS_clone, CLONE_PARENT | apart | SIGCHLD, NULL, NULL, NULL, NULL);
    if (child < 0)
        return failed("make", "namespaces");
    if (child == 0) {
        close(pair[0]);
        end_with_caller(result);
        exec_vmm(description, ids, pair[1], result);
        send(pair[1], failure(), strlen(failure()), MSG_NOSIGNAL);
        _exit(FAILED);
    }
    close(pair[1]);
    snprintf(number, sizeof number, "%d", child);
    answer(result, "pid ", number);
    return attend(pair[0]);
}

int main(int argc, char **argv)
{
    static struct description description;
    int ids;
    if (argc != 4) {
        fputs("usage: jailer DESCRIPTION RESULT NAME\n", stderr);
        return FAILED;
    }
    int result = atoi(argv[2]);
    end_with_caller(result);
    if (read_description(atoi(argv[1]), &description) && privileges_read_filter(&description) &&
        host_enter_network(&description) && host_join_cgroups(&description) && host_set_oom_score() &&
        (ids = host_make_user_namespace(&description)) >= 0 && start(&description, ids, result)) {
        answer(result, "ok", "");
        return 0;
    }
    answer(result, "failed ", failure());
    return FAILED;
}
