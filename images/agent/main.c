/* SPDX-License-Identifier: Apache-2.0 */
/*
 * clearpod's agent: PID 1 of the guest. It boots the guest, then serves the host's requests until the VM ends. It must
 * never exit: a failure that it can't recover from is one line on the console and a reboot, which ends the VM (poweroff
 * would hang). As any other process than PID 1 it serves a pod on the host (boot/host.h), and ends that pod alone.
 */
#include "base/profile.h"
#include "boot/boot.h"
#include "boot/host.h"
#include "kernel/namespaces.h"
#include "loop/autonomous.h"
#include "loop/connections.h"
#include "loop/exits.h"
#include "loop/jobs.h"
#include "loop/loop.h"
#include "loop/replies.h"
#include "loop/requests.h"
#include "loop/streams.h"
#include "loop/transport.h"

#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/signalfd.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>
#include <x86intrin.h>

enum { STOP_LIMIT_MS = 500, STOP_POLL_MS = 10 };

static void end_vm(void) __attribute__((noreturn));
static void end_vm(void)
{
    bool is_pod_over = agent.arguments.plan && agent.stopping;
    if (agent.arguments.host.on)
        host_end(0);
    if (profile.flush_journal)
        profile.flush_journal(is_pod_over);
    if (is_pod_over)
        autonomous_end();
    boot_end();
}

static void die(const struct fault *why) __attribute__((noreturn));
static void die(const struct fault *why)
{
    log_line("clearpod-agent: %s", why->text);
    if (agent.arguments.host.on)
        host_end(1);
    end_vm();
}

static void mark(const char *what, uint64_t at_ns, uint64_t tsc)
{
    if (agent.arguments.mark)
        log_line("clearpod.mark %s %llu %llu", what, (unsigned long long)at_ns, (unsigned long long)tsc);
}

static void new_epoch(void)
{
    streams_new_epoch();
    requests_new_epoch();
    connections_new_epoch();
}

static const struct link_user link_user = {
    .request = request_arrived,
    .data = streams_on_data,
    .credit = streams_on_credit,
    .epoch = new_epoch,
    .clock = set_clock,
};

static int prepare(struct fault *why)
{
    struct utsname name;
    if (loop_begin() < 0 || transport_watch_listener() < 0 || autonomous_wait() < 0)
        return fault_errno(why, "set up the loop");
    link_init(&agent.link, &link_user);
    uname(&name);
    snprintf(agent.link.facts.kernel, sizeof agent.link.facts.kernel, "%s", name.release);
    if (getrandom(&agent.link.facts.boot_id, sizeof agent.link.facts.boot_id, GRND_NONBLOCK) < 0)
        agent.link.facts.boot_id = __rdtsc(); /* it only has to differ from the last boot's */
    agent.link.facts.init_ns = agent.init_ns;
    agent.link.facts.apparmor = access("/sys/module/apparmor", F_OK) == 0;
    return 0;
}

static void on_signals(void)
{
    struct signalfd_siginfo info[8];
    int status;
    while (read(agent.signals, info, sizeof info) > 0)
        continue;
    for (pid_t pid; (pid = exit_reap(&status)) > 0;)
        exit_reaped(pid, status);
}

static void on_event(enum token token, unsigned index, uint32_t events)
{
    struct fault why;
    switch (token) {
    case T_SIGNAL:
        on_signals();
        break;
    case T_LINK:
        transport_event(events);
        break;
    case T_LISTENER: /* the loop calls transport_open */
        break;
    case T_OUT0:
        output_ready(&processes[index], 0);
        break;
    case T_OUT1:
        output_ready(&processes[index], 1);
        break;
    case T_IN:
        input_ready(&processes[index]);
        break;
    case T_JOB:
        job_ready(&jobs[index]);
        break;
    case T_CONSOLE:
        if (autonomous_go(&why) < 0)
            die(&why);
        break;
    }
}

static void sync_all(void)
{
    for (unsigned i = 0; i < process_count(); i++) {
        if (processes[i].state == P_FREE)
            continue;
        streams_sync(&processes[i]);
        exit_sync(&processes[i]);
        connection_sync(&processes[i]);
    }
    jobs_sync();
    if (profile.sync_ends)
        profile.sync_ends();
}

static int sooner(int one_ms, int other_ms)
{
    return one_ms < 0 || (other_ms >= 0 && other_ms < one_ms) ? other_ms : one_ms;
}

static int timeout_ms(void)
{
    int own = agent.arguments.plan && !agent.stopping ? autonomous_sync() : -1;
    if (agent.stopping) /* perhaps since now */
        return STOP_POLL_MS;
    return sooner(sooner(own, jobs_timeout_ms()), sooner(transport_timeout_ms(), exit_timeout_ms()));
}

static void stop_when_told(void)
{
    static uint64_t since_ns;
    if (!agent.stopping)
        return;
    since_ns = since_ns ? since_ns : monotonic_ns();
    if (transport_is_idle() || monotonic_ns() - since_ns > STOP_LIMIT_MS * 1000000ull)
        end_vm();
}

static void serve(void) __attribute__((noreturn));
static void serve(void)
{
    for (;;) {
        transport_open();
        transport_read();
        sync_all();
        sync_all(); /* a helper that is done may end streams, whose end may finish its request */
        jobs_go(transport_timeout_ms() != 0);
        transport_write();
        stop_when_told();
        loop_wait(timeout_ms(), on_event);
    }
}

int main(int argc, char **argv)
{
    struct fault why;
    agent.init_ns = monotonic_ns();
    agent.init_tsc = __rdtsc();
    if (argc > 0 && !strcmp(argv[0], "pause"))
        pause_forever();
    if (profile.begin((const char *const *)argv, &why) < 0 || prepare(&why) < 0)
        die(&why);
    transport_open();
    agent.link.facts.ready_ns = monotonic_ns();
    uint64_t ready_tsc = __rdtsc();
    mark("pid1", agent.init_ns, agent.init_tsc); /* not earlier: the console is slow */
    mark("ready", agent.link.facts.ready_ns, ready_tsc);
    if (agent.arguments.bench)
        end_vm();
    serve();
}
