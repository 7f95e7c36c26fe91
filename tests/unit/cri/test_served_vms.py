# SPDX-License-Identifier: Apache-2.0
"""A VM and what serves its volumes end together; ordinary processes stand for both."""

import asyncio
import subprocess
from collections.abc import Iterator

import pytest

from cri.live import vm_end
from stage1.linux import process
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE

Two = tuple["subprocess.Popen[bytes]", "subprocess.Popen[bytes]"]


@pytest.fixture
def two() -> Iterator[Two]:
    made = subprocess.Popen(["sleep", "1000"]), subprocess.Popen(["sleep", "1000"])
    yield made
    for one in made:
        one.kill()
        one.wait()


def _vm(two: Two) -> VmProcess:
    vmm, server = two
    return VmProcess(vmm.pid, process.start_time(vmm.pid), "", (server.pid, process.start_time(server.pid)))


@pytest.mark.parametrize("first", [0, 1], ids=["the VM", "its server"])
async def test_one_does_not_outlive_the_other_for_long(two: Two, first: int) -> None:
    vm = _vm(two)
    handle = await vm_end.opened(vm)
    assert handle is not None
    with handle:
        seen = asyncio.ensure_future(vm_end.seen(handle, vm))
        await asyncio.sleep(0)
        two[first].kill()
        async with asyncio.timeout(20 * PATIENCE):
            await seen
        assert not vm.alive()


async def test_a_server_that_had_ended_before_it_was_watched_ends_the_vm(two: Two) -> None:
    vm = _vm(two)
    two[1].kill()
    two[1].wait()
    handle = await vm_end.opened(vm)
    assert handle is not None
    with handle:
        async with asyncio.timeout(20 * PATIENCE):
            await vm_end.seen(handle, vm)
    assert not vm.alive()
