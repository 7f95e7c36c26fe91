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
        else if (*item == 'v')
            spec->template = item + 1;
        else if (*item == 'm')
            spec->monitor = item + 1;
        else if (*item == 'i')
            spec->interactive = true;
        else if (*item == 't')
            spec->terminal = true;
        else if (*item == 'w')
            spec->told = item + 1;
        else if (*item == 'r')
            spec->codes = item + 1;
        else if (*item == 'k' && item[1])
            spec->code = item[1], spec->status = item + 2;
        else
            return false;
    }
    bool may_be_told = spec->template || spec->status;
    return spec->jailer && (may_be_told || !spec->monitor) && (!spec->template || spec->monitor) &&
           !spec->told == !spec->codes;
}

/* QEMU's is twice what was written to its debug device, and one. */
static int written(char convention, int value)
{
    enum { SOLO5_SUCCESS = 41 };
    if (convention == 's' && value == SOLO5_SUCCESS)
        return 0;
    return convention == 'h' && value <= 1 ? !value : value;
}

int spec_code(const struct launch_spec *spec, int vmm, const char *output)
{
    if (!vmm && strstr(output, "\"GUEST_PANICKED\""))
        return PANIC_CODE;
    if (!vmm && spec->code != 'r' && strstr(output, "\"guest-reset\""))
        return RESET_CODE;
    return spec->code == 'p' || spec->code == 'r' || !(vmm & 1) ? vmm : written(spec->code, vmm >> 1);
}
