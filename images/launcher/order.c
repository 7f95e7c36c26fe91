/* SPDX-License-Identifier: Apache-2.0 */
/* See launcher.h. */
#include "launcher.h"

#include <string.h>

bool order_parse(char *bytes, size_t size, struct order *order)
{
    memset(order, 0, sizeof *order);
    if (!size || bytes[size - 1])
        return false;
    for (char *word = bytes; word < bytes + size; word += strlen(word) + 1) {
        if (*word == 'j')
            order->jailer = word + 1;
        else if (*word == 's')
            order->listener = word + 1;
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
    return order->jailer != NULL;
}
