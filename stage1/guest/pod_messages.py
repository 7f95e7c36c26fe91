# SPDX-License-Identifier: Apache-2.0
"""The messages by which a pod is made, of proto/agent/agent.proto, and their encoding. Pure. Used through `messages`
and `codec`; apart from them because rkt's `run`, which waits for each import, needs no others.
"""

from typing import NamedTuple

from stage1.guest import wire
from stage1.guest.wire import Field

__all__ = ["Configure", "Create", "Interface", "Launch", "Neighbour", "Route", "Stdio", "Sysctl"]


class Stdio(NamedTuple):
    """Stream ids of a process; 0 is /dev/null. `width` and `height` are the terminal's, in characters.
    With `console` stdin is the one of whoever started an autonomous pod. `log` is as in agent.proto.
    """

    stdin: int = 0
    stdout: int = 0
    stderr: int = 0
    tty: bool = False
    width: int = 0
    height: int = 0
    console: bool = False
    log: int = 0


class Sysctl(NamedTuple):
    """`key` is dotted."""

    key: str = ""
    value: str = ""


class Interface(NamedTuple):
    """`mac` finds the device, `name` is what it will be called; addresses are 10.88.0.5/16, fd00::5/64.
    With `found_mac` that is what finds it, and then it gets `mac`.
    """

    mac: str = ""
    name: str = ""
    mtu: int = 0
    addresses: tuple[str, ...] = ()
    found_mac: str = ""


class Route(NamedTuple):
    """`destination` is a prefix; an empty gateway means on link; 0 leaves the kernel its choice."""

    destination: str = ""
    gateway: str = ""
    device: str = ""
    metric: int = 0
    mtu: int = 0
    advmss: int = 0


class Neighbour(NamedTuple):
    """A fixed entry of the neighbour table."""

    address: str = ""
    mac: str = ""
    device: str = ""


class Configure(NamedTuple):
    """Pod-wide settings, once, before the first Create. `shm_bytes` 0 is 64 MiB.
    With `ids`, root of the containers is `first_id` in the guest, and so on for so many users and groups. `lasting` and
    `link_key` are an autonomous pod's: whether it outlasts its apps, and what a host has to know. It is told the time,
    and so is a guest that has waited for its pod. Each guest gets at most 64 bytes of `entropy`. With `warm_up`, which
    may come before, all is done and undone. With `copied` the guest is a copy of one that had these interfaces, whose
    addresses it gives up; its own Configure follows.
    """

    hostname: str = ""
    domainname: str = ""
    shm_bytes: int = 0
    sysctls: tuple[Sysctl, ...] = ()
    interfaces: tuple[Interface, ...] = ()
    routes: tuple[Route, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()
    first_id: int = 0
    ids: int = 0
    lasting: bool = False
    link_key: bytes = b""
    unix_ns: int = 0
    entropy: bytes = b""
    warm_up: bool = False
    copied: bool = False


class Create(NamedTuple):
    """Makes a container's root; `lower` is below /run/clearpod/layers, or with `window` the name of a MountImage.
    With `shared` it is the root itself. `volumes` are its directories. With `raw` the OCI documents are no UTF-8.
    With `guest_volumes` the bundle has a list of volumes that the guest has itself (`stage1.pod.guest_volumes`).
    With `apparmor` it has a policy for the guest's kernel.
    """

    id: str = ""
    lower: str = ""
    tmpfs: bool = False
    stdio: Stdio | None = None
    window: bool = False
    shared: bool = False
    volumes: tuple[str, ...] = ()
    raw: bool = False
    guest_volumes: bool = False
    apparmor: bool = False


class Launch(NamedTuple):
    """Starts an app of an autonomous pod: `before` to its end, `id`, then `after`; containers that were created."""

    id: str = ""
    before: str = ""
    after: str = ""


OPS: dict[int, type[Configure | Create | Launch]] = {1: Configure, 2: Create, 30: Launch}

_U32, _U64, _BOOL = Field(wire.U32), Field(wire.U64), Field(wire.BOOL)
_STR, _STRS, _STDIO = Field(wire.STR), Field(wire.STR, many=True), Field(wire.MESSAGE, Stdio)


def _many(message: type[NamedTuple]) -> Field:
    return Field(wire.MESSAGE, message, many=True)


_CONFIGURE = (
    _STR, _STR, _U64, _many(Sysctl), _many(Interface), _many(Route), _many(Neighbour),
    Field(wire.U32, number=10), Field(wire.U32, number=11),
    Field(wire.BOOL, number=20), Field(wire.BYTES, number=21), Field(wire.U64, number=22),
    Field(wire.BYTES, number=30), Field(wire.BOOL, number=31), Field(wire.BOOL, number=32),
)  # fmt: skip
_CREATE = (
    _STR, _STR, _BOOL, _STDIO, _BOOL, Field(wire.BOOL, number=20), Field(wire.STR, many=True, number=50),
    Field(wire.BOOL, number=55), Field(wire.BOOL, number=60), Field(wire.BOOL, number=90),
)  # fmt: skip
TABLES: wire.Tables = {
    Stdio: (_U32, _U32, _U32, _BOOL, _U32, _U32, _BOOL, _U32),
    Sysctl: (_STR, _STR),
    Interface: (_STR, _STR, _U32, _STRS, Field(wire.STR, number=30)),
    Route: (_STR, _STR, _STR, _U32, _U32, _U32),
    Neighbour: (_STR, _STR, _STR),
    Configure: _CONFIGURE,
    Create: _CREATE,
    Launch: (_STR, _STR, _STR),
}


def encode_request(op: Configure | Create | Launch) -> bytes:
    """Return a Request that holds `op`, as that of `codec`. Raises WireError."""
    return wire.encode_oneof(op, OPS, tables=TABLES)
