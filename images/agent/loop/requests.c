/* SPDX-License-Identifier: Apache-2.0 */
/* See requests.h. What may block goes to a helper (jobs.h), the rest is done at once. */
#include "loop/requests.h"

#include "base/scope.h"
#include "base/texts.h"
#include "kernel/cgroup.h"
#include "kernel/dax.h"
#include "kernel/namespaces.h"
#include "kernel/shares.h"
#include "loop/configure.h"
#include "loop/connections.h"
#include "loop/console.h"
#include "loop/jobs.h"
#include "loop/loop.h"
#include "loop/replies.h"
#include "loop/streams.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static struct process *find(const char *container, uint32_t exec, struct fault *why)
{
    struct process *process = process_find(container, exec);
    if (process)
        return process;
    if (exec)
        fault_set(why, FAULT_NOT_FOUND, "no exec %u in container '%s'", exec, container);
    else
        fault_set(why, FAULT_NOT_FOUND, "no container '%s'", container);
    return NULL;
}

static struct process *find_idle(const char *id, struct fault *why)
{
    struct process *process = find(id, 0, why);
    if (!process || !process->busy)
        return process;
    fault_set(why, FAULT_STATE, "container %s is busy with another request", id);
    return NULL;
}

/* Start a helper. Returns 1: the reply comes later. */
static int begin(const struct asker *asker, struct process *process, struct task *task, struct fault *why)
{
    struct job job = {.kind = task->kind, .asker = *asker, .process = process, .numbers = task->numbers};
    task->arguments = &agent.arguments;
    task->id = process ? process->container : NULL;
    task->raw = process && process->raw;
    if (job_begin(&job, task, why) < 0)
        return -1;
    if (process)
        process->busy = true;
    return 1;
}

static int check_stdio(const clearpod_agent_Stdio *stdio, struct fault *why)
{
    if (stdio->tty && !stdio->stdout && !agent.arguments.plan)
        return fault_set(why, FAULT_INVALID, "a terminal needs a stdout stream");
    return 0;
}

static int on_create(const clearpod_agent_Create *create, const struct asker *asker, struct fault *why)
{
    struct task task = {.kind = TASK_CREATE,
                        .lower = create->lower,
                        .tmpfs = create->tmpfs,
                        .window = create->window,
                        .shared = create->shared,
                        .volumes = create->volumes,
                        .volume_count = create->volumes_count,
                        .guest_volumes = create->guest_volumes,
                        .apparmor = create->apparmor,
                        .stdio = {-1, -1, -1}};
    if (!is_id(create->id))
        return fault_set(why, FAULT_INVALID, "'%s' can't be the id of a container", create->id);
    if (!is_path_beneath(create->lower))
        return fault_set(why, FAULT_INVALID, "'%s' is no path of an image", create->lower);
    if (check_stdio(&create->stdio, why) < 0)
        return -1;
    if (process_find(create->id, 0))
        return fault_set(why, FAULT_EXISTS, "container %s exists", create->id);
    struct process *process = process_add(create->id, 0);
    if (!process)
        return fault_set(why, FAULT_FULL,
                         "the pod has %d containers or %d processes, the most it can; remove some first",
                         MAX_CONTAINERS, MAX_PROCESSES);
    process->raw = create->raw;
    if (streams_open(process, &create->stdio, why) == 0 && begin(asker, process, &task, why) > 0)
        return 1;
    streams_close(process);
    process_free(process);
    return -1;
}

/* Pipes for the streams that there are: [0] is the agent's end, [1] the process's. */
static int make_pipes(const struct process *process, int ends[2][3], struct fault *why)
{
    const uint32_t ids[3] = {process->in.id, process->out[0].id, process->out[1].id};
    for (int i = 0; i < 3; i++) {
        int pair[2];
        if (!ids[i] || process->stdio.tty)
            continue;
        if (pipe2(pair, O_CLOEXEC) < 0)
            return fault_errno(why, "pipe for %s", process->container);
        ends[0][i] = pair[i == 0];
        ends[1][i] = pair[i != 0];
        if (fchown(pair[0], pod_root(), pod_root()) < 0) /* so that /dev/stdout can be opened, and crun pass it on */
            return fault_errno(why, "give the pipe for %s to the pod", process->container);
    }
    return 0;
}

