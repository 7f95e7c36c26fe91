# SPDX-License-Identifier: Apache-2.0
"""Network namespaces made ahead of the pods that will have them: a kernel with many of them takes its time.

For a warm pool: `prepare` when nobody waits, `hand_out` when a pod comes (attach does, when it is given a spare),
`drop` otherwise. A spare has its loopback up and nothing else: taps are named after devices that plugins have yet to
make, in a batch that runs anyway, so they would save nothing.
"""

import os

from stage1.linux import mount, namespace, process
from stage1.linux.libc import Guard

_DIRECTORY, _PREFIX = "/run/netns", "clearpod-spare-"


def prepare(count: int = 1) -> tuple[str, ...]:
    """Make so many spares; their paths. Undo: `drop`. Raises KernelError with nothing left."""
    made: list[str] = []
    try:
        for _ in range(count):
            path = f"{_DIRECTORY}/{_PREFIX}{os.urandom(8).hex()}"
            namespace.make_net(path)
            made.append(path)
            with namespace.inside_net(path):
                process.run(["ip", "link", "set", "dev", "lo", "up"], timeout_s=10)
    except BaseException:
        drop(made)
        raise
    return tuple(made)


def hand_out(spare: str, path: str) -> None:
    """Keep the netns of `spare` at `path` from now on; a spare that is gone is replaced by a new netns.

    Undo: `namespace.remove_net(path)`. Raises KernelError, with nothing at `path`, also when `path` exists.
    """
    if not namespace.is_net(spare):
        return namespace.make_net(path)
    with Guard("make", path):
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444))
    try:
        mount.bind(spare, path)
    except BaseException:
        os.unlink(path)
        raise
    return namespace.remove_net(spare)


def drop(spares: "tuple[str, ...] | list[str]") -> None:
    """Let go of spares; those that are gone or were handed out are fine."""
    for path in spares:
        namespace.remove_net(path)


def left() -> tuple[str, ...]:
    """All spares on this machine: what a maker that died has left, for `drop`. One daemon per machine makes some."""
    try:
        names = sorted(os.listdir(_DIRECTORY))
    except FileNotFoundError:
        return ()
    return tuple(f"{_DIRECTORY}/{name}" for name in names if name.startswith(_PREFIX))
