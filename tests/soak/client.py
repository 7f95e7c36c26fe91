# SPDX-License-Identifier: Apache-2.0
"""A client that does what the kubelet does when its runtime goes away in the middle of a call: it asks again."""

import asyncio
import time
from typing import Any

import grpc
from grpc import aio

from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from cri.server import OURS
from tests.fakes.patience import PATIENCE

_AGAIN = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED}
"""The daemon is away, or a guest was too slow: all calls may be made again."""
_BACKOFF = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 300)]
LIMIT_S = 120.0
_ATTEMPTS = 20


class Refused(Exception):
    """An answer that is no success. `code` is gRPC's name."""

    def __init__(self, call: str, code: str, sentence: str) -> None:
        super().__init__(f"{call}: {code}: {sentence}")
        self.code = code


class Kubelet:
    """`await kubelet("RunPodSandbox", config=...)`, of either service or clearpod's own."""

    def __init__(self, socket: str) -> None:
        self._channel = aio.insecure_channel(f"unix:{socket}", options=_BACKOFF)
        self._stubs = (rpc.RuntimeServiceStub(self._channel), rpc.ImageServiceStub(self._channel))
        self.refusals: list[str] = []
        """All answers that were no success, those too after which it asked again."""

    async def __call__(self, name: str, **fields: Any) -> Any:
        """The answer, of whichever daemon gives it. Raises Refused, TimeoutError."""
        call = self._own(name) if name in OURS else self._of_cri(name)
        kind, deadline = OURS[name][0] if name in OURS else name, time.monotonic() + LIMIT_S * PATIENCE
        request = getattr(pb, f"{kind}Request")(**fields)
        while True:
            try:
                return await call(request, timeout=LIMIT_S * PATIENCE)
            except aio.AioRpcError as error:
                self.refusals.append(f"{name}: {error.code().name}: {error.details()}")
                if error.code() not in _AGAIN:
                    raise Refused(name, error.code().name, error.details() or "") from None
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{name}: nobody answers: {error.details()}") from None
            await asyncio.sleep(0.05)

    def _of_cri(self, name: str) -> Any:
        return getattr(next(stub for stub in self._stubs if hasattr(stub, name)), name)

    def _own(self, name: str) -> Any:
        answer = getattr(pb, f"{OURS[name][1]}Response")
        return self._channel.unary_unary(
            f"/clearpod.v1.Pods/{name}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=answer.FromString,
        )

    async def pod(self, name: str, **fields: Any) -> str:
        """The id of a ready sandbox with this name, made when there is none. Raises Refused."""
        for attempt in range(_ATTEMPTS):
            for one in await self.pods(name):
                if one.state == pb.SANDBOX_READY:
                    return str(one.id)
                await self("RemovePodSandbox", pod_sandbox_id=one.id)
            names = pb.PodSandboxMetadata(name=name, namespace="soak", uid=name, attempt=attempt)
            config = pb.PodSandboxConfig(metadata=names, labels={"name": name}, **fields)
            try:
                return str((await self("RunPodSandbox", config=config)).pod_sandbox_id)
            except Refused as error:
                if error.code not in ("ALREADY_EXISTS", "UNKNOWN", "DEADLINE_EXCEEDED") or attempt == _ATTEMPTS - 1:
                    raise
        raise AssertionError("unreachable")

    async def pods(self, name: str) -> Any:
        """All sandboxes with this name."""
        expected = pb.PodSandboxFilter(label_selector={"name": name})
        return (await self("ListPodSandbox", filter=expected)).items

    async def create(self, pod: str, image: str, *, command: list[str], log: str) -> str:
        """The id of the pod's only container, made when there is none. Raises Refused."""
        made = await self.containers(pod)
        if not made:
            names, spec = pb.ContainerMetadata(name="c"), pb.ImageSpec(image=image)
            config = pb.ContainerConfig(metadata=names, image=spec, command=command, log_path=log)
            try:
                await self("CreateContainer", pod_sandbox_id=pod, config=config)
            except Refused as error:
                if error.code != "ALREADY_EXISTS":
                    raise
            made = await self.containers(pod)
        return str(made[0].id)

    async def start(self, container: str) -> bool:
        """Unless it was started; whether it was. If not, a daemon was killed: it is removed for the next attempt."""
        try:
            if (await self.status(container)).state == pb.CONTAINER_CREATED:
                await self("StartContainer", container_id=container)
        except Refused as error:
            if error.code != "FAILED_PRECONDITION":
                raise
        if (await self.status(container)).reason != "StartError":
            return True
        await self("RemoveContainer", container_id=container)
        return False

    async def containers(self, pod: str) -> Any:
        """All of the pod."""
        expected = pb.ContainerFilter(pod_sandbox_id=pod)
        return (await self("ListContainers", filter=expected)).containers

    async def status(self, container: str) -> Any:
        """As the kubelet sees it."""
        return (await self("ContainerStatus", container_id=container)).status

    async def ended(self, container: str) -> Any:
        """Its status once it has exited."""
        while (status := await self.status(container)).state != pb.CONTAINER_EXITED:
            await asyncio.sleep(0.1)
        return status

    async def remove_all(self) -> None:
        """Every sandbox."""
        for one in (await self("ListPodSandbox")).items:
            await self("RemovePodSandbox", pod_sandbox_id=one.id)

    async def close(self) -> None:
        await self._channel.close()
