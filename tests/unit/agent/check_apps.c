/* SPDX-License-Identifier: Apache-2.0 */
/* Cases about the apps of an autonomous pod: what is started and stopped next, and when it all is over. */
#include "check.h"
#include "loop/apps.h"

#include <stdarg.h>
#include <string.h>

static char did[1024]; /* what the user was asked for, in words */
static const char *refused = "";
static uint64_t now;

static void note(const char *format, ...) __attribute__((format(printf, 1, 2)));
static void note(const char *format, ...)
{
    va_list args;
    size_t used = strlen(did);
    va_start(args, format);
    vsnprintf(did + used, sizeof did - used, format, args);
    va_end(args);
}

static uint64_t now_ns(void)
{
    return now;
}

static int start(const char *container, struct fault *why)
{
    note("start %s;", container);
    return strcmp(container, refused) ? 0 : fault_set(why, FAULT_STATE, "refused");
}

static void stop(const char *container, bool kill)
{
    note("%s %s;", kill ? "kill" : "stop", container);
}

static void reply(const struct asker *asker, const struct fault *why)
{
    note("%s %u;", why ? "no" : "yes", asker->request);
}

static void ended(const char *app, int code)
{
    note("ended %s %d;", app, code);
}

static void over(int code, const char *why)
{
    note("over %d %s;", code, why);
}

static const struct apps_user user = {
    .now_ns = now_ns, .start = start, .stop = stop, .reply = reply, .ended = ended, .over = over};

static bool was(const char *expected)
{
    bool same = !strcmp(did, expected);
    if (!same)
        fprintf(stderr, "did '%s'\n", did);
    did[0] = 0;
    return same;
}

static int launch(const char *id, const char *before, const char *after, uint32_t request)
{
    clearpod_agent_Launch launch = {0};
    struct fault why;
    snprintf(launch.id, sizeof launch.id, "%s", id);
    snprintf(launch.before, sizeof launch.before, "%s", before);
    snprintf(launch.after, sizeof launch.after, "%s", after);
    return apps_launch(&launch, &(struct asker){request, 1}, &why);
}

static void begin(void)
{
    apps_init(&user);
    did[0] = 0;
    refused = "";
    now = 1000;
}

static void settle(bool lasting)
{
    apps_begin(lasting);
    apps_settle();
}

static bool halt(const char *id, uint64_t kill_at_ns, uint32_t request)
{
    return apps_halt(id, kill_at_ns, &(struct asker){request, 1});
}

CASE(a_pod_ends_with_its_last_app)
{
    begin();
    CHECK(launch("a", "", "", 0) == 0 && launch("b", "", "", 0) == 0);
    apps_started("a", NULL, false);
    apps_started("b", NULL, false);
    settle(false);
    CHECK(was("start a;start b;"));
    apps_exited("a", 0);
    CHECK(was("ended a 0;"));
    apps_exited("b", 0);
    CHECK(was("ended b 0;over 0 ;"));
    apps_exited("b", 1);
    CHECK(was(""));
}

CASE(an_app_that_fails_takes_the_pod_along_with_its_code)
{
    begin();
    launch("a", "", "", 0);
    launch("b", "", "", 0);
    apps_started("a", NULL, false);
    apps_started("b", NULL, false);
    settle(false);
    apps_exited("a", 7);
    CHECK(was("start a;start b;ended a 7;stop b;"));
    CHECK(apps_tick() == 1000 + 10000000000);
    apps_exited("b", 143);
    CHECK(was("ended b 143;over 7 app a ended with code 7;"));
}

CASE(an_app_that_ends_before_the_plan_is_through_ends_nothing_yet)
{
    begin();
    launch("a", "", "", 0);
    apps_started("a", NULL, false);
    apps_exited("a", 0);
    CHECK(was("start a;ended a 0;"));
    launch("b", "", "", 0);
    apps_started("b", NULL, false);
    settle(false);
    apps_exited("b", 0);
    CHECK(was("start b;ended b 0;over 0 ;"));
}

