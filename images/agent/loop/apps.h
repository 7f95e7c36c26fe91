/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The apps of an autonomous pod: which container of an app is next, when an app has ended, and the pod with it. Pure:
 * autonomous.c reports events and implements `user`.
 */
#ifndef CLEARPOD_APPS_H
#define CLEARPOD_APPS_H

#include "loop/process.h"

enum { MAX_APPS = 64 };
/* Codes of what can't be started: as shells have them for commands, as systemd for a directory to work in, and the pod's;
 * and of what was not started, since it was stopped before: as if SIGTERM had met it. */
enum { APP_NO_COMMAND = 127, APP_NO_EXEC = 126, APP_NO_DIRECTORY = 200, APP_FAILED = 254, APP_STOPPED = 143 };

struct apps_user {
    uint64_t (*now_ns)(void);
    int (*start)(const char *container, struct fault *why); /* apps_started gets the result */
    void (*stop)(const char *container, bool kill);
    void (*reply)(const struct asker *asker, const struct fault *why); /* NULL: all is well */
    void (*ended)(const char *app, int code);
    void (*over)(int code, const char *why); /* the pod; `why` is a sentence, or empty */
};

void apps_init(const struct apps_user *user);
/* An app that can't be started has failed, which is no failure of this call. */
int apps_launch(const clearpod_agent_Launch *launch, const struct asker *asker, struct fault *why);
/* Without `lasting` the pod ends as soon as an app fails, */
void apps_begin(bool lasting);
/* and with its last app, once the plan is through. */
void apps_settle(void);
/* `id` empty: the pod. Returns true when the reply comes later. */
bool apps_halt(const char *id, uint64_t kill_at_ns, const struct asker *asker);
/* `is_shown`: the text of `failed` was already shown, as crun's output on the app's stderr. */
void apps_started(const char *container, const struct fault *failed, bool is_shown);
void apps_exited(const char *container, int code);
/* Kill what has had its time. Returns when to call again, as now_ns counts; 0: not because of time. */
uint64_t apps_tick(void);

#endif
