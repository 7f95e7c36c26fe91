/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The smallest PID 1: writes `clearpod.mark pid1 <CLOCK_MONOTONIC ns> <time stamp counter>` as the agent does, then
 * reboots. tests/bench/boot.py puts it beside our initramfs to time kernels on which the agent can't run. No libc.
 */
#include <linux/reboot.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>

static long call(long number, long a, long b, long c)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
    return result;
}

static char *decimal(char *end, uint64_t value)
{
    do
        *--end = (char)('0' + value % 10);
    while (value /= 10);
    return end;
}

void _start(void)
{
    static char line[] = "\nclearpod.mark pid1 00000000000000000000 00000000000000000000\n";
    struct timespec now;
    uint32_t low, high;

    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    call(SYS_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0);
    decimal(line + 40, (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec);
    decimal(line + 61, (uint64_t)high << 32 | low);
    call(SYS_write, 1, (long)line, sizeof line - 1);
    for (;;)
        __asm__ volatile("syscall"
                         :
                         : "a"(SYS_reboot), "D"(LINUX_REBOOT_MAGIC1), "S"(LINUX_REBOOT_MAGIC2),
                           "d"(LINUX_REBOOT_CMD_RESTART)
                         : "rcx", "r11", "memory");
}
