# SPDX-License-Identifier: Apache-2.0
"""The end of a program that writes more than anybody wants to read."""

import asyncio
import signal

from cri.image.skopeo import kill_group
from tests.fakes.patience import PATIENCE


async def test_a_program_is_reaped_whatever_it_had_still_to_say() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("cat", "/dev/zero", stdout=pipe, start_new_session=True)
    assert process.stdout
    await process.stdout.read(1)
    await asyncio.sleep(0.2)  # its stream is full now, and not read any more
    async with asyncio.timeout(10 * PATIENCE):
        await kill_group(process)
        await kill_group(process)
    assert process.returncode == -signal.SIGKILL
