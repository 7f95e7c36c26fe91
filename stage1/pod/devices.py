# SPDX-License-Identifier: Apache-2.0
"""Device nodes that a container may be given: those that every guest's kernel has and that reach nothing outside.

Called by `cri.translate` and `oci`. Pure. The numbers are the kernel's own, Documentation/admin-guide/devices.txt. Not
in the table, though the guest has them: its disks, its console and the port of the link to the host.
"""

from collections.abc import Iterable
from typing import Any

from stage1.errors import BadRequest, Unsupported
from stage1.pod.model import Device

GUEST = {
    "/dev/null": (1, 3),
    "/dev/zero": (1, 5),
    "/dev/full": (1, 7),
    "/dev/random": (1, 8),
    "/dev/urandom": (1, 9),
    "/dev/kmsg": (1, 11),
    "/dev/tty": (5, 0),
    "/dev/fuse": (10, 229),
    "/dev/net/tun": (10, 200),
}
"""Path -> major and minor number; all are character devices."""
EVERYWHERE = {"/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"}
"""crun puts these into every container by itself."""
MODE = 0o666


def device(source: str, path: str, *, access: str) -> Device:
    """A checked device; an empty path is the source's own, empty access is rwm.

    Raises:
        BadRequest: the path is not absolute, or `access` has other letters.
        Unsupported: the guest has no such device.
    """
    path, access = path or source, access or "rwm"
    if not path.startswith("/"):
        raise BadRequest(f"the device {source} needs an absolute path in the container, but it is {path!r}")
    if not set(access) <= set("rwm"):
        raise BadRequest(f"the permissions of the device {source} must be made of r, w and m, but are {access!r}")
    if source not in GUEST:
        known = ", ".join(sorted(GUEST))
        raise Unsupported(
            f"the device {source} of the host can't be handed to a container in a VM; the guest itself has {known}"
        )
    return Device(source, path, access)


def nodes(given: Iterable[Device], *, privileged: bool) -> list[dict[str, Any]]:
    """OCI linux.devices. A privileged container gets all that the guest has."""
    devices = {one.path: GUEST[one.source] for one in given}
    if privileged:
        devices = {**GUEST, **devices}
    return [
        {"path": path, "type": "c", "major": major, "minor": minor, "fileMode": MODE, "uid": 0, "gid": 0}
        for path, (major, minor) in devices.items()
        if path not in EVERYWHERE
    ]


def rules(given: Iterable[Device], *, privileged: bool) -> list[dict[str, Any]]:
    """OCI linux.resources.devices: nothing but what is given (crun adds what every container has), or everything."""
    allowed = [(*GUEST[one.source], one.access) for one in given]
    return [
        {"allow": privileged, "access": "rwm"},
        *({"allow": True, "type": "c", "major": a, "minor": b, "access": access} for a, b, access in allowed),
    ]
