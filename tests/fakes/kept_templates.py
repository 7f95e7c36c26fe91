# SPDX-License-Identifier: Apache-2.0
"""Templates for tests whose VMs may be copies. One of each kind is made, by whichever process is first, and kept below
build/cache for later runs; none is made while a test runs.

For tests that are not about templates: those have a daemon's own.
"""

import fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cri.snapshots.templates import DIRECTORY, Templates
from stage1.snapshot import save
from stage1.snapshot.store import TemplateStore, remove_outdated
from stage1.vm.template import Template

if TYPE_CHECKING:
    from stage1.engine import Host, Prepared
    from stage1.snapshot.machine import TemplateSpec

KEPT = Path(__file__).parents[2] / "build" / "cache" / DIRECTORY
EMPTY_DISKS = KEPT / "disks"
"""A host's `template_dir`: a copy has mounted its disk, so that all must have one file system."""
MOST_MIB = 1024

_store = TemplateStore(f"{KEPT}/whole")
"""Of this process, which so reads each template once."""


class KeptTemplates(Templates):
    """As a daemon's, but a pod whose template lacks waits for it."""

    def __init__(self, host: "Host", vmm: Any, *, limit_s: float) -> None:
        super().__init__(host, vmm, disk_mib=MOST_MIB, limit_s=limit_s, make=_make)
        self._store = _store

    def open(self) -> None:
        """Leave what others may use."""

    async def copy_of(self, prepared: "Prepared", *, waits: bool = False) -> "Prepared | None":
        """None for a pod that can't be a copy and has to boot."""
        return await super().copy_of(prepared, waits=True)

    async def _remove_unused_now(self) -> list[str]:
        """Done by who makes one."""
        return []


def _make(spec: "TemplateSpec", host: "Host", *, store: TemplateStore, **more: Any) -> Template:
    """As `save.template`, if nobody has meanwhile."""
    KEPT.mkdir(parents=True, exist_ok=True)
    with (KEPT / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if kept := store.find(spec.name):
            return kept
        remove_outdated(store, most_bytes=MOST_MIB << 20)
        return save.template(spec, host, store=store, **more)
