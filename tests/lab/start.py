# SPDX-License-Identifier: Apache-2.0
"""Brings a lab up and takes it down. Called by the commands.

What is started is the keeper's; what is made here (kernel in the cache, initramfs, disk) is a file that the next start
makes anew.
"""

import json
import lzma
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

from stage1.linux.host import which
from stage1.linux.process import SIGKILL, SIGTERM, open_process
from stage1.vm.qemu import PROGRAM as QEMU
from tests.fakes.builders import BuildFailed, cpio
from tests.lab import client, debian_kernel, plan, state
from tests.lab.state import LabError, State

ROOT = Path(__file__).resolve().parent.parent.parent
HERE = Path(__file__).resolve().parent
BUSYBOX = "/bin/busybox"
COMPILED = ("images/lib", "stage1", "cri", "tests")
BOOT_S = 180.0
STOP_S = 8.0
PACKAGES = {
    QEMU: "qemu-system-x86", plan.VIRTIOFSD: "virtiofsd", "mkfs.ext4": "e2fsprogs", BUSYBOX: "busybox-static",
    "depmod": "kmod",
}  # fmt: skip


def missing(programs: dict[str, str]) -> list[str]:
    """The Debian packages of the programs that are not here."""
    return sorted({package for name, package in programs.items() if not (os.path.exists(name) or which(name))})


def describe(directory: Path, options: dict[str, object], paths: list[str]) -> plan.Lab:
    """The lab that was asked for. Fetches its kernel when that is not in the cache. Raises LabError."""
    if packages := missing(PACKAGES):
        raise LabError(f"programs are missing; install them with: apt-get install {' '.join(packages)}")
    real = [os.path.realpath(path) for path in paths]
    if absent := [path for path in real if not os.path.isdir(path)]:
        raise LabError(f"--path: there is no directory {absent[0]}")
    cache = debian_kernel.default_cache()
    cache.mkdir(parents=True, exist_ok=True)
    try:
        kernel = debian_kernel.debian_kernel(cache)
        debian_kernel.need_dependencies(kernel.modules)
    except BuildFailed as error:
        raise LabError(str(error)) from None
    lab = plan.Lab(
        checkout=str(ROOT),
        state=str(directory.resolve()),
        cache=str(cache.resolve()),
        kernel=str(kernel.image.resolve()),
        modules=str(kernel.modules.resolve()),
        paths=tuple(real),
        apart=tuple(path for path in real if plan.needs_share(path)),
    )
    return lab._replace(**options)  # type: ignore[arg-type]


def up(lab: plan.Lab) -> str:
    """Start it and wait until it answers; one line about it. Raises LabError, and then nothing is left."""
    directory = Path(lab.state)
    began = time.monotonic()
    for path in (directory / plan.ROOT_BIND, ROOT / "build" / "results", ROOT / "build" / "cache"):
        path.mkdir(parents=True, exist_ok=True)
    if (result := state.read(directory)).record:
        return _wait_for_other(result)
    _prepare(lab)
    with (directory / "keeper.log").open("wb") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "tests.lab.keeper"],
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    assert keeper.stdin
    with keeper.stdin:  # the keeper ends when this is closed before "keep"
        try:
            _await(lab, keeper)
            state.mark_ready(state.read(directory))
            keeper.stdin.write(b"keep\n")
            keeper.stdin.flush()
        except BaseException:
            keeper.stdin.close()
            keeper.wait(STOP_S)
            raise
    return f"up after {time.monotonic() - began:.1f} s"


