# SPDX-License-Identifier: Apache-2.0
"""A plugin of NRI's, for the runtime's side of it: registers, answers, and writes down what it was asked.

Its frames are made here by hand, not by `cri.nri`. What it answers is set by method in `answers`: a message, or a
function of the request, which may wait or raise `No`. A hostile one uses `raw`.
"""

import asyncio
import inspect
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from cri.pb import nri_pb2 as nri
from cri.pb import ttrpc_pb2 as ttrpc
from tests.fakes.patience import PATIENCE

SERVICE = "nri.pkg.api.v1alpha1"
METHODS = nri.DESCRIPTOR.services_by_name["Plugin"].methods_by_name


USUAL = (1 << nri.VALIDATE_CONTAINER_ADJUSTMENT - 1) - 1
"""All events but that of validators."""


class No(Exception):
    """The plugin's error: a code of gRPC and words."""

    def __init__(self, text: str, code: int = 2) -> None:
        super().__init__(text)
        self.code = code


class FakePlugin:
    """`seen` has every method and its request, in order. `events` 0 is all that there are."""

    def __init__(self, path: str, name: str = "test", index: str = "00", events: int = USUAL) -> None:
        self._path, self._name, self._index = path, name, index
        self.seen: list[tuple[str, Any]] = []
        self.answers: dict[str, Any] = {"Configure": nri.ConfigureResponse(events=events)}
        self._changed = asyncio.Event()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._stream = 1
        self._tasks: set[asyncio.Task[None]] = set()
        self.chunk_bytes = 0
        self.gone = asyncio.Event()

    async def __aenter__(self) -> "FakePlugin":
        await self.connect()
        await self.call("RegisterPlugin", nri.RegisterPluginRequest(plugin_name=self._name, plugin_idx=self._index))
        await self.until(lambda: "Synchronize" in self.methods())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """The connection alone."""
        await self.connect()
        try:
            yield
        finally:
            await self._close()

    async def connect(self) -> None:
        """Ends with the block of `connected`, or this object's."""
        self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        self._own(self._read())

    async def _close(self) -> None:
        self._writer.close()
        await self.gone.wait()
        for task in self._tasks:
            task.cancel()

    def methods(self, about: str = "") -> list[str]:
        """What it was asked, of the pod or container `about` if given."""
        return [method for method, output in self.seen if not about or about in _ids(output)]

    def last(self, method: str) -> Any:
        """The last request of that method."""
        return [output for one, output in self.seen if one == method][-1]

    async def until(self, is_true: Callable[[], bool], limit_s: float = 10) -> None:
        """Wait for something that it sees."""
        async with asyncio.timeout(limit_s * PATIENCE):
            while not is_true():
                self._changed.clear()
                await self._changed.wait()

    async def call(self, method: str, message: Any) -> ttrpc.Response:
        """A call to the runtime; its whole answer."""
        stream, self._stream = self._stream, self._stream + 2
        answer = self._waiting[stream] = asyncio.get_running_loop().create_future()
        output = ttrpc.Request(service=f"{SERVICE}.Runtime", method=method, payload=message.SerializeToString())
        self.raw(2, self.message(stream, 1, output.SerializeToString()))
        async with asyncio.timeout(10 * PATIENCE):
            return ttrpc.Response.FromString(await answer)

    @staticmethod
    def message(stream: int, kind: int, data: bytes) -> bytes:
        """A message of ttrpc's."""
        return struct.pack(">IIBB", len(data), stream, kind, 0) + data

    def raw(self, connection: int, data: bytes) -> None:
        """Send these bytes of that connection, in chunks of `chunk_bytes` if that is set."""
        step = self.chunk_bytes or len(data)
        for at in range(0, len(data), step):
            part = data[at : at + step]
            self._writer.write(struct.pack(">II", connection, len(part)) + part)

    def pause(self) -> None:
        """Read nothing more from the socket, until `resume`."""
        self._writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume(self) -> None:
        """Go on."""
        self._writer.transport.resume_reading()  # type: ignore[attr-defined]

    def _own(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _read(self) -> None:
        begun = {1: b"", 2: b""}
        try:
            while True:
                connection, size = struct.unpack(">II", await self._reader.readexactly(8))
                begun[connection] += await self._reader.readexactly(size)
                data = begun[connection]
                if len(data) >= 10 and len(data) >= 10 + struct.unpack_from(">I", data)[0]:
                    length, stream, _, _ = struct.unpack_from(">IIBB", data)
                    begun[connection] = data[10 + length :]
                    self._take(connection, stream, data=data[10 : 10 + length])
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.gone.set()
            self._changed.set()

    def _take(self, connection: int, stream: int, *, data: bytes) -> None:
        if connection == 2:
            self._waiting.pop(stream).set_result(data)
        else:
            self._own(self._answer(stream, ttrpc.Request.FromString(data)))

    async def _answer(self, stream: int, request: ttrpc.Request) -> None:
        assert request.service == f"{SERVICE}.Plugin"
        method = METHODS[request.method]
        output = getattr(nri, method.input_type.name).FromString(request.payload)
        self.seen.append((request.method, output))
        self._changed.set()
        made = self.answers.get(request.method, self._usual(request.method, output))
        reply = ttrpc.Response()
        try:
            made = made(output) if callable(made) else made
            made = await made if inspect.isawaitable(made) else made
            reply.payload = made.SerializeToString()
        except No as error:
            reply.status.code, reply.status.message = error.code, str(error)
        self.raw(1, self.message(stream, 2, reply.SerializeToString()))

    def _usual(self, method: str, request: Any) -> Any:
        made = getattr(nri, METHODS[method].output_type.name)()
        if method == "Synchronize":
            made.more = request.more
        return made


def _ids(request: Any) -> list[str]:
    return [getattr(getattr(request, name, None), "id", "") for name in ("pod", "container")]
