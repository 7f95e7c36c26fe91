# SPDX-License-Identifier: Apache-2.0
"""Traces over real OTLP to a collector in this process: a call continues its client's trace, and a start has phases."""

import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

from cri.config_tables import Tracing
from cri.pb import runtime_pb2 as pb
from cri.tracing import Exporting
from stage1.errors import BadRequest
from tests.fakes.patience import PATIENCE

from .conftest import Client, World

pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc", reason="clearpod[tracing] is not installed")

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    """Takes spans on loopback."""

    def __init__(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as service

        def export(request: Any, context: Any) -> Any:
            self.spans += [one for r in request.resource_spans for scope in r.scope_spans for one in scope.spans]
            self.arrived.set()
            return service.ExportTraceServiceResponse()

        self.spans, self.arrived = list[Any](), threading.Event()
        method = grpc.unary_unary_rpc_method_handler(
            export,
            request_deserializer=service.ExportTraceServiceRequest.FromString,
            response_serializer=service.ExportTraceServiceResponse.SerializeToString,
        )
        name = "opentelemetry.proto.collector.trace.v1.TraceService"
        self._server = grpc.server(futures.ThreadPoolExecutor(1))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, {"Export": method}),))
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        self._server.stop(None).wait()


@pytest.fixture
def collector() -> Iterator[Collector]:
    made = Collector()
    yield made
    made.close()


async def traced(cri: Client, name: str, *, sampled: bool = True, **fields: Any) -> Any:
    """The call as a kubelet makes it that traces."""
    stub: Any = next(stub for stub in cri._stubs if hasattr(stub, name))
    metadata = (("traceparent", f"00-{TRACE}-{PARENT}-{'01' if sampled else '00'}"),)
    return await getattr(stub, name)(getattr(pb, f"{name}Request")(**fields), metadata=metadata, timeout=30 * PATIENCE)


async def test_a_call_continues_its_clients_trace_and_has_the_phases_of_the_start(
    world: World, collector: Collector
) -> None:
    world.config = world.config.but(tracing=Tracing(endpoint=collector.url))
    async with world.daemon() as cri:
        await traced(cri, "RunPodSandbox", config=cri.sandbox())
        with pytest.raises(grpc.RpcError):
            await traced(cri, "StartContainer", container_id="f" * 64)
        await traced(cri, "ListPodSandbox", sampled=False)
        await cri("ListPodSandbox")
    named = {one.name: one for one in collector.spans}
    assert sorted(named) == ["RunPodSandbox", "StartContainer", "configure", "guest", "prepare", "spawn"]
    assert {one.trace_id.hex() for one in collector.spans} == {TRACE}
    run = named["RunPodSandbox"]
    assert run.parent_span_id.hex() == named["StartContainer"].parent_span_id.hex() == PARENT
    assert {named[phase].parent_span_id for phase in ("prepare", "spawn", "guest", "configure")} == {run.span_id}
    codes = {"RunPodSandbox": (0, "OK"), "StartContainer": (2, "NOT_FOUND")}
    for name, (status, code) in codes.items():
        attributes = {one.key: one.value.string_value for one in named[name].attributes}
        assert (named[name].status.code, attributes["rpc.response.status_code"]) == (status, code)


def test_without_the_sdk_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("opentelemetry", "opentelemetry.exporter.otlp.proto.grpc.trace_exporter"):  # the latter may be there
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(BadRequest, match="clearpod\\[tracing\\]"):
        Exporting(Tracing(endpoint="http://127.0.0.1:1"), "1")


async def test_a_collector_that_is_away_is_no_trouble(world: World, collector: Collector) -> None:
    collector.close()
    world.config = world.config.but(tracing=Tracing(endpoint=collector.url, ratio=1.0))
    async with world.daemon() as cri:
        await cri.pod()
