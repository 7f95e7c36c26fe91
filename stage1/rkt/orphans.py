# SPDX-License-Identifier: Apache-2.0
"""Processes of a pod that has ended: a VMM whose launcher was killed, a program of ours that hung. Called by gc.

They are found in /proc and not by records alone, since a process may have been killed before it wrote its record. A
process counts by the program that it runs: one of the pod's own stage1, or a VMM with the pod's directory among its
arguments. A shell or an editor with that directory on its command line does not count.
"""

import os

from stage1.errors import NotFound, PodError
from stage1.linux import process
from stage1.rkt import directory
from stage1.vm import vmm

_DEATH_S = 10.0


def find(pod_dir: str) -> list[tuple[int, int]]:
    """(pid, start time) of each; this process is not among them."""
    roots, stored = directory.roots(pod_dir), directory.stored_root(pod_dir)
    processes = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        if not _belongs(name, roots, stored=stored, uuid=directory.uuid(pod_dir)):
            continue
        try:
            processes.append((int(name), process.start_time(int(name))))
        except NotFound:
            continue
    return processes


def _belongs(pid: str, roots: tuple[str, ...], *, stored: str, uuid: str) -> bool:
    try:
        # Where the program lies now, also when rkt has moved the pod since; of a VMM in its jail, where it lay then.
        program = os.readlink(f"/proc/{pid}/exe")
    except OSError:
        return False
    if program.startswith(roots):
        return True
    # `enter` runs from rkt's store, which all pods share, and so does what it starts.
    is_known = vmm.is_vmm(program) or program.startswith(f"{stored}/")
    return is_known and any(uuid in word for word in vmm.command_line(pid)[1:])


def end(pod_dir: str) -> None:
    """Kill them all, and wait until they are gone. Idempotent. Raises PodError when the kernel can't end one."""
    for pid, started in find(pod_dir):
        handle = process.open_process(pid, started)
        if handle is None:
            continue
        with handle:
            handle.kill()
            if not handle.wait(_DEATH_S):
                raise PodError(f"the process {pid} of the pod did not end within {_DEATH_S:g} s of SIGKILL")
