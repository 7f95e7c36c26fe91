/* SPDX-License-Identifier: Apache-2.0 */
/* See launcher.h. */
#include "launcher.h"

#include <string.h>

bool order_parse(char *bytes, size_t size, struct order *order)
{
    size_t arguments = 0, variables = 0;
    memset(order, 0, sizeof *order);
    if (!size || bytes[size - 1])
        return false;
    for (char *word = bytes; word < bytes + size; word += strlen(word) + 1) {
        if (*word == 'a' && arguments < WORDS_MAX)
            order->argv[arguments++] = word + 1;
        else if (*word == 'e' && variables < WORDS_MAX)
            order->env[variables++] = word + 1;
        else if (*word == 'n')
            order->netns = word + 1;
        else if (*word == 'c')
            order->console = word + 1;
        else if (*word == 'l')
            order->logs = word + 1;
        else if (*word == 'i')
            order->interactive = true;
        else if (*word == 't')
            order->terminal = true;
        else
            return false;
    }
    return arguments > 0;
}
