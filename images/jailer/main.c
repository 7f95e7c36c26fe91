/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Starts a VMM in its jail:   jailer DESCRIPTION RESULT NAME
 *
 * DESCRIPTION is the number of a descriptor with the launch description (description.h), RESULT that of a pipe for the answer, NAME any
 * text, by which the process can be found. It makes a child in new namespaces, which is the child of whoever started us,
 * writes its pid and then "ok" or one sentence to RESULT, and ends. The child becomes the VMM. When one of the two or
 * their parent ends before that, all end.
 *
 * A process that joins a VMM's namespaces becomes the child of that VMM, which is the init there. The end of an init
 * waits until all processes of its namespace are reaped, and the kernel itself reaps only the init's children.
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
#include <sys/uio.h>
#include <sys/wait.h>
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

/* Tell the jailer our pid, by our credentials. Ends the process if the jailer is gone. */
static void ask(int pair)
{
    char go;
    if (send(pair, "", 1, MSG_NOSIGNAL) != 1 || recv(pair, &go, 1, 0) != 1)
        _exit(FAILED);
}

/* Go on in a new process whose parent, this one, ends: the namespace's init adopts it. False if there is no process. */
static bool become_child_of_init(int pair)
{
    pid_t child = (pid_t)syscall(SYS_clone, SIGCHLD, NULL, NULL, NULL, NULL);
    if (child < 0)
        return failed("make", "a process beside the VMM");
    if (child > 0)
        _exit(0);
    ask(pair);
    return true;
}

/* Returns only if that is not possible. `pair` is the jailer's: it has ended if nothing comes from there. */
static void exec_vmm(const struct description *description, int ids, int pair, int result)
{
    int ruleset;
    setsid();
    if (!(description->joined ? root_share() : root_change(description, ids)) || !set_hostname(description) ||
        !privileges_make_ruleset(description, &ruleset) || !privileges_give_up(description, ids, ruleset))
        return;
    end_with_caller(result); /* a change of user takes that back */
    ask(pair);
    if (!description->dies_with_parent)
        prctl(PR_SET_PDEATHSIG, 0);
    if ((description->joined && !become_child_of_init(pair)) || !privileges_close(description))
        return;
    execve(description->argv[0], description->argv, description->env);
    failed("start", description->argv[0]);
}

/* Until the child, which asks whether we are still there, has become the VMM or has sent the reason why not. Who asked
 * last, by our numbers, is `*asker`.
 */
static bool attend(int pair, pid_t *asker)
{
    char text[SENTENCE_MAX];
    union {
        struct cmsghdr header;
        char buffer[CMSG_SPACE(sizeof(struct ucred))];
    } control;
    for (;;) {
        struct iovec piece = {text, sizeof text - 1};
        struct msghdr message = {
            .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
        ssize_t length = recvmsg(pair, &message, 0);
        if (length <= 0)
            return true;
        text[length] = 0;
        struct cmsghdr *got = CMSG_FIRSTHDR(&message);
        struct ucred who;
        if (got && got->cmsg_type == SCM_CREDENTIALS) {
            memcpy(&who, CMSG_DATA(got), sizeof who);
            *asker = who.pid;
        }
        if (*text)
            failure_take(text);
        if (*text || send(pair, "", 1, MSG_NOSIGNAL) != 1)
            return false;
    }
}

static void answer_pid(int result, pid_t pid)
{
    char number[16];
    snprintf(number, sizeof number, "%d", pid);
    answer(result, "pid ", number);
}

static bool start(const struct description *description, int ids, int result)
{
    int pair[2], on = 1;
    pid_t asker = 0;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ||
        setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on) < 0)
        return failed("make", "a pair of sockets");
    if (!host_join(description, APART))
        return false;
    unsigned long apart = description->joined ? CLONE_NEWNS : CLONE_PARENT | APART;
    pid_t child = (pid_t)syscall(SYS_clone, apart | SIGCHLD, NULL, NULL, NULL, NULL);
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
    if (!description->joined) {
        answer_pid(result, child);
        return attend(pair[0], &asker);
    }
    bool is_started = attend(pair[0], &asker) && asker != child;
    while (waitpid(child, NULL, 0) < 0 && errno == EINTR)
        continue;
    if (is_started)
        answer_pid(result, asker);
    return is_started;
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
