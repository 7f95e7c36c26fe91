/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU 7.2 to 10.1 as stage1/vm/qemu.py starts it: microvm, disks by threads (aio=threads), 9p, a serial port or vhost-vsock, taps.
 * Its own filter is loaded after this one and takes away execve among others; a call passes when both allow it.
 */
#include "rules.h"

#include <asm/ioctls.h>
#include <linux/fs.h>
#include <linux/if_tun.h>
#include <linux/kvm.h>
#include <linux/sockios.h>
#include <linux/vhost.h>
#include <sys/socket.h>

#define REQUEST(number) ALLOW_IF(ioctl, IS(1, number))
/* All requests of one driver; the type is the second byte. */
#define REQUESTS_OF(type) ALLOW_IF(ioctl, BITS(1, 0xff00u, (uint32_t)(type) << 8))

const struct rule qemu_rules[] = {
    /* KVM and vhost by driver: QEMU makes some eighty different requests of KVM, more with each version and processor. They count only
     * on descriptors of /dev/kvm, /dev/vhost-vsock and /dev/vhost-net, and the devices are there to be asked. */
    REQUESTS_OF(KVMIO),
    REQUESTS_OF(VHOST_VIRTIO),
    /* A tap that exists: no TUNSETPERSIST, TUNSETOWNER, nor programs for the kernel (TUNATTACHFILTER). A guest that was saved is loaded
     * with the request to remove a BPF program that steers packets to queues (TUNSETSTEERINGEBPF), of which there is none. */
    FAIL_IF(ioctl, EPERM, IS(1, TUNSETSTEERINGEBPF)),
    REQUEST(TUNSETIFF),
    REQUEST(TUNGETIFF),
    REQUEST(TUNGETFEATURES),
    REQUEST(TUNSETOFFLOAD),
    REQUEST(TUNSETSNDBUF),
    REQUEST(TUNGETVNETHDRSZ),
    REQUEST(TUNSETVNETHDRSZ),
    REQUEST(TUNSETVNETLE),
    REQUEST(TUNSETVNETBE),
    REQUEST(TUNSETQUEUE),
    REQUEST(SIOCGIFINDEX), /* of the tap's own device, whose number it remembers */
    /* Standard input and output, which may be a terminal under rkt. Not TIOCSTI nor TIOCLINUX, by which it would type commands. */
    REQUEST(TCGETS),
    REQUEST(TCSETS),
    REQUEST(TCSETSW),
    REQUEST(TCSETSF),
    REQUEST(TIOCGWINSZ),
    REQUEST(TIOCGPGRP),
    REQUEST(FIONBIO),
    REQUEST(FIONREAD),
    /* Disks that are block devices, and the generation of a file for 9p. */
    REQUEST(BLKGETSIZE64),
    REQUEST(BLKSSZGET),
    REQUEST(BLKPBSZGET),
    REQUEST(BLKDISCARD),
    REQUEST(BLKZEROOUT),
    REQUEST(FS_IOC_GETVERSION),

    /* The link to the agent: it makes the socket and takes a connection, and never connects to another one. AF_VSOCK, AF_NETLINK and
     * AF_INET do not exist. */
    ALLOW_IF(socket, IS(0, AF_UNIX)),
    ALLOW_IF(socketpair, IS(0, AF_UNIX)),
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

    /* Seen to be tried when it starts, with something else taken when it fails: a ring for its event loop (then epoll or poll). */
    FAIL(io_uring_setup, ENOSYS),
    END,
};
