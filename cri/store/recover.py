# SPDX-License-Identifier: Apache-2.0
"""What the previous daemon left behind, and what is to be done about each piece.

Assumptions this rests on:

1. One daemon per run directory (the lock in `cri.server`), so no other process changes what is read here.
2. The run directory is on tmpfs: after a reboot of the machine there is nothing to recover.
3. A pod's directory is made before anything else of the pod and removed after everything else, so a directory
   listing finds every VM, mount and file; `engine.clean_up` undoes all of it from the directory alone.
4. state.json is replaced atomically. Its state is BOOTING until RunPodSandbox has answered: then the client has
   no id, will call again, and the pod can be removed. pod.json is written before it, and not while it is BOOTING.
5. pid and start time in vm.json identify the VMM; a pid alone does not. An unreadable vm.json is no sign
   that there is no VMM: then it is searched among all processes.
6. The guest keeps unacknowledged output and exits (docs/dev/link.md); nothing was acknowledged before it was
   written.
7. A container that only the agent knows is an unfinished create; one that only state.json knows was lost.
8. window.json lists each image that may be in the VM's DAX window; one that no container's record names is removed.

A damaged file concerns its own pod only. If it or pod.json identifies the pod, the pod is marked dead: it stays listed,
and its name stays reserved, until it is removed. If not, no client knows the pod: its VMM is ended and the directory
removed.

This module only reads and decides; `cri.pods.recovery` acts.
"""

import contextlib
import logging
import os
from typing import NamedTuple

from google.protobuf.message import DecodeError

from cri.pb import runtime_pb2 as pb
from cri.store import pods
from stage1 import engine
from stage1.errors import VmFailed
from stage1.pod import states
from stage1.snapshot.load import is_suspended

log = logging.getLogger("clearpod.recover")

ADOPT, MARK_DEAD, CLEAN_UP = "adopt", "mark_dead", "clean_up"
"""The VM lives and is adopted, or the pod boots kernels of its own or is suspended, and may have no VM now; the VM
is gone or has to go, the pod stays listed; nothing is worth keeping."""

ENDED = "the pod's virtual machine had ended when clearpod was restarted"
_POD_STATES = (states.NEW, states.BOOTING, states.READY, states.STOPPING, states.DEAD)
_CONTAINER_STATES = (states.CREATED, states.RUNNING, states.EXITED)


class Plan(NamedTuple):
    """One directory, and what to do with it. `stored` is None only for CLEAN_UP; `why` is why one is marked dead."""

    directory: str
    action: str
    stored: pods.Stored | None = None
    why: str = ""


def survey(host: engine.Host) -> list[Plan]:
    """All pod directories of the host and what to do with them; reads only."""
    return [_classify(directory) for directory in engine.pod_directories(host)]


def _classify(directory: str) -> Plan:
    try:
        stored = pods.load(directory)
        _check(directory, stored)
    except FileNotFoundError:
        return Plan(directory, CLEAN_UP)
    except (ValueError, OSError) as error:
        return _unreadable(directory, error)
    if stored.status.state in (states.NEW, states.BOOTING):
        return Plan(directory, CLEAN_UP, stored)
    try:
        vm = engine.recorded_vm(directory)
    except VmFailed as error:
        return Plan(directory, MARK_DEAD, stored, str(error))
    can_have_none = stored.status.is_own or is_suspended(directory)
    lives = can_have_none or (vm is not None and vm.alive())
    if lives and stored.status.state == states.READY and not stored.status.why:
        return Plan(directory, ADOPT, stored)
    return Plan(directory, MARK_DEAD, stored, ENDED)


def _unreadable(directory: str, error: Exception) -> Plan:
    why = f"{directory}/state.json can't be parsed: {str(error)[:500]}"
    log.error("state.unreadable", extra={"directory": directory, "error": why})
    for record in pods.identities(directory):
        stored = pods.Stored(record, pods.PodState(states.STOPPING))
        with contextlib.suppress(ValueError):
            _check(directory, stored)
            return Plan(directory, MARK_DEAD, stored, why)
    return Plan(directory, CLEAN_UP)


def _check(directory: str, stored: pods.Stored) -> None:
    """Check what the rest of the daemon relies on. Raises ValueError."""
    record = stored.record
    _require(record.pod.id == os.path.basename(directory), f"it is of the pod {record.pod.id[:100]!r}")
    _require(stored.status.state in _POD_STATES, f"{stored.status.state[:100]!r} is not a state of a pod")
    _require(0 <= stored.status.ids < 2**31, f"{stored.status.ids} is not the id of a stream")
    _parse(pb.PodSandboxConfig, record.config)
    for one in stored.containers:
        name, state = one.record.container.id, one.status.state
        _require(name.isalnum() and name.isascii() and len(name) <= 64, f"{name[:100]!r} is not the id of a container")
        _require(state in _CONTAINER_STATES, f"{state[:100]!r} is not a state of a container")
        _parse(pb.ContainerConfig, one.record.config)


def _require(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise ValueError(otherwise)


def _parse(kind: type[pb.PodSandboxConfig | pb.ContainerConfig], data: bytes) -> None:
    try:
        kind.FromString(data)
    except DecodeError:
        raise ValueError(f"its {kind.__name__} is damaged") from None
