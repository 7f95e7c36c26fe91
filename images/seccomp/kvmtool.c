/* SPDX-License-Identifier: Apache-2.0 */
/* kvmtool as stage1/vm/kvmtool.py starts it, with and without lkvm-shim: disks, 9p, vhost-vsock, taps, virtio console or serial port. */
#include "rules.h"

#include <asm/ioctls.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/vhost.h>
#include <sys/socket.h>

#define REQUEST(number) ALLOW_IF(ioctl, IS(1, number))

const struct rule kvmtool_rules[] = {
    /* The most frequent call of all. */
    REQUEST(KVM_RUN),
    /* Interrupts and doorbells of devices. */
    REQUEST(KVM_IRQ_LINE),
    REQUEST(KVM_SIGNAL_MSI),
    REQUEST(KVM_SET_GSI_ROUTING),
    REQUEST(KVM_IRQFD),
    REQUEST(KVM_IOEVENTFD),
    REQUEST(KVM_REGISTER_COALESCED_MMIO),
    REQUEST(KVM_UNREGISTER_COALESCED_MMIO),
    REQUEST(KVM_NMI),
    /* The machine and its memory; lkvm-shim adds regions. */
    REQUEST(KVM_GET_API_VERSION),
    REQUEST(KVM_CHECK_EXTENSION),
    REQUEST(KVM_ENABLE_CAP),
    REQUEST(KVM_CREATE_VM),
    REQUEST(KVM_SET_USER_MEMORY_REGION),
    REQUEST(KVM_SET_TSS_ADDR),
    REQUEST(KVM_SET_IDENTITY_MAP_ADDR),
    REQUEST(KVM_CREATE_IRQCHIP),
    REQUEST(KVM_CREATE_PIT2),
    REQUEST(KVM_KVMCLOCK_CTRL),
    /* vCPUs. */
    REQUEST(KVM_CREATE_VCPU),
    REQUEST(KVM_GET_VCPU_MMAP_SIZE),
    REQUEST(KVM_GET_SUPPORTED_CPUID),
    REQUEST(KVM_SET_CPUID2),
    REQUEST(KVM_GET_REGS),
    REQUEST(KVM_SET_REGS),
    REQUEST(KVM_GET_SREGS),
    REQUEST(KVM_SET_SREGS),
    REQUEST(KVM_SET_FPU),
    REQUEST(KVM_GET_MSRS),
    REQUEST(KVM_SET_MSRS),
    REQUEST(KVM_GET_LAPIC),
    REQUEST(KVM_SET_LAPIC),
    REQUEST(KVM_SET_GUEST_DEBUG),
    /* vhost-vsock, and vhost-net if it is ever asked for. */
    REQUEST(VHOST_SET_OWNER),
    REQUEST(VHOST_RESET_OWNER),
    REQUEST(VHOST_GET_FEATURES),
    REQUEST(VHOST_SET_FEATURES),
    REQUEST(VHOST_SET_MEM_TABLE),
    REQUEST(VHOST_SET_VRING_NUM),
    REQUEST(VHOST_SET_VRING_BASE),
    REQUEST(VHOST_GET_VRING_BASE),
    REQUEST(VHOST_SET_VRING_ADDR),
    REQUEST(VHOST_SET_VRING_KICK),
    REQUEST(VHOST_SET_VRING_CALL),
    REQUEST(VHOST_VSOCK_SET_GUEST_CID),
    REQUEST(VHOST_VSOCK_SET_RUNNING),
    REQUEST(VHOST_NET_SET_BACKEND),
    /* A tap that exists. */
    REQUEST(TUNSETIFF),
    REQUEST(TUNSETOFFLOAD),
    REQUEST(TUNSETVNETHDRSZ),
    REQUEST(TUNSETVNETLE),
    REQUEST(TUNSETVNETBE),
    /* Standard input and output, which may be a terminal under rkt. Not TIOCSTI nor TIOCLINUX. */
    REQUEST(TCGETS),
    REQUEST(TCSETS),
    REQUEST(TCSETSW),
    REQUEST(TCSETSF),
    REQUEST(TIOCGWINSZ),
    REQUEST(BLKGETSIZE64),

    /* Its control socket and that of the shim's window: made, and answered; it never connects to another one. Beside them it makes a
     * socket of AF_INET for each tap and, as the tap has all its settings, does nothing with it, so it does without. */
    ALLOW_IF(socket, IS(0, AF_UNIX)),
    FAIL_IF(socket, EAFNOSUPPORT, IS(0, AF_INET)),
    ALLOW(bind),
    ALLOW(listen),
    ALLOW(accept),
    ALLOW(accept4),
    ALLOW(recvfrom),
    ALLOW(sendto),
    ALLOW(recvmsg),
    ALLOW(sendmsg),
    ALLOW(shutdown),
    ALLOW(getsockname),
    ALLOW(getpeername),
    ALLOW(getsockopt),
    ALLOW(setsockopt),

    /* Disks, where it was built with libaio. */
    ALLOW(io_setup),
    ALLOW(io_submit),
    ALLOW(io_getevents),
    ALLOW(io_pgetevents),
    ALLOW(io_cancel),
    ALLOW(io_destroy),
    END,
};
