/* SPDX-License-Identifier: Apache-2.0 */
/* Set-uid root in its image: tells whether the kernel let it become root. */
#include <stdio.h>
#include <unistd.h>

int main(void)
{
    printf("Effective uid: %u\n", (unsigned)geteuid());
    return 0;
}
