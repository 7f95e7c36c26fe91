# SPDX-License-Identifier: Apache-2.0
"""The CPU affinity of a process's threads. See sched_setaffinity(2) and cpuset(7). Called by `cri.live.cpus` for
VMMs, and to validate such a list. It does not decide who runs where.
"""

import os
import re
from collections.abc import Iterable

from stage1.errors import WrongState
from stage1.linux import files, process

PRESENT = "/sys/devices/system/cpu/present"
LIST = re.compile("[0-9]{1,5}(-[0-9]{1,5})?(,[0-9]{1,5}(-[0-9]{1,5})?)*")
_ROUNDS = 16


def parse(text: str) -> frozenset[int]:
    """The numbers of a list such as 0-2,5, which matches LIST."""
    numbers: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return frozenset(numbers)


def present() -> frozenset[int]:
    """The host's processors, those that are offline among them."""
    try:
        return parse(files.read(PRESENT).decode().strip())
    except FileNotFoundError:
        return frozenset(os.sched_getaffinity(0))


def pin(pid: int, start_time: int, cpus: Iterable[int]) -> bool:
    """Let all threads of a process run on `cpus` only, and those that it will make; false when it has ended.

    Raises WrongState when the kernel does not want that, as for processors that are all offline.
    """
    handle = process.open_process(pid, start_time)
    if handle is None:
        return False
    processors, done = sorted(cpus), set[str]()
    with handle:
        for _ in range(_ROUNDS):  # a thread that was not pinned yet may have made others
            try:
                new = set(os.listdir(f"/proc/{pid}/task")) - done
            except FileNotFoundError:
                return False
            if not new:
                break
            for thread in new:
                _pin_one(int(thread), processors)
            done |= new
    return True


def _pin_one(thread: int, cpus: list[int]) -> None:
    try:
        os.sched_setaffinity(thread, cpus)
    except ProcessLookupError:
        return
    except OSError as error:
        shown = ",".join(map(str, cpus))[:200]
        why = f"{error.strerror}; choose processors of this host"
        raise WrongState(f"no virtual machine can be bound to the processors {shown}: {why}") from None
