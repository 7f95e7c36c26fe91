# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench volumes`: what small files cost where containers and apps have them, beside memory in the same guest.

One real VM as for Kubernetes: a container's root (the scratch disk), a directory of the host (FUSE), and an emptyDir on
the disk. Two as for rkt:
an app's root, an empty volume and a directory of the host, and the same with the root on the pod's disk. In each, files
of 100 bytes are made, asked for by stat, read and removed, in turns; a figure is the best round's. Microseconds mean
something on an idle machine only; `times` says how often longer making and removing takes than on the guest's own
tmpfs. And in a bare guest the same, an unpacked tree, git and SQLite on each file system: see lib/file_systems.py.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import asyncio  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import subprocess  # noqa: E402
from typing import Any  # noqa: E402

from cri.config import Config  # noqa: E402
from cri.containers import exec as execs  # noqa: E402
from cri.image.pull import pull  # noqa: E402
from cri.store.images import ImageStore  # noqa: E402
from stage1.engine import Host  # noqa: E402
from stage1.linux.cgroup import OURS  # noqa: E402
from stage1.pod.model import EmptyDir, Mount  # noqa: E402
from stage1.vm import hypervisors  # noqa: E402
from stage1.vm.choose import choose  # noqa: E402
from stage1.vm.slots import Range  # noqa: E402
from tests.bench.lib import file_systems  # noqa: E402
from tests.fakes import places  # noqa: E402
from tests.fakes.patience import PATIENCE  # noqa: E402
from tests.rkt import small_stage1  # noqa: E402
from tests.rkt.conftest import ROOT as USER  # noqa: E402
from tests.rkt.images import AppSpec, Image  # noqa: E402
from tests.rkt.stage0 import Stage0  # noqa: E402
from tests.vm.agent_machine import GUEST_DIR, make_image  # noqa: E402
from tests.vm.test_confinement import Machine, booted, started  # noqa: E402

LIMIT_S = 300
BUDGET_TIMES = 5
"""Of what is asked of the host, how much quicker what is the guest's own is at least."""
STEPS = ("make", "stat", "read", "remove")
MEMORY, FILE_SYSTEMS = "tmpfs", "file systems"
Figures = dict[str, dict[str, float]]


def program(place: Path) -> Path:
    """small_files.c, built; it needs nothing of an image."""
    built = place / "small-files"
    source = Path(__file__).with_name("small_files.c")
    subprocess.run(["musl-gcc", "-static", "-O1", "-o", built, source], check=True, timeout=60)
    return built


def figures(text: str) -> Figures:
    """What the program said, and for each place `times`."""
    rows = [line.split()[1:] for line in text.splitlines() if line.startswith("small-files ")]
    result = {name: dict(zip(STEPS, map(float, us), strict=True)) for name, *us in rows}
    memory = result[MEMORY]["make"] + result[MEMORY]["remove"]
    return {name: {**us, "times": round((us["make"] + us["remove"]) / memory, 1)} for name, us in result.items()}


async def container(place: Path, arguments: list[str]) -> Figures:
    """In a pod as for Kubernetes, with a volume that has the program."""
    choice = choose("qemu", hypervisors.facts())
    host = Host(
        f"{place}/run", str(GUEST_DIR), f"{place}/state", choice, scratch_mib=64, ids=Range(), cgroup_parent=OURS
    )
    store = ImageStore(host.state_dir)
    image = store.files(await pull(store, f"oci:{GUEST_DIR}/sample:sample", config=Config()))
    store.close()
    (volume := place / "volume").mkdir()
    built = program(volume)
    argv = [f"/data/{built.name}", *arguments, f"{MEMORY}=/dev/shm", "root=/", "host=/data", "empty=/empty"]
    kubelet = place / "kubelet"
    (empty := kubelet / "volumes/kubernetes.io~empty-dir/empty").mkdir(parents=True)
    on_disk = Mount(str(empty), "/empty", empty_dir=EmptyDir("empty"))
    fields = {"kubelet_dir": str(kubelet), "disk_volumes": ("empty",)}
    async with booted(Machine(host, image, volume), **fields) as pod:
        made = await started(pod, image, Mount(str(volume), "/data"), on_disk)
        ran = await execs.run(pod, made, argv=tuple(argv), timeout_s=LIMIT_S * PATIENCE)
    if ran.exit_code:
        raise RuntimeError(f"the container's program ended with {ran.exit_code}: {ran.stderr.decode()}")
    return figures(ran.stdout.decode())


def app(place: Path, arguments: list[str], *, notes: dict[str, str] | None = None) -> Figures:
    """In a pod as rkt makes them, whose image has the program; `notes` are the app's annotations."""
    make_image(place / "image")
    program(place / "image" / "bin")
    (place / "hosts").mkdir()
    volumes = [
        {"name": "empty", "kind": "empty"},
        {"name": "host", "kind": "host", "source": str(place / "hosts"), "readOnly": False},
    ]
    mounts = [{"volume": name, "path": f"/{name}"} for name in ("empty", "host")]
    argv = ["/bin/small-files", *arguments, f"{MEMORY}=/dev/shm", "root=/", "empty=/empty", "host=/host"]
    rkt = Stage0(place / "data", small_stage1.build(place / "stage1"))
    output = [{"name": name, "value": value} for name, value in (notes or {}).items()]
    one = AppSpec("one", Image(place / "image", USER), {"exec": argv}, {"mounts": mounts, "annotations": output})
    try:
        pod = rkt.prepare([one], volumes=volumes)
        process = pod.run(net="none", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        out, err = process.communicate(timeout=LIMIT_S * PATIENCE)
        if process.returncode:
            raise RuntimeError(f"the app ended with {process.returncode}: {err.decode()}")
        pod.gc()
    finally:
        rkt.clean()
    return figures(out.decode())


def measure(count: int, rounds: int) -> dict[str, Figures]:
    """All of them, in a place that is gone afterwards. `file systems` has milliseconds for its workloads, too."""
    arguments = [str(count), str(rounds)]
    with places.short_directory("cpv") as place:
        for name in ("c", "r", "d", "f"):
            Path(place, name).mkdir()
        return {
            "kubernetes": asyncio.run(container(Path(place, "c"), arguments)),
            "rkt": app(Path(place, "r"), arguments),
            "rkt, on disk": app(Path(place, "d"), arguments, notes={"clearpod.io/root": "disk"}),
            FILE_SYSTEMS: file_systems.measure(Path(place, "f"), count),
        }


def _table(measured: dict[str, Figures]) -> str:
    lines = [f"{'microseconds per file':24}" + "".join(f"{name:>9}" for name in (*STEPS, "times"))]
    for front_end, by_name in measured.items():
        for name, us in by_name.items():
            lines.append(f"{f'{front_end} {name}':24}" + "".join(f"{us[step]:9.1f}" for step in (*STEPS, "times")))
    lines.append(f"{'milliseconds':24}" + "".join(f"{name:>9}" for name in file_systems.WORKLOADS))
    for name, row in measured[FILE_SYSTEMS].items():
        took = (f"{row[what]:9.0f}" if what in row else f"{'-':>9}" for what in file_systems.WORKLOADS)
        lines.append(f"{name:24}" + "".join(took))
    return "\n".join(lines)


def main() -> int:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="scripts/bench volumes", description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--count", type=int, default=500, help="files in each place (500)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.umask(0o022)
    result: Any = measure(args.count, args.rounds)
    print(json.dumps(result) if args.json else _table(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
