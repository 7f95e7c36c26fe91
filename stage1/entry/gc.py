# SPDX-License-Identifier: Apache-2.0
"""`gc`: removes what an ended pod left outside of its directory. rkt unmounts and removes the directory.

rkt does that in any case, so each step is tried though another failed; each is idempotent, also when it was never
begun.
"""

import os
from collections.abc import Callable, Iterator

from stage1 import engine
from stage1.entry import dispatch, templating
from stage1.errors import PodError
from stage1.rkt import arguments, copies, machine, network, orphans


def main(argv: list[str]) -> int:
    """Called with the pod's directory, now in exited-garbage, as working directory; 1 if something of it stayed."""
    options = arguments.gc(argv)
    pod_dir = os.getcwd()
    problems = [*_clean_up(pod_dir, options.uuid)]
    dispatch.report("gc", *options.warnings, *problems, *_of_others(pod_dir), *_template(pod_dir))
    return 1 if problems else 0


def _clean_up(pod_dir: str, uuid: str) -> Iterator[str]:
    """A sentence for each thing of the pod's that stayed."""
    yield from _tried(lambda: orphans.end(pod_dir))
    yield from _tried(lambda: engine.clean_up(machine.place(uuid)))
    yield from _tried(lambda: network.detach(pod_dir))


def _of_others(pod_dir: str) -> Iterator[str]:
    """The same of pods that are gone. They are no failure of this one's gc, nor of rkt's."""
    yield from _tried(lambda: network.collect_garbage(pod_dir))
    yield from _tried(machine.collect_garbage)


def _template(pod_dir: str) -> list[str]:
    """Make the template that the pod could have been a copy of, where that is allowed. Returns problems."""
    top = machine.templates(pod_dir)
    if not top or not (os.path.isdir(top) or os.path.exists(f"{pod_dir}/{copies.MISSING}")):
        return []

    return _tried(lambda: templating.make(pod_dir, top))


def _tried(step: Callable[[], str | list[str] | None]) -> list[str]:
    try:
        problems = step() or []
    except PodError as error:
        return [str(error)]
    except OSError as error:
        return [dispatch.sentence(error)]
    return [problems] if isinstance(problems, str) else problems
