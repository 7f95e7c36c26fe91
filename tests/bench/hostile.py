# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench hostile`: what each attack of tests/hostile costs a neighbour and the daemon, and what the jail costs.

A daemon, a good pod whose calls are timed, and one attacker after the other; quiet seconds and attacked ones take
turns, so that a slow moment of the machine hits both. With `--json`:

    {"attacks": N, "contained": N, "quiet_p99_ms", "worst_p99_ms", "worst_growth_mib", "jail_ms"}

An attack is contained when the neighbour's 99th percentile stays below twice its quiet one plus 50 ms, the daemon grows
by at most 16 MiB and gives that back, or, in the jail, when it was refused. `jail_ms`: what the jail adds to a start.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import statistics  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from typing import NamedTuple  # noqa: E402

from cri.pb import runtime_pb2 as pb  # noqa: E402
from stage1.linux import process  # noqa: E402
from stage1.linux.host import which  # noqa: E402
from stage1.vm import qemu  # noqa: E402
from stage1.vm.qemu import PROGRAM as QEMU  # noqa: E402
from stage1.vm.spec import SerialLink, VmSpec  # noqa: E402
from stage1.vm.starter import ProcessVmm  # noqa: E402
from stage1.vm.vmm import VmProcess  # noqa: E402
from tests.fakes import places  # noqa: E402
from tests.fakes.registry import Registry  # noqa: E402
from tests.hostile.link_attacks import ATTACKS  # noqa: E402
from tests.hostile.rig import Caller, Node, node, p99  # noqa: E402

CHECKOUT = Path(__file__).parents[2]
AFTER_RESTART = ("inventor", "refuser", "mute")
GROWTH_MIB, NEIGHBOUR_MS, TIMES_QUIET = 16.0, 50.0, 2.0
GIVEN_BACK_S, GIVEN_BACK_MIB = 15.0, 4.0
STARTS = 15


class Seen(NamedTuple):
    """One attack: percentiles in milliseconds, growth in MiB at its worst and some seconds after its end."""

    name: str
    quiet_ms: float
    attacked_ms: float
    growth_mib: float
    kept_mib: float

    @property
    def is_contained(self) -> bool:
        """Within the limits."""
        is_served = self.attacked_ms <= TIMES_QUIET * self.quiet_ms + NEIGHBOUR_MS
        return is_served and self.growth_mib <= GROWTH_MIB and self.kept_mib <= GIVEN_BACK_MIB


async def attack(under: Node, cri: Caller, name: str, *, ticking: str, seconds: float) -> Seen:
    """One attacker beside the good pod."""
    quiet = await cri.times(ticking, seconds=seconds)
    before = under.rss_mib()
    bad, _ = await cri.running("bad", hostname=name)
    numbers = asyncio.create_task(_numbers(cri))
    attacked, worst = [], before
    for _ in range(4):
        attacked += await cri.times(ticking, seconds=seconds / 4)
        worst = max(worst, under.rss_mib())
    numbers.cancel()
    await cri("RemovePodSandbox", pod_sandbox_id=bad, deadline_s=60)
    end = time.monotonic() + GIVEN_BACK_S
    while under.rss_mib() - before > GIVEN_BACK_MIB and time.monotonic() < end:
        await asyncio.sleep(0.2)
    return Seen(name, p99(quiet), p99(attacked), worst - before, under.rss_mib() - before)


async def _numbers(cri: Caller) -> None:
    """What a kubelet asks for all the time."""
    while True:
        for call in ("ListPodSandboxStats", "ListContainerStats", "ListPodSandboxMetrics"):
            await cri(call)
        await asyncio.sleep(1)


async def links(under: Node, *, seconds: float) -> list[Seen]:
    """All attacks on the link that need no restart of the daemon."""
    result = []
    async with under.client() as cri:
        await cri("PullImage", image=pb.ImageSpec(image=under.reference))
        async with cri.neighbour() as (_, ticking):
            await cri.times(ticking, seconds=seconds)
            for name in ATTACKS:
                if name not in AFTER_RESTART:
                    result.append(await attack(under, cri, name, ticking=ticking, seconds=seconds))
                    print(f"hostile: {result[-1]} contained={result[-1].is_contained}", file=sys.stderr)
    return result


