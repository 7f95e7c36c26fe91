# SPDX-License-Identifier: Apache-2.0
"""Attach's second half: the streams of a client that is attached to a running container. Called by `connection`."""

import asyncio

from cri.containers import attach as pods
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.streaming import pump, status
from cri.streaming.input_queue import InputQueue
from cri.streaming.session import Session

STALL_S = 10.0
"""A client that reads nothing for so long is detached: the container waits for it."""


async def attach(node: Node, request: pb.AttachRequest, *, client: Session) -> bytes:
    """Stay until the container's output or the client's input ends. Raises PodError, ConnectionError."""
    pod, container = node.pods.get_container(request.container_id)
    pods.require_running(container)
    await client.ready()
    names = tuple(name for name in ("stdout", "stderr") if getattr(request, name))
    to = pods.Input(pod, container)
    with pods.follow(pod, container, names=names) as queues, pod.gate.client() as here:
        outputs = [pump.output(queue, client, name=name, stall_s=STALL_S) for name, queue in queues.items()]
        sizes = [pump.sizes(client.resize, to.resize)] if request.tty and to.is_tty else []
        feeds = [_feed(client.stdin, to, ended=container.ended)] if request.stdin else []
        try:
            async with (
                pump.run_concurrently(*sizes),
                pump.run_concurrently(*outputs) as moving,
                pump.run_concurrently(_until(moving, container.ended), here.is_to_leave(), *feeds) as endings,
            ):
                await pump.first_of(endings)
        finally:
            if request.stdin:
                await asyncio.shield(to.client_left())
    return status.success(client.version)


async def _until(moving: list["asyncio.Task[None]"], ended: asyncio.Event) -> None:
    """The container's output ends, or it does, when no output is wanted."""
    await (pump.all_of(moving) if moving else ended.wait())


async def _feed(queue: InputQueue, to: pods.Input, *, ended: asyncio.Event) -> None:
    """Ends with the client's input, which detaches, unless the container's input ended with that."""
    while data := await queue.read():
        if to.exists:
            await to.send(data)
    if await to.client_left():
        await ended.wait()
