# SPDX-License-Identifier: Apache-2.0
"""Generated requests to every RPC of a real server, whose guests are instant fakes: no answer is a fault of ours.

INTERNAL is always one. UNKNOWN is the guest's or a plugin's word, and there is none here that could not have been known
before: those few are listed. `scripts/test` has a minute; HYPOTHESIS_EXAMPLES asks for more, others each time.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine, Iterator
from typing import Any

import pytest
from grpc import aio
from hypothesis import HealthCheck, assume, given, settings

from cri.config_tables import Registry
from cri.pb import runtime_pb2 as pb
from cri.pb import runtime_pb2_grpc as rpc
from tests.fakes.patience import PATIENCE

from .conftest import Client, World
from .generated import message_of, requests

MORE = os.environ.get("HYPOTHESIS_EXAMPLES", "")
EXAMPLES = int(MORE or "15")
NAMES = sorted(
    method.name
    for service in pb.DESCRIPTOR.services_by_name.values()
    for method in service.methods
    if method.name != "GetContainerEvents"  # its request has no fields, and it never ends
)
CALL_S = 20.0
ENDS = ("StopPodSandbox", "RemovePodSandbox", "StopContainer", "RemoveContainer")
OUTSIDE = {"StartContainer", "ExecSync", "PullImage"}
"""Whether there is such a command only the guest knows, and whether a registry answers only the registry."""


class Node:
    """A daemon in a thread of its own, since Hypothesis does not wait for coroutines."""

    def __init__(self, world: World) -> None:
        self._loop, self._world = asyncio.new_event_loop(), world
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._daemon = world.daemon()
        self.cri: Client = self.do(self._daemon.__aenter__())
        self._channel = self.do(self._open())
        self.pod = self.do(self.cri.pod("lives"))
        self.container = self.do(self.cri.container(self.pod, "sleep", "1000"))
        self.do(self.cri("StartContainer", container_id=self.container))

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S * PATIENCE * 3)

    async def _open(self) -> aio.Channel:
        return aio.insecure_channel(f"unix:{self._world.config.socket_path}")

    def close(self) -> None:
        """End everything."""
        try:
            self.do(self._channel.close())
            self.do(self._daemon.__aexit__(None, None, None))
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def base(self, name: str) -> Any:
        """A request of this RPC that works."""
        cri = self.cri
        fields: dict[str, dict[str, Any]] = {
            "RunPodSandbox": {"config": cri.sandbox("made")},
            "CreateContainer": {"pod_sandbox_id": self.pod, "config": cri.config("true", name="made")},
            "ExecSync": {"cmd": ["true"], "timeout": 5},
            "Exec": {"cmd": ["true"], "stdout": True},
            "Attach": {"stdout": True},
            "PortForward": {"port": [80]},
            "UpdateContainerResources": {"linux": {"cpu_shares": 100}},
            "ImageStatus": {"image": {"image": cri.image}},
            "RemoveImage": {"image": {"image": "no/such:image"}},
            "PullImage": {"image": {"image": "127.0.0.1:9/no/such:image"}},
        }
        message = message_of(name)
        given = dict(fields.get(name, {}))
        ids = {"container_id": self.container, "pod_sandbox_id": self.pod}
        for field, value in ids.items():
            if field in message.DESCRIPTOR.fields_by_name and name not in ENDS:
                given.setdefault(field, value)
        return message(**given)

    def is_ended_by(self, name: str, request: Any) -> bool:
        """Whether the request would end the pod or its container: the beginning of an id is enough."""
        one = getattr(request, "container_id" if "Container" in name else "pod_sandbox_id", "")
        return name in ENDS and bool(one) and (self.container if "Container" in name else self.pod).startswith(one)

    async def call(self, name: str, request: Any) -> tuple[str, str]:
        """Code and sentence. What it made is removed again."""
        stubs = rpc.RuntimeServiceStub(self._channel), rpc.ImageServiceStub(self._channel)
        method = getattr(next(stub for stub in stubs if hasattr(stub, name)), name)
        try:
            if name.startswith("Stream"):
                _ = [one async for one in method(request, timeout=CALL_S * PATIENCE)]
                return "OK", ""
            reply = await method(request, timeout=CALL_S * PATIENCE)
        except aio.AioRpcError as error:
            return error.code().name, str(error.details())
        if name == "RunPodSandbox":
            await self.cri("RemovePodSandbox", pod_sandbox_id=reply.pod_sandbox_id)
        if name == "CreateContainer":
            await self.cri("RemoveContainer", container_id=reply.container_id)
        return "OK", ""

    async def there(self) -> tuple[list[str], list[str]]:
        """The ids of all pods and containers."""
        pods, containers = await self.cri("ListPodSandbox"), await self.cri("ListContainers")
        return [one.id for one in pods.items], [one.id for one in containers.containers]


@pytest.fixture
def node(world: World) -> Iterator[Node]:
    """With a pod that runs."""
    nowhere = Registry(prefix="docker.io", location="127.0.0.1:9", insecure=True)
    world.config = world.config.but(registries=(nowhere,))
    made = Node(world)
    yield made
    made.close()


@pytest.mark.parametrize("name", NAMES)
def test_no_request_is_a_fault_of_ours(node: Node, name: str) -> None:
    has_config = "config" in message_of(name).DESCRIPTOR.fields_by_name

    @settings(max_examples=EXAMPLES * (4 if has_config else 1), deadline=None, database=None, derandomize=not MORE,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(requests(node.base(name)))
    def ask(request: Any) -> None:
        assume(not node.is_ended_by(name, request))
        code, sentence = node.do(node.call(name, request))
        assert code != "INTERNAL", sentence
        assert code != "UNKNOWN" or name in OUTSIDE, sentence
        assert sentence.isprintable() and len(sentence) < 2100
        assert node.do(node.there()) == ([node.pod], [node.container])

    ask()
    assert node.do(node.cri("ContainerStatus", container_id=node.container)).status.state == pb.CONTAINER_RUNNING
