# SPDX-License-Identifier: Apache-2.0
"""The sentence about a virtual machine that has ended, with a process of ours in the VMM's place."""

import logging
import os
import signal

import pytest

from cri.live import vm_end as ended
from stage1.linux import process
from stage1.vm.vmm import VmProcess
from tests.fakes.patience import PATIENCE

TITLE = "pod default/web"


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (signal.SIGSYS, f"the virtual machine of {TITLE} has ended: it was killed by its seccomp filter (signal 31"),
        (signal.SIGKILL, f"the virtual machine of {TITLE} has ended"),
    ],
    ids=["by its filter", "by a kill"],
)
async def test_the_end_is_reported_and_a_kill_by_the_filter_is_an_error(
    number: signal.Signals, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    pid = process.spawn(["/bin/sleep", "1000"], stdout=1, stderr=2, env={})
    vm = VmProcess(pid, process.start_time(pid), "/console")
    with process.PidHandle(pid, os.pidfd_open(pid)) as handle:
        handle.kill(number)
        assert handle.wait(30 * PATIENCE)
    with caplog.at_level(logging.ERROR, "clearpod.pod"):
        output = await ended.sentence(vm, handle, title=TITLE)
    assert output.startswith(why) and ("(" in output) == (number == signal.SIGSYS)
    assert [record.msg for record in caplog.records] == (["pod.filtered"] if number == signal.SIGSYS else [])


async def test_a_vmm_that_was_gone_before_the_check_has_ended_without_a_reason() -> None:
    output = await ended.sentence(VmProcess(2**22 + 1, 0, "/console"), None, title=TITLE)
    assert TITLE in output and "ended" in output and "(" not in output
