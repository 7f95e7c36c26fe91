/* SPDX-License-Identifier: Apache-2.0 */
/* Fuzzes the parser of the launch description. */
#include "description.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size)
{
    static struct description description;
    uint32_t owner;
    char *copy = malloc(size + 1);
    if (!copy)
        return 0;
    memcpy(copy, bytes, size);
    if (description_parse(copy, size, &description) &&
        (!description_outside(&description, 0, &owner) || !owner || description.place_count > PLACES_MAX))
        abort();
    free(copy);
    return 0;
}
