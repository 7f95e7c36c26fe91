# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench calls`: how much code of ours a call of the CRI passes, with a real VM and Debian's CNI plugins.

Per RPC, from the client's call to its answer, in all threads of the daemon: files, different functions, calls, and how
often a thread goes from one file to another. What happens beside the call in that time counts too; processes that the
daemon starts (workers, hypervisor) do not. RunPodSandbox is without a warm pool. A pod before, which is not counted,
imports what is imported late. The counts differ by a few between rounds, so that the table has their medians.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import statistics  # noqa: E402
import threading  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from types import CodeType  # noqa: E402
from typing import Any, NamedTuple  # noqa: E402

from cri.config import Config  # noqa: E402
from cri.image.pull import pull  # noqa: E402
from cri.store.images import ImageStore  # noqa: E402
from tests.bench.vm_node import ROOT, node  # noqa: E402
from tests.cri.conftest import Client, VmWorld  # noqa: E402

OURS = (f"{ROOT}/cri/", f"{ROOT}/stage1/")
GENERATED = f"{ROOT}/cri/pb/"
RPCS = ("RunPodSandbox", "CreateContainer", "StartContainer", "ExecSync", "StopPodSandbox")
CALL_S = 300
NO_MONITORING = 3


class Counts(NamedTuple):
    """What one call passed."""

    files: int
    functions: int
    calls: int
    changes: int
    """How often a thread called a function of another file than its last one's."""


class Tracer:
    """Counts each start of a function of ours while the block of `traced` runs, in all threads. A coroutine that goes
    on is no new start; generator expressions and lambdas belong to the function that they stand in.
    """

    def __init__(self) -> None:
        self._monitoring: Any = getattr(sys, "monitoring")  # noqa: B009 - since Python 3.12
        self._tool = self._monitoring.PROFILER_ID
        self._monitoring.use_tool_id(self._tool, "clearpod-calls")
        self._monitoring.register_callback(self._tool, self._monitoring.events.PY_START, self._start)
        self._reset()

    def _reset(self) -> None:
        self.starts = Counter[tuple[str, str]]()
        self._last: dict[int, str] = {}
        self._changes = 0

    def _start(self, code: CodeType, _offset: int) -> Any:
        path = code.co_filename
        if not path.startswith(OURS) or path.startswith(GENERATED) or code.co_name.startswith("<"):
            return self._monitoring.DISABLE
        thread = threading.get_ident()
        self._changes += self._last.get(thread, path) != path
        self._last[thread] = path
        self.starts[path, code.co_qualname] += 1
        return None

    @contextmanager
    def traced(self) -> Iterator[None]:
        """Count from zero while the block runs."""
        self._reset()
        self._monitoring.set_events(self._tool, self._monitoring.events.PY_START)
        try:
            yield
        finally:
            self._monitoring.set_events(self._tool, 0)

    def counts(self) -> Counts:
        """Of the last block."""
        return Counts(len(self.files()), len(self.starts), self.starts.total(), self._changes)

    def files(self) -> list[str]:
        """Those of the last block, in the order in which the call reached them."""
        return [path.removeprefix(f"{ROOT}/") for path in dict.fromkeys(path for path, _ in self.starts)]


async def life(cri: Client, name: str, *, logs: str, tracer: Tracer) -> dict[str, tuple[Counts, list[str]]]:
    """Run a pod with a container and stop it; for each RPC what it passed, and which files."""
    result = {}

    async def call(rpc: str, **fields: Any) -> Any:
        with tracer.traced():
            reply = await cri(rpc, deadline_s=CALL_S, **fields)
        result[rpc] = tracer.counts(), tracer.files()
        return reply

    pod = (await call("RunPodSandbox", config=cri.sandbox(name, log_directory=logs))).pod_sandbox_id
    config = cri.config("sleep", "600")
    container = (await call("CreateContainer", pod_sandbox_id=pod, config=config)).container_id
    await call("StartContainer", container_id=container)
    await call("ExecSync", container_id=container, cmd=["true"], timeout=60)
    await call("StopPodSandbox", pod_sandbox_id=pod)
    await cri("RemovePodSandbox", pod_sandbox_id=pod)
    return result


async def pull_sample(world: VmWorld) -> str:
    """The id of the sample image, in the store of the daemons to come."""
    store = ImageStore(world.config.state_dir)
    try:
        return (await pull(store, f"oci:{world.host.guest_dir}/sample:sample", config=Config())).id
    finally:
        store.close()


async def measure(rounds: int) -> dict[str, Any]:
    """For each RPC the medians of its counts, and the files of the last round."""
    tracer = Tracer()
    with node() as (world, _):
        world.image = await pull_sample(world)
        logs = str(world.root / "logs")
        async with world.daemon() as cri:
            await life(cri, "first", logs=logs, tracer=tracer)
            lives = [await life(cri, f"pod-{number}", logs=logs, tracer=tracer) for number in range(rounds)]
    result = {}
    for rpc in lives[0]:
        columns = zip(*(one[rpc][0] for one in lives), strict=True)
        counts = Counts(*(int(statistics.median(column)) for column in columns))
        result[rpc] = {**counts._asdict(), "passed": lives[-1][rpc][1]}
    return result


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="scripts/bench calls", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="how many pods (3)")
    parser.add_argument("--json", action="store_true", help="one JSON object, with the files that each call passed")
    parser.add_argument("--files", metavar="RPC", choices=RPCS, help="the files that this call passed, in its order")
    args = parser.parse_args()
    if not hasattr(sys, "monitoring"):
        print("bench: calls needs sys.monitoring, which Python has since 3.12", file=sys.stderr)
        return NO_MONITORING
    result = asyncio.run(measure(args.rounds))
    if args.json:
        print(json.dumps(result))
    elif args.files:
        print(*result[args.files]["passed"], sep="\n")
    else:
        print("| | " + " | ".join(Counts._fields) + " |", "|---" * (1 + len(Counts._fields)) + "|", sep="\n")
        for rpc, counts in result.items():
            print(f"| {rpc} | " + " | ".join(str(counts[field]) for field in Counts._fields) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
