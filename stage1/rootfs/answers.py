# SPDX-License-Identifier: Apache-2.0
"""The protocol between the confined process and its caller. Used by `confined` and `child`; constants only."""

from stage1 import errors
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import OverLimit

KINDS: dict[str, type[errors.PodError]] = {
    "Corrupt": Corrupt,
    "OverLimit": OverLimit,
    "BadRequest": errors.BadRequest,
    "NotFound": errors.NotFound,
    "Unsupported": errors.Unsupported,
    "NoSpace": errors.NoSpace,
    "TimedOut": errors.TimedOut,
}
"""The errors that the process may return."""

MEMORY = "Memory"
"""Instead of one of these: its memory did not suffice."""

INTERNAL = "Internal"
"""Instead of one of these: it met an unexpected error, which its sentence describes."""

LENGTH_DIGITS = 12
"""Digits of each length on a worker's pipes: a question begins with the lengths of its arguments and its data, and an
answer with its own."""

DESCRIPTORS = 5
"""Of a request to the fork server: where a child's end is told, its standard input, output and errors, and a file that
says what it shall do."""