static void close_all(int ends[3])
{
    for (int i = 0; i < 3; i++)
        close_fd(&ends[i]);
}

/* Start a helper that runs the process; its output is read once crun has succeeded. Returns 1 as `begin` does. */
static int launch(const struct asker *asker, struct process *process, struct task *task, struct fault *why)
{
    int ends[2][3] = {{-1, -1, -1}, {-1, -1, -1}};
    task->tty = process->stdio.tty;
    task->width = (uint16_t)process->stdio.width;
    task->height = (uint16_t)process->stdio.height;
    for (int i = 0; i < 2; i++)
        task->followed[i + 1] = process->out[i].id != 0;
    int result = make_pipes(process, ends, why);
    if (result == 0 && agent.arguments.plan && !process->exec && !process->stdio.tty)
        result = console_lend(process, ends[1], why);
    memcpy(task->stdio, ends[1], sizeof task->stdio);
    if (result == 0)
        result = begin(asker, process, task, why);
    close_all(ends[1]);
    if (result > 0) {
        streams_attach(process, ends[0]);
        process->state = P_STARTING;
    }
    close_all(ends[0]);
    return result;
}

static int start(const struct asker *asker, const char *container, struct fault *why)
{
    struct task task = {.kind = TASK_START, .stdio = {-1, -1, -1}};
    struct process *process = find_idle(container, why);
    if (!process)
        return -1;
    if (process->state != P_CREATED)
        return fault_set(why, FAULT_STATE, "container %s was started already", process->container);
    return launch(asker, process, &task, why);
}

static int on_exec(const clearpod_agent_Exec *exec, const struct asker *asker, struct fault *why)
{
    struct task task = {.kind = TASK_EXEC, .exec = exec->exec, .file = exec->process};
    struct process *container = find(exec->container, 0, why);
    if (!container)
        return -1;
    if (container->state != P_RUNNING)
        return fault_set(why, FAULT_STATE, "container %s is not running", exec->container);
    if (!exec->exec || !is_file_name(exec->process))
        return fault_set(why, FAULT_INVALID, "exec %u of '%s' is invalid", exec->exec, exec->process);
    if (process_find(exec->container, exec->exec))
        return fault_set(why, FAULT_EXISTS, "exec %u of container %s exists", exec->exec, exec->container);
    if (check_stdio(&exec->stdio, why) < 0)
        return -1;
    struct process *process = process_add(exec->container, exec->exec);
    if (!process)
        return fault_set(why, FAULT_FAILED, "too many processes in this pod");
    process->epoch = asker->epoch;
    process->raw = container->raw || exec->raw;
    if (streams_open(process, &exec->stdio, why) == 0 && launch(asker, process, &task, why) > 0)
        return 1;
    streams_close(process);
    process_free(process);
    return -1;
}

/* Nobody waits for the output of what it has left behind. */
static void end_draining(struct process *process)
{
    cgroup_kill(process->container, process->exec);
    streams_abandon(process);
}

static int on_signal(const clearpod_agent_Signal *signal, struct fault *why)
{
    struct process *process = find(signal->container, signal->exec, why);
    if (!process)
        return -1;
    if (signal->signal < 1 || signal->signal > 64)
        return fault_set(why, FAULT_INVALID, "there is no signal %u", signal->signal);
    bool is_over = process->exec && process->state == P_DRAINING; /* but for what it has left behind */
    if (is_over && !(signal->all && signal->signal == SIGKILL))
        return fault_set(why, FAULT_NOT_FOUND, "exec %u of container %s is over", signal->exec, signal->container);
    if (is_over)
        end_draining(process);
    else if (process->state == P_STARTING && signal->all && signal->signal == SIGKILL)
        job_give_up(process);
    else if (process->state != P_RUNNING)
        return fault_set(why, FAULT_STATE, "container %s is not running", signal->container);
    else if (signal->all && signal->signal == SIGKILL)
        cgroup_kill(signal->container, signal->exec);
    else if (signal->all)
        cgroup_signal(signal->container, signal->exec, (int)signal->signal);
    else if (kill(process->pid, (int)signal->signal) < 0)
        return fault_errno(why, "send signal %u to container %s", signal->signal, signal->container);
    return 0;
}

