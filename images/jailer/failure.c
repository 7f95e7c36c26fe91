/* SPDX-License-Identifier: Apache-2.0 */
/* See failure.h. */
#include "failure.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static char sentence[SENTENCE_MAX];

bool failed(const char *what, const char *value)
{
    if (!*sentence)
        snprintf(sentence, sizeof sentence, "can't %s %s: %s", what, value, strerror(errno));
    return false;
}

void failure_take(const char *text)
{
    snprintf(sentence, sizeof sentence, "%s", text);
}

const char *failure(void)
{
    return *sentence ? sentence : "the jail can't be made";
}
