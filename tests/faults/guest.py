# SPDX-License-Identifier: Apache-2.0
"""Deaths inside a guest: the agent's helper, crun, and what crun has begun, killed as they take a step, by a program in
a container that sees all of the guest (killer.c). Used by scripts/faults and tests/vm/test_faults_guest.py.

After each death the answer must be a sentence, or a success that is true; the other container lives, what was asked for
can be asked for again, and no process, mount, cgroup or file is leaked.
"""

import itertools
import json
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from stage1.errors import AgentFailed, PodError
from stage1.guest.messages import CREATED, EXITED, RUNNING, Configure, Delete, List, Start, Update
from tests.fakes.patience import PATIENCE
from tests.faults.harness import Outcome
from tests.vm.agent_machine import Machine

VICTIMS = ("helper", "crun", "child")
SOURCE = Path(__file__).with_name("killer.c")
LISTING = """cd /proc/1/root/run/clearpod; for d in . containers crun scratch; do ls -1 $d | sed "s,^,file $d/,"; done
cd /proc/1/root/sys/fs/cgroup/clearpod; find . -type d | sed "s,^,cgroup ,"
sed 's,^[^ ]* [^ ]* [^ ]* [^ ]* \\([^ ]*\\).*,mount \\1,' /proc/1/mountinfo
for p in /proc/[0-9]*; do [ -e $p/exe ] && read n < $p/comm && echo process $n; done 2>/dev/null"""
"""What there is in the guest."""
_OWN = ("process sh", "process ls", "process sed", "process find", "process killer", "cgroup ./eye/")
"""Of what looks."""
_SETTLE_S = 5.0


class Guest:
    """A guest with a neighbour that nothing happens to, the container `one` and `eye`, which kills and looks."""

    def __init__(self, machine: Machine) -> None:
        self.machine, self._numbers = machine, itertools.count(1)
        tools = machine.layers / "image/bin"
        subprocess.run(["musl-gcc", "-static", "-Os", "-o", tools / "killer", SOURCE], check=True, timeout=120)
        for name in ("find", "sed"):
            (tools / name).symlink_to("busybox")
        machine.client.call(Configure(hostname="pod-1"))
        machine.run("eye", ["sleep", "10000"], namespaces=[{"type": "mount"}])
        self._neighbour = machine.run("neighbour", ["cat"], stdin=True)
        self._asked: dict[str, Callable[[], object]] = {
            "create": self._create,
            "start": lambda: self._call(Start(id="one")),
            "exec": self._exec,
            "update": lambda: self._call(Update(id="one", resources="resources.json")),
            "delete": lambda: self._call(Delete(id="one")),
        }
        self._before = self._on_host()

    @property
    def operations(self) -> tuple[str, ...]:
        """What is asked of the agent."""
        return tuple(self._asked)

    def steps(self, what: str, victim: str) -> list[str]:
        """The steps that the victim takes in it, in order; nobody is killed."""
        self._prepare(what)
        output, error = self._traced(what, victim, 0)
        self._clear()
        assert not error, error
        return [line for line in output if line.startswith(f"{victim} ")]

    def case(self, what: str, victim: str, number: int) -> Outcome:
        """Kill the victim at its step of that number, and look."""
        self._prepare(what)
        output, error = self._traced(what, victim, number)
        killed = next((line.removeprefix("killed ") for line in output if line.startswith("killed ")), "")
        outcome = Outcome(f"{what} in a guest: {killed or victim} {number}", missed=not killed)
        try:
            outcome = outcome._replace(hurt=self._hurt())
            self._check(what, error)
        except (PodError, AssertionError) as failure:
            outcome = outcome._replace(wrong=f"{type(failure).__name__}: {failure}")
        self._clear()
        return outcome._replace(leaked=self._left())

    def _prepare(self, what: str) -> None:
        if what != "create":
            self._create()
        if what in ("exec", "update", "delete"):
            self._call(Start(id="one"))

    def _traced(self, what: str, victim: str, number: int) -> tuple[list[str], PodError | None]:
        """What the killer says while that is asked for, and the error."""
        machine, exec_number = self.machine, next(self._numbers)
        stdio = machine.exec("eye", exec_number, ["killer", victim, str(number)])
        machine.pump(lambda: b"ready\n" in machine.output.get(stdio.stdout, b""))
        error = None
        try:
            self._asked[what]()
        except PodError as failure:
            error = failure
        machine.exit_of("eye", exec_number)
        return machine.output[stdio.stdout].decode().splitlines(), error

    def _check(self, what: str, error: PodError | None) -> None:
        """Raises AssertionError, and what asking again raises."""
        assert error is None or (isinstance(error, AgentFailed) and str(error).strip()), repr(error)
        is_done = error is None
        expected = {"create": CREATED, "start": RUNNING if is_done else CREATED}
        expected |= {"exec": RUNNING, "update": RUNNING, "delete": None if is_done else EXITED}
        # Half made is there, or not; half gone may run. A command may die before its first instruction.
        others = {("create", False): None, ("delete", False): RUNNING, ("start", True): EXITED}
        state = self._state()
        assert state in (expected[what], others.get((what, is_done), expected[what])), (state, error)
        self._repeat(what, error)

    def _repeat(self, what: str, error: PodError | None) -> None:
        if what == "create":
            self._clear()
        if what == "exec":
            assert self._exec() == 0
        elif error is not None and what != "start":  # who was not started is removed
            self._asked[what]()

    def _state(self) -> int | None:
        return self._states().get("one")

    def _states(self) -> dict[str, int]:
        return {one.id: one.state for one in self.machine.client.call(List()).containers}

    def _hurt(self) -> str:
        """How the neighbour is not as it should be."""
        machine, output = self.machine, self.machine.output
        before = len(output.get(self._neighbour.stdout, b""))
        machine.client.send_data(self._neighbour.stdin, b"x")
        try:
            machine.pump(lambda: len(output.get(self._neighbour.stdout, b"")) > before)
        except AssertionError:
            return "it does not answer"
        state = self._states().get("neighbour")
        return "" if state == RUNNING else f"it is in the state {state}"

    def _create(self) -> None:
        shutil.rmtree(self.machine.volumes / "containers/one", ignore_errors=True)
        self.machine.create("one", ["sleep", "1000"])
        (self.machine.volumes / "containers/one/resources.json").write_text(json.dumps({"pids": {"limit": 77}}))

    def _exec(self) -> int:
        number = next(self._numbers)
        self.machine.exec("one", number, ["true"])
        return int(self.machine.exit_of("one", number).exit_code)

    def _call(self, op: Start | Delete | Update) -> None:
        self.machine.client.call(op)

    def _clear(self) -> None:
        if self._state() is not None:
            self._call(Delete(id="one"))

    def _on_host(self) -> Counter[str]:
        number = next(self._numbers)
        stdio = self.machine.exec("eye", number, ["sh", "-c", LISTING])
        self.machine.exit_of("eye", number)
        lines = self.machine.output[stdio.stdout].decode().splitlines()
        return Counter(line for line in lines if not line.startswith(_OWN))

    def _left(self) -> tuple[str, ...]:
        """What is there now and was not before, once what is going has gone."""
        deadline = time.monotonic() + _SETTLE_S * PATIENCE
        while (new := self._on_host() - self._before) and time.monotonic() < deadline:
            continue
        self._before += new  # each is told once
        return tuple(f"in the guest: {one}" for one in sorted(new))
