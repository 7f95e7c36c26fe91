# SPDX-License-Identifier: Apache-2.0
"""The frequency of this host's time stamp counter. Called by the engine for VMs that are emulated.

TCG passes the host's counter on to the guest, but not its frequency. A guest that measures it on a busy host gets it
wrong and falls back to timer ticks, some of which it loses.
"""

import ctypes
import mmap
import os
import time
from collections.abc import Callable

from stage1.linux import files

Sample = tuple[int, int]
"""The counter, and CLOCK_MONOTONIC in nanoseconds, at one moment."""


_RDTSC = bytes.fromhex("0f31 48c1e220 4809d0 c3")  # rdtsc; shl rdx,32; or rax,rdx; ret
_BASELINE_S = 0.02
_READINGS = 20
_TOLERANCE = 2e-4
_DIGITS = 10


_known, _file = 0, ""


def use_file(path: str) -> None:
    """Let processes that live for one pod share what the first of them measures. The file must not outlive the boot."""
    global _file  # noqa: PLW0603  as below
    _file = path


def khz() -> int:
    """The frequency in kHz; 0 where it can't be measured. The first call takes 40 ms, later ones nothing."""
    global _known  # noqa: PLW0603  it does not change
    _known = _known or _kept()
    if not _known and (read := _reader()):
        _known = measured(lambda: _sample(read), time.sleep)
        if _known and _file:
            files.make_dirs(os.path.dirname(_file), 0o711)
            files.write_atomic(_file, b"%d\n" % _known)
    return _known


def _kept() -> int:
    """0 when there is no file, or nonsense in it."""
    try:
        text = files.read(_file).strip() if _file else b""
    except FileNotFoundError:
        return 0
    return int(text) if text.isdigit() and len(text) < _DIGITS else 0


def measured(sample: Callable[[], Sample], sleep: Callable[[float], None]) -> int:
    """The frequency in kHz from samples with pauses between them; 0 when two pauses give different ones."""
    first = sample()
    sleep(_BASELINE_S)
    middle = sample()
    sleep(_BASELINE_S)
    last = sample()
    one, two, all_ = (_rate(*ends) for ends in ((first, middle), (middle, last), (first, last)))
    return round(all_) if all_ > 0 and abs(one - two) <= _TOLERANCE * all_ else 0


def _rate(begin: Sample, end: Sample) -> float:
    return (end[0] - begin[0]) * 1e6 / (end[1] - begin[1])


def _sample(read: Callable[[], int]) -> Sample:
    """Read the counter several times and return the reading during which the least time passed: others were
    interrupted.
    """
    best = (1 << 62, 0, 0)
    for _ in range(_READINGS):
        before, counter, after = time.monotonic_ns(), read(), time.monotonic_ns()
        best = min(best, (after - before, counter, (before + after) // 2))
    return best[1], best[2]


def _reader() -> Callable[[], int] | None:
    """A function that reads the counter; None on other machines, and where no memory may be made executable."""
    if os.uname().machine != "x86_64":
        return None

    try:
        page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    except OSError:
        return None
    page.write(_RDTSC)
    held = ctypes.c_char.from_buffer(page)
    function = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(held))

    def read(page: object = held) -> int:  # whoever has the function has the page
        return int(function())

    return read