CASE(an_app_that_fails_before_the_plan_is_through_ends_the_pod_with_its_code)
{
    begin();
    apps_begin(false);
    launch("a", "", "", 0);
    launch("b", "", "", 0);
    apps_started("a", NULL, false);
    apps_started("b", NULL, false);
    apps_exited("b", 5);
    CHECK(was("start a;start b;ended b 5;stop a;"));
    CHECK(launch("c", "", "", 0) < 0 && was(""));
    apps_settle();
    apps_exited("a", 143);
    CHECK(was("ended a 143;over 5 app b ended with code 5;"));
}

CASE(handlers_run_before_and_after)
{
    begin();
    launch("a", "a.pre", "a.post", 5);
    CHECK(was("start a.pre;"));
    apps_started("a.pre", NULL, false);
    apps_exited("a.pre", 0);
    CHECK(was("start a;"));
    apps_started("a", NULL, false);
    CHECK(was("yes 5;"));
    apps_exited("a", 3);
    CHECK(was("start a.post;"));
    apps_started("a.post", NULL, false);
    apps_exited("a.post", 9);
    CHECK(was("ended a 3;"));
}

CASE(an_app_whose_handler_fails_does_not_start)
{
    begin();
    launch("a", "a.pre", "a.post", 5);
    apps_started("a.pre", NULL, false);
    apps_exited("a.pre", 4);
    CHECK(was("start a.pre;no 5;start a.post;"));
    apps_started("a.post", NULL, false);
    apps_exited("a.post", 0);
    CHECK(was("ended a 4;"));
}

CASE(what_can_not_be_started_has_failed)
{
    struct fault missing = {.code = FAULT_COMMAND, .text = "crun run: executable file `/a` not found"};
    struct fault plain = {.code = FAULT_COMMAND, .text = "crun run: the path `/a` exists but it is not executable"};
    struct fault lost = {.code = FAULT_FAILED, .text = "crun run: chdir to `/a`: No such file or directory"};
    struct fault mount = {.code = FAULT_FAILED, .text = "crun run: mkdir `/proc/x`: No such file or directory"};
    begin();
    launch("a", "", "", 5);
    apps_started("a", &missing, false);
    CHECK(was("start a;no 5;ended a 127;"));
    launch("a", "", "", 5);
    apps_started("a", &plain, false);
    CHECK(was("start a;no 5;ended a 126;"));
    launch("a", "", "", 5);
    apps_started("a", &lost, false);
    CHECK(was("start a;no 5;ended a 200;"));
    launch("a", "", "", 5);
    apps_started("a", &mount, false);
    CHECK(was("start a;no 5;ended a 254;"));
    refused = "b";
    CHECK(launch("b", "", "", 6) == 0);
    CHECK(was("start b;no 6;ended b 254;"));
    refused = "c.post";
    launch("c", "", "c.post", 0);
    apps_started("c", NULL, false);
    apps_exited("c", 2);
    CHECK(was("start c;start c.post;ended c 2;"));
}

CASE(what_crun_has_printed_already_is_not_printed_twice)
{
    struct fault missing = {.code = FAULT_COMMAND, .text = "crun run: executable file `/a` not found"};
    for (int is_shown = 0; is_shown < 2; is_shown++) {
        begin();
        launch("a", "", "", 0);
        settle(false);
        apps_started("a", &missing, is_shown);
        CHECK(strstr(did, "over 127 app a: ") && (strstr(did, "not found") == NULL) == is_shown);
    }
}

CASE(one_app_can_be_halted_and_started_again)
{
    begin();
    launch("a", "", "", 1);
    apps_started("a", NULL, false);
    settle(true);
    CHECK(was("start a;yes 1;"));
    CHECK(launch("a", "", "", 2) < 0);
    CHECK(halt("a", 5000, 3) && was("stop a;"));
    CHECK(halt("a", 6000, 4) && was("yes 3;stop a;"));
    CHECK(apps_tick() == 6000);
    now = 6000;
    CHECK(apps_tick() == 0 && was("kill a;"));
    apps_exited("a", 137);
    CHECK(was("ended a 137;yes 4;"));
    CHECK(!halt("a", 5000, 5) && !halt("never", 5000, 5) && was(""));
    CHECK(launch("a", "", "", 6) == 0 && was("start a;"));
}

