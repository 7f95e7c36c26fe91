/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The shim's window without KVM: `window_server SOCKET BYTES` serves it until its standard input ends, and writes
 * to standard output what is at the offsets that it reads from there, one a line: the byte's number.
 */
#include "window.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct window window;
    struct fault why;
    unsigned long long offset;
    if (argc != 3 || region_reserve(&window.region, strtoull(argv[2], NULL, 10), &why) < 0 ||
        window_open(&window, argv[1], NULL, &why) < 0)
        return 1;
    puts("ready");
    fflush(stdout);
    while (scanf("%llu", &offset) == 1) {
        printf("%d\n", window.region.base[offset]);
        fflush(stdout);
    }
    window_close(&window);
    unlink(argv[1]);
    return 0;
}
