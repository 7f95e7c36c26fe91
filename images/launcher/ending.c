/* SPDX-License-Identifier: Apache-2.0 */
/* See ending.h. */
#include "ending.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

void ending_take(struct ending *ending, const char *text, size_t size)
{
    if (size > ENDING_MAX) {
        text += size - ENDING_MAX;
        size = ENDING_MAX;
    }
    if (ending->bytes + size > ENDING_MAX) {
        size_t gone = ending->bytes + size - ENDING_MAX;
        ending->bytes -= gone;
        memmove(ending->output, ending->output + gone, ending->bytes);
    }
    memcpy(ending->output + ending->bytes, text, size);
    ending->bytes += size;
    ending->output[ending->bytes] = 0;
}

ssize_t ending_read(struct ending *ending, int monitor)
{
    char text[2048];
    ssize_t got = recv(monitor, text, sizeof text, MSG_DONTWAIT);
    if (got > 0)
        ending_take(ending, text, (size_t)got);
    return got < 0 && errno != EAGAIN && errno != EINTR ? 0 : got;
}
