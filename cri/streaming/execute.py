# SPDX-License-Identifier: Apache-2.0
"""Exec's second half: a command whose streams are the client's. Called by `connection`."""

from cri.containers import exec as execs
from cri.containers.exec import Command
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.streaming import pump, status
from cri.streaming.input_queue import InputQueue
from cri.streaming.session import Session
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
        inputs = [_feed(client.stdin, command)] if request.stdin else []
        inputs += [pump.sizes(client.resize, command.resize)] if request.tty else []
        asked = {"stdout": request.stdout, "stderr": request.stderr}
        outputs = [
            pump.output(queue, client, name=name if asked[name] else "") for name, queue in command.outputs.items()
        ]
        async with pump.run_concurrently(*inputs), pump.run_concurrently(*outputs) as moving:
            await pump.all_of(moving)
            code = await command.exit_code()
    return status.exit_code(client.version, code)


async def _feed(queue: InputQueue, command: Command) -> None:
    try:
        while data := await queue.read():
            await command.send(data)
        await command.send(b"", end=True)
    except PodError:
        queue.close()  # the command's status is sent separately
