# SPDX-License-Identifier: Apache-2.0
"""`scripts/bench entry`: what rkt's `run` costs until the VMM starts, in instructions by callgrind, and by the clock;
the stop of a real pod by the clock; and its first output, booted and as a copy of a template, beside QEMU alone
(lib/alone.py).

The image is the real one, rkt is its fake, the VMM one that ends at once and the CNI plugins are shell scripts; what
runs under callgrind is the bundled Python, which does all the work but the launcher's few thousand instructions. The
clock runs from the execution of `run`, after rkt's mounts, to the first line of the VMM. A stop lasts from the
execution of `stop` to the end of `run`; its app ends at once. Times mean something on an idle machine only; the
processors' time of `run`, its VMM included, on a busy one as well.
"""

import sys
from pathlib import Path

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]  # hides `cri`

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import py_compile  # noqa: E402
import re  # noqa: E402
import resource  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import statistics  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable  # noqa: E402
from typing import Any  # noqa: E402

from stage1.entry import templating  # noqa: E402
from stage1.rkt import copies, machine  # noqa: E402
from stage1.snapshot.store import TemplateStore  # noqa: E402
from tests.bench.lib import alone, entry_parts  # noqa: E402
from tests.fakes import aci  # noqa: E402
from tests.fakes.cni import FakeCni  # noqa: E402
from tests.rkt import stage1_image  # noqa: E402
from tests.rkt.images import AppSpec, Image  # noqa: E402
from tests.rkt.stage0 import Pod, Stage0  # noqa: E402

ROOT = Path(__file__).parents[2]
BUDGET = 110_000_000
ROUNDS = 20
RUN_MS, STOP_MS, FIRST_OUTPUT_RATIO, PAIRS = 40, 500, 1.5, 5
"""Budgets by the clock, reported and not enforced."""
LIMIT_S = 60
LOADER = "usr/lib/clearpod/python/ld.so"
COUNTED = """#!/bin/sh
for word; do [ "$name" != 1 ] || break; case $word in *start.pyc) name=1 ;; esac; done
[ "$word" = run ] || exec "$0.real" "$@"
exec valgrind --log-file={out}.log --tool=callgrind {more} --callgrind-out-file={out}.$word "$0.real" "$@"
"""

START = """import marshal, sys
with open(__file__ + ".real", "rb") as file:
    exec(marshal.loads(file.read()[16:]), {"__name__": "start", "__file__": __file__})
import os
from stage1.linux import libc
from stage1.entry import dispatch

asked = libc.syscall

def by_name(fd, path):
    return path or b"/proc/self/fd/%d" % fd

options = {}

def syscall(name, number, *args, what):
    if number == libc.NR_OPEN_TREE:
        return os.open(by_name(*args[:2]), os.O_PATH | os.O_CLOEXEC)
    if number == libc.NR_MOVE_MOUNT:
        return libc.call("mount", by_name(*args[:2]), by_name(*args[2:4]), None, 0x5000, None, what=what)
    if number == libc.NR_MOUNT_SETATTR:
        return libc.call("mount", None, args[1], None, 0x1021, None, what=what) if args[1] else 0
    if number == libc.NR_FSOPEN:
        return os.open("/dev/null", os.O_RDONLY)
    if number == libc.NR_FSCONFIG:
        options[args[2]] = args[3]
        return 0
    if number == libc.NR_FSMOUNT:
        fields = [name + b"=" + value for name, value in options.items() if name and name.endswith(b"dir")]
        place = os.fsencode(__file__) + b".shown"
        os.mkdir(place)
        libc.call("mount", b"overlay", place, b"overlay", 0, b",".join(fields), what=what)
        return os.open(place, os.O_PATH | os.O_CLOEXEC)
    return asked(name, number, *args, what=what)

libc.syscall = syscall
code = dispatch.enter(sys.argv[1], sys.argv[2:])
"""
LEAVE = "dispatch.leave(code)\n"
LISTED = """with open({path!r} if sys.argv[1] == "run" else "/dev/null", "w") as file:
    file.write("".join(name + chr(10) for name in sorted(sys.modules) if name != "__main__"))
"""
"""callgrind 3.24 does not let through the newer calls for mounts, so these are made of older ones there."""


VMM = """
#include <stdio.h>
#include <time.h>
int main(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return printf("VMM at %lld.%06ld\\n", (long long)now.tv_sec, now.tv_nsec / 1000) < 0;
}
"""
"""What it says last is shown by the launcher. It may do no more than a VMM, so it is no shell."""


