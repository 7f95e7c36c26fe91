# SPDX-License-Identifier: Apache-2.0
"""The messages of proto/agent/agent.proto as values; names and order of fields are the proto's. Pure.

Used by everybody who asks the agent for something. A oneof is its member: a request is its operation, an event is what
happened. `codec` turns them into bytes and back.
"""

from typing import NamedTuple

from stage1.errors import AgentFailed, AlreadyExists, BadRequest, NoSpace, NotFound, PodError, WrongState, command_error
from stage1.guest.numbers import ContainerStats, CpuStats, InterfaceStats, MemoryStats, PodStats, Stats, Tune
from stage1.guest.operations import Connect, Disconnect, Halt, Launch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["ContainerStats", "CpuStats", "InterfaceStats", "MemoryStats", "PodStats", "Stats", "Tune"]
__all__ += ["Connect", "Disconnect", "Halt", "Launch"]

VERSION = 1

OK, INVALID, NOT_FOUND, EXISTS, WRONG_STATE, NO_COMMAND, FAILED, FULL = range(8)
CREATED, RUNNING, EXITED = range(3)


class Hello(NamedTuple):
    """First message of each side on every connection. `volumes`, `raw`, `guest_volumes` and `apparmor`: the guest knows
    those of Create, with the third one an Update without resources, and with the last one its kernel has AppArmor.
    `copies`: it knows `copied` of Configure, and cgroup.freeze of Tune.
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
    and so is a guest that has waited for its pod, with at most 64 bytes of `entropy`. With `warm_up`, which may come
    before, all is done and undone. With `copied` the guest is a copy of one that had these interfaces, whose addresses
    it gives up; its own Configure follows.
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
    """After this the host may take the image out of the window; refused while a container uses it."""

    name: str = ""


class Container(NamedTuple):
    """What the agent knows of a container; times are unix nanoseconds, `state` is CREATED, RUNNING or EXITED."""

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
    | Connect | Disconnect | Stats | Launch | Halt | Tune
)  # fmt: skip

_ERRORS: dict[int, "Callable[[str], PodError]"] = {
    INVALID: BadRequest, NOT_FOUND: NotFound, EXISTS: AlreadyExists, WRONG_STATE: WrongState, NO_COMMAND: command_error,
    FULL: NoSpace,
}  # fmt: skip


def check_reply(reply: Reply, op: Op) -> Reply:
    """Return `reply` when it is OK; else raise what its code means, AgentFailed for FAILED and unknown codes."""
    if reply.code == OK:
        return reply
    error = _ERRORS.get(reply.code, AgentFailed)
    raise error(reply.error or f"the agent answered {type(op).__name__} with code {reply.code} and no text")
