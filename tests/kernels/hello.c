/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel for tests: says hello and its command line on the serial port, answers ARP, ping and UDP (what came, turned
   around) on the address that "ip=A::" names, by virtio-net over MMIO or PCI, and ends when it is told.

   Words of the command line: `exit` powers off at once, `exit=N` by QEMU's debug device, `reset` resets, `crash` tells QEMU's
   device for panics, `count=N` says N lines before, `spin` ignores the power button. What a hostile one does, without end: `flood=N` lets its VMM send its monitor's
   clients an event each time that it writes to the port of CPU hotplug N, `gush` writes letters. A UDP datagram "bye" ends it too. */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;

#define MMIO_BASE 0xfeb00000u
#define MMIO_EACH 512
#define MMIO_DEVICES 24
#define RING 16
#define FRAME 2048

struct start_info {
    u32 magic, version, flags, modules;
    u64 module_list, command_line;
};
struct descriptor {
    u64 at;
    u32 bytes;
    u16 flags, next;
};
struct available {
    u16 flags, index, ring[RING];
};
struct used {
    u16 flags, index;
    struct {
        u32 id, bytes;
    } ring[RING];
};
struct queue {
    struct descriptor table[RING] __attribute__((aligned(16)));
    struct available available __attribute__((aligned(2)));
    struct used used __attribute__((aligned(4096)));
};

static struct queue queues[2] __attribute__((aligned(4096)));
static u8 frames[RING][FRAME], reply[FRAME];
static volatile u32 *device;
static u8 mac[6], ip[4];
static u16 taken;
static u32 header_bytes = 12;

static void out8(u16 port, u8 value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "d"(port));
}
static void out16(u16 port, u16 value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "d"(port));
}
static u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
    return value;
}
static void out32(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "d"(port));
}
static u16 in16(u16 port)
{
    u16 value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "d"(port));
    return value;
}

void *memcpy(void *to, const void *from, u32 bytes);
void *memcpy(void *to, const void *from, u32 bytes)
{
    for (u32 i = 0; i < bytes; i++)
        ((u8 *)to)[i] = ((const u8 *)from)[i];
    return to;
}
void *memset(void *to, int value, u32 bytes);
void *memset(void *to, int value, u32 bytes)
{
    for (u32 i = 0; i < bytes; i++)
        ((u8 *)to)[i] = (u8)value;
    return to;
}

static void say(const char *text)
{
    for (; *text; text++) {
        while (!(in8(0x3fd) & 0x20))
            ;
        out8(0x3f8, (u8)*text);
    }
}

static void say_number(u32 number)
{
    char digits[12], *at = digits + 11;
    *at = 0;
    do
        *--at = (char)('0' + number % 10);
    while (number /= 10);
    say(at);
}

/* What follows `word` on the command line, or 0. */
static const char *find(const char *line, const char *word)
{
    for (const char *at = line; *at; at++) {
        u32 i = 0;
        while (word[i] && at[i] == word[i])
            i++;
        if (!word[i] && (at == line || at[-1] == ' '))
            return at + i;
    }
    return 0;
}

static u32 number_at(const char *text)
{
    u32 number = 0;
    while (*text >= '0' && *text <= '9')
        number = number * 10 + (u32)(*text++ - '0');
    return number;
}

static void read_address(const char *text)
{
    for (int part = 0; part < 4; part++) {
        ip[part] = (u8)number_at(text);
        while (*text >= '0' && *text <= '9')
            text++;
        text++;
    }
}

/* By the keyboard's controller, or where there is none by a triple fault. */
static void reset(void)
{
    out8(0x64, 0xfe);
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) none = {0, 0};
    __asm__ volatile("lidt %0; int3" ::"m"(none));
    for (;;)
        __asm__ volatile("hlt");
}

/* ACPI's S5 as QEMU's machines have it, else a reset: with -no-reboot both end it. */
static void end(void)
{
    out16(0x604, 0x2000);
    reset();
}

