/* SPDX-License-Identifier: Apache-2.0 */
/* See shim.h. */
#include "shim.h"

#include "plan.h"

#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

static const uint32_t TSC_DEADLINE = 1u << 24; /* CPUID leaf 1, ECX */

/* Without a slot the guest has no system image: better no VM than one that waits for it. */
_Noreturn static void refuse(const struct fault *why)
{
    dprintf(STDERR_FILENO, "lkvm-shim: %s\n", why->text);
    _exit(SHIM_REFUSED);
}

/* The rest of the file's last 2 MiB are zero pages. */
static int open_image(const struct place *place, struct region *region, struct fault *why)
{
    struct fault inner;
    int fd = open(place->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return fault_set(why, "%s can't be opened: %s", place->path, strerror(errno));
    if (region_reserve(region, plan_slot_bytes(place->bytes), &inner) < 0 ||
        region_map(region, 0, place->bytes, fd, &inner) < 0) {
        close(fd);
        return fault_set(why, "%.160s: %.150s", place->path, inner.text);
    }
    return 0;
}

static int add_slot(const struct shim *shim, int vm, uint32_t number, const struct place *place,
                    const struct region *region)
{
    struct kvm_userspace_memory_region slot = {
        .slot = SHIM_FIRST_SLOT + number,
        .flags = KVM_MEM_READONLY,
        .guest_phys_addr = place->address,
        .memory_size = region->bytes,
        .userspace_addr = (uintptr_t)region->base,
    };
    return shim->real(vm, KVM_SET_USER_MEMORY_REGION, &slot);
}

static int add_images(const struct shim *shim, int vm, const struct plan *plan, struct fault *why)
{
    struct region region;
    for (int i = 0; i < plan->image_count; i++) {
        const struct place *place = &plan->images[i];
        if (open_image(place, &region, why) < 0)
            return -1;
        if (add_slot(shim, vm, (uint32_t)i, place, &region) < 0)
            return fault_set(why, "KVM takes no memory slot at %#llx for %s: %s", (unsigned long long)place->address,
                             place->path, strerror(errno));
    }
    return 0;
}

static int add_window(struct shim *shim, int vm, const struct plan *plan, struct fault *why)
{
    const struct place *place = &plan->window;
    if (region_reserve(&shim->window.region, plan_slot_bytes(place->bytes), why) < 0)
        return -1;
    if (add_slot(shim, vm, (uint32_t)plan->image_count, place, &shim->window.region) < 0)
        return fault_set(why, "KVM takes no memory slot at %#llx for the window: %s",
                         (unsigned long long)place->address, strerror(errno));
    return window_open(&shim->window, place->path, shim->listener, why);
}

static void add_memory(struct shim *shim, int vm)
{
    struct plan plan;
    struct fault why;
    if (plan_parse(shim->images, shim->window_place, &plan, &why) < 0 || add_images(shim, vm, &plan, &why) < 0)
        refuse(&why);
    if (plan.has_window && add_window(shim, vm, &plan, &why) < 0)
        refuse(&why);
    shim->has_deadline = shim->real(vm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
}

/* A guest fills both ends of its memory at boot, where huge pages spare thousands of exits; what it touches of the rest is
 * little, and each of those pages would be 2 MiB of the host's. Without it only memory is lost, so a failure is no fault. */
static void keep_small(const struct shim *shim, const struct kvm_userspace_memory_region *ram)
{
    uint64_t from = 0, bytes = 0;
    const char *text = shim->small_pages;
    bool is_valid = text && plan_number(&text, &from) && *text++ == ':' && plan_number(&text, &bytes) && !*text;
    if (is_valid && ram->guest_phys_addr == 0 && from <= ram->memory_size && bytes <= ram->memory_size - from)
        madvise((void *)(uintptr_t)(ram->userspace_addr + from), bytes, MADV_NOHUGEPAGE);
}

/* A kernel without filters does not prevent the VM; the console's log has a line about it. */
static void fence(const struct shim *shim)
{
    if (shim->fence && shim->fence() < 0)
        dprintf(STDERR_FILENO, "lkvm-shim: no filter of system calls: %s\n", strerror(errno));
}

/* After the VMM's own first region, so that the descriptor is known to be a VM's, and before any guest runs. */
static int set_memory(struct shim *shim, int vm, void *argument)
{
    keep_small(shim, argument);
    int result = shim->real(vm, KVM_SET_USER_MEMORY_REGION, argument);
    if (result == 0 && !atomic_flag_test_and_set(&shim->is_done)) {
        add_memory(shim, vm);
        fence(shim);
    }
    return result;
}

/* Spares the guest the calibration of its APIC timer, the longest single part of its boot. */
static void allow_deadline(const struct shim *shim, struct kvm_cpuid2 *cpuid)
{
    for (uint32_t i = 0; shim->has_deadline && i < cpuid->nent; i++)
        if (cpuid->entries[i].function == 1)
            cpuid->entries[i].ecx |= TSC_DEADLINE;
}

/* A file that was cut short makes the guest's access fail, which would end the VMM. */
static int run(const struct shim *shim, int vcpu, void *argument)
{
    int result = shim->real(vcpu, KVM_RUN, argument);
    if (result < 0 && errno == EFAULT) {
        if (region_heal())
            return shim->real(vcpu, KVM_RUN, argument);
        errno = EFAULT;
    }
    return result;
}

int shim_ioctl(struct shim *shim, int fd, unsigned long request, void *argument)
{
    if (_IOC_TYPE(request) != KVMIO || (!shim->images && !shim->window_place))
        return shim->real(fd, request, argument);
    if (request == KVM_RUN)
        return run(shim, fd, argument);
    if (request == KVM_SET_USER_MEMORY_REGION)
        return set_memory(shim, fd, argument);
    if (request == KVM_SET_CPUID2)
        allow_deadline(shim, argument);
    return shim->real(fd, request, argument);
}
