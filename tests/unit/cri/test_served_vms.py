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


@pytest.mark.parametrize("is_late", [False, True], ids=["while it is watched", "before"])
async def test_a_vm_whose_server_has_ended_ends(two: Two, is_late: bool) -> None:
    vm, (_, server) = _vm(two), two
    if is_late:
        server.kill()
        server.wait()
    seen = asyncio.ensure_future(vm_end.see_server(vm))
    await asyncio.sleep(0)
    server.kill()
    async with asyncio.timeout(20 * PATIENCE):
        await seen
    assert await asyncio.to_thread(vm.wait, 20 * PATIENCE)


async def test_a_vm_that_ends_takes_its_server_with_it(two: Two) -> None:
    """The kernel ends it; what is left is to reap both."""
    vm = _vm(two)
    seen = asyncio.ensure_future(vm_end.see_server(vm))
    await asyncio.sleep(0)
    for one in two:
        one.kill()
    async with asyncio.timeout(20 * PATIENCE):
        await seen
    assert await asyncio.to_thread(vm.wait, 20 * PATIENCE)