/* ACPI's CPU hotplug: what a guest says about the removal of a processor is an event of QEMU's. */
static void flood_monitor(u16 base)
{
    out8(base, 0);     /* the interface of today */
    out32(base, 0);    /* the first processor */
    out8(base + 5, 2); /* what follows is the status of a removal */
    for (;;)
        out32(base + 8, 1);
}

static void set_up_queue(u32 number)
{
    struct queue *queue = &queues[number];
    device[0x30 / 4] = number;
    device[0x38 / 4] = RING;
    if (device[1] == 1) { /* legacy: one page number for all three parts */
        device[0x28 / 4] = 4096;
        device[0x3c / 4] = 4096;
        device[0x40 / 4] = (u32)queue / 4096;
        return;
    }
    device[0x80 / 4] = (u32)queue->table, device[0x84 / 4] = 0;
    device[0x90 / 4] = (u32)&queue->available, device[0x94 / 4] = 0;
    device[0xa0 / 4] = (u32)&queue->used, device[0xa4 / 4] = 0;
    device[0x44 / 4] = 1;
}

static int find_net(void)
{
    for (u32 i = 0; i < MMIO_DEVICES; i++) {
        volatile u32 *at = (volatile u32 *)(MMIO_BASE + i * MMIO_EACH);
        if (at[0] == 0x74726976 && at[2] == 1) {
            device = at;
            return 1;
        }
    }
    return 0;
}

static void set_up_net(void)
{
    int legacy = device[1] == 1;
    device[0x70 / 4] = 0;
    device[0x70 / 4] = 3;
    if (!legacy) { /* VIRTIO_F_VERSION_1 alone */
        device[0x24 / 4] = 1, device[0x20 / 4] = 1;
        device[0x24 / 4] = 0;
    }
    device[0x20 / 4] = 1 << 5; /* the device's MAC address */
    if (!legacy)
        device[0x70 / 4] = 11;
    header_bytes = legacy ? 10 : 12;
    for (u32 i = 0; i < 6; i++)
        mac[i] = ((volatile u8 *)device)[0x100 + i];
    set_up_queue(0);
    set_up_queue(1);
    for (u16 i = 0; i < RING; i++) {
        queues[0].table[i] = (struct descriptor){(u32)frames[i], FRAME, 2, 0};
        queues[0].available.ring[i] = i;
    }
    queues[0].available.index = RING;
    device[0x70 / 4] = legacy ? 7 : 15;
    device[0x50 / 4] = 0;
}

static void send(u32 bytes)
{
    struct queue *queue = &queues[1];
    volatile u16 *done = &queue->used.index;
    queue->table[0] = (struct descriptor){(u32)reply, header_bytes + bytes, 0, 0};
    queue->available.ring[queue->available.index % RING] = 0;
    __asm__ volatile("" ::: "memory");
    queue->available.index++;
    device[0x50 / 4] = 1;
    while (*done != queue->available.index)
        ;
}

static u16 sum(const u8 *data, u32 bytes)
{
    u32 total = 0;
    for (u32 i = 0; i + 1 < bytes; i += 2)
        total += (u32)(data[i] << 8 | data[i + 1]);
    if (bytes & 1)
        total += (u32)data[bytes - 1] << 8;
    while (total >> 16)
        total = (total & 0xffff) + (total >> 16);
    return (u16)~total;
}

static void put_sum(u8 *at, u16 value)
{
    at[0] = (u8)(value >> 8), at[1] = (u8)value;
}

static int is_mine(const u8 *address)
{
    for (u32 i = 0; i < 4; i++)
        if (address[i] != ip[i])
            return 0;
    return 1;
}

