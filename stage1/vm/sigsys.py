# SPDX-License-Identifier: Apache-2.0
"""Whether a VMM was ended by its filter of system calls, and at which call, as a phrase for an error or a log.

Called by the starter and by the pod's own task once a VMM has ended. Reads the kernel's log and changes nothing. Where
it can't be read, or an audit daemon takes the records, the phrase lacks the number. It may wait `_WAIT_S`.
"""

import contextlib
import os
import re
import select
import time
from collections.abc import Callable, Iterator

from stage1.errors import KernelError
from stage1.linux import host

SIGSYS_CODE = 128 + 31
"""`PidHandle.exit_code` of a process that was ended by signal 31."""
LOG = "/dev/kmsg"

_WAIT_S = 0.3
"""The kernel writes the record down after the process has ended."""
_RECORD_BYTES, _RECENT_BYTES = 8192, 1 << 16
"""Of one record, and of all that are older than the question: a node that has run for months keeps many megabytes."""
_CLOCK_SLACK_S = 2.0
_RECORD = re.compile(
    r"type=1326 audit\((?P<when>\d+)\.\d+:\d+\):.* pid=(?P<pid>\d+) .* sig=31 "
    r"arch=(?P<arch>[0-9a-f]+) syscall=(?P<call>\d+)"
)
_ARCHITECTURES = {"c000003e": "x86-64", "40000003": "i386"}


def is_possible(code: int | None) -> bool:
    """Whether a VMM with this exit code may have been ended by its filter; None is that of no child of ours."""
    return code in (None, SIGSYS_CODE)


def explain(
    pid: int, started: int, *, code: int | None, log: str = LOG, recent: Callable[[int], str] = host.recent_log
) -> str:
    """A phrase that begins with ": ", empty if the filter did not kill the VMM or it is unknown.

    `started` is its `process.start_time`. `code` is None when it was no child of ours; then only the log tells, by what
    is `recent` in it.
    """
    if not is_possible(code):
        return ""
    call = _find(_records(log, _WAIT_S if code else 0, recent=recent), pid, since=_epoch(started))
    if not call and code is None:
        return ""
    return f": it was killed by its seccomp filter (signal 31, SIGSYS){call}"


def _epoch(started: int) -> float:
    """Clock ticks since the boot as seconds since 1970, a little earlier."""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
    return time.time() - age_s - _CLOCK_SLACK_S


def _find(records: Iterator[str], pid: int, *, since: float) -> str:
    for text in records:
        for match in _RECORD.finditer(text):
            if int(match["pid"]) == pid and int(match["when"]) >= since:
                kind = _ARCHITECTURES.get(match["arch"], f"architecture {match['arch']}")
                return f" at call {match['call']} of {kind}"
    return ""


def _records(log: str, wait_s: float, *, recent: Callable[[int], str]) -> Iterator[str]:
    """The newest records of the log, and those of the next `wait_s`. Ends early if it can't be read."""
    try:
        fd = os.open(log, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    deadline = time.monotonic() + wait_s
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    try:
        os.lseek(fd, 0, os.SEEK_END)  # before we ask for what is there, so that nothing is missed
        with contextlib.suppress(KernelError):
            yield recent(_RECENT_BYTES)
        while True:
            try:
                text = os.read(fd, _RECORD_BYTES)
                if not text:
                    return
                yield text.decode(errors="replace")
            except BlockingIOError:
                left_s = deadline - time.monotonic()
                if left_s <= 0 or not poll.poll(left_s * 1000):
                    return
            except BrokenPipeError:
                continue  # records were overwritten while we read; the next read continues after them
            except OSError:
                return
    finally:
        os.close(fd)
