# SPDX-License-Identifier: Apache-2.0
"""A filter of system calls for programs that read foreign bytes, as the instructions that seccomp(2) takes. Pure.

Used by `sandbox`. A list of what is refused: these programs are the system's, so a list of what they may do would have
to follow each C library. What is refused are the parts of the kernel that no program needs which turns a file into a
file, and that faults have been found in again and again. x86-64 only.
"""

import struct

ARCHITECTURE = "x86_64"

_SOCKETS = "sockets"
_REFUSED = {
    "other processes": (101, 310, 311, 312, 438, 440),  # ptrace, process_vm_*, kcmp, pidfd_getfd, process_madvise
    _SOCKETS: (41, 53),
    "mounts": (155, 161, 165, 166, 428, 429, 430, 431, 432, 433, 442, 467),  # pivot_root, chroot, mount, umount2, ...
    "namespaces": (272, 308),  # unshare, setns
    "io_uring": (425, 426, 427),
    "programs in the kernel": (298, 321, 323),  # perf_event_open, bpf, userfaultfd
    "keys": (248, 249, 250),
    "modules, kernels": (169, 175, 176, 246, 313, 320),  # reboot, init_module, kexec_load, ...
    "the host": (103, 163, 164, 167, 168, 170, 171, 172, 173, 179, 227, 305, 443),  # syslog, acct, swapon, clocks, ...
    "files by handle, watching": (300, 301, 303, 304),  # fanotify_*, name_to_handle_at, open_by_handle_at
    "devices": (133, 259),  # mknod, mknodat
    "System V IPC, queues": (29, 30, 31, 64, 65, 66, 68, 69, 70, 71, 220, 240),
    "placement of memory": (237, 238, 256, 279),
    "what is old": (134, 135, 136, 139, 153, 154, 156, 180, 212),  # uselib, personality, modify_ldt, ...
    "splicing of memory, secret memory": (278, 447),  # vmsplice, memfd_secret
}
_CLONE, _CLONE3 = 56, 435
_NEW_NAMESPACES = 0x7E020000
_X32 = 0x40000000
_AUDIT_ARCH = 0xC000003E
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT = 0, 4, 16


def program(*, sockets: bool = False) -> bytes:
    """struct sock_filter[]. What is refused fails with EPERM, clone3 with ENOSYS so that the C library uses clone; a
    call of another ABI kills. `sockets` are allowed to who needs the network.
    """
    kinds = [kind for kind in _REFUSED if not (sockets and kind == _SOCKETS)]
    refused = sorted(number for kind in kinds for number in _REFUSED[kind])
    tests = [(number, "refuse") for number in refused] + [(_CLONE3, "absent"), (_CLONE, "clone")]
    # The lines behind the tests, by name.
    ends = {"allow": 0, "clone": 1, "refuse": 4, "absent": 5, "kill": 6}
    head = [(_LOAD, 0, 0, _ARCHITECTURE_AT)]
    body = [(_LOAD, 0, 0, _NUMBER_AT)]
    count = len(tests)
    head.append((_EQUAL, 0, count + 2 + ends["kill"], _AUDIT_ARCH))
    body.append((_AT_LEAST, count + ends["kill"], 0, _X32))
    body += [(_EQUAL, count - 1 - at + ends[end], 0, number) for at, (number, end) in enumerate(tests)]
    tail = [
        (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _FIRST_ARGUMENT_AT),
        (_ANY_BIT, 1, 0, _NEW_NAMESPACES),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | _EPERM),
        (_RETURN, 0, 0, _ERRNO | _ENOSYS),
        (_RETURN, 0, 0, _KILL),
    ]
    return b"".join(struct.pack("<HBBI", *line) for line in [*head, *body, *tail])
