/* SPDX-License-Identifier: Apache-2.0 */
/* See call.h. */
#include "call.h"

#include <string.h>

bool call_begin(struct call *call, const char *bytes, size_t size)
{
    if (size < sizeof call->in)
        return false;
    memcpy(&call->in, bytes, sizeof call->in);
    call->at = bytes + sizeof call->in;
    call->end = bytes + size;
    call->node = -1;
    call->answer_size = 0;
    return call->in.len == size;
}

bool call_take(struct call *call, void *into, size_t size)
{
    if ((size_t)(call->end - call->at) < size)
        return false;
    memcpy(into, call->at, size);
    call->at += size;
    return true;
}

const char *call_take_text(struct call *call)
{
    const char *text = call->at;
    const char *zero = memchr(text, 0, (size_t)(call->end - text));
    if (!zero)
        return NULL;
    call->at = zero + 1;
    return text;
}

bool call_is_empty(const struct call *call)
{
    return call->at == call->end;
}

bool call_is_name(const char *text)
{
    return *text && !strchr(text, '/') && strcmp(text, ".") != 0 && strcmp(text, "..") != 0;
}

int call_answer(struct call *call, const void *bytes, size_t size)
{
    if (size > ANSWER_MAX - call->answer_size)
        return REQUEST_MALFORMED;
    memcpy(call->answer + call->answer_size, bytes, size);
    call->answer_size += size;
    return 0;
}
