/* SPDX-License-Identifier: Apache-2.0 */
/* The shim's ioctl before a fake KVM: what it adds, when, and that it leaves everything else alone. */
#include "plan.h"
#include "shim.h"
#include "check.h"
#include "scene.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PAGE = PAGE_BYTES, VM = 7 };

/* What the fake was asked, and what it shall answer. */
static struct {
    struct kvm_userspace_memory_region slots[24];
    int slot_count, calls, run_calls;
    int refuse_slot;  /* errno for slots of the shim, 0: none */
    int run_failures; /* so many KVM_RUN fail with EFAULT */
    bool no_deadline;
    void *last_argument;
} kvm;

static struct shim shim;

static int fail(int error)
{
    errno = error;
    return -1;
}

static int take_slot(const struct kvm_userspace_memory_region *slot)
{
    if (kvm.refuse_slot && slot->slot >= SHIM_FIRST_SLOT)
        return fail(kvm.refuse_slot);
    kvm.slots[kvm.slot_count++] = *slot;
    return 0;
}

static int fake_ioctl(int fd, unsigned long request, ...)
{
    va_list values;
    va_start(values, request);
    void *argument = va_arg(values, void *);
    va_end(values);
    kvm.calls++;
    kvm.last_argument = argument;
    switch (request) {
    case KVM_SET_USER_MEMORY_REGION:
        return fd == VM ? take_slot(argument) : fail(ENOTTY);
    case KVM_CHECK_EXTENSION:
        return (uintptr_t)argument == KVM_CAP_TSC_DEADLINE_TIMER && !kvm.no_deadline;
    case KVM_RUN:
        return kvm.run_calls++ < kvm.run_failures ? fail(EFAULT) : 0;
    default:
        return 42;
    }
}

static void start(const char *images, const char *window)
{
    memset(&kvm, 0, sizeof kvm);
    shim = (struct shim){.real = fake_ioctl, .images = images, .window_place = window, .is_done = ATOMIC_FLAG_INIT};
}

static int set_memory(int fd)
{
    struct kvm_userspace_memory_region ram = {.memory_size = 64 << 20};
    return shim_ioctl(&shim, fd, KVM_SET_USER_MEMORY_REGION, &ram);
}

static uint32_t ecx_after_set_cpuid(uint32_t function)
{
    union {
        struct kvm_cpuid2 head;
        char buffer[sizeof(struct kvm_cpuid2) + 3 * sizeof(struct kvm_cpuid_entry2)];
    } cpuid = {0};
    cpuid.head.nent = 2; /* the third is beyond */
    cpuid.head.entries[0].function = 0;
    cpuid.head.entries[1].function = function;
    cpuid.head.entries[2].function = 1;
    CHECK(shim_ioctl(&shim, 9, KVM_SET_CPUID2, &cpuid) == 42);
    CHECK(cpuid.head.entries[0].ecx == 0 && cpuid.head.entries[2].ecx == 0);
    return cpuid.head.entries[1].ecx;
}

/* Releases what a case has mapped: in a VMM it lives as long as the process. */
static void release_slots(void)
{
    for (int i = 0; i < kvm.slot_count; i++)
        if (kvm.slots[i].slot >= SHIM_FIRST_SLOT) {
            void *base = (void *)(uintptr_t)kvm.slots[i].userspace_addr;
            struct region region = {base, kvm.slots[i].memory_size};
            region_release(&region);
        }
}

/* The exit code of a VMM that sets its memory, with what it says on standard error. */
static int refusal(const char *images, const char *window, int refuse_slot, char text[512])
{
    int pipe_fds[2], status;
    CHECK(pipe(pipe_fds) == 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        dup2(pipe_fds[1], STDERR_FILENO);
        start(images, window);
        kvm.refuse_slot = refuse_slot;
        set_memory(VM);
        _exit(0);
    }
    close(pipe_fds[1]);
    ssize_t got = read(pipe_fds[0], text, 511);
    text[got > 0 ? got : 0] = 0;
    close(pipe_fds[0]);
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status));
    return WEXITSTATUS(status);
}

CASE(without_variables_every_call_goes_through_untouched)
{
    start(NULL, NULL);
    CHECK(set_memory(VM) == 0 && kvm.slot_count == 1 && kvm.calls == 1);
    CHECK(ecx_after_set_cpuid(1) == 0);
}

/* Whether the kernel may back the page at `at` with a huge one, as /proc/self/smaps says. */
static bool may_be_huge(const void *at)
{
    char line[256];
    unsigned long from, to;
    bool is_it = false, may = true;
    FILE *maps = fopen("/proc/self/smaps", "re");
    while (maps && fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            is_it = (uintptr_t)at >= from && (uintptr_t)at < to;
        else if (is_it && strncmp(line, "VmFlags:", 8) == 0)
            may = strstr(line, " nh") == NULL;
    }
    if (maps)
        fclose(maps);
    return may;
}

