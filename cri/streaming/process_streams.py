# SPDX-License-Identifier: Apache-2.0
"""The second half of Exec and Attach: a command whose streams are the client's, and a client that is attached to a
running container. Called by `connection`.
"""

import asyncio

from cri.containers import attach as pods
from cri.containers import exec as execs
from cri.containers.exec import Command
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.streaming import formats, session
from cri.streaming.session import Session
from cri.streaming.wire import InputQueue
from stage1.errors import PodError


async def execute(node: Node, request: pb.ExecRequest, *, client: Session) -> bytes:
    """Run the command to its end and return the status for the client. Raises PodError, ConnectionError.

    When cancelled (the client is gone) the command is killed.
    """
    pod, container = node.pods.get_container(request.container_id)
    execs.require_running(container, tuple(request.cmd))
    await client.ready()
    what = execs.Options(tuple(request.cmd), request.tty, request.stdin, request.stdout, request.stderr)
    async with execs.start(pod, container, what=what) as command:
        inputs = [_feed_command(client.stdin, command)] if request.stdin else []
        inputs += [session.sizes(client.resize, command.resize)] if request.tty else []
        asked = {"stdout": request.stdout, "stderr": request.stderr}
        outputs = [
            session.output(queue, client, name=name if asked[name] else "") for name, queue in command.outputs.items()
        ]
        async with session.run_concurrently(*inputs), session.run_concurrently(*outputs) as moving:
            await session.all_of(moving)
            code = await command.exit_code()
    return formats.exit_code(client.version, code)


async def _feed_command(queue: InputQueue, command: Command) -> None:
    try:
        while data := await queue.read():
            await command.send(data)
        await command.send(b"", end=True)
    except PodError:
        queue.close()  # the command's status is sent separately


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
        outputs = [session.output(queue, client, name=name, stall_s=STALL_S) for name, queue in queues.items()]
        resizes = [session.sizes(client.resize, to.resize)] if request.tty and to.is_tty else []
        feeds = [_feed_container(client.stdin, to, ended=container.ended)] if request.stdin else []
        try:
            async with (
                session.run_concurrently(*resizes),
                session.run_concurrently(*outputs) as moving,
                session.run_concurrently(_until(moving, container.ended), here.is_to_leave(), *feeds) as endings,
            ):
                await session.first_of(endings)
        finally:
            if request.stdin:
                await asyncio.shield(to.client_left())
    return formats.success(client.version)


async def _until(moving: list["asyncio.Task[None]"], ended: asyncio.Event) -> None:
    """The container's output ends, or it does, when no output is wanted."""
    await (session.all_of(moving) if moving else ended.wait())


async def _feed_container(queue: InputQueue, to: pods.Input, *, ended: asyncio.Event) -> None:
    """Ends with the client's input, which detaches, unless the container's input ended with that."""
    while data := await queue.read():
        if to.exists:
            await to.send(data)
    if await to.client_left():
        await ended.wait()
