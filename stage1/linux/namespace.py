# SPDX-License-Identifier: Apache-2.0
"""Namespaces: leave, join. Python 3.11 has neither call. Used by tests, network set-up and the jail."""

from stage1.linux import libc

NEW_NS = 0x00020000
NEW_NET = 0x40000000


def unshare(flags: int) -> None:
    """Give the calling thread new namespaces, NEW_* joined by |. Raises KernelError."""
    libc.call("unshare", flags, what=f"flags={flags:#x}")


def setns(fd: int, kind: int) -> None:
    """Move the calling thread into the namespace (or pidfd) `fd`; `kind` as in NEW_*, 0 for any."""
    libc.call("setns", fd, kind, what=f"descriptor {fd} kind={kind:#x}")
