/* SPDX-License-Identifier: Apache-2.0 */
/* Runs until it is told to end: what a pod's pause image does. Static, as PID 1 of its namespace or not. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void end(int number)
{
    (void)number;
    _exit(EXIT_SUCCESS);
}

int main(void)
{
    signal(SIGTERM, end);
    signal(SIGINT, end);
    for (;;)
        pause();
}
