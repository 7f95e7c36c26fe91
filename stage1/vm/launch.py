# SPDX-License-Identifier: Apache-2.0
"""Runs the program `jailer`, which makes a VMM our child in its jail (images/jailer/README.md). Called by
starter.ProcessVmm with the launch description of `jail.py`. Rolled back when that fails.
"""

import os
from collections.abc import Mapping

from stage1.errors import PodError, VmFailed
from stage1.linux import process
from stage1.linux.libc import Guard

_SPEC_FD, _RESULT_FD = 3, 4
_DEATH_S = 10.0
_MORE = "`clearpod check` lists what this host lacks"


def launch(jailer: str, description: bytes, *, descriptors: Mapping[int, int], name: str) -> int:
    """The pid of the VMM, a child of the calling thread, or of what joins a VMM, which is that VMM's child. It has
    `descriptors`, of ours, under the numbers in front.

    `name` is a word by which the jailer is found as long as it runs. Raises VmFailed, KernelError.
    """
    if not os.access(jailer, os.X_OK):
        raise VmFailed(f"{jailer or 'the jailer'} is not an executable; build it with `clearpod images build`")
    text = _run(jailer, description, descriptors=descriptors, name=name)
    pid, is_started, why = parse(text)
    if is_started:
        return pid
    if pid:
        _reap(pid)
    raise VmFailed(f"the VMM's jail can't be set up: {why or 'the jailer was killed'}; {_MORE}")


def parse(text: str) -> tuple[int, bool, str]:
    """The answer of the jailer: the pid of its child or 0, whether that is the VMM now, and why not."""
    pid, is_started, why = 0, False, ""
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "pid" and rest.isdigit():
            pid = int(rest)
        elif word == "ok":
            is_started = pid > 0
        elif word == "failed":
            why = rest
    return pid, is_started, why


def _run(jailer: str, description: bytes, *, descriptors: Mapping[int, int], name: str) -> str:
    spec, read, write = _written(description), -1, -1
    try:
        ((read, write),) = process.pipes(1, "the answer of the jailer")
        argv = [jailer, str(_SPEC_FD), str(_RESULT_FD), name]
        pid = process.spawn_with(argv, {**descriptors, _SPEC_FD: spec, _RESULT_FD: write}, env={})
        with process.hold(pid) as handle:
            os.close(write)
            write = -1
            try:
                return _all(read)
            finally:
                handle.kill()  # it has ended, unless we are interrupted
                handle.wait(_DEATH_S)
    finally:
        for fd in (spec, read, write):
            if fd >= 0:
                os.close(fd)


def _written(description: bytes) -> int:
    with Guard("memfd_create", "a launch description"):
        fd = os.memfd_create("launch", os.MFD_CLOEXEC)
        os.write(fd, description)
    return fd


def _all(fd: int) -> str:
    """The data until jailer and child have closed the pipe: one at its end, the other when it becomes the VMM."""
    text = b""
    while part := os.read(fd, 4096):
        text += part
    return text.decode(errors="replace")


def _reap(pid: int) -> None:
    """Reap the child, which ends without its jailer."""
    try:
        with process.hold(pid) as handle:
            handle.kill()
            handle.wait(_DEATH_S)
    except (PodError, ProcessLookupError):
        return
