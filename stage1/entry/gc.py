# SPDX-License-Identifier: Apache-2.0
"""`gc`: takes away what a pod that has ended left outside of its directory. rkt unmounts and removes the directory.

rkt does that whatever happens here, so each step is tried though another failed; and any may find its work done,
or never begun.
"""

import os

from stage1 import engine
from stage1.entry import door
from stage1.errors import PodError
from stage1.rkt import arguments, leftovers, machine, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def main(argv: list[str]) -> int:
    """Called with the pod's directory, now in exited-garbage, as working directory; 1 if something stayed."""
    options = arguments.gc(argv)
    problems = [*_collect(os.getcwd(), options.uuid)]
    door.say("gc", *options.warnings, *problems)
    return 1 if problems else 0


def _collect(pod_dir: str, uuid: str) -> "Iterator[str]":
    """A sentence for each thing that stayed."""
    for step in (
        lambda: leftovers.end(pod_dir),
        lambda: engine.collect(machine.place(uuid)),
        lambda: network.detach(pod_dir),
    ):
        try:
            if owed := step():
                yield owed
        except PodError as error:
            yield str(error)
    yield from network.sweep(pod_dir)
    yield from machine.sweep()
