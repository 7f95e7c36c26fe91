# SPDX-License-Identifier: Apache-2.0
"""The gRPC server: one unix socket, one table of RPCs, one interceptor.

Called by `clearpod serve` and by tests. The interceptor checks readiness, keeps multi-step calls going when
their client gives up, logs one line per call, and turns errors into status codes; RPC bodies do none of that.
It must not know what any RPC does.
"""

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError
from grpc import aio

from cri.call_log import Call, CallLog
from cri.config import Config
from cri.image import rpcs
from cri.node import Node
from cri.owner import claim_path, group_id
from cri.pb import runtime_pb2
from cri.runtime import container, lists, node_status, sandbox, snapshots, streams
from cri.streaming.server import StreamingServer
from cri.translate import bounds
from stage1.errors import (
    ERROR_KIND,
    AgentFailed,
    BadRequest,
    KernelError,
    NetworkFailed,
    NoCommand,
    NoSpace,
    PodError,
    Unavailable,
    VmFailed,
    WrongState,
)
from stage1.linux import files, libc

if TYPE_CHECKING:
    from cri.metrics.server import MetricsServer

SERVICES = {
    "runtime.v1.RuntimeService": {
        node_status: "Version Status RuntimeConfig UpdateRuntimeConfig GetContainerEvents",
        sandbox: "RunPodSandbox StopPodSandbox RemovePodSandbox PodSandboxStatus UpdatePodSandboxResources",
        container: """CreateContainer StartContainer StopContainer RemoveContainer ContainerStatus
            UpdateContainerResources ReopenContainerLog CheckpointContainer""",
        lists: """ListPodSandbox StreamPodSandboxes ListContainers StreamContainers
            ContainerStats ListContainerStats StreamContainerStats
            PodSandboxStats ListPodSandboxStats StreamPodSandboxStats
            ListMetricDescriptors ListPodSandboxMetrics StreamPodSandboxMetrics""",
        streams: "ExecSync Exec Attach PortForward",
        snapshots: "CheckpointPod RestorePod",
    },
    "runtime.v1.ImageService": {rpcs: "ListImages StreamImages ImageStatus PullImage RemoveImage ImageFsInfo"},
    "clearpod.v1.Pods": {
        container: "KillContainer WaitContainer",
        snapshots: """SuspendPod ResumePod ForkPod CreateSnapshot ListSnapshots ShowSnapshot RemoveSnapshot""",
    },
}
"""Service -> module -> its RPCs, which are the functions of their names. Every other RPC of the CRI answers
UNIMPLEMENTED."""
OURS = {
    "SuspendPod": ("StopPodSandbox", "StopPodSandbox"),
    "ResumePod": ("StopPodSandbox", "StopPodSandbox"),
    "KillContainer": ("StopContainer", "StopContainer"),
    "WaitContainer": ("ContainerStatus", "ContainerStatus"),
    "ForkPod": ("CheckpointPod", "ListPodSandbox"),
    "CreateSnapshot": ("CheckpointPod", "Status"),
    "ListSnapshots": ("Status", "Status"),
    "ShowSnapshot": ("CheckpointPod", "Status"),
    "RemoveSnapshot": ("CheckpointPod", "StopPodSandbox"),
}
"""RPCs of clearpod's own, and which RPCs of the CRI have the same request and the same answer."""
METHODS = {one.name: one for service in runtime_pb2.DESCRIPTOR.services_by_name.values() for one in service.methods}
ALWAYS = {"Version", "Status", "ImageFsInfo", "RuntimeConfig"}
"""Answered while the daemon still recovers; clients call these to see whether anybody is there."""
DROPPED_WITH_CLIENT = {"StartContainer", "ExecSync", "CheckpointPod", "WaitContainer"}
"""Calls that end when the client goes away; all others finish, since the client will ask again. None does for a start:
kubelet makes the next attempt."""

ENDING = ("Stop", "Remove")
"""Calls that end something, and with it what other calls do."""
OF_AN_END = (VmFailed, AgentFailed, KernelError)
"""Errors that a call gets when its pod is ended meanwhile."""
OF_OTHERS = (VmFailed, AgentFailed, NetworkFailed)
FULL = re.compile("no space left on device|disk quota exceeded", re.IGNORECASE)
"""What these say when a disk is full: hypervisors, crun and CNI plugins."""

GONE = "the client has disconnected"
RECOVERING = "clearpod is still adopting the pods of the previous daemon; retry"

