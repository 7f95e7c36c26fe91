# SPDX-License-Identifier: Apache-2.0
"""Settings of the C library's allocator for this process. Called by the daemon, before it has threads."""

_M_ARENA_MAX = -8


def use_one_heap() -> None:
    """Have all threads share one heap. By default glibc gives some of them others, which keep what was freed
    there: a tenth of the daemon's memory.
    """
    import ctypes

    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):  # musl has none
        mallopt(_M_ARENA_MAX, 1)
