# SPDX-License-Identifier: Apache-2.0
"""Files on directories of the host that the host shortens while a pod has them open: a read ends where the file ends.

Linux 6.12 repeats such a read for ever, in the kernel; see images/kernel/changes.toml.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from stage1.pod.model import HOST_TO_CONTAINER, Mount
from tests.fakes.patience import PATIENCE
from tests.vm.test_confinement import Machine, booted, machine, output_of, started

pytestmark = [pytest.mark.vm, pytest.mark.timeout(120 * PATIENCE)]

__all__ = ["machine"]
PAGES = 5 * 4096
WAIT = "echo >go; while [ -e go ]; do sleep 0.1; done; sleep 1.1"
"""A guest believes for a second what it knows of a file."""
READ = "dd bs=1M 2>/dev/null <&3"
"""By read(2): sendfile(2), which `cat` calls, is given what is cached until somebody asks for the attributes."""


def _volume(machine: Machine) -> Mount:
    return Mount(str(machine.volume), "/data", propagation=HOST_TO_CONTAINER)


async def _meanwhile(path: Path, script: str, pod: Any, main: Any, *, size: int) -> str:
    """What the script writes, which makes `go` when it has the file open, and goes on when `go` is gone."""
    running = asyncio.create_task(output_of(pod, main, script))
    while not (path.parent / "go").exists() and not running.done():
        await asyncio.sleep(0.05)
    os.truncate(path, size)
    (path.parent / "go").unlink()
    return await running


async def test_a_read_ends_where_the_file_ends_now(machine: Machine) -> None:
    long = machine.volume / "long"
    async with booted(machine) as pod:
        main = await started(pod, machine.image, _volume(machine))
        long.write_text("123456789")
        script = f"cd /data; exec 3<long; {WAIT}; {READ}"
        assert await _meanwhile(long, script, pod, main, size=3) == "123"

        long.write_bytes(b"x" * PAGES)
        script = f"cd /data; exec 3<long; head -c 4096 <&3 >/dev/null; {WAIT}; {READ} | wc -c"
        assert await _meanwhile(long, script, pod, main, size=4096 + 7) == "7", "in the middle of a page"

        long.write_bytes(b"x" * PAGES)
        script = f"cd /data; exec 3<long; head -c {PAGES - 4096} <&3 >/dev/null; {WAIT}; {READ} | wc -c"
        assert await _meanwhile(long, script, pod, main, size=0) == "0", "beyond the new end"
        assert await output_of(pod, main, "wc -c </data/long") == "0"


async def test_a_file_that_is_written_to_meanwhile_is_read_as_it_is(machine: Machine) -> None:
    long = machine.volume / "long"
    async with booted(machine) as pod:
        main = await started(pod, machine.image, _volume(machine))
        long.write_bytes(b"x" * PAGES)
        script = f"cd /data; exec 3<>long; {WAIT}; printf end >>long; cat <&3"
        assert await _meanwhile(long, script, pod, main, size=2) == "xxend"
        assert long.read_bytes() == b"xxend"
