/* SPDX-License-Identifier: Apache-2.0 */
/* See apps.h. */
#include "loop/apps.h"

#include "base/texts.h"

#include <stdio.h>
#include <string.h>

enum stage { BEFORE, MAIN, AFTER, STAGES };

struct app {
    bool used, up, has_run; /* up: the container of this stage runs; has_run: the app itself did */
    enum stage stage;
    char names[STAGES][100];
    int code;
    bool halted, killed;
    uint64_t kill_at_ns;           /* 0: no limit is running */
    struct asker launcher, halter; /* request 0: none */
};

static struct {
    const struct apps_user *user;
    struct app table[MAX_APPS];
    bool known, settled, lasting, halted, over; /* known: `lasting` is */
    int code;
    char why[600];
} pod;

static const char *name_of(const struct app *app)
{
    return app->names[app->stage];
}

static struct app *find(const char *container)
{
    for (struct app *app = pod.table; app < pod.table + MAX_APPS; app++)
        if (app->used && !strcmp(name_of(app), container))
            return app;
    return NULL;
}

static void reply(struct asker *asker, const struct fault *why)
{
    if (asker->request)
        pod.user->reply(asker, why);
    asker->request = 0;
}

static void halt(struct app *app, uint64_t kill_at_ns)
{
    app->halted = true;
    app->kill_at_ns = kill_at_ns;
    if (app->up)
        pod.user->stop(name_of(app), false);
}

static void halt_all(uint64_t kill_at_ns)
{
    pod.halted = true;
    for (struct app *app = pod.table; app < pod.table + MAX_APPS; app++)
        if (app->used)
            halt(app, kill_at_ns);
}

static void end_when_empty(void)
{
    for (const struct app *app = pod.table; app < pod.table + MAX_APPS; app++)
        if (app->used)
            return;
    if (pod.over || !(pod.halted || (pod.settled && !pod.lasting)))
        return;
    pod.over = true;
    if (!pod.settled && !pod.code && !(pod.known && pod.lasting)) {
        pod.code = APP_STOPPED;
        snprintf(pod.why, sizeof pod.why, "the pod was stopped before all of its apps had begun");
    }
    pod.user->over(pod.code, pod.why);
}

/* Without `lasting` the first failure ends the pod, with its code; the others get as long as the pod's own stop would
 * give them. That it is being stopped changes nothing about the code. */
static void end_app(struct app *app)
{
    static const uint64_t grace_ns = 10000000000;
    bool was_stopped = app->halted && !app->has_run && !app->code;
    app->used = false;
    app->code = was_stopped ? APP_STOPPED : app->code;
    pod.user->ended(app->names[MAIN], app->code);
    reply(&app->halter, NULL);
    if (app->code && !pod.lasting && !pod.code) {
        pod.code = app->code;
        if (!*pod.why)
            snprintf(pod.why, sizeof pod.why, "app %s %s %d", app->names[MAIN],
                     was_stopped ? "was stopped before it had begun, which is code" : "ended with code", app->code);
        if (!pod.halted)
            halt_all(pod.user->now_ns() + grace_ns);
    }
    end_when_empty();
}

static void fail(struct app *app, const struct fault *why, bool is_shown);

/* Start the next container that there is, from `stage` on. */
static void enter(struct app *app, unsigned stage)
{
    struct fault why;
    app->up = false;
    while (stage < STAGES && !app->names[stage][0])
        stage++;
    if (stage == STAGES || app->killed) {
        end_app(app);
        return;
    }
    app->stage = (enum stage)stage;
    if (pod.user->start(name_of(app), &why) < 0)
        fail(app, &why, false);
}

static int code_of(const struct fault *why)
{
    if (why->code == FAULT_COMMAND)
        return is_missing_command(why->text) ? APP_NO_COMMAND : APP_NO_EXEC;
    return is_directory_error(why->text) ? APP_NO_DIRECTORY : APP_FAILED;
}

static void fail(struct app *app, const struct fault *why, bool is_shown)
{
    if (app->stage != AFTER && !app->code)
        app->code = code_of(why);
    if (!*pod.why && !pod.halted)
        snprintf(pod.why, sizeof pod.why, "app %s: %s", app->names[MAIN], is_shown ? "it can't be started" : why->text);
    reply(&app->launcher, why);
    enter(app, app->stage == AFTER ? STAGES : AFTER);
}

void apps_init(const struct apps_user *user)
{
    memset(&pod, 0, sizeof pod);
    pod.user = user;
    pod.lasting = true; /* until it is known */
}

void apps_begin(bool lasting)
{
    pod.lasting = lasting;
    pod.known = true;
}

static struct app *find_app(const char *id)
{
    for (struct app *app = pod.table; app < pod.table + MAX_APPS; app++)
        if (app->used && !strcmp(app->names[MAIN], id))
            return app;
    return NULL;
}

int apps_launch(const clearpod_agent_Launch *launch, const struct asker *asker, struct fault *why)
{
    struct app *app = pod.table;
    while (app < pod.table + MAX_APPS && app->used)
        app++;
    if (app == pod.table + MAX_APPS)
        return fault_set(why, FAULT_FULL, "too many apps");
    if (!pod.user || pod.halted || find_app(launch->id))
        return fault_set(why, FAULT_STATE, "app %s can't be started here and now", launch->id);
    *app = (struct app){.used = true, .launcher = *asker};
    memcpy(app->names[BEFORE], launch->before, sizeof launch->before);
    memcpy(app->names[MAIN], launch->id, sizeof launch->id);
    memcpy(app->names[AFTER], launch->after, sizeof launch->after);
    enter(app, BEFORE);
    return 0;
}

void apps_settle(void)
{
    pod.settled = true;
    end_when_empty();
}

bool apps_halt(const char *id, uint64_t kill_at_ns, const struct asker *asker)
{
    if (!*id) {
        halt_all(kill_at_ns);
        end_when_empty();
        return false;
    }
    struct app *app = find_app(id);
    if (!app)
        return false;
    reply(&app->halter, NULL); /* another request waits now */
    app->halter = *asker;
    halt(app, kill_at_ns);
    return true;
}

void apps_started(const char *container, const struct fault *failed, bool is_shown)
{
    struct app *app = find(container);
    if (!app || app->up)
        return;
    if (failed) {
        fail(app, failed, is_shown);
        return;
    }
    app->up = true;
    if (app->stage == MAIN) {
        app->has_run = true;
        reply(&app->launcher, NULL);
    }
    if (app->halted && app->stage != AFTER)
        pod.user->stop(container, app->killed);
}

void apps_exited(const char *container, int code)
{
    struct app *app = find(container);
    struct fault why;
    if (!app || !app->up)
        return;
    if (app->stage != AFTER)
        app->code = code;
    if (app->stage == BEFORE && code) {
        fault_set(&why, FAULT_FAILED, "pre-start ended with code %d", code);
        app->up = false;
        fail(app, &why, false);
        return;
    }
    enter(app, app->halted ? AFTER + (app->stage == AFTER) : app->stage + 1);
}

uint64_t apps_tick(void)
{
    uint64_t next = 0, now_ns = pod.user ? pod.user->now_ns() : 0;
    for (struct app *app = pod.table; app < pod.table + MAX_APPS; app++) {
        if (!app->used || !app->kill_at_ns || app->killed)
            continue;
        if (app->kill_at_ns <= now_ns) {
            app->killed = true;
            pod.user->stop(name_of(app), true);
        } else if (!next || app->kill_at_ns < next) {
            next = app->kill_at_ns;
        }
    }
    return next;
}
