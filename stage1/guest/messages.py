# SPDX-License-Identifier: Apache-2.0
"""The messages of proto/agent/agent.proto as values; names and order of fields are the proto's. Pure.

Used by everybody who asks the agent for something. A oneof is its member: a request is its operation, an event is what
happened. `codec` turns them into bytes and back.
"""

from collections.abc import Callable
from typing import NamedTuple

from stage1.errors import AgentFailed, AlreadyExists, BadRequest, NoSpace, NotFound, PodError, WrongState, command_error
from stage1.guest.numbers import (
    ContainerStats,
    CpuStats,
    Freeze,
    InterfaceStats,
    MemoryStats,
    PodStats,
    Shares,
    Stats,
    Tune,
)
from stage1.guest.operations import Connect, Disconnect, Halt
from stage1.guest.pod_messages import Configure, Create, Interface, Launch, Neighbour, Route, Stdio, Sysctl

__all__ = [
    "ContainerStats",
    "CpuStats",
    "Freeze",
    "InterfaceStats",
    "MemoryStats",
    "PodStats",
    "Shares",
    "Stats",
    "Tune",
]
__all__ += ["Connect", "Disconnect", "Halt"]
__all__ += ["Configure", "Create", "Interface", "Launch", "Neighbour", "Route", "Stdio", "Sysctl"]

VERSION = 1

OK, INVALID, NOT_FOUND, EXISTS, WRONG_STATE, NO_COMMAND, FAILED, FULL = range(8)
CREATED, RUNNING, EXITED = range(3)


class Hello(NamedTuple):
    """First message of each side on every connection. `volumes`, `raw`, `guest_volumes` and `apparmor`: the guest knows
    those of Create, with the third one an Update without resources, and with the last one its kernel has AppArmor.
    `copies`: it knows `copied` of Configure, and Freeze.
    """

    version: int = VERSION
    key: bytes = b""
    epoch: int = 0
    received: int = 0
    first: int = 0
    boot_id: int = 0
    unix_ns: int = 0
    init_ns: int = 0
    ready_ns: int = 0
    kernel: str = ""
    volumes: bool = False
    raw: bool = False
    guest_volumes: bool = False
    apparmor: bool = False
    copies: bool = False


class Start(NamedTuple):
    """Starts the process of a created container."""

    id: str = ""


class Exec(NamedTuple):
    """Another process; `process` is a file in the bundle, `exec` unique in the pod and not 0, `raw` as in Create."""

    container: str = ""
    exec: int = 0
    process: str = ""
    stdio: Stdio | None = None
    raw: bool = False


class Signal(NamedTuple):
    """`exec` 0 is the container itself; `all` means everything below it too."""

    container: str = ""
    exec: int = 0
    signal: int = 0
    all: bool = False


class Delete(NamedTuple):
    """Removes a container and kills what is left of it."""

    id: str = ""


class Update(NamedTuple):
    """`resources` is a file in the bundle: OCI linux.resources. Without one what the guest has copied is compared."""

    id: str = ""
    resources: str = ""


class Resize(NamedTuple):
    """New size of a terminal, in characters."""

    container: str = ""
    exec: int = 0
    width: int = 0
    height: int = 0


class List(NamedTuple):
    """Asks for all containers."""


class Shutdown(NamedTuple):
    """Ends the VM."""


class MountImage(NamedTuple):
    """Mounts what the host has put into the window: `bytes` at `offset`, whole pages."""

    name: str = ""
    offset: int = 0
    bytes: int = 0


class UnmountImage(NamedTuple):
    """Unmount the image; after this the host may unmap it from the window. Refused while a container uses it."""

    name: str = ""


class Container(NamedTuple):
    """The agent's view of a container; times are unix nanoseconds, `state` is CREATED, RUNNING or EXITED."""

    id: str = ""
    state: int = CREATED
    stdio: Stdio | None = None
    pid: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    started_ns: int = 0
    finished_ns: int = 0


class Reply(NamedTuple):
    """Answer to a request; `code` is OK, INVALID, ..."""

    code: int = OK
    error: str = ""
    pid: int = 0
    containers: tuple[Container, ...] = ()
    stats: tuple[ContainerStats, ...] = ()
    pod: PodStats | None = None


class Exited(NamedTuple):
    """A process ended; comes after the last byte of its streams. `exit_code` is 128 + n after signal n."""

    container: str = ""
    exec: int = 0
    exit_code: int = 0
    oom_killed: bool = False
    unix_ns: int = 0


Op = (
    Configure | Create | Start | Exec | Signal | Delete | Update | Resize | List | Shutdown | MountImage | UnmountImage
    | Connect | Disconnect | Stats | Launch | Halt | Tune | Freeze | Shares
)  # fmt: skip

_ERRORS: dict[int, Callable[[str], PodError]] = {
    INVALID: BadRequest, NOT_FOUND: NotFound, EXISTS: AlreadyExists, WRONG_STATE: WrongState, NO_COMMAND: command_error,
    FULL: NoSpace,
}  # fmt: skip


def check_reply(reply: Reply, op: Op) -> Reply:
    """Return `reply` when it is OK; else raise what its code means, AgentFailed for FAILED and unknown codes."""
    if reply.code == OK:
        return reply
    error = _ERRORS.get(reply.code, AgentFailed)
    raise error(reply.error or f"the agent answered {type(op).__name__} with code {reply.code} and no text")
