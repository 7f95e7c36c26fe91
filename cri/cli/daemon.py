# SPDX-License-Identifier: Apache-2.0
"""A client of the daemon's own socket: calls by the names that they have in the CRI.

Used by the commands that show pods or do something in them. It must not know what is shown. What goes wrong is a
PodError with one sentence: the daemon's own, or one about the socket.
"""

import os
import socket
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any

import grpc

from cri import config as configuration
from cri.pb import runtime_pb2 as pb
from stage1 import errors
from stage1.errors import ERROR_KIND, PodError, Unavailable

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
"""RPCs of clearpod's own, as in `cri.server`, and which of the CRI have the same request and answer."""
ANSWER_S = 60.0
"""Time limit of calls that do not have to wait for anything."""
_LIMIT_BYTES = 16 << 20
_OPTIONS = [("grpc.max_receive_message_length", _LIMIT_BYTES), ("grpc.enable_http_proxy", 0)]
_CONNECT_S = 5.0
_NOBODY = "failed to connect"
"""The beginning of gRPC's message, which includes the socket's path, if the daemon has just ended."""
_METHODS = pb.DESCRIPTOR.services_by_name["RuntimeService"].methods_by_name


class Daemon:
    """The daemon that listens at `path`; a context. Raises Unavailable when there is none, PodError when we may not."""

    def __init__(self, path: str) -> None:
        _require(path)
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # it would write of its own to standard error
        self._channel = grpc.insecure_channel(f"unix:{path}", options=_OPTIONS)

    def __enter__(self) -> "Daemon":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()

    def __call__(self, name: str, *, limit_s: float | None = ANSWER_S, **fields: Any) -> Any:
        """The answer of the RPC `name`, whose request has these fields. Raises the PodError that the daemon raised."""
        request, kind = _kind(name, "input")(**fields), _kind(name, "output")
        stub: Any = self._channel.unary_unary(_path(name), _to_bytes, kind.FromString)
        try:
            return stub(request, timeout=limit_s)
        except grpc.RpcError as error:
            raise explained(error) from None

    def stream(self, name: str, **fields: Any) -> Iterator[Any]:
        """The answers of an RPC that has many, as they come."""
        request, kind = _kind(name, "input")(**fields), _kind(name, "output")
        stub: Any = self._channel.unary_stream(_path(name), _to_bytes, kind.FromString)
        try:
            yield from stub(request)
        except grpc.RpcError as error:
            raise explained(error) from None


def _path(name: str) -> str:
    return f"/clearpod.v1.Pods/{name}" if name in OURS else f"/runtime.v1.RuntimeService/{name}"


def _kind(name: str, side: str) -> Any:
    """The class of the messages that the RPC takes (`input`) or gives (`output`)."""
    like = OURS.get(name, (name, name))[side == "output"]
    return getattr(pb, getattr(_METHODS[like], f"{side}_type").name)


def _to_bytes(message: Any) -> bytes:
    return bytes(message.SerializeToString())


def connect(config_path: str | None) -> Daemon:
    """The daemon of the configuration file; the default one when that is None."""
    return Daemon(configuration.load(config_path).socket_path)


def _require(path: str, connect: Callable[[socket.socket, str], None] = socket.socket.connect) -> None:
    """Raise PodError or Unavailable for a socket that can't be used: gRPC would report it late and at length."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(_CONNECT_S)
        try:
            connect(probe, path)
        except PermissionError:
            raise PodError(
                f"you have no permission for {path}; use sudo, or a user of the group socket.group"
            ) from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise Unavailable(
                f"no daemon of clearpod listens at {path}; start it with `systemctl start clearpod` or `clearpod serve`"
            ) from None
        except OSError as error:
            raise Unavailable(f"{path} can't be reached: {error.strerror or error}") from None


def error_kind(error: Any) -> str:
    """The class of the error that the daemon has answered with; empty when the answer is not the daemon's."""
    return str(dict(error.trailing_metadata() or ()).get(ERROR_KIND, ""))


def explained(error: Any) -> PodError:
    """The error of ours that was answered, by its class or else its status code, with the answer's sentence."""
    code, sentence, kind_name = error.code().name, str(error.details()), error_kind(error)
    if code == "UNAVAILABLE" and not kind_name and ("clearpod" not in sentence or sentence.startswith(_NOBODY)):
        return Unavailable("the connection to the daemon was lost; try again when it runs")
    if code == "DEADLINE_EXCEEDED" and sentence == "Deadline Exceeded":
        return errors.TimedOut(f"the daemon of clearpod did not answer within {ANSWER_S:g} s")
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, PodError)]
    usable = [kind for kind in kinds if kind.grpc_code == code and not issubclass(kind, errors.KernelError)]
    usable.sort(key=lambda kind: kind.__name__ != kind_name)
    return usable[0](sentence) if usable else PodError(sentence)