CASE(an_app_that_is_halted_while_it_starts_is_stopped_then)
{
    begin();
    launch("a", "a.pre", "a.post", 1);
    CHECK(halt("a", 5000, 2) && was("start a.pre;"));
    apps_started("a.pre", NULL, false);
    CHECK(was("stop a.pre;"));
    apps_exited("a.pre", 0);
    CHECK(was("start a.post;"));
    apps_started("a.post", NULL, false);
    CHECK(was(""));
    apps_exited("a.post", 0);
    CHECK(was("ended a 143;yes 2;"));
}

CASE(a_pod_that_is_halted_before_its_apps_have_begun_is_no_success)
{
    begin(); /* before it is known what the pod is */
    CHECK(!halt("", 5000, 9));
    CHECK(was("over 143 the pod was stopped before all of its apps had begun;"));
    begin(); /* one has ended well, and others would have come */
    apps_begin(false);
    launch("a", "", "", 0);
    apps_started("a", NULL, false);
    apps_exited("a", 0);
    CHECK(was("start a;ended a 0;") && !halt("", 5000, 9));
    CHECK(was("over 143 the pod was stopped before all of its apps had begun;"));
    begin(); /* what comes before the app has ended well */
    launch("a", "a.pre", "", 0);
    settle(false);
    apps_started("a.pre", NULL, false);
    CHECK(!halt("", 5000, 9) && was("start a.pre;stop a.pre;"));
    apps_exited("a.pre", 0);
    CHECK(was("ended a 143;over 143 app a was stopped before it had begun, which is code 143;"));
    begin(); /* a sandbox has no apps to wait for */
    apps_begin(true);
    CHECK(!halt("", 5000, 9) && was("over 0 ;"));
}

CASE(an_app_that_had_to_be_killed_has_no_post_stop)
{
    begin();
    launch("a", "", "a.post", 1);
    apps_started("a", NULL, false);
    halt("a", 2000, 0);
    now = 2000;
    apps_tick();
    apps_exited("a", 137);
    CHECK(was("start a;yes 1;stop a;kill a;ended a 137;"));
}

CASE(a_halted_pod_ends_with_the_code_of_the_first_app_that_fails)
{
    begin();
    launch("a", "", "", 0);
    launch("b", "", "", 0);
    launch("c", "", "", 0);
    apps_started("a", NULL, false);
    apps_started("b", NULL, false);
    apps_started("c", NULL, false);
    settle(false);
    CHECK(!halt("", 5000, 9) && was("start a;start b;start c;stop a;stop b;stop c;"));
    CHECK(launch("d", "", "", 1) < 0);
    apps_exited("a", 0);
    apps_exited("b", 17);
    now = 5000;
    CHECK(apps_tick() == 0 && was("ended a 0;ended b 17;kill c;"));
    apps_exited("c", 137);
    CHECK(was("ended c 137;over 17 app b ended with code 17;"));
}

CASE(a_halted_pod_that_lasts_has_no_code_of_its_apps)
{
    begin();
    launch("a", "", "", 0);
    apps_started("a", NULL, false);
    settle(true);
    CHECK(!halt("", 5000, 9) && was("start a;stop a;"));
    apps_exited("a", 143);
    CHECK(was("ended a 143;over 0 ;"));
    begin();
    settle(true);
    CHECK(was("") && !halt("", 5000, 9) && was("over 0 ;"));
}

CASE(more_apps_than_there_is_room_for_are_refused)
{
    char id[8];
    struct fault why;
    begin();
    for (int i = 0; i < MAX_APPS; i++) {
        snprintf(id, sizeof id, "a%d", i);
        CHECK(launch(id, "", "", 0) == 0);
    }
    CHECK(launch("b", "", "", 0) < 0 &&
          apps_launch(&(clearpod_agent_Launch){.id = "c"}, &(struct asker){0, 1}, &why) < 0);
    CHECK(why.code == FAULT_FULL);
}
