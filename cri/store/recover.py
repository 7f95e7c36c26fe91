# SPDX-License-Identifier: Apache-2.0
"""What the previous daemon left behind, and what is to be done about each piece.

Assumptions this rests on:

1. One daemon per run directory (the lock in `cri.server`), so nobody else changes what is read here.
2. The run directory is on tmpfs: after a reboot of the machine there is nothing to recover.
3. A pod's directory is made before anything else of the pod and removed after everything else, so a directory
   listing finds every VM, mount and file; `engine.collect` undoes all of it from the directory alone.
4. state.json is replaced in one step. It says BOOTING until RunPodSandbox has answered: then the client was
   never told an id, will ask again, and the remains can go.
5. pid and start time in vm.json identify the VMM; a pid alone does not.
6. The guest keeps unacknowledged output and exits (docs/link.md); nothing was acknowledged before it was
   written.
7. A container that only the agent knows is a half-done create; one that only state.json knows was lost.
8. window.json lists each image that may be in the VM's DAX window; one that no container's record names is to go.

This module only looks and decides; `cri.pods.table` acts.
"""

import logging
from typing import NamedTuple

from cri.store import pods
from stage1 import engine
from stage1.pod import states

log = logging.getLogger("clearpod.recover")

ADOPT, BURY, COLLECT = "adopt", "bury", "collect"
"""The VM lives and is taken over; the VM is gone, the pod stays listed; nothing is worth keeping."""


class Found(NamedTuple):
    """One directory. `stored` is None only when the verdict is COLLECT."""

    directory: str
    verdict: str
    stored: pods.Stored | None = None


def survey(host: engine.Host) -> list[Found]:
    """All pod directories of the host with their verdicts; reads only."""
    return [_judge(directory) for directory in engine.pod_directories(host)]


def _judge(directory: str) -> Found:
    try:
        stored = pods.load(directory)
    except FileNotFoundError:
        return Found(directory, COLLECT)
    except ValueError as error:
        log.error("state.unreadable", extra={"directory": directory, "error": str(error)})
        return Found(directory, COLLECT)
    if stored.status.state in (states.NEW, states.BOOTING):
        return Found(directory, COLLECT, stored)
    vm = engine.find_vm(directory)
    alive = vm is not None and vm.alive()
    return Found(directory, ADOPT if alive and stored.status.state == states.READY else BURY, stored)