CASE(the_middle_of_guest_memory_has_no_huge_pages)
{
    const size_t size = 8 << 20, huge = 2 << 20;
    char *ram = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region slot = {.memory_size = size, .userspace_addr = (uintptr_t)ram};
    static const char *const ignored[] = {
        NULL, "", "2097152", "2097152:", "2097152:6291457", "8388609:0", "2097152:4194304,"};
    CHECK(ram != MAP_FAILED);
    for (size_t i = 0; i < sizeof ignored / sizeof *ignored; i++) {
        start("", NULL);
        shim.small_pages = ignored[i];
        CHECK(shim_ioctl(&shim, VM, KVM_SET_USER_MEMORY_REGION, &slot) == 0 && may_be_huge(ram + huge));
    }
    shim.small_pages = "2097152:4194304";
    slot.guest_phys_addr = 1ULL << 32;
    CHECK(shim_ioctl(&shim, VM, KVM_SET_USER_MEMORY_REGION, &slot) == 0 && may_be_huge(ram + huge));
    slot.guest_phys_addr = 0;
    CHECK(shim_ioctl(&shim, VM, KVM_SET_USER_MEMORY_REGION, &slot) == 0);
    CHECK(may_be_huge(ram + huge - PAGE) && !may_be_huge(ram + huge));
    CHECK(!may_be_huge(ram + 3 * huge - PAGE) && may_be_huge(ram + 3 * huge));
    munmap(ram, size);
}

CASE(calls_that_are_not_kvms_go_through_with_their_argument)
{
    int argument;
    start("0x100000000:4096:/absent", NULL);
    CHECK(shim_ioctl(&shim, 1, 0x5413, &argument) == 42 && kvm.last_argument == &argument);
    CHECK(shim_ioctl(&shim, 1, KVM_CREATE_VM, NULL) == 42 && kvm.calls == 2);
}

CASE(each_image_gets_a_slot_behind_the_first_of_the_vm)
{
    char images[300], first[128];
    snprintf(first, sizeof first, "%s", file_at("first", 3 * PAGE, 'a'));
    snprintf(images, sizeof images, "0x100000000:%d:%s,0x100200000:%d:%s", 3 * PAGE, first, PAGE,
             file_at("second", PAGE, 'b'));
    start(images, NULL);
    CHECK(set_memory(VM) == 0 && kvm.slot_count == 3);
    const struct kvm_userspace_memory_region *a = &kvm.slots[1], *b = &kvm.slots[2];
    CHECK(kvm.slots[0].slot == 0 && a->slot == SHIM_FIRST_SLOT && b->slot == SHIM_FIRST_SLOT + 1);
    CHECK(a->flags == KVM_MEM_READONLY && b->flags == KVM_MEM_READONLY);
    CHECK(a->guest_phys_addr == 0x100000000 && b->guest_phys_addr == 0x100200000);
    CHECK(a->memory_size == 2 << 20 && b->memory_size == 2 << 20);
    const char *memory = (const char *)(uintptr_t)a->userspace_addr;
    CHECK(memory[0] == 'a' && memory[3 * PAGE - 1] == 'a' && memory[3 * PAGE] == 0 && memory[(2 << 20) - 1] == 0);
    CHECK(*(const char *)(uintptr_t)b->userspace_addr == 'b');
    CHECK(set_memory(VM) == 0 && kvm.slot_count == 4); /* the VM's second region: nothing more */
    release_slots();
}

CASE(a_region_that_kvm_refuses_adds_nothing)
{
    start("0x100000000:4096:/absent", NULL);
    CHECK(set_memory(3) == -1 && errno == ENOTTY && kvm.slot_count == 0);
}

CASE(the_window_is_a_slot_of_zeros_with_a_socket)
{
    char place[200];
    snprintf(place, sizeof place, "0x140000000:4194304:%s", path_of("window.sock"));
    start(NULL, place);
    CHECK(set_memory(VM) == 0 && kvm.slot_count == 2);
    CHECK(kvm.slots[1].slot == SHIM_FIRST_SLOT && kvm.slots[1].guest_phys_addr == 0x140000000);
    CHECK(kvm.slots[1].memory_size == 4 << 20 && kvm.slots[1].flags == KVM_MEM_READONLY);
    CHECK(*(const char *)(uintptr_t)kvm.slots[1].userspace_addr == 0);
    CHECK(access(path_of("window.sock"), F_OK) == 0);
    window_close(&shim.window);
    release_slots();
}

