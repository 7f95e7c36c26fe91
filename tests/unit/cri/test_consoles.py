# SPDX-License-Identifier: Apache-2.0
"""Consoles are cut as long as their VMs live, whatever happens to one of them."""

import asyncio
import errno

import pytest

from cri.live import consoles
from cri.live.consoles import Consoles
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE


async def test_a_console_that_fails_somehow_does_not_keep_others_from_being_cut(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cut, thrice = [0], asyncio.Event()
    loop = asyncio.get_running_loop()

    def trim(vm: VmProcess) -> None:
        if vm.pid == 2:
            raise OSError(errno.EIO, "I/O error")
        cut[0] += 1
        if cut[0] == 3:
            loop.call_soon_threadsafe(thrice.set)

    monkeypatch.setattr(consoles, "TRIM_S", 0.001)
    monkeypatch.setattr(VmProcess, "trim_console", trim)
    of_all = Consoles()
    with of_all.kept_short(VmProcess(2, 1, "/bad")), of_all.kept_short(VmProcess(3, 1, "/good")):
        async with asyncio.timeout(10 * PATIENCE):
            await thrice.wait()
    assert {record.__dict__["console"] for record in caplog.records if record.msg == "pod.console"} == {"/bad"}
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