async def jail(under: Node) -> dict[str, list[str]]:
    """What a hypervisor that fell could do."""
    async with under.client() as cri:
        bad, _ = await cri.running("bad", hostname="fallen")
        report = await under.report(bad, limit_s=120)
        await cri("RemovePodSandbox", pod_sandbox_id=bad, deadline_s=60)
    return report


def main() -> int:
    """Print the figures; 1 when an attack is not contained."""
    parser = argparse.ArgumentParser(prog="scripts/bench hostile", description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--json", action="store_true", help="one line of JSON")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="of each attack, and of quiet before it (default: 4)"
    )
    args = parser.parse_args()
    guest = Path(os.environ.get("CLEARPOD_GUEST_DIR", CHECKOUT / "build" / "guest"))
    with (
        tempfile.TemporaryDirectory() as place,
        Registry(Path(place) / "registry") as registry,
        places.short_directory() as root,
        node(Path(root), guest, registry.push(f"oci:{guest}/sample:sample", "t/busybox:1")) as under,
    ):
        seen = asyncio.run(links(under, seconds=args.seconds))
        refused = asyncio.run(jail(under))
    figures = {
        "attacks": len(seen) + len(refused),
        "contained": sum(one.is_contained for one in seen) + sum(one[0] == "refused" for one in refused.values()),
        "quiet_p99_ms": round(statistics.median(one.quiet_ms for one in seen), 1),
        "worst_p99_ms": round(max(one.attacked_ms for one in seen), 1),
        "worst_growth_mib": round(max(one.growth_mib for one in seen), 1),
        "jail_ms": jail_ms(guest),
    }
    if args.json:
        print(json.dumps(figures))
    else:
        _table(seen, refused, figures)
    return 0 if figures["attacks"] == figures["contained"] else 1


def jail_ms(guest: Path) -> float:
    """Milliseconds that the jail adds to the start of QEMU: medians of starts with and without it, which take turns."""
    binary = str(which(QEMU))
    samples: dict[str, list[float]] = {"jailed": [], "bare": []}
    with places.short_directory() as place:
        for number in range(STARTS):
            directory = f"{place}/{number}"
            os.makedirs(f"{directory}/share")
            vm = _vm(binary, guest, directory)
            begun = time.perf_counter()
            jailed = ProcessVmm(watch_s=0).start(vm)
            samples["jailed"].append((time.perf_counter() - begun) * 1000)
            jailed.kill()
            begun = time.perf_counter()
            pid = process.spawn(qemu.argv(vm._replace(jailer="")), stdout=2, env=qemu.environment(vm))
            samples["bare"].append((time.perf_counter() - begun) * 1000)
            VmProcess(pid, process.start_time(pid), "").kill()
    return round(statistics.median(samples["jailed"]) - statistics.median(samples["bare"]), 1)


def _vm(binary: str, guest: Path, directory: str) -> VmSpec:
    files = {name: str((guest / name).resolve()) for name in ("vmlinux", "initramfs", "system.erofs", "jailer")}
    return VmSpec(
        name="bench",
        hypervisor=qemu.HYPERVISOR,
        binary=binary,
        run_dir=directory,
        kernel=files["vmlinux"],
        initramfs=files["initramfs"],
        system_image=files["system.erofs"],
        memory_mib=128,
        vcpus=1,
        link=SerialLink(f"{directory}/agent.sock"),
        jailer=files["jailer"],
    )


def _table(seen: list[Seen], refused: dict[str, list[str]], figures: dict[str, float]) -> None:
    for one in seen:
        kept = f"{one.growth_mib:6.1f} MiB, {one.kept_mib:5.1f} kept"
        print(f"{one.name:16} {one.quiet_ms:7.1f} ms quiet {one.attacked_ms:8.1f} attacked {kept}")
    for name, (outcome, what) in refused.items():
        print(f"{name:34} {outcome}: {what}")
    print(figures)


if __name__ == "__main__":
    sys.exit(main())
