# SPDX-License-Identifier: Apache-2.0
"""Long work in the lab to its end, in a new machine each time that the emulated one breaks under it.

Used by `suite` and by the benchmarks. QEMU's emulation of SVM is not sound: now and then the machine panics, stands
still, does not come up or is gone, whatever runs in it. So the work must leave outside what it has done.
"""

from collections import Counter
from collections.abc import Callable

from tests.lab.state import LabError

TRIES = 3
"""A machine may break so often in one piece of the work."""
MACHINES = 12


def finish(
    work: Callable[[], int], left: Callable[[], list[str]], *, up: Callable[[], object], down: Callable[[], object]
) -> int:
    """The exit code of `work`, which does what is `left`, in that order. Raises LabError when it breaks too often, and
    when the first machine does not come up: that is no chance."""
    breaks: Counter[str] = Counter()
    up()
    while True:
        try:
            if breaks:
                up()
            return work()
        except LabError as error:
            names = left()
            breaks[names[0] if names else ""] += 1
            if not names or breaks[names[0]] == TRIES or breaks.total() == MACHINES:
                raise
            print(f"\nlab: {error}\nlab: it broke in {names[0]}; a new machine for the {len(names)} left", flush=True)
            down()