class Bench:
    """A data directory of rkt's, with plugins and a VMM that do nothing."""

    def __init__(self, place: Path, guest: Path) -> None:
        self.place, self.tree = place, stage1_image.tree(guest)
        self.cni = FakeCni(place / "cni")
        (place / "cni" / "batch").write_text("link add DEVICE type veth peer name p-DEVICE\nlink set DEVICE up\n")
        (place / "bin").mkdir()
        (place / "vmm.c").write_text(VMM)
        build = ["musl-gcc", "-static", "-o", place / "bin" / "qemu-system-x86_64", place / "vmm.c"]
        subprocess.run(build, check=True)
        self.cpu_ms: list[float] = []
        self.image = Image(aci.root(place / "image"), {"exec": ["/bin/true"], "user": "0", "group": "0"})
        (place / "local" / "net.d").mkdir(parents=True)
        conf = {"name": "fake", "type": "first", "ipMasq": True}
        (place / "local" / "net.d" / "10.conf").write_text(json.dumps(conf))
        (place / "local" / "net.d" / "first").symlink_to(self.cni.root / "bin" / "first")

    def counted(self, name: str = "counted", *, start: str = START + LEAVE, more: str = "") -> Path:
        """The image with callgrind and its options `more` before its Python, which begins with `start`."""
        tree = self.place / name
        subprocess.run(["cp", "-al", self.tree, tree], check=True)
        loader = tree / "rootfs" / LOADER
        loader.rename(f"{loader}.real")
        loader.write_text(COUNTED.format(out=self.place / f"callgrind-{name}", more=more))
        loader.chmod(0o755)
        program = tree / "rootfs" / LOADER.replace("python/ld.so", "start.pyc")
        program.rename(f"{program}.real")
        (self.place / "start.py").write_text(start)
        py_compile.compile(str(self.place / "start.py"), cfile=str(program), doraise=True)
        return tree

    def run(self, rkt: Stage0, net: str, *, collected: Callable[[Pod], None] | None = None) -> float:
        """One pod from `run` to the end of its VMM and gc; milliseconds from `run` to the VMM. `collected` is called
        before gc, in place of which no template is made.
        """
        pod = rkt.prepare([AppSpec("one", self.image)])
        env = {"PATH": f"{self.place}/bin:{os.environ['PATH']}"}
        local = str(self.place / "local")
        process = pod.run(net=net, local_config=local, env=env, stderr=subprocess.PIPE)
        before = _cpu_ms()
        output = process.communicate(timeout=LIMIT_S)[1].decode()
        self.cpu_ms.append(_cpu_ms() - before)
        started = re.search(r"VMM at ([0-9.]+)", output)
        if not started or "the virtual machine ended by itself" not in output:
            raise RuntimeError(f"the VMM was not started: {output}")
        (collected or _forget)(pod)
        done = pod.gc(local_config=local)
        if done.code:
            raise RuntimeError(f"gc failed: {done.stderr}")
        return (float(started[1]) - pod.begun_s) * 1000

    def instructions(self, net: str, *, templates: bool = True) -> int:
        """Of a `run` that boots: the first pod of its kind, or one where there are no templates."""
        rkt = Stage0(self.place / f"data-{net}-{templates}", self._counted)
        if not templates:
            _forbid(rkt)
        try:
            self.run(rkt, net)
        finally:
            rkt.clean()
        return self._counted_instructions()

    def _counted_instructions(self, name: str = "counted") -> int:
        lines = (self.place / f"callgrind-{name}.run").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(("summary:", "totals:"))).split()[1])

    def instructions_of_copy(self, net: str, name: str = "counted") -> int:
        """Of a `run` that finds a template for its pod: one without a guest, made for the VMM that does nothing."""
        rkt, before = Stage0(self.place / f"data-copy-{net}", self._counted), os.environ["PATH"]
        templates = rkt.data / machine.TEMPLATES
        os.environ["PATH"] = f"{self.place}/bin:{before}"
        try:
            self.run(rkt, net, collected=self._pretend)
            self.run(rkt, net)
        finally:
            os.environ["PATH"] = before
            rkt.clean()
        if not [*templates.glob("*/rejected")]:
            raise RuntimeError("the pod was no copy")
        return self._counted_instructions(name)

    @staticmethod
    def _pretend(pod: Pod) -> None:
        """Write the template that the pod has missed, so that gc need not make it."""
        missing = copies.missing(str(pod.dir))
        assert missing
        spec, _ = templating.spec_of(str(pod.dir), missing[0], devices=missing[1])
        assert spec
        store = TemplateStore(machine.templates(str(pod.dir)))
        store.prepare(spec.name, 1 << 20)
        store.commit(spec.name, spec.made_of)
        _forget(pod)

    def parts(self, net: str) -> dict[str, int]:
        """What the instructions of a `run` are for."""
        marks = self.place / f"marks-{net}-"
        tree = self.counted(f"parts-{net}", start=entry_parts.marked(START + LEAVE, marks), more=entry_parts.OPTIONS)
        rkt = Stage0(self.place / f"data-parts-{net}", tree)
        try:
            self.run(rkt, net)
        finally:
            rkt.clean()
        return entry_parts.read(Path(f"{marks}run"), self.place.glob(f"callgrind-parts-{net}.run*"))

    def list_modules(self, target: Path) -> None:
        """Write the names of the modules that a `run` with a network and a copy loads, one a line."""
        self._counted = self.counted("listed", start=START + LISTED.format(path=str(target)) + LEAVE)
        self.instructions_of_copy("fake", "listed")

    def wall_ms(self, net: str, rounds: int) -> float:
        """The median of some runs."""
        rkt = Stage0(self.place / f"data-wall-{net}", self.tree)
        try:
            return statistics.median(self.run(rkt, net) for _ in range(rounds))
        finally:
            rkt.clean()

    def stop_ms(self, rounds: int) -> float:
        """The median of the stops of some pods in real VMs, whose app is willing."""
        rkt = Stage0(self.place / "data-stop", self.tree)
        app = AppSpec("one", self.image, {"exec": ["/bin/sh", "-c", "echo up; exec sleep 1000"]})
        try:
            return statistics.median(_stop_ms(rkt.prepare([app])) for _ in range(rounds))
        finally:
            rkt.clean()

    def first_output(self, rounds: int) -> dict[str, Any]:
        """As `alone.compare`."""
        rkt, place = Stage0(self.place / "data-first", self.tree), self.place / "alone"
        place.mkdir()
        try:
            app = AppSpec("one", self.image, {"exec": ["/bin/echo", alone.WORD.decode().strip()]})
            return alone.compare(rkt, app, place, rounds=rounds)
        finally:
            rkt.clean()

    def measure(self, rounds: int) -> dict[str, Any]:
        """The whole report; with no rounds without times."""
        self._counted = self.counted()
        result: dict[str, Any] = {
            "run_instructions": self.instructions("fake"),
            "run_instructions_without_network": self.instructions("none"),
            "run_instructions_without_templates": self.instructions("fake", templates=False),
            "run_instructions_as_copy": self.instructions_of_copy("fake"),
            "budget": BUDGET,
        }
        if rounds:
            self.cpu_ms.clear()
            result |= {"run_wall_ms": round(self.wall_ms("none", rounds), 1), "rounds": rounds}
            result |= {"run_cpu_ms": round(statistics.median(self.cpu_ms), 1)}
            result |= {"run_wall_ms_with_network": round(self.wall_ms("fake", rounds), 1), "run_wall_budget_ms": RUN_MS}
            result |= {"stop_wall_ms": round(self.stop_ms(rounds), 1), "stop_wall_budget_ms": STOP_MS}
            result |= {**self.first_output(min(rounds, PAIRS)), "first_output_budget": FIRST_OUTPUT_RATIO}
        return result


