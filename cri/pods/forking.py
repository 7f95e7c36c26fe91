# SPDX-License-Identifier: Apache-2.0
"""Which pod another one may be a copy of, and the copying by a directory for what is saved, which does not stay. Called
by RunPodSandbox and ForkPod.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from cri.live import copies
from cri.pb.runtime_pb2 import PodSandboxConfig
from cri.policy import FORK_OF, FORKABLE
from cri.threads import await_end, run_uncancellable
from stage1.errors import BadRequest, NotFound, PodError, WrongState
from stage1.pod import states
from stage1.snapshot import save

if TYPE_CHECKING:
    from cri.live.pod import LivePod
    from cri.pods.table import BringUp, PodTable
    from cri.store.images import ImageStore
    from cri.store.pods import PodRecord
    from stage1.engine import Host

log = logging.getLogger("clearpod.pods")

LEAST_PREFIX = 6
"""The shortest prefix of an id that names a pod."""
_SHOWN = 80
"""Characters of an annotation in a sentence."""


def original(pods: "Iterable[LivePod]", word: str, *, namespace: str) -> "LivePod":
    """The pod of that name or id in the namespace. Raises NotFound, BadRequest when there are several."""
    own = [pod for pod in pods if pod.record.pod.namespace == namespace and pod.status.state == states.READY]
    matches = [pod for pod in own if pod.record.pod.name == word]
    if not matches and len(word) >= LEAST_PREFIX:
        matches = [pod for pod in own if pod.id.startswith(word)]
    if not matches:
        raise NotFound(f"no pod {word[:_SHOWN]!r} that could be copied runs in the namespace {namespace!r}")
    if len(matches) > 1:
        raise BadRequest(
            f"{len(matches)} pods of the namespace {namespace!r} are called {word[:_SHOWN]!r}; give the id of one"
        )
    return matches[0]


def blocker(pod: "LivePod") -> str:
    """Why no other pod can be a copy of this one now, as a sentence; empty when one can."""
    if pod.config.annotations.get(FORKABLE) != "true":
        return f"{pod.title} does not consent to be copied: it was not created with the annotation {FORKABLE}"
    return copies.blocker(pod)


def require(pod: "LivePod") -> None:
    """Raise WrongState with the blocker when it can't be copied."""
    if why := blocker(pod):
        raise WrongState(why)


@asynccontextmanager
async def being_saved(pod: "LivePod", images: "ImageStore", *, name: str) -> "AsyncIterator[tuple[str, copies.Saving]]":
    """The pod is saved, from now on, in a directory of that `name`, which is there as long as the block runs; the task
    that does it, which is over then, raises as `copies.save`.
    """
    path, written = f"{pod.tools.host.state_dir}/{save.FORKS}/{name}", asyncio.Event()
    work = copies.save(pod, images, path=path, written=written)
    task = asyncio.get_running_loop().create_task(work, name=f"copy of {pod.title}")
    try:
        yield path, copies.Saving(pod.network.interfaces if pod.network else (), task, written)
    finally:
        await await_end(task)  # whoever failed before it did not ask for its result
        await run_uncancellable(_remove, path)


def _remove(path: str) -> None:
    try:
        save.remove(path)
    except PodError as error:
        log.warning("fork.cleanup_failed", extra={"path": path, "error": str(error)})


def of_request(record: "PodRecord", pods: "PodTable", *, images: "ImageStore") -> "BringUp | None":
    """The function that brings the requested pod up, if it is to be a copy: its VM starts while the original is
    saved. It raises what `original`, `require`, `copies.save` and `copies.bring_up` raise.
    """
    word = PodSandboxConfig.FromString(record.config).annotations.get(FORK_OF, "")

    async def bring_up(copy: "LivePod") -> None:
        former = original(pods.pods(), word, namespace=record.pod.namespace)
        await pods.adopted(former.id, "")  # a daemon that has just begun does not know its guest yet
        require(former)
        async with being_saved(former, images, name=copy.id) as (path, saving):
            await copies.bring_up(copy, path, saving=saving)

    return bring_up if word else None


async def forget_old(host: "Host") -> None:
    """Remove what a daemon has left that was killed while it copied a pod. No copy may be in progress. The directory
    itself stays: it may be a file system of its own.
    """
    top = f"{host.state_dir}/{save.FORKS}"
    for name in await asyncio.to_thread(save.left_in, top):
        await asyncio.to_thread(_remove, f"{top}/{name}")
