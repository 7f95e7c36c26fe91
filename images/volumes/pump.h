/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The process between the guest's FUSE file systems and their server on the host: a virtio-serial port or a vsock on one side,
 * descriptors of /dev/fuse on the other. Messages both ways begin with two little-endian numbers of 32 bits, their length with
 * these and the number of the volume. A message for volume 0 is the pump's own, all others are as /dev/fuse has them.
 *
 * It has one message that goes out and one that comes in. While one goes out it reads no further request; but it always takes
 * what comes, and /dev/fuse always takes that: so neither side waits for the other for ever.
 */
#ifndef CLEARPOD_VOLUMES_PUMP_H
#define CLEARPOD_VOLUMES_PUMP_H

#include <stdint.h>

#define PUMP_SOCKET "/run/clearpod/pump"

enum { PUMP_NAME = 256 };

/*
 * Who mounts a volume connects to PUMP_SOCKET (SOCK_SEQPACKET), sends its name, and gets this. Then it mounts, and sends one
 * byte with the descriptor of /dev/fuse.
 */
struct attached {
    int32_t error; /* 0, or of errno */
    uint32_t mode; /* of the volume's root */
};

/* The socket that listens; descriptor `listener` in the pump. `port`: of the host's vsock, 0 for virtio-serial. */
void pump_main(int listener, unsigned port) __attribute__((noreturn));

#endif
