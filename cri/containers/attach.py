# SPDX-License-Identifier: Apache-2.0
"""A client attached to a running container: its output from now on, which the log has as well, and its input.

Called by `cri.streaming`. Several may be attached. A container is as slow as the slowest of them, so one that does not
read for a while is detached.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from cri.containers import order
from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.output_queue import OutputQueue
from stage1.guest import messages


def require_running(container: LiveContainer) -> None:
    """Raise WrongState unless the container runs, Unsupported when it is a kernel of its own."""
    order.require_agent(container, "attach")
    order.require(container, "attach")


@contextmanager
def follow(pod: LivePod, container: LiveContainer, *, names: tuple[str, ...]) -> Iterator[dict[str, OutputQueue]]:
    """Queues of the output streams `names` (stdout, stderr) as long as the block lasts."""
    require_running(container)
    numbers = {"stdout": container.record.stdout, "stderr": container.record.stderr}
    queues = {name: OutputQueue(partial(pod.agent.consumed, numbers[name])) for name in names if numbers[name]}
    for name, queue in queues.items():
        container.outputs[name].followers.append(queue)
    try:
        yield queues
    finally:
        for name, queue in queues.items():
            container.outputs[name].followers.remove(queue)
            queue.drop()


class Input:
    """The container's standard input; without one (see `exists`) nothing may be sent."""

    def __init__(self, pod: LivePod, container: LiveContainer) -> None:
        self._pod, self._container = pod, container
        self._stream = container.record.stdin
        self.exists = self._stream != 0
        self.is_tty = container.record.container.process.tty
        self._ends_with_client = container.config.stdin_once
        self._has_ended = False
        if self.exists:
            pod.agent.open_input(self._stream)

    async def send(self, data: bytes, *, end: bool = False) -> None:
        """Give it input. Raises PodError."""
        await self._pod.agent.send_all(self._stream, data, end=end)

    async def client_left(self) -> bool:
        """The client's input is over; returns whether the container's ends with it (stdin_once). Idempotent."""
        is_ended = self.exists and self._ends_with_client and not self.is_tty
        if is_ended and not self._has_ended and self._container.is_running:
            self._has_ended = True
            await self.send(b"", end=True)
        return is_ended

    async def resize(self, width: int, height: int) -> None:
        """Set the size of the terminal, in characters. Raises PodError."""
        await self._pod.call(messages.Resize(self._container.id, 0, width, height))
