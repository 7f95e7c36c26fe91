# SPDX-License-Identifier: Apache-2.0
"""What was freed goes back to the kernel, and only a process that has grown is trimmed. In a process of its own, with
one heap as the daemon has.
"""

import subprocess
import sys

import pytest

from stage1.linux import heap
from tests.fakes.patience import PATIENCE

FREED = """
import ctypes
from stage1.linux import heap
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
heap.use_one_heap()
trimmer = heap.Trimmer()
assert trimmer.is_due()
trimmer.trim()
assert not trimmer.is_due()
blocks = []
for number in range(8000):  # each fourth one stays, so that nothing but a trim gives the others back
    blocks.append(libc.malloc(4000))
    ctypes.memset(blocks[-1], 1, 4000)
full = heap.private_bytes()
for number, block in enumerate(blocks):
    if number % 4:
        libc.free(block)
kept = heap.private_bytes()
assert trimmer.is_due()
trimmer.trim()
left = heap.private_bytes()
assert not trimmer.is_due()
print(full, kept, left)
"""


def test_what_was_freed_between_what_stays_goes_back_to_the_kernel() -> None:
    argv = [sys.executable, "-c", FREED]
    ended = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=30 * PATIENCE)
    full, kept, left = map(int, ended.stdout.split())
    assert full - kept < 4 << 20, "the allocator keeps it"
    assert full - left > 12 << 20


def test_a_process_that_has_not_grown_since_it_was_smallest_is_not_trimmed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = iter([50, 50, 50.9, 48, 48.9, 49, 55, 55, 55.5])
    monkeypatch.setattr(heap, "private_bytes", lambda: int(next(sizes) * (1 << 20)))
    monkeypatch.setattr(heap, "trim", lambda: None)
    monkeypatch.setattr(heap.mapped, "release", lambda: None)
    one = heap.Trimmer()
    assert one.is_due()
    one.trim()
    assert [one.is_due() for _ in range(5)] == [False, False, False, True, True]
    one.trim()
    assert not one.is_due()
