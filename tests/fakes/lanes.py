# SPDX-License-Identifier: Apache-2.0
"""Which process runs which file of tests when they run side by side. For tests/conftest.py.

Two processes that compute are enough for two processors in the beginning: further ones begin with what mostly waits.
"""

from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import WorkerController

from tests.fakes.run_order import WAITING

COMPUTE = 2
"""Processes that begin with files that compute."""
STYLE = "tests/style/"
APART = "tests/style/test_linters.py"
"""The only file there that starts programs; all others read the same sources, which one process parses once."""


class Lanes(LoadFileScheduling):
    """As its base, files in the order of the collection, but each process prefers those of its lane, and the tests of
    style are as one file.
    """

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return STYLE if file.startswith(STYLE) and file != APART else file

    def _assign_work_unit(self, node: WorkerController) -> None:
        waits = int(node.gateway.id.removeprefix("gw")) >= COMPUTE
        if file := next((file for file in self.workqueue if is_waiting(file) == waits), ""):
            self.workqueue.move_to_end(file, last=False)
        super()._assign_work_unit(node)


def is_waiting(path: str) -> bool:
    """Whether a file, by its path in the checkout, mostly waits."""
    return path.removeprefix("tests/").removesuffix(".py") in WAITING
