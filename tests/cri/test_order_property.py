# SPDX-License-Identifier: Apache-2.0
"""Calls on the same pods and containers, one after the other and many at once, against a model: the table of
`cri.containers.order`. Guests are instant fakes; HYPOTHESIS_EXAMPLES asks for more than `scripts/test` does.

One call has exactly the answer of the table. Of calls at once only the outcome is known: nothing that stops or removes
fails, what it was to end has ended, no answer is a fault of ours, states never go back, and in the end nothing is left.
"""

import asyncio
import os
import threading
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from grpc.aio import AioRpcError
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from cri.containers import order
from cri.pb import runtime_pb2 as pb
from stage1 import engine
from stage1.pod import states
from tests.cri.conftest import Client, Registered, World
from tests.fakes import places
from tests.fakes.patience import PATIENCE

EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", "12"))
CALL_S = 60.0 * PATIENCE
REFUSED, GONE = "FAILED_PRECONDITION", "NOT_FOUND"
GENTLE = {"OK", REFUSED, GONE, "ALREADY_EXISTS"}
ENDS = {"stop", "remove", "stop pod", "remove pod"}
"""Calls that never fail, and may end a VM or a process under others, who then hear UNKNOWN of the guest."""
NAMES = ("one", "two")

CONTAINER_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "start": ("StartContainer", {}),
    "stop": ("StopContainer", {"timeout": 0}),
    "remove": ("RemoveContainer", {}),
    "update": ("UpdateContainerResources", {"linux": {"cpu_shares": 77}}),
    "exec": ("ExecSync", {"cmd": ["true"], "timeout": 20}),
    "attach": ("Attach", {"stdout": True}),
    "reopen log": ("ReopenContainerLog", {}),
}
POD_CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "create": ("CreateContainer", {}),
    "update pod": ("UpdatePodSandboxResources", {"resources": {"cpu_period": 100_000, "cpu_quota": 50_000}}),
    "port forward": ("PortForward", {"port": [80]}),
    "stop pod": ("StopPodSandbox", {}),
    "remove pod": ("RemovePodSandbox", {}),
}
IN_ORDER = {
    pb.CONTAINER_CREATED: states.CREATED,
    pb.CONTAINER_RUNNING: states.RUNNING,
    pb.CONTAINER_EXITED: states.EXITED,
}
RANK = [states.CREATED, states.RUNNING, states.EXITED, GONE]


class Call(NamedTuple):
    """What is asked; `which` picks a pod or container that is, or was, there."""

    what: str
    which: int


OFTEN = [*CONTAINER_CALLS, *CONTAINER_CALLS, "start", "exec", "create", "create", "update pod", "port forward"]
calls = st.builds(Call, st.sampled_from([*OFTEN, "stop pod", "remove pod"]), st.sampled_from([0, 0, 1, 2, 3]))