static int on_delete(const clearpod_agent_Delete *delete, const struct asker *asker, struct fault *why)
{
    struct task task = {.kind = TASK_DELETE, .stdio = {-1, -1, -1}};
    struct process *process = find_idle(delete->id, why);
    if (!process)
        return -1;
    task.was_started = process->state != P_CREATED || process->tried;
    return begin(asker, process, &task, why);
}

static int on_update(const clearpod_agent_Update *update, const struct asker *asker, struct fault *why)
{
    struct task task = {.kind = TASK_UPDATE, .file = update->resources, .stdio = {-1, -1, -1}};
    struct process *process = find_idle(update->id, why);
    if (!process)
        return -1;
    if (*task.file && !is_file_name(task.file))
        return fault_set(why, FAULT_INVALID, "'%s' is no file of the bundle", task.file);
    if (*task.file && process->state != P_RUNNING)
        return fault_set(why, FAULT_STATE, "container %s is not running", process->container);
    return begin(asker, process, &task, why);
}

static int on_resize(const clearpod_agent_Resize *resize, struct fault *why)
{
    struct winsize size = {.ws_col = (uint16_t)resize->width, .ws_row = (uint16_t)resize->height};
    struct process *process = find(resize->container, resize->exec, why);
    if (!process)
        return -1;
    if (!process->stdio.tty || process->out[0].fd < 0)
        return fault_set(why, FAULT_STATE, "there is no terminal in container %s", resize->container);
    if (ioctl(process->out[0].fd, TIOCSWINSZ, &size) < 0)
        return fault_errno(why, "resize the terminal of container %s", resize->container);
    process->stdio.width = resize->width;
    process->stdio.height = resize->height;
    return 0;
}

/* Which containers the numbers are of: those that run, from slot `first` of the table on, as many as a reply has room for. */
static void choose_containers(struct numbers *numbers, unsigned first)
{
    message_clear(numbers, sizeof *numbers);
    for (unsigned i = first; i < process_count(); i++) {
        if (processes[i].exec || (processes[i].state != P_RUNNING && processes[i].state != P_DRAINING))
            continue;
        if (numbers->count == STATS_AT_ONCE) {
            numbers->pod.next = i;
            return;
        }
        memcpy(numbers->containers[numbers->count++].id, processes[i].container, sizeof processes[i].container);
    }
}

static int on_stats(const clearpod_agent_Stats *stats, const struct asker *asker, struct fault *why)
{
    struct task task = {.kind = TASK_STATS,
                        .disk = stats->disk,
                        .files = stats->files,
                        .numbers = job_numbers(),
                        .stdio = {-1, -1, -1}};
    if (!task.numbers)
        return fault_set(why, FAULT_FAILED, "numbers are being collected several times already");
    choose_containers(task.numbers, stats->first);
    return begin(asker, NULL, &task, why);
}

/* Stop all processes, or those of one container, or let them go on. Quick enough to be done at once. */
static int on_freeze(const clearpod_agent_Freeze *freeze, struct fault *why)
{
    if (*freeze->container && !find(freeze->container, 0, why))
        return -1;
    if (cgroup_freeze(freeze->container, !freeze->thaw) < 0)
        return fault_errno(why, "%s containers '%s'", freeze->thaw ? "thaw" : "freeze", freeze->container);
    return 0;
}

/* The host's directories, which may not be mounted in a guest that is saved. */
static int on_shares(const clearpod_agent_Shares *shares, struct fault *why)
{
    return shares->mount ? shares_mount_volumes(&agent.arguments, why) : shares_unmount(why);
}

/* What the whole pod has: limits, memory that the host wants back, and how many processors are online. */
static int on_tune(const clearpod_agent_Tune *tune, const struct asker *asker, struct fault *why)
{
    struct task task = {.kind = TASK_TUNE, .file = tune->file, .lower = tune->text, .stdio = {-1, -1, -1}};
    bool is_known = !strncmp(tune->file, "memory.", 7) || !strncmp(tune->file, "cpu", 3);
    if (!is_known || !is_file_name(tune->file) || !*tune->text)
        return fault_set(why, FAULT_INVALID, "'%s' can't be set for the whole pod", tune->file);
    return begin(asker, NULL, &task, why);
}