def _prepare(lab: plan.Lab) -> None:
    directory = Path(lab.state)
    compile_modules(ROOT)
    busybox, init = Path(BUSYBOX).read_bytes(), (HERE / "init.sh").read_bytes()
    if b"/ld-linux" in busybox[:4096]:
        raise LabError(f"{BUSYBOX} is not the static one; install it with: apt-get install busybox-static")
    entries = plan.initramfs(lab, busybox=busybox, init=init, modules=_modules(Path(lab.modules)))
    (directory / "initramfs").write_bytes(cpio.archive(entries))
    (directory / plan.CONSOLE).write_bytes(b"")
    disk = directory / plan.DISK
    disk.unlink(missing_ok=True)
    with disk.open("wb") as file:
        file.truncate(plan.DISK_BYTES)
    mkfs = [which("mkfs.ext4"), "-q", "-O", "^has_journal", "-E", "lazy_itable_init=1", str(disk)]
    made = subprocess.run(mkfs, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if made.returncode:
        raise LabError(f"mkfs.ext4 of {disk} failed: {made.stderr.strip()}")


def compile_modules(root: Path) -> None:
    """Beside their sources, which each process in the slow machine would compile anew: it can't write there."""
    python = root / ".venv" / "bin" / "python"
    if python.exists():
        subprocess.run([python, "-m", "compileall", "-q", *COMPILED], cwd=root, stdin=subprocess.DEVNULL, check=False)


def _modules(place: Path) -> dict[str, bytes]:
    """What the initramfs loads, by name."""
    paths = plan.load_order((place / "modules.dep").read_text())
    return {Path(path).name.partition(".")[0]: lzma.decompress((place / path).read_bytes()) for path in paths}


def _job(lab: plan.Lab) -> bytes:
    argvs = {share.tag: plan.share_argv(share) for share in plan.shares(lab)}
    argvs["machine"] = plan.machine_argv(lab, which(QEMU))
    return json.dumps({"root_bind": plan.ROOT_BIND, "argvs": argvs}).encode() + b"\n"


def _await(lab: plan.Lab, keeper: "subprocess.Popen[bytes]") -> None:
    """Until a command runs in the lab."""
    directory = Path(lab.state)
    _tell(keeper.stdin, _job(lab))
    deadline = time.monotonic() + BOOT_S
    while keeper.poll() is None and time.monotonic() < deadline:
        try:
            if client.run(directory, client.Job(["true"], cwd="/", timeout_s=deadline - time.monotonic())) == 0:
                return
        except LabError:
            time.sleep(0.05)
    why = "it broke" if keeper.poll() is not None else f"it did not answer within {BOOT_S:g} s"
    raise LabError(f"the lab did not come up: {why}\n{state.evidence(directory)}")


def _tell(pipe: "IO[bytes] | None", text: bytes) -> None:
    try:
        assert pipe
        pipe.write(text)
        pipe.flush()
    except BrokenPipeError:
        pass  # it has ended, which is noticed next


def _wait_for_other(known: State) -> str:
    deadline = time.monotonic() + BOOT_S
    while known.word == "starting" and time.monotonic() < deadline:
        time.sleep(0.1)
        known = state.read(known.directory)
    if known.word != "up":
        raise LabError(f"another `lab up` was at work in {known.directory}, and the lab is {known.word}")
    return "already up"


def down(directory: Path) -> None:
    """End the lab, if there is one, and remove what it needs no more. Raises LabError."""
    record = state.read(directory).record
    if record:
        for signal in (SIGTERM, SIGKILL):
            if _ended(record, signal):
                break
        else:
            raise LabError(f"the lab's keeper, process {record['pid']}, does not end")
    _await_children(record)
    for name in (plan.DISK, "initramfs", state.READY, "keeper"):
        (directory / name).unlink(missing_ok=True)
    for temporary in directory.glob("*.sock*"):
        temporary.unlink(missing_ok=True)
    shutil.rmtree(directory / "root", ignore_errors=True)


def _ended(record: dict[str, int], signal: int) -> bool:
    process = open_process(record["pid"], record["started"])
    if process is None:
        return True
    with process:
        process.kill(signal)
        return process.wait(STOP_S)


def _await_children(record: dict[str, object]) -> None:
    """The kernel kills them when the keeper was killed; that takes a moment."""
    children = record.get("children", {})
    assert isinstance(children, dict)
    deadline = time.monotonic() + STOP_S
    for name, (pid, started) in children.items():
        process = open_process(pid, started)
        if process is not None:
            with process:
                if not process.wait(max(0, deadline - time.monotonic())):
                    raise LabError(f"the lab's {name}, process {pid}, does not end")
