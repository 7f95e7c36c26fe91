/* SPDX-License-Identifier: Apache-2.0 */
/* See autonomous.h. */
#include "loop/autonomous.h"

#include "base/scope.h"
#include "kernel/cgroup.h"
#include "kernel/shares.h"
#include "loop/apps.h"
#include "loop/console.h"
#include "loop/jobs.h"
#include "loop/loop.h"
#include "loop/replies.h"
#include "loop/requests.h"
#include "loop/transport.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#define PLAN "/run/clearpod/volumes/pod/plan"
#define STATUS "/run/clearpod/volumes/status"
#define TEMPORARY STATUS "/.new"

enum { SETUP_FAILED = 254, LAUNCHER_MS = 2000, AT_ONCE = 8 };

static int plan_fd = -1;
static bool has_begun;
static struct {
    struct frame next;
    bool has_next;
    unsigned waits; /* for so many replies to its requests */
    int code;
    char why[600];
} plan;

static void over(int code, const char *why)
{
    plan.code = code;
    snprintf(plan.why, sizeof plan.why, "%s", why);
    agent.stopping = true;
}

static void stop(const char *container, bool forcibly)
{
    const struct process *process = process_find(container, 0);
    if (process && process->state == P_RUNNING && !forcibly)
        kill(process->pid, SIGTERM);
    else if (forcibly)
        cgroup_kill(container, 0);
}

static void reply(const struct asker *asker, const struct fault *why)
{
    answer(asker, &(struct reply){.fault = why});
}

/* Written under another name and renamed: rkt may read at any time. On a full disk there is no status. */
static void ended(const char *app, int code)
{
    char path[sizeof STATUS + 100];
    snprintf(path, sizeof path, STATUS "/%s", app);
    scoped_fd int fd = open(TEMPORARY, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd >= 0 && dprintf(fd, "%d\n", code) > 0) {
        sync();
        rename(TEMPORARY, path);
    }
}

static const struct apps_user user = {
    .now_ns = monotonic_ns, .start = request_start, .stop = stop, .reply = reply, .ended = ended, .over = over};

static void plan_answered(uint32_t request, const struct reply *reply)
{
    if (request)
        plan.waits--;
    else if (!reply->fault || reply->fault->code != FAULT_FULL)
        return; /* an app was started or, as the pod ends already, was not: apps.c knows */
    if (reply->fault && !agent.stopping)
        over(SETUP_FAILED, reply->fault->text);
}

static int begin(struct fault *why)
{
    has_begun = true;
    plan_fd = open(PLAN, O_RDONLY | O_CLOEXEC);
    if (plan_fd < 0)
        return fault_errno(why, "open " PLAN);
    if (agent.arguments.vsock_port && transport_listen_vsock(agent.arguments.vsock_port, why) < 0)
        return -1;
    return console_open(why);
}

int autonomous_begin(struct fault *why)
{
    apps_init(&user);
    answer_plan_by(plan_answered);
    return agent.arguments.template ? 0 : begin(why);
}

int autonomous_wait(void)
{
    return agent.arguments.plan && agent.arguments.template ? console_watch() : 0;
}

int autonomous_go(struct fault *why)
{
    if (has_begun || !console_said_go())
        return 0;
    return shares_mount(&agent.arguments, why) < 0 ? -1 : begin(why);
}

/* Alone is request 1, which is Configure. Roots are made side by side, and apps started so when all have roots. */
static bool may_go(void)
{
    int busy = 0;
    for (int i = 0; i < MAX_JOBS; i++)
        busy += jobs[i].used;
    return busy < AT_ONCE && (!plan.waits || plan.next.stream > 2);
}

/* One request of the plan; 1 at its end or when the next one has to wait. */
static int step(struct fault *why)
{
    static uint8_t payload[FRAME_MAX];
    uint8_t header[FRAME_HEADER];
    ssize_t got = plan.has_next ? 0 : read(plan_fd, header, sizeof header);
    if (got == 0 && !plan.has_next) {
        if (!plan.waits)
            close_fd(&plan_fd);
        return 1;
    }
    bool is_whole =
        plan.has_next || (got == sizeof header && frame_unpack(header, &plan.next) && plan.next.kind == K_REQUEST);
    plan.has_next = is_whole && !may_go();
    if (plan.has_next)
        return 1;
    if (!is_whole || read(plan_fd, payload, plan.next.length) != (ssize_t)plan.next.length)
        return fault_set(why, FAULT_INVALID, PLAN " is damaged");
    plan.waits += plan.next.stream != 0;
    request_from(PLAN_EPOCH, plan.next.stream, payload, plan.next.length);
    return 0;
}

int autonomous_sync(void)
{
    struct fault why;
    int result = 0;
    bool goes_on = plan_fd >= 0;
    while (goes_on && !agent.stopping && (result = step(&why)) == 0)
        continue;
    if (result < 0)
        over(SETUP_FAILED, why.text);
    else if (goes_on && plan_fd < 0)
        apps_settle();
    return ms_until(apps_tick());
}

void autonomous_end(void)
{
    struct fault why;
    sync();
    if (!has_begun) /* the launcher reads the end only after a begin */
        console_open(&why);
    console_end(plan.code, plan.why);
    poll(NULL, 0, LAUNCHER_MS); /* it ends the VM now */
}