CASE(the_deadline_timer_is_allowed_where_kvm_has_it)
{
    char images[200];
    snprintf(images, sizeof images, "0x100000000:%d:%s", PAGE, file_at("image", PAGE, 'a'));
    start(images, NULL);
    CHECK(ecx_after_set_cpuid(1) == 0); /* no VM yet */
    CHECK(set_memory(VM) == 0);
    CHECK(ecx_after_set_cpuid(1) == 1u << 24 && ecx_after_set_cpuid(7) == 0);
    release_slots();
    start(images, NULL);
    kvm.no_deadline = true;
    CHECK(set_memory(VM) == 0 && ecx_after_set_cpuid(1) == 0);
    release_slots();
}

static struct {
    int calls, slots, error; /* how often it was called, what was there by then, and what it shall say */
} fenced;

static int fake_fence(void)
{
    fenced.calls++;
    fenced.slots = kvm.slot_count;
    return fenced.error ? fail(fenced.error) : 0;
}

CASE(the_vmm_is_fenced_in_once_when_all_slots_are_there)
{
    char images[200];
    snprintf(images, sizeof images, "0x100000000:%d:%s", PAGE, file_at("image", PAGE, 'a'));
    for (int error = 0; error <= ENOSYS; error += ENOSYS) {
        memset(&fenced, 0, sizeof fenced);
        fenced.error = error;
        start(images, NULL);
        shim.fence = fake_fence;
        CHECK(set_memory(3) == -1 && fenced.calls == 0);
        CHECK(set_memory(VM) == 0 && set_memory(VM) == 0 && fenced.calls == 1 && fenced.slots == 2);
        release_slots();
    }
}

CASE(what_can_not_be_had_ends_the_vmm_with_one_line)
{
    char text[512], images[300];
    CHECK(refusal("0x100000000:4096:/absent/image", NULL, 0, text) == SHIM_REFUSED);
    CHECK(strcmp(text, "lkvm-shim: /absent/image can't be opened: No such file or directory\n") == 0);
    snprintf(images, sizeof images, "0x100000000:4096:%s", file_at("odd", PAGE + 1, 'a'));
    CHECK(refusal(images, NULL, 0, text) == SHIM_REFUSED && strstr(text, "not whole pages\n"));
    snprintf(images, sizeof images, "0x100000000:4096:%s", file_at("grown", 2 * PAGE, 'a'));
    CHECK(refusal(images, NULL, 0, text) == SHIM_REFUSED && strstr(text, "8192 bytes where 4096 were promised\n"));
    CHECK(refusal("0x100000000:4096:/tmp", NULL, 0, text) == SHIM_REFUSED && strstr(text, "not a regular file\n"));
    CHECK(refusal("nonsense", NULL, 0, text) == SHIM_REFUSED && strstr(text, "is not ADDRESS:BYTES:/PATH\n"));
    CHECK(refusal(NULL, "0x100000000:4096:/absent/s", 0, text) == SHIM_REFUSED && strstr(text, "window's socket"));
}

CASE(a_slot_that_kvm_refuses_ends_the_vmm_too)
{
    char text[512], images[300];
    snprintf(images, sizeof images, "0x100000000:4096:%s", file_at("image", PAGE, 'a'));
    CHECK(refusal(images, NULL, EEXIST, text) == SHIM_REFUSED);
    CHECK(strstr(text, "no memory slot at 0x100000000 for ") && strstr(text, "File exists\n"));
    CHECK(refusal(NULL, "0x100000000:4096:/tmp/s", EINVAL, text) == SHIM_REFUSED && strstr(text, "for the window"));
}

CASE(a_vcpu_goes_on_after_an_image_was_cut_short)
{
    char images[200], path[128];
    snprintf(path, sizeof path, "%s", file_at("cut", 2 * PAGE, 'a'));
    snprintf(images, sizeof images, "0x100000000:%d:%s", 2 * PAGE, path);
    start(images, NULL);
    CHECK(set_memory(VM) == 0);
    kvm.run_failures = 1;
    CHECK(shim_ioctl(&shim, 9, KVM_RUN, NULL) == -1 && errno == EFAULT && kvm.run_calls == 1); /* not for a cut image */
    CHECK(truncate(path, PAGE) == 0);
    kvm.run_failures = 2;
    CHECK(shim_ioctl(&shim, 9, KVM_RUN, NULL) == 0 && kvm.run_calls == 3);
    CHECK(((const char *)(uintptr_t)kvm.slots[1].userspace_addr)[PAGE] == 0);
    release_slots();
}