def _forget(pod: Pod) -> None:
    """Let gc make no template of a VMM that is none."""
    (pod.dir / copies.MISSING).unlink(missing_ok=True)


def _forbid(rkt: Stage0) -> None:
    """Let all pods boot."""
    (rkt.data / machine.TEMPLATES).parent.mkdir()
    (rkt.data / machine.TEMPLATES).symlink_to("/dev/null")


def _cpu_ms() -> float:
    """Of all processes that we have waited for, and they."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (used.ru_utime + used.ru_stime) * 1000


def _stop_ms(pod: Pod) -> float:
    process = pod.run(net="none", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout
    if process.stdout.readline() != b"up\n":
        raise RuntimeError(f"the pod did not start: {process.communicate()[1].decode()}")
    begun = time.monotonic()
    stopped = pod.stop()
    process.wait(LIMIT_S)
    took_ms = (time.monotonic() - begun) * 1000
    process.communicate()
    if stopped.code or process.returncode != 128 + signal.SIGTERM or pod.gc().code:
        raise RuntimeError(f"the pod was not stopped: {stopped.stderr}")
    return took_ms


def missing() -> str:
    """What this can't do without; empty when all is there."""
    needed = [name for name in ("valgrind", "ip", "tc", "nsenter") if not shutil.which(name)]
    return f"needs {' '.join(needed)}: apt install valgrind iproute2 util-linux" if needed else ""


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(prog="scripts/bench entry", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="a JSON document instead of lines")
    parser.add_argument("--rounds", type=int, default=ROUNDS, metavar="N", help="runs by the clock")
    parser.add_argument("--parts", action="store_true", help="only the instructions, and what they are for")
    parser.add_argument("--modules", action="store_true", help="only write images/stage1-aci/run-modules.txt")
    args = parser.parse_args()
    if why := missing():
        print(f"scripts/bench entry: {why}", file=sys.stderr)
        return 1
    guest = Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest"))
    with tempfile.TemporaryDirectory(prefix="cpb") as place:
        bench = Bench(Path(place), guest)
        if args.modules:
            bench.list_modules(ROOT / "images/stage1-aci/run-modules.txt")
            return 0
        result = bench.measure(0 if args.parts else args.rounds)
        result |= bench.parts("fake") if args.parts else {}
    if args.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name.replace('_', ' '):<34} {value:,}")
    return 0 if max(result["run_instructions"], result["run_instructions_as_copy"]) <= BUDGET else 1


if __name__ == "__main__":
    sys.exit(main())