/* Answer a frame; whether it said bye. */
static int answer(const u8 *frame, u32 bytes)
{
    u8 *out = reply + header_bytes;
    memset(reply, 0, header_bytes);
    memcpy(out, frame, bytes);
    memcpy(out, frame + 6, 6);
    memcpy(out + 6, mac, 6);
    if (frame[12] == 8 && frame[13] == 6 && frame[21] == 1 && is_mine(frame + 38)) {
        out[21] = 2;
        memcpy(out + 22, mac, 6);
        memcpy(out + 28, ip, 4);
        memcpy(out + 32, frame + 22, 10);
        send(42);
        return 0;
    }
    if (frame[12] != 8 || frame[13] != 0 || frame[14] != 0x45 || bytes < 42)
        return 0;
    u32 whole = (u32)(frame[16] << 8 | frame[17]), payload = whole - 28;
    if (whole < 28 || whole + 14 > bytes)
        return 0;
    memcpy(out + 26, frame + 30, 4);
    memcpy(out + 30, frame + 26, 4);
    put_sum(out + 24, 0);
    put_sum(out + 24, sum(out + 14, 20));
    if (frame[23] == 1 && frame[34] == 8) {
        out[34] = 0;
        put_sum(out + 36, 0);
        put_sum(out + 36, sum(out + 34, whole - 20));
        send(whole + 14);
    } else if (frame[23] == 17) {
        memcpy(out + 34, frame + 36, 2);
        memcpy(out + 36, frame + 34, 2);
        put_sum(out + 40, 0); /* none */
        for (u32 i = 0; i < payload; i++)
            out[42 + i] = frame[42 + payload - 1 - i];
        send(whole + 14);
        return payload >= 3 && frame[42] == 'b' && frame[43] == 'y' && frame[44] == 'e';
    }
    return 0;
}

static int serve_once(void)
{
    struct queue *queue = &queues[0];
    int is_over = 0;
    while (*(volatile u16 *)&queue->used.index != taken) {
        u32 id = queue->used.ring[taken % RING].id, bytes = queue->used.ring[taken % RING].bytes;
        taken++;
        if (bytes > header_bytes + 14)
            is_over |= answer(frames[id] + header_bytes, bytes - header_bytes);
        queue->available.ring[queue->available.index % RING] = (u16)id;
        __asm__ volatile("" ::: "memory");
        queue->available.index++;
        device[0x50 / 4] = 0;
    }
    return is_over;
}

/* ACPI's status of the power button; all ones where there is no such port. */
static int is_asked_to_end(void)
{
    u16 status = in16(0x600);
    return status != 0xffff && status & 1 << 8;
}

void run(const struct start_info *info);
void run(const struct start_info *info)
{
    const char *line = info->command_line ? (const char *)(u32)info->command_line : "", *word;
    say("hello\narguments: ");
    say(line);
    say("\n");
    if ((word = find(line, "count=")))
        for (u32 i = 1, last = number_at(word); i <= last; i++)
            say_number(i), say("\n");
    if ((word = find(line, "exit="))) {
        out16(0x501, (u16)number_at(word));
        say("no debug device\n");
    }
    if (find(line, "exit"))
        end();
    if (find(line, "reset"))
        reset();
    if (find(line, "crash"))
        out8(0x505, 1), say("no device for panics\n");
    if ((word = find(line, "flood=")))
        say("flooding\n"), flood_monitor((u16)number_at(word));
    if (find(line, "gush"))
        for (;;)
            out8(0x3f8, 'x');
    int has_net = find_net(), is_deaf = find(line, "spin") != 0;
    if (has_net)
        set_up_net();
    if ((word = find(line, "ip=")))
        read_address(word);
    out16(0x602, 1 << 8); /* ACPI: the power button counts */
    say(has_net ? "ready\n" : "ready without a network\n");
    for (;;) {
        if (has_net && serve_once())
            break;
        if (!is_deaf && is_asked_to_end()) {
            say("asked to end\n");
            break;
        }
    }
    say("bye\n");
    end();
}