class Machine(RuleBasedStateMachine):
    """`registered` is set by the test."""

    registered: Registered

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        root = self._stack.enter_context(places.short_directory())
        self.world = World(Path(root), self.registered)
        self._begin()
        self.pods: list[str] = []
        self.ready: dict[str, bool] = {}
        self.containers: dict[str, tuple[str, str]] = {}  # its pod and its state
        self._made = 0

    # -- rules -----------------------------------------------------------------------------------------------

    @rule(name=st.sampled_from(NAMES))
    def run(self, name: str) -> None:
        """A pod of each name at a time."""
        code, pod = self._do(self._run_pod(name))
        lives = [
            pod for pod, is_ready in self.ready.items() if self._names.get(pod) == name and pod in self.listed_pods
        ]
        assert code == ("ALREADY_EXISTS" if lives else "OK")
        if code == "OK":
            self.pods.append(pod)
            self.ready[pod] = True
            self._names[pod] = name
            self.listed_pods.add(pod)

    @precondition(lambda self: len(self._living()) < 2)
    @rule(name=st.sampled_from(NAMES))
    def grow(self, name: str) -> None:
        """A container that is created and one that runs, so that there is something to ask about."""
        self.run(name)
        pod = next(one for one in self.listed_pods if self._names[one] == name)
        if self.ready[pod]:
            assert self._do(self._at_once([("create", pod), ("create", pod)])) == ["OK", "OK"]
            assert self._do(self._at_once([("start", self._living()[-1])])) == ["OK"]

    @rule(call=calls)
    def one(self, call: Call) -> None:
        """Alone, so that the answer is known."""
        target = self._target(call)
        if target:
            expected = self._expected(call.what, target)
            (code,) = self._do(self._at_once([(call.what, target)]))
            assert code == expected, (call, code, expected)

    @rule(several=st.lists(calls, min_size=2, max_size=7), delay_ms=st.sampled_from([0, 0, 5, 30]))
    def many(self, several: list[Call], delay_ms: int) -> None:
        """At once, in a guest that takes its time."""
        asked = [(call.what, target) for call in several if (target := self._target(call))]
        self.world.faults.reply_delay_s = delay_ms / 1000
        codes = self._do(self._at_once(asked))
        self.world.faults.reply_delay_s = 0
        may_end = any(what in ENDS for what, _ in asked)
        for (what, target), code in zip(asked, codes, strict=True):
            allowed = {"OK"} if what in ENDS else GENTLE | ({"UNKNOWN"} if may_end else set())
            assert code in allowed, (what, target, code, asked)
        self._check_ends(asked)

    @rule()
    def restart(self) -> None:
        """The daemon ends, and another one takes over."""
        self._do(self._daemon.__aexit__(None, None, None))
        self._begin()

    @invariant()
    def is_as_the_model_says(self) -> None:
        """States never go back, and none is there that was not made."""
        pods, containers = self._do(self._listed())
        assert set(pods) <= set(self.pods) and set(pods) == self.listed_pods & set(pods)
        for name, (pod, before) in list(self.containers.items()):
            now = containers.get(name, GONE)
            assert RANK.index(now) >= RANK.index(before), (name, before, now)
            self.containers[name] = pod, now
        assert set(containers) <= set(self.containers)
        for pod in self.listed_pods - set(pods):
            self.listed_pods.discard(pod)
        for pod in pods:
            assert self.ready[pod] or not pods[pod]
            self.ready[pod] = pods[pod]

    def teardown(self) -> None:
        """Nothing stays."""
        try:
            for pod in list(self.listed_pods):
                self._do(self.cri("RemovePodSandbox", pod_sandbox_id=pod))
            assert self.world.left_over() == []
            assert self.faults == []
        finally:
            self._do(self._daemon.__aexit__(None, None, None))
            self.world.vmm.stop()
            for place in engine.pod_directories(self.world.host):
                engine.clean_up(place)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()
            self._stack.close()

    # -- inside ----------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self._daemon = self.world.daemon()
        self.cri: Client = self._do(self._daemon.__aenter__())
        if not hasattr(self, "faults"):
            self.faults: list[dict[str, Any]] = []
            self._names: dict[str, str] = {}
            self.listed_pods: set[str] = set()
            self._loop.set_exception_handler(lambda _, context: self.faults.append(context))

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(CALL_S)

    def _living(self) -> list[str]:
        return [name for name, (_, state) in self.containers.items() if state in (states.CREATED, states.RUNNING)]

    def _target(self, call: Call) -> str:
        things = list(self.containers) if call.what in CONTAINER_CALLS else self.pods
        return things[-1 - call.which % len(things)] if things else ""

    def _expected(self, what: str, target: str) -> str:
        if what in CONTAINER_CALLS:
            _, state = self.containers[target]
            if state == GONE:
                return "OK" if what in ENDS else GONE
            answer = order.CONTAINERS[what][state]
        else:
            if target not in self.listed_pods:
                return "OK" if what in ENDS else GONE
            answer = order.PODS[what.removesuffix(" pod")][states.READY if self.ready[target] else states.DEAD]
        return REFUSED if answer == order.REFUSED else "OK"

    async def _run_pod(self, name: str) -> tuple[str, str]:
        try:
            return "OK", await self.cri.pod(name, log_directory=f"{self.world.root}/logs")
        except AioRpcError as error:
            return error.code().name, ""

    async def _at_once(self, asked: list[tuple[str, str]]) -> list[str]:
        return await asyncio.gather(*(self._ask(what, target) for what, target in asked))

    async def _ask(self, what: str, target: str) -> str:
        rpc, fields = (CONTAINER_CALLS | POD_CALLS)[what]
        fields = fields | {"container_id" if what in CONTAINER_CALLS else "pod_sandbox_id": target}
        if what == "create":
            self._made += 1
            fields |= {"config": self.cri.config("/usr/bin/sleep", "1000", name=f"c{self._made}")}
        try:
            reply = await self.cri(rpc, deadline_s=50, **fields)
        except AioRpcError as error:
            return error.code().name
        if what == "create":
            self.containers[reply.container_id] = target, states.CREATED
        return "OK"

    def _check_ends(self, asked: list[tuple[str, str]]) -> None:
        """What was to end has ended, whatever calls were concurrent."""
        pods, containers = self._do(self._listed())
        for what, target in asked:
            if what == "remove":
                assert target not in containers
            elif what == "stop" and ("start", target) not in asked:
                assert containers.get(target) != states.RUNNING
            elif what == "remove pod":
                assert target not in pods and not any(containers.get(one) for one in self._of(target))
            elif what == "stop pod":
                assert not pods.get(target)
                assert {containers.get(one, states.EXITED) for one in self._of(target)} <= {states.EXITED}

    def _of(self, pod: str) -> list[str]:
        return [name for name, (owner, _) in self.containers.items() if owner == pod]

    async def _listed(self) -> tuple[dict[str, bool], dict[str, str]]:
        """Pods and whether they are ready; containers and their states."""
        pods = {one.id: one.state == pb.SANDBOX_READY for one in (await self.cri("ListPodSandbox")).items}
        return pods, {one.id: IN_ORDER[one.state] for one in (await self.cri("ListContainers")).containers}


def test_any_order_of_calls_has_the_answers_of_the_table(registered: Registered) -> None:
    Machine.registered = registered
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
    rules = settings(
        max_examples=EXAMPLES, stateful_step_count=25, deadline=None, suppress_health_check=checks, print_blob=True
    )
    run_state_machine_as_test(Machine, settings=rules)


def test_the_model_knows_every_call(registered: Registered) -> None:
    ours = {"kill"}  # of no client but ours: tests/cri/test_lifecycle_commands.py
    assert set(CONTAINER_CALLS) == set(order.CONTAINERS) - ours
    assert {what.removesuffix(" pod") for what in POD_CALLS} == set(order.PODS)