LIMIT_BYTES = 16 << 20
SENTENCE_BYTES = 2000
"""Of an error; each may become three when it is encoded."""
OPTIONS = [("grpc.max_receive_message_length", LIMIT_BYTES), ("grpc.max_send_message_length", LIMIT_BYTES)]
SERVER_OPTIONS = [
    *OPTIONS,
    ("grpc.max_concurrent_streams", 1024),  # calls at a time on one connection; more of them wait in the client
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.absolute_max_metadata_size", 32 << 10),
    ("grpc.max_allowed_incoming_connections", 8192),
]
"""Only root can connect: kubelet with one or two, a test client with hundreds. gRPC refuses what exceeds these."""


def snake(name: str) -> str:
    """RunPodSandbox -> run_pod_sandbox."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def functions(service: str) -> dict[str, Callable[[Node, Any], Any]]:
    """The RPCs of a service, and the functions that do them."""
    return {name: getattr(module, snake(name)) for module, names in SERVICES[service].items() for name in names.split()}


def handlers(node: Node) -> list[grpc.GenericRpcHandler]:
    """One generic handler per service, from the table `SERVICES`."""
    return [
        grpc.method_handlers_generic_handler(
            service, {name: _method(node, name, function=function) for name, function in functions(service).items()}
        )
        for service in SERVICES
    ]


def _method(node: Node, name: str, *, function: Callable[[Node, Any], Any]) -> Any:
    method, answer = (METHODS[one] for one in OURS.get(name, (name, name)))
    message = getattr(runtime_pb2, method.input_type.name)
    writes = getattr(runtime_pb2, answer.output_type.name).SerializeToString

    def reads(data: bytes) -> Any:
        try:
            return message.FromString(data)
        except DecodeError:  # raised here it would be INTERNAL
            return BadRequest(f"the request is not a {method.input_type.name}: {len(data)} bytes that can't be decoded")

    async def call(request: Any, context: Any) -> Any:
        checked = _checked(request)
        await node.settle(checked)
        pod = node.pods.about(checked)
        try:
            return await function(node, checked)
        except Exception as error:
            node.note_failed(name, checked, error=error)
            if pod is not None and pod.is_going and not name.startswith(ENDING) and _is_of_an_end(error):
                raise WrongState(f"{name} was interrupted, since {pod.title} is being stopped: {error}") from None
            if isinstance(error, OF_OTHERS) and FULL.search(str(error)):
                raise NoSpace(f"{error}; free some space there and try again") from None
            raise

    async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
        async for response in function(node, _checked(request)):
            yield response

    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(stream, request_deserializer=reads, response_serializer=writes)
    return grpc.unary_unary_rpc_method_handler(call, request_deserializer=reads, response_serializer=writes)


def _is_of_an_end(error: Exception) -> bool:
    """Whether the end of the pod explains the error; a command that its image does not have, it does not."""
    return isinstance(error, OF_AN_END) and not isinstance(error, NoCommand)


def _checked(request: Any) -> Any:
    """The request, whose fields are within their bounds. Raises BadRequest."""
    if isinstance(request, BadRequest):
        raise request
    bounds.check(request)
    return request


class Interceptor(aio.ServerInterceptor):
    """What is done for every call."""

    def __init__(self, node: Node) -> None:
        self._node, self._log = node, CallLog(node)
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(self, continuation: Any, details: grpc.HandlerCallDetails) -> Any:
        """The handler of one call, wrapped once; an RPC that is not in the table is refused by name."""
        method = details.method
        if (known := self._wrapped.get(method)) is not None:
            return known
        name = method.rpartition("/")[2]
        handler = await continuation(details)
        if handler is None:
            return grpc.unary_unary_rpc_method_handler(self._refuse(name))
        wrapped = self._wrapped[method] = self._wrap(name, handler)
        return wrapped

    def _wrap(self, name: str, handler: Any) -> Any:

        async def call(request: Any, context: Any) -> Any:
            logged = self._log.began(name, request)
            with self._node.tracer.call(name, context.invocation_metadata()):
                return await self._call(logged, handler.unary_unary(request, context), context=context)

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            logged = self._log.began(name, request)
            responses = self._stream(logged, handler.unary_stream(request, context), context=context)
            async with contextlib.aclosing(responses):
                async for response in responses:
                    yield response

        reads, writes = handler.request_deserializer, handler.response_serializer
        if handler.unary_unary is None:
            return grpc.unary_stream_rpc_method_handler(stream, request_deserializer=reads, response_serializer=writes)
        return grpc.unary_unary_rpc_method_handler(call, request_deserializer=reads, response_serializer=writes)

    async def _stream(self, call: Call, body: Any, *, context: Any) -> AsyncGenerator[Any, None]:
        """Like `_call`, for a call with a stream of answers; it is cancelled with its client."""
        if not await self._node.becomes_ready():
            await self._fail(call, Unavailable(RECOVERING), context=context)
        try:
            async for response in body:
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            self._log.ended(call, "CANCELLED", sentence=GONE)
            raise
        except Exception as error:  # noqa: BLE001 - as in `_call`
            await self._fail(call, error, context=context)
        else:
            self._log.ended(call, "OK")
        finally:
            await body.aclose()

    async def _call(self, call: Call, body: Any, *, context: Any) -> Any:
        try:
            if not (self._node.is_ready or call.name in ALWAYS or await self._node.becomes_ready()):
                await self._fail(call, Unavailable(RECOVERING), context=context)
        except BaseException:
            body.close()
            raise
        task = self._node.own(body)
        try:
            response = await (task if call.name in DROPPED_WITH_CLIENT else asyncio.shield(task))
        except asyncio.CancelledError:
            self._node.abandon(task)
            self._log.ended(call, "CANCELLED", sentence=GONE)
            raise
        except Exception as error:  # noqa: BLE001 - the border: nothing may pass without a status code
            await self._fail(call, error, context=context)
        else:
            self._log.ended(call, "OK", response=response)
            return response

    async def _fail(self, call: Call, error: Exception, *, context: Any) -> None:
        """Log the error, and report it to the client. Raises the exception that ends the call."""
        known = libc.explained(call.name, error)
        if isinstance(known, PodError):
            code, sentence, fault = known.grpc_code, _short(str(known)), None
        else:
            mark, fault, code = secrets.token_hex(4), error, "INTERNAL"
            sentence = (
                f"{call.name} failed by an internal error, a bug in clearpod; its log has the details under {mark}"
            )
        self._log.ended(call, getattr(known, "noted_code", "") or code, sentence=sentence, fault=fault)
        await context.abort(grpc.StatusCode[code], sentence, ((ERROR_KIND, type(known).__name__),))

    def _refuse(self, name: str) -> Any:
        async def call(request: Any, context: Any) -> None:
            self._log.refused(name)
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"clearpod does not offer {name}")

        return call


def _short(sentence: str) -> str:
    """The sentence, without its middle when it would not fit into the metadata that a client takes (8 KiB,
    encoded). What a terminal would obey or not show, as a request may have it in a name, is escaped; the lines of a
    console are left.
    """
    if not sentence.isprintable():
        sentence = "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in sentence)
    data = sentence.encode(errors="replace")
    if len(data) <= SENTENCE_BYTES:
        return sentence
    first, last = data[: SENTENCE_BYTES * 3 // 4], data[-SENTENCE_BYTES // 4 :]
    return f"{first.decode(errors='ignore')} ... {last.decode(errors='ignore')}"


class Listener:
    """The socket and the server behind it, the streaming server, and the one for metrics. `start` acquires, `stop`
    gives everything back.
    """

    def __init__(self, node: Node, config: Config) -> None:
        self._config, self._path, self._node = config, config.socket_path, node
        self._server = aio.server(interceptors=[Interceptor(node)], options=SERVER_OPTIONS)
        self._streaming = StreamingServer(node, config.streaming)
        self._metrics = _metrics(node, config)
        for handler in handlers(node):
            self._server.add_generic_rpc_handlers((handler,))

    async def start(self) -> None:
        """Bind and serve. Raises AlreadyExists when another daemon answers there or has the streaming port,
        BadRequest for a path or address that can't be.
        """
        async with contextlib.AsyncExitStack() as undo:
            await self._streaming.start()
            undo.push_async_callback(self._streaming.stop)
            if self._metrics:
                await self._metrics.start()
                undo.push_async_callback(self._metrics.stop)
            await self._bind()
            undo.pop_all()

    async def _bind(self) -> None:
        claim_path(self._path, key="socket.path")
        old = os.umask(0o177)  # never, not even for a moment, open to more than its mode says
        try:
            self._server.add_insecure_port(f"unix:{self._path}")
        except RuntimeError as error:
            raise BadRequest(f"{self._path}: can't listen there: {error}") from None
        finally:
            os.umask(old)
        os.chown(self._path, -1, group_id(self._config.socket.group))
        os.chmod(self._path, int(self._config.socket.mode, 8))
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """End the streams and the calls that wait for events, give others in progress `grace_s`, remove the socket."""
        self._node.events.close()
        await self._server.stop(grace_s)
        await self._streaming.stop()
        if self._metrics:
            await self._metrics.stop()
        files.unlink(self._path)


def _metrics(node: Node, config: Config) -> "MetricsServer | None":
    """The server of metrics, if they are enabled: its library is loaded only then."""
    if not config.metrics.enabled:
        return None
    from cri.metrics.server import MetricsServer

    return MetricsServer(node, config.metrics)
