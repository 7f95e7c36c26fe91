# SPDX-License-Identifier: Apache-2.0
"""`gc`: takes away what a pod that has ended left outside of its directory. rkt unmounts and removes the directory.

rkt does that whatever happens here, so each step is tried though another failed; and any may find its work done,
or never begun.
"""

import os

from stage1.entry import door
from stage1.errors import PodError
from stage1.rkt import arguments, leftovers, network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def main(argv: list[str]) -> int:
    """Called with the pod's directory, now in exited-garbage, as working directory; 1 if something stayed."""
    options = arguments.gc(argv)
    problems = [*_collect(os.getcwd())]
    door.say("gc", *options.warnings, *problems)
    return 1 if problems else 0


def _collect(pod_dir: str) -> "Iterator[str]":
    """A sentence for each thing that stayed."""
    try:
        leftovers.end(pod_dir)
    except PodError as error:
        yield str(error)
    try:
        if owed := network.detach(pod_dir):
            yield owed
    except PodError as error:
        yield str(error)
    yield from network.sweep(pod_dir)
