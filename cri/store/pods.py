# SPDX-License-Identifier: Apache-2.0
"""`state.json` in a pod's directory: what the next daemon must know after this one was killed.

Written by `cri.live` at each change of state, read by `cri.store.recover`. What never changes (records) and what does
(states) are apart; the pod's identity is in `pod.json` too, so that its name stays taken when `state.json` is damaged.
Facts with another source are not here: the VMM's pid is in vm.json, a log's position beside the log, and whether a
container runs the agent knows.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from cri.store import codec
from cri.store.history import Fact
from stage1.errors import Exhausted, KernelError
from stage1.linux import beneath
from stage1.pod import states
from stage1.pod.model import Container, Limits, Pod
from stage1.pod.own_kernel import OwnKernel

VERSION = 1
_FILE, _IDENTITY = "state.json", "pod.json"
_MOST_BYTES = 256 << 20


class PodRecord(NamedTuple):
    """A pod as it was asked for.

    `config` is the PodSandboxConfig's bytes, since fields must be echoed exactly.
    """

    pod: Pod
    config: bytes
    handler: str
    created_ns: int
    log_directory: str = ""


class Decided(NamedTuple):
    """A field of what was decided of a container or a pod, and its value as text (`cri.snapshots.decided`)."""

    name: str
    value: str


class ContainerRecord(NamedTuple):
    """A container as it was requested.

    `config` is the ContainerConfig's bytes; streams are ids on the link, 0 for none. `window_image` is the image's name
    in the DAX window, empty when it is not there; `image_way` describes how the image gets into the guest and why, for
    display. `image_tag` is the image's name as the status shows it, empty when it has none. `kernel` is the one that
    the image brings; without a path there is none. `guest_id` is the container's id in the guest, if that differs: it
    was running in the pod of which this pod is a copy.
    """

    container: Container
    config: bytes
    attempt: int
    created_ns: int
    image_id: str
    image_ref: str
    log_path: str = ""
    stdin: int = 0
    stdout: int = 0
    stderr: int = 0
    window_image: str = ""
    image_way: str = ""
    image_tag: str = ""
    kernel: OwnKernel = OwnKernel()
    guest_id: str = ""


class SavedContainer(NamedTuple):
    """A container that ran in a guest that was saved, as its copies have it: how that guest knows it, where its volumes
    are in it, in their order, and what was decided of it. `limits` are its own, where they are known: they need not
    be set again then. `config` is its ContainerConfig's bytes, for who restores it.
    """

    guest_id: str
    name: str
    attempt: int
    image_id: str
    image_ref: str
    window_image: str
    mounts: tuple[str, ...] = ()
    stdin: int = 0
    stdout: int = 0
    stderr: int = 0
    decided: tuple[Decided, ...] = ()
    limits: tuple[Limits, ...] = ()
    config: bytes = b""


class PodState(NamedTuple):
    """`state` is one of stage1.pod.states; stream and exec ids up to `ids` may have been used with the guest.

    `why` is a sentence about a pod that is not ready, `cgroup_note` one about what its cgroup lacks for its VM.
    `history` has the facts, oldest first. With `is_own` its guest was ended for a kernel out of an image. `waiting` are
    containers of the pod that this one is a copy of, as they were: frozen in the guest until they are created here.
    `origin` describes the pod or template that it is a copy of, for display.
    """

    state: str = states.NEW
    link_key: bytes = b""
    ids: int = 0
    why: str = ""
    cgroup_note: str = ""
    history: tuple[Fact, ...] = ()
    is_own: bool = False
    waiting: tuple[SavedContainer, ...] = ()
    origin: str = ""

    @property
    def unwanted(self) -> tuple[int, ...]:
        """Streams of those, whose output is discarded."""
        return tuple(stream for one in self.waiting for stream in (one.stdout, one.stderr) if stream)


class ContainerState(NamedTuple):
    """Times are ns since 1970, 0 for not yet. `reason` and `message` are CRI's. With `is_held` its processes run in the
    guest, a copy's, and are frozen until it is started. With `is_asked` the guest was asked to start it and its answer
    is not known: it may run, also if it is EXITED, since its start was given up.
    """

    state: str = states.CREATED
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    is_held: bool = False
    is_asked: bool = False


class StoredContainer(NamedTuple):
    """One container in the file."""

    record: ContainerRecord
    status: ContainerState


class Stored(NamedTuple):
    """The whole file."""

    record: PodRecord
    status: PodState
    containers: tuple[StoredContainer, ...] = ()


class _Identity(NamedTuple):
    """The content of `pod.json`, the pod's identity."""

    record: PodRecord


class PodFiles:
    """Both files of the pod in `directory`. Each is written when that changes it, as far as is known."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._identity: PodRecord | None = None
        self._stored: Stored | None = None
        self._texts = codec.Texts(PodRecord, ContainerRecord, ContainerState, Fact)

    def adopted(self, stored: Stored) -> None:
        """The previous daemon saved this, see `load`. Blocks: it reads whether `pod.json` is the same."""
        self._stored = stored
        with contextlib.suppress(OSError, KernelError), beneath.Root(self._directory) as own:
            if own.read(_IDENTITY, most=_MOST_BYTES, ours=True) == self._text(_Identity(stored.record)):
                self._identity = stored.record

    def save(self, stored: Stored) -> None:
        """Replace each file atomically, the identity first, which a pod has from the moment on at which it is ready: no
        client knows one before. Raises NoSpace, KernelError.
        """
        is_known = stored.status.state not in (states.NEW, states.BOOTING)
        has_identity = not is_known or self._identity == stored.record
        if has_identity and self._stored == stored:
            return
        with beneath.Root(self._directory) as own:
            if not has_identity:
                own.write(_IDENTITY, self._text(_Identity(stored.record)))
                self._identity = stored.record
            if self._stored != stored:
                own.write(_FILE, self._text(stored))
                self._stored = stored

    def _text(self, content: "Stored | _Identity") -> bytes:
        return f'{{"v":{VERSION},{self._texts.of(content)[1:]}'.encode()


def load(directory: str) -> Stored:
    """Read the file. Raises FileNotFoundError, or ValueError with the reason when it can't be read or understood."""
    envelope = _read(directory, _FILE)
    version = envelope.pop("v", None)
    if version != VERSION:
        raise ValueError(f"{directory}/state.json has version {version}; this clearpod reads version {VERSION}")
    return codec.load(Stored, envelope)


def identities(directory: str) -> Iterator[PodRecord]:
    """The pod's identity, as far as both files can be parsed."""
    for name in (_FILE, _IDENTITY):
        with contextlib.suppress(ValueError, OSError):
            yield codec.load(PodRecord, _read(directory, name).get("record"))


def _read(directory: str, name: str) -> dict[str, Any]:
    try:
        with beneath.Root(directory) as own:
            envelope = json.loads(own.read(name, most=_MOST_BYTES, ours=True))
    except FileNotFoundError:
        raise
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except Exhausted:  # no statement about the file
        raise
    except KernelError as error:
        raise ValueError(str(error)) from None
    if not isinstance(envelope, dict):
        raise ValueError("it is not a JSON object")
    return envelope


Config = TypeVar("Config")


class Parsed(Generic[Config]):
    """The last bytes that `parse` was given, and what it made of them."""

    def __init__(self, parse: Callable[[bytes], Config]) -> None:
        self._parse = parse
        self._last: tuple[bytes, Config] | None = None

    def get(self, data: bytes) -> Config:
        """The parsed `data`; the same object for the same bytes object, so it must not be changed."""
        if self._last is None or self._last[0] is not data:
            self._last = data, self._parse(data)
        return self._last[1]
