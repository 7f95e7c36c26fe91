# SPDX-License-Identifier: Apache-2.0
"""The first answer of a guest's agent, awaited not longer than its VM lives. Called by `LivePod.meet`."""

import asyncio

from cri.agent import Agent
from cri.live.vm_end import CONSOLE_LINES
from stage1.errors import VmFailed
from stage1.guest.messages import Hello
from stage1.vm.vmm import VmProcess


async def first_hello(agent: Agent, gone: asyncio.Event, *, vm: VmProcess | None, limit_s: float, title: str) -> Hello:
    """Open the link; return the agent's hello. Raises VmFailed, with the console's last lines, when the limit is over
    or `gone` is set, which is the end of the VM.
    """
    hello, end = asyncio.ensure_future(agent.open()), asyncio.ensure_future(gone.wait())
    try:
        await asyncio.wait({hello, end}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if not hello.done():
            late = "" if gone.is_set() else f"sent no hello within {round(limit_s, 1):g} s of its start"
            raise VmFailed(await asyncio.to_thread(_silence, vm, late, title=title))
        return hello.result()
    finally:
        hello.cancel()
        end.cancel()


def _silence(vm: VmProcess | None, late: str, *, title: str) -> str:
    """The sentence about a guest without hello; `late` is empty when it has ended. Blocks."""
    console = vm.console_tail(CONSOLE_LINES).strip() if vm else ""
    what = late or "ended before its agent answered"
    return f"the virtual machine of {title} {what}; its console ends with: {console or '(nothing)'}"
