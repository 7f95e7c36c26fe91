# SPDX-License-Identifier: Apache-2.0
"""Linux capabilities of a container: the default set, what is added and dropped. Pure."""

from stage1.errors import BadRequest

ALL = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE "
        "NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT "
        "SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE "
        "AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ "
        "PERFMON BPF CHECKPOINT_RESTORE"
    ).split()
)

DEFAULT = tuple(
    "CAP_" + name
    for name in (
        "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE "
        "SYS_CHROOT KILL AUDIT_WRITE"
    ).split()
)


def bounding(add: tuple[str, ...], drop: tuple[str, ...], *, privileged: bool = False) -> tuple[str, ...]:
    """The bounding set, in kernel order (CRI Capability).

    `CAP_ALL` is allowed in both. A drop wins over the default set, an add by name wins over a dropped `CAP_ALL`.
    Raises BadRequest for a name that the kernel does not have.
    """
    for name in (*add, *drop):
        if name not in ALL and name != "CAP_ALL":
            raise BadRequest(f"{name!r} is not a Linux capability; capabilities(7) lists them")
    names = set(ALL if privileged or "CAP_ALL" in add else DEFAULT)
    if "CAP_ALL" in drop:
        names = set(ALL) if "CAP_ALL" in add else set()
    names = (names - set(drop)) | (set(add) - {"CAP_ALL"})
    return tuple([name for name in ALL if name in names])


def ambient(names: tuple[str, ...]) -> tuple[str, ...]:
    """The ambient set, in kernel order; `CAP_ALL` is every capability. Raises BadRequest as `bounding` does."""
    return bounding(names, ("CAP_ALL",))
