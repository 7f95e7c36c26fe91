# SPDX-License-Identifier: Apache-2.0
"""Starts a VM whose vsock context id may be taken by another VM at the last moment. Called by the engine.

No file of a pod is known here but those in its VmSpec, and nothing waits for the guest.
"""

import os
from collections.abc import Callable

from stage1.errors import CidTaken
from stage1.linux import beneath, vsock
from stage1.vm.spec import SerialLink, VmSpec, VsockLink
from stage1.vm.vmm import Vmm, VmProcess

TRIES = 8
"""More than all neighbours that could start in the same milliseconds and search from the same place."""


def start(
    vm: VmSpec, vmm: Vmm, *, is_free: Callable[[int], bool] | None = None
) -> tuple[VmProcess, SerialLink | VsockLink]:
    """Start it, with another context id if the chosen one was taken meanwhile; the process, and the link that it has.

    Raises what `Vmm.start` does; CidTaken after so many tries, NoSpace when no id is free.
    """
    for _ in range(TRIES - 1):
        try:
            return vmm.start(vm), vm.link
        except CidTaken:
            vm = _with_next_cid(vm, is_free)
    return vmm.start(vm), vm.link


def _with_next_cid(vm: VmSpec, is_free: Callable[[int], bool] | None) -> VmSpec:
    assert isinstance(vm.link, VsockLink)
    _forget(f"{vm.run_dir}/console.log")
    cid = vsock.choose_cid(vm.link.cid + 1 - vsock.FIRST_CID, is_free)
    return vm._replace(link=vm.link._replace(cid=cid))


def _forget(path: str) -> None:
    """Remove the console of the VMM that has just ended: the next one appends to what is there."""
    directory, name = os.path.split(path)
    with beneath.Root(directory) as own:
        own.unlink(name)
