# SPDX-License-Identifier: Apache-2.0
"""Traces of calls, for OpenTelemetry: a call continues its client's trace (`traceparent` in its metadata, as the
kubelet sends it), and the phases of a pod's start are spans below it.

`Tracer` does nothing, and is what everybody has unless `tracing.endpoint` is set. The SDK is an optional dependency
(`clearpod[tracing]`), and imported by `Exporting` alone. Made by the node; used by the server and the recorder.
"""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from stage1.errors import BadRequest

if TYPE_CHECKING:
    from cri.config_tables import Tracing

CLOSE_S = 2.0
"""Time limit for the collector to accept the last spans."""
_UNTRACED = nullcontext()
Metadata = Iterable[tuple[str, str | bytes]]


class Tracer:
    """Traces nothing."""

    def call(self, name: str, metadata: Metadata | None) -> AbstractContextManager[None]:
        """`with tracer.call(...):` the block carries out a client's call."""
        return _UNTRACED

    def span(self, name: str) -> AbstractContextManager[None]:
        """`with tracer.span(...):` the block is a part of the call that is being carried out."""
        return _UNTRACED

    def ended(self, code: str) -> None:
        """The call that is being carried out ends with that status code."""

    async def close(self) -> None:
        """Send what is left, within CLOSE_S."""


def require_sdk() -> None:
    """Raise BadRequest when OpenTelemetry is not installed."""
    try:
        import opentelemetry.exporter.otlp.proto.grpc.trace_exporter
        import opentelemetry.sdk.trace.export  # noqa: F401
    except ImportError as error:
        why = "tracing.endpoint is set, and OpenTelemetry is not installed"
        raise BadRequest(f"{why} ({error}): pip install 'clearpod[tracing]', or leave it empty") from None


class Exporting(Tracer):
    """Sends spans to a collector, over OTLP. A collector that is away costs nothing but its spans."""

    def __init__(self, config: "Tracing", version: str) -> None:
        """Raises BadRequest when the SDK is not installed."""
        require_sdk()
        from opentelemetry import propagate, trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider, export, sampling

        self._trace, self._propagate = trace, propagate
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": "clearpod", "service.version": version}),
            sampler=sampling.ParentBased(sampling.TraceIdRatioBased(config.ratio)),
            shutdown_on_exit=False,
        )
        exporter = OTLPSpanExporter(endpoint=config.endpoint, insecure=True, timeout=CLOSE_S)
        self._provider.add_span_processor(export.BatchSpanProcessor(exporter))
        self._tracer: Any = self._provider.get_tracer("clearpod", version)

    @contextmanager
    def call(self, name: str, metadata: Metadata | None) -> Iterator[None]:
        """Like `Tracer.call`: part of the client's trace, if the metadata names one."""
        headers = {key: value for key, value in metadata or () if isinstance(value, str)}
        context, kind = self._propagate.extract(headers), self._trace.SpanKind.SERVER
        with self._tracer.start_as_current_span(name, context=context, kind=kind, **_QUIETLY):
            yield

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Like `Tracer.span`."""
        with self._tracer.start_as_current_span(name, **_QUIETLY):
            yield

    def ended(self, code: str) -> None:
        """Like `Tracer.ended`."""
        span = self._trace.get_current_span()
        span.set_attribute("rpc.system", "grpc")
        span.set_attribute("rpc.response.status_code", code)
        if code != "OK":
            span.set_status(self._trace.StatusCode.ERROR, code)

    async def close(self) -> None:
        """Like `Tracer.close`."""
        await asyncio.wait({asyncio.ensure_future(asyncio.to_thread(self._provider.shutdown))}, timeout=CLOSE_S)


_QUIETLY = {"record_exception": False, "set_status_on_exception": False}
"""The code of a call's end is enough; sentences are for the log."""
