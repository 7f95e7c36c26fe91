# SPDX-License-Identifier: Apache-2.0
"""The end of a program that writes more than anybody wants to read."""

import asyncio
import os
import signal

import pytest

from cri.image.skopeo import kill_group
from tests.fakes.patience import PATIENCE


async def test_a_program_is_reaped_although_its_output_was_not_read() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec("cat", "/dev/zero", stdout=pipe, start_new_session=True)
    assert process.stdout
    await process.stdout.read(1)
    await asyncio.sleep(0.2)  # its stream is full now, and not read any more
    async with asyncio.timeout(10 * PATIENCE):
        await kill_group(process)
        await kill_group(process)
    assert process.returncode == -signal.SIGKILL


async def test_pipes_are_closed_when_the_wait_for_their_end_is_cancelled() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000", stdout=pipe, start_new_session=True
    )
    assert process.stdout
    child = int(await process.stdout.readline())
    try:
        ending = asyncio.create_task(kill_group(process))
        await asyncio.sleep(0.1)  # it has killed its group, and waits for a child that is in none
        ending.cancel()
        async with asyncio.timeout(10 * PATIENCE):
            with pytest.raises(asyncio.CancelledError):
                await ending
            assert await process.stdout.read() == b""
            await process.wait()
    finally:
        os.kill(child, signal.SIGKILL)


async def test_pipes_that_a_child_keeps_open_are_closed_when_the_process_has_ended() -> None:
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", "sleep 1000 & echo $!", stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
    )
    assert process.stdout and process.stderr
    child = int(await process.stdout.readline())
    try:
        async with asyncio.timeout(10 * PATIENCE):
            while process.returncode is None:
                await asyncio.sleep(0.01)
        await kill_group(process)
        async with asyncio.timeout(10 * PATIENCE):
            assert (await process.stdout.read(), await process.stderr.read()) == (b"", b"")
    finally:
        os.kill(child, signal.SIGKILL)