/* Returns 0 when the reply is due now, 1 when it comes later. */
static int on_halt(const clearpod_agent_Halt *halt, const struct asker *asker, struct fault *why)
{
    if (!agent.arguments.plan)
        return fault_set(why, FAULT_STATE, "this pod has no apps");
    return apps_halt(halt->id, monotonic_ns() + halt->grace_ms * 1000000ull, asker);
}

/* Returns 0 when the reply is due now, 1 when a helper will give it. */
static int dispatch(const clearpod_agent_Request *request, const struct asker *asker, struct reply *reply,
                    struct fault *why)
{
    switch (request->which_op) {
    case clearpod_agent_Request_configure_tag:
        return configure(&request->op.configure, why);
    case clearpod_agent_Request_create_tag:
        return on_create(&request->op.create, asker, why);
    case clearpod_agent_Request_start_tag:
        return start(asker, request->op.start.id, why);
    case clearpod_agent_Request_exec_tag:
        return on_exec(&request->op.exec, asker, why);
    case clearpod_agent_Request_delete_tag:
        return on_delete(&request->op.delete, asker, why);
    case clearpod_agent_Request_update_tag:
        return on_update(&request->op.update, asker, why);
    case clearpod_agent_Request_stats_tag:
        return on_stats(&request->op.stats, asker, why);
    case clearpod_agent_Request_connect_tag:
        return connection_open(&request->op.connect, asker, why) < 0 ? -1 : 1;
    case clearpod_agent_Request_launch_tag:
        return apps_launch(&request->op.launch, asker, why) < 0 ? -1 : 1;
    case clearpod_agent_Request_halt_tag:
        return on_halt(&request->op.halt, asker, why);
    case clearpod_agent_Request_tune_tag:
        return on_tune(&request->op.tune, asker, why);
    case clearpod_agent_Request_freeze_tag:
        return on_freeze(&request->op.freeze, why);
    case clearpod_agent_Request_shares_tag:
        return on_shares(&request->op.shares, why);
    case clearpod_agent_Request_signal_tag:
        return on_signal(&request->op.signal, why);
    case clearpod_agent_Request_resize_tag:
        return on_resize(&request->op.resize, why);
    case clearpod_agent_Request_mount_image_tag:
        return dax_mount(agent.arguments.window, &request->op.mount_image, why);
    case clearpod_agent_Request_unmount_image_tag:
        return dax_unmount(agent.arguments.window, request->op.unmount_image.name, why);
    case clearpod_agent_Request_disconnect_tag:
        connection_close(request->op.disconnect.connection);
        return 0;
    case clearpod_agent_Request_list_tag:
        reply->containers = process_list;
        return 0;
    case clearpod_agent_Request_shutdown_tag:
        agent.stopping = true;
        return 0;
    default:
        return fault_set(why, FAULT_INVALID, "an operation that this agent does not know");
    }
}

void request_from(uint64_t epoch, uint32_t id, const uint8_t *payload, size_t size)
{
    static clearpod_agent_Request request; /* large, and one at a time */
    const struct asker asker = {id, epoch};
    struct fault why = {0};
    struct reply reply = {0};
    int result = message_request(payload, size, &request, &why);
    if (result == 0)
        result = dispatch(&request, &asker, &reply, &why);
    reply.fault = result < 0 ? &why : NULL;
    if (result <= 0)
        answer(&asker, &reply);
}

void request_arrived(uint32_t id, const uint8_t *payload, size_t size)
{
    request_from(agent.link.epoch, id, payload, size);
}

int request_start(const char *container, struct fault *why)
{
    return start(&(struct asker){0, PLAN_EPOCH}, container, why);
}

void requests_new_epoch(void)
{
    for (unsigned i = 0; i < process_count(); i++)
        if (processes[i].exec && !processes[i].connection && processes[i].epoch != agent.link.epoch) {
            if (processes[i].state == P_RUNNING)
                cgroup_kill(processes[i].container, processes[i].exec);
            else if (processes[i].state == P_DRAINING)
                end_draining(&processes[i]);
        }
}
