/* SPDX-License-Identifier: Apache-2.0 */
/* How a request is read into its place, of which a copy of a template may write to as few pages as possible. */
#include "check.h"
#include "link/message.h"

#include <string.h>
#include <sys/mman.h>

enum { PAGE = 4096, PLACE = 16 * PAGE };

static const uint8_t named[] = {0x0a, 0x03, 0x0a, 0x01, 'a'};              /* Configure with a host name */
static const uint8_t executed[] = {0x22, 0x05, 0x0a, 0x03, 'a', 'b', 'c'}; /* Exec in a container */
static const uint8_t tuned[] = {0xea, 0x02, 0x03, 0x0a, 0x01, 'a'};        /* Tune, whose number takes two bytes */

static clearpod_agent_Request *place(void)
{
    void *made = mmap(NULL, PLACE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(made != MAP_FAILED && sizeof(clearpod_agent_Request) < PLACE);
    return made;
}

CASE(a_request_writes_to_no_page_that_stays_zero)
{
    clearpod_agent_Request *request = place();
    struct fault why;
    CHECK(sizeof *request > 2 * PAGE);
    CHECK(mprotect((char *)request + PAGE, PLACE - PAGE, PROT_READ) == 0);
    CHECK(message_request(named, sizeof named, request, &why) == 0);
    CHECK(request->which_op == clearpod_agent_Request_configure_tag && !strcmp(request->op.configure.hostname, "a"));
    CHECK(message_request(executed, sizeof executed, request, &why) == 0);
    CHECK(request->which_op == clearpod_agent_Request_exec_tag && !strcmp(request->op.exec.container, "abc"));
    munmap(request, PLACE);
}

CASE(nothing_of_the_request_before_is_left)
{
    clearpod_agent_Request *request = place();
    static const uint8_t empty[] = {0x0a, 0x00};
    struct fault why;
    memset(request, 0xff, sizeof *request);
    CHECK(message_request(empty, sizeof empty, request, &why) == 0);
    const char *bytes = (const char *)&request->op;
    for (size_t i = 0; i < sizeof request->op; i++)
        CHECK(!bytes[i]);
    munmap(request, PLACE);
}

CASE(operations_are_told_by_their_whole_number)
{
    clearpod_agent_Request *request = place();
    static const uint8_t unknown[][3] = {{0x82, 0x02, 0x00}, {0x82, 0x03, 0x00}, {0xd2, 0x7f, 0x00}};
    struct fault why;
    CHECK(message_request(tuned, sizeof tuned, request, &why) == 0);
    CHECK(request->which_op == clearpod_agent_Request_tune_tag && !strcmp(request->op.tune.file, "a"));
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++)
        CHECK(message_request(unknown[i], sizeof unknown[i], request, &why) < 0);
    CHECK(message_request(unknown[0], 0, request, &why) < 0);
    munmap(request, PLACE);
}
