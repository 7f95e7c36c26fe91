# SPDX-License-Identifier: Apache-2.0
"""The HTTP endpoint for Prometheus: `GET /metrics`. Started and stopped by `cri.server` with the gRPC server.

Any local user can connect, and a scrape must cost the pods nothing: connections are few and short (as those without a
token of the streaming port), the page is made in a thread, and not more than once in `FRESH_S`, however many ask.
"""

import asyncio
import logging
import time
from typing import Any, NamedTuple

import h11
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from cri.config_tables import Metrics
from cri.metrics import families
from cri.metrics.snapshot import DaemonState, Snapshot, read_daemon, read_host
from cri.node import Node
from cri.streaming.listener import HEAD_BYTES, Listener, Service, Streams, UnadmittedConnection, Waiting, host_port
from stage1.errors import PodError

log = logging.getLogger("clearpod.metrics")

MOST, MOST_EACH = 64, 8
"""Connections at a time, and from one other host."""
FRESH_S = 1.0
"""A page that is not older serves for whoever asks."""
READ_BYTES = 1 << 16
PATH = "/metrics"


class Reply(NamedTuple):
    """An HTTP response."""

    status: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()


class MetricsServer:
    """`start` binds, `stop` ends all connections."""

    def __init__(self, node: Node, config: Metrics) -> None:
        self._node, self._config = node, config
        self._listener = Listener(Service("metrics", self._serve, log, "metrics.fault"), Waiting(MOST, MOST_EACH))
        self._making: asyncio.Task[bytes] | None = None
        self._made_at = 0.0
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    async def start(self) -> None:
        """Begin to listen. Raises AlreadyExists for a port that is taken, BadRequest for an address that is not this
        host's.
        """
        port = await self._listener.start(self._config.address, self._config.port)
        self._node.metrics_url = f"http://{host_port(self._config.address, port)}{PATH}"
        log.info("metrics.serving", extra={"url": self._node.metrics_url})

    async def stop(self) -> None:
        """Accept no more connections, and close those that there are. Idempotent."""
        self._node.metrics_url = ""
        if self._making is not None:
            self._making.cancel()
        await self._listener.stop()

    async def _serve(self, _: UnadmittedConnection, streams: Streams) -> None:
        """Answer one request."""
        streams[1].write(await self._answer(await streams[0].read(READ_BYTES)))

    async def _answer(self, data: bytes) -> bytes:
        http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        try:
            http.receive_data(data)
            request = http.next_event()
        except h11.RemoteProtocolError:
            request = None
        if not isinstance(request, h11.Request):
            return _response(http, Reply(400, b"this is not HTTP\n"))
        return _response(http, await self._reply(request), is_bare=request.method == b"HEAD")

    async def _reply(self, request: h11.Request) -> Reply:
        if request.target.partition(b"?")[0] != PATH.encode():
            return Reply(404, f"there is only {PATH}\n".encode())
        if request.method not in (b"GET", b"HEAD"):
            return Reply(405, b"only GET and HEAD are known here\n", (("Allow", "GET, HEAD"),))
        try:
            return Reply(200, await self.page(), (("Content-Type", CONTENT_TYPE_LATEST),))
        except (PodError, OSError) as error:  # the disk does not answer: no numbers are better than wrong ones
            log.warning("metrics.failed", extra={"warning": str(error)})
            return Reply(503, f"{error}\n".encode(errors="replace"))

    async def page(self) -> bytes:
        """All metrics of now, or of a moment ago."""
        now_s = time.monotonic()
        if self._making is None or (self._making.done() and now_s - self._made_at >= FRESH_S):
            self._made_at = now_s
            self._making = asyncio.get_running_loop().create_task(self._make(), name="metrics")
        return await asyncio.shield(self._making)

    async def _make(self) -> bytes:
        storage = await self._node.storage.counts(self._node.pods.with_disks())
        daemon = read_daemon(self._node)
        return await asyncio.to_thread(self._render, daemon, storage)

    def _render(self, daemon: DaemonState, storage: dict[str, float]) -> bytes:
        """Render the metrics. Blocks."""
        snapshot = Snapshot(daemon, *read_host(self._node, daemon.windows), storage)
        registry = CollectorRegistry()
        registry.register(_Collector(snapshot))
        return bytes(generate_latest(registry) + generate_latest(self._process))


class _Collector:
    """Gives one snapshot to the library, which asks for metrics as often as it likes."""

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Any:
        return families.made(self._snapshot)


def _response(http: h11.Connection, reply: Reply, *, is_bare: bool = False) -> bytes:
    """The whole answer; `is_bare` without its body, as HEAD wants it."""
    fields = [*reply.headers, ("Content-Length", str(len(reply.body))), ("Connection", "close")]
    body = [] if is_bare else [h11.Data(reply.body)]
    events = (h11.Response(status_code=reply.status, headers=fields), *body, h11.EndOfMessage())
    return b"".join(http.send(event) or b"" for event in events)
