# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench recovery`: how soon a daemon that was killed serves again, and has its pods.

By the clock from the exec of the new daemon, with what it loads, to its first list of pods, and until a call that names
a pod is answered, for the last of them. 100 instant fake pods with a container each; then 30 real VMs, of which one is
frozen by SIGSTOP, and not waited for. Each daemon is killed before it gives that one up, and the next one measured.
With `--json`:

    {"fake": {"pods", "serves_ms", "adopted_ms", "serves_cpu_ms", "adopted_cpu_ms"}, "real": ...}
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import time  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from subprocess import DEVNULL, PIPE  # noqa: E402
from typing import Any  # noqa: E402

from grpc import aio  # noqa: E402

from stage1 import engine  # noqa: E402
from tests.bench.cri import make_image  # noqa: E402
from tests.bench.lib import pods as vms  # noqa: E402
from tests.bench.lib.instant_node import Guests  # noqa: E402
from tests.bench.node import cpu_s  # noqa: E402
from tests.bench.vm_node import have_session, put_first  # noqa: E402
from tests.cri.conftest import Client, World  # noqa: E402
from tests.fakes import places  # noqa: E402

FAKE, REAL, ROUNDS = 100, 30, 5
BUDGETS = {"fake": {"adopted_ms": 1000.0}, "real": {"serves_ms": 1000.0, "adopted_ms": 3000.0}}
"""Medians, in milliseconds."""
PAUSE_S, LIMIT_S = 0.005, 60.0


class Daemons:
    """Daemons of one run directory, one after the other. `message` is said to a daemon that waits for it. Their modules
    are compiled once, below `place`, as those of an installed daemon are.
    """

    def __init__(self, argv: list[str], socket_path: str, *, place: str, message: bytes = b"") -> None:
        self._argv, self._path, self._message = argv, socket_path, message
        self._env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        self._env["PYTHONPYCACHEPREFIX"] = f"{place}/compiled"

    @contextmanager
    def one(self) -> Iterator["subprocess.Popen[bytes]"]:
        """From its exec; it is killed in the end."""
        with subprocess.Popen(self._argv, stdin=PIPE, stdout=DEVNULL, stderr=DEVNULL, env=self._env) as process:
            try:
                assert process.stdin
                process.stdin.write(self._message)
                process.stdin.flush()
                yield process
            finally:
                process.kill()

    async def client(self) -> Client:
        """Once it answers ListPodSandbox."""
        limit = time.monotonic() + LIMIT_S
        while not _answers(self._path) and time.monotonic() < limit:  # a channel of gRPC's would wait for a second
            await asyncio.sleep(PAUSE_S)
        client = Client(self._path, None, "")  # type: ignore[arg-type]
        while True:
            try:
                await client("ListPodSandbox")
                return client
            except aio.AioRpcError:
                if time.monotonic() > limit:
                    raise
                await asyncio.sleep(PAUSE_S)

    async def restart(self, pods: list[str]) -> dict[str, float]:
        """Figures of one daemon that is there anew, and takes these over."""
        begun = time.perf_counter()
        with self.one() as process:
            result: dict[str, float] = {}

            def note(what: str) -> None:
                result[f"{what}_ms"] = (time.perf_counter() - begun) * 1000
                result[f"{what}_cpu_ms"] = cpu_s(process.pid) * 1000

            client = await self.client()
            note("serves")
            answers = await asyncio.gather(*(client("PodSandboxStatus", pod_sandbox_id=pod) for pod in pods))
            note("adopted")
            await client.close()
        assert not any(answer.status.state for answer in answers), "a pod was not taken over"
        return result


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as peer:
        return not peer.connect_ex(path)


async def measure(daemons: Daemons, pods: list[str], rounds: int) -> dict[str, float]:
    """Medians of so many daemons; `pods` are those that can be taken over."""
    if os.getsid(0) == os.getpid():
        put_first(os.getpid())
    result = [await daemons.restart(pods) for _ in range(rounds)]
    return {"pods": len(pods)} | {name: round(statistics.median(one[name] for one in result)) for name in result[0]}


async def fake(count: int, rounds: int) -> dict[str, float]:
    """Instant pods with a container each."""
    with places.short_directory("cpr") as place:
        world = World(Path(place), image := await make_image(Path(place)))
        argv = [sys.executable, "-m", "tests.bench.lib.instant_node", place, world.config.state_dir]
        daemons = Daemons(argv, world.config.socket_path, place=place)
        with Guests(place):
            with daemons.one():
                pods = await _started(await daemons.client(), image.reference, count)
            try:
                return await measure(daemons, pods, rounds)
            finally:
                for directory in engine.pod_directories(world.host):
                    engine.clean_up(directory)


async def _started(cri: Client, image: str, count: int) -> list[str]:
    cri.image, pods = image, []
    for number in range(count):
        pods.append(await cri.pod(f"pod-{number}", log_directory="/tmp"))
        made = await cri.container(pods[-1], "/usr/bin/sleep", "100000", log_path="")
        await cri("StartContainer", container_id=made)
    await cri.close()
    return pods


async def real(count: int, rounds: int) -> dict[str, float]:
    """VMs, of which the first is frozen."""
    async with vms.place(vms.Setup(memory_mib=64)) as place:
        async with vms.loaded(place) as process, vms.daemon(place, process) as cri:
            await vms.add(cri, count, serving=False)
            pods = [item.id for item in (await cri("ListPodSandbox")).items]
        frozen = engine.find_vm(f"{place.run_dir}/pods/{pods[0]}")
        assert frozen
        os.kill(frozen.pid, signal.SIGSTOP)
        argv = [sys.executable, "-m", "tests.bench.lib.node", place.write_config(ksm=False)]
        daemons = Daemons(argv, f"{place.run_dir}/clearpod.sock", place=str(place.root), message=b"serve\n")
        return await measure(daemons, pods[1:], rounds) | {"pods": count, "silent": 1}


def exceeded(measured: dict[str, dict[str, float]]) -> dict[str, float]:
    """What is over its budget."""
    return {
        f"{kind} {name}": measured[kind][name]
        for kind, budgets in BUDGETS.items()
        for name, most in budgets.items()
        if kind in measured and measured[kind][name] > most
    }


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {"load": round(os.getloadavg()[0], 1), "fake": await fake(args.fake, args.rounds)}
    return result | ({"real": await real(args.real, args.rounds)} if args.real else {})


def main() -> int:
    """Print the figures; the exit code says whether the budgets are kept."""
    parser = argparse.ArgumentParser(prog="scripts/bench recovery", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--first", action="store_true", help="with precedence over what else runs on this machine")
    parser.add_argument("--fake", type=int, default=FAKE, help=f"instant pods ({FAKE})")
    parser.add_argument("--real", type=int, default=REAL, help=f"pods with a VM, one of them frozen ({REAL})")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"daemons, of which the median is taken ({ROUNDS})")
    args = parser.parse_args()
    if args.first:
        have_session()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # each guest has some
    result = asyncio.run(_measure(args))
    print(json.dumps(result) if args.json else "\n".join(f"{name:<5} {what}" for name, what in result.items()))
    return 1 if exceeded(result) else 0


if __name__ == "__main__":
    sys.exit(main())
