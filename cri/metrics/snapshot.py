# SPDX-License-Identifier: Apache-2.0
"""The node at one moment, as plain values: `read_daemon` takes what is in memory, on the event loop; `read_host` reads
files and disks, in a thread. Called by `server` once per page; `families` turns the values into metrics.

No guest is asked, and nothing is written.
"""

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from cri.loop_budget import LoopBudget
from cri.recorder import Counts
from stage1.errors import PodError
from stage1.linux.ksm import Counters, Ksm
from stage1.pod import states
from stage1.vm import mapping
from stage1.vm.window import Window

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.node import Node

POD_STATES = ("booting", "ready", "held", "suspended", "adopting", "stopping", "dead")
CONTAINER_STATES = ("created", "running", "exited")


class DaemonState(NamedTuple):
    """What the daemon knows without asking a guest. `counts` is empty if nothing is recorded; `windows` are the
    directories of pods that may have a DAX window.
    """

    pods: Counter[str]
    containers: Counter[str]
    vms: int
    calls: int
    pool: dict[str, int]
    merging: tuple[int, float]
    link: LoopBudget
    counts: Counts
    windows: list[str]
    hypervisor: str


class Windows(NamedTuple):
    """The DAX windows of all pods together, bytes."""

    number: int = 0
    size_bytes: int = 0
    used_bytes: int = 0
    images: int = 0


class Images(NamedTuple):
    """The images of the store; `bytes` on the disk."""

    number: int = 0
    damaged: int = 0
    bytes: int = 0


class Snapshot(NamedTuple):
    """All of one moment. `storage` is as `crictl info` shows it."""

    daemon: DaemonState
    ksm: Counters
    windows: Windows
    images: Images
    storage: dict[str, float]


def read_daemon(node: "Node") -> DaemonState:
    """Collect it on the event loop, in microseconds per pod."""
    pods = node.pods.pods()
    by_state = Counter(map(_state, pods))
    by_state["booting"] += node.pods.booting
    pace = node.merger.pace
    has_windows = bool(node.host.choice.hypervisor.shim)
    return DaemonState(
        pods=by_state,
        containers=Counter(one.status.state for pod in pods for one in pod.containers.values()),
        vms=node.pods.count_vms(),
        calls=node.calls,
        pool=node.pods.pool.counts(),
        merging=(pace.level, pace.cpu_percent),
        link=node.pods.loop_budget,
        counts=node.recorder if isinstance(node.recorder, Counts) else Counts(),
        windows=[pod.directory for pod in pods if pod.is_ready] if has_windows else [],
        hypervisor=node.hypervisor,
    )


def _state(pod: "LivePod") -> str:
    if not pod.adopted.is_set():
        return "adopting"
    if pod.status.state == states.DEAD:
        return pod.status.state
    return "suspended" if pod.is_suspended else "held" if pod.held else pod.status.state


def read_host(node: "Node", directories: list[str]) -> tuple[Counters, Windows, Images]:
    """Blocks. What can't be read counts nothing."""
    return _ksm(), _windows(directories), _images(node)


def _ksm() -> Counters:
    try:
        return Ksm().counters()
    except (PodError, OSError):
        return Counters()


def _windows(directories: list[str]) -> Windows:
    windows = [window for directory in directories if (window := _window(directory)) is not None]
    placed = [image for window in windows for image in window.images]
    return Windows(len(windows), sum(one.size for one in windows), sum(image.size for image in placed), len(placed))


def _window(directory: str) -> Window | None:
    try:
        return mapping.find(directory)
    except (PodError, OSError):  # the pod has just gone
        return None


def _images(node: "Node") -> Images:
    try:
        return Images(*node.images.count(), node.images.usage()[0])
    except (PodError, OSError):
        return Images()
