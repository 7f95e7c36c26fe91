/* SPDX-License-Identifier: Apache-2.0 */
/* See spec.h. */
#include "spec.h"

#include <string.h>

bool spec_parse(char *bytes, size_t size, struct launch_spec *spec)
{
    memset(spec, 0, sizeof *spec);
    if (!size || bytes[size - 1])
        return false;
    for (char *item = bytes; item < bytes + size; item += strlen(item) + 1) {
        if (*item == 'j')
            spec->jailer = item + 1;
        else if (*item == 's')
            spec->listener = item + 1;
        else if (*item == 'c')
            spec->console = item + 1;
        else if (*item == 'l')
            spec->logs = item + 1;
        else if (*item == 'i')
            spec->interactive = true;
        else if (*item == 't')
            spec->terminal = true;
        else
            return false;
    }
    return spec->jailer != NULL;
}
