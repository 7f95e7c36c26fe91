# SPDX-License-Identifier: Apache-2.0
"""The smallest machine that the guest's agent runs in: a VMM, a kernel, the system image, two shares, a scratch disk.

Used by test_agent.py. It knows nothing of pods or of the engine, so a fault found here is the agent's. Guest files
come from $CLEARPOD_GUEST_DIR or build/guest; $CLEARPOD_AGENT names an agent that is packed into an initramfs of its
own.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stage1.guest.connect import unix_factory
from stage1.guest.link import DataSeen, EventSeen
from stage1.guest.messages import Create, Exec, Exited, Op, Reply, Start, Stdio
from stage1.linux import vsock
from stage1.vm.qemu import EMULATED_CPU
from tests.fakes.guest_client import Factory, GuestClient, accept_factory
from tests.fakes.patience import PATIENCE

CHECKOUT = Path(__file__).parents[2]
GUEST_DIR = Path(os.environ.get("CLEARPOD_GUEST_DIR", CHECKOUT / "build" / "guest"))
AGENT = os.environ.get("CLEARPOD_AGENT", "")
KEY = bytes(range(16, 0, -1))  # in none of the data that tests send: a key that is not secret is a false marker
COMMANDS = "sh cat echo sleep stty kill head tail id ls dd yes ip hostname seq true false".split()
COMMANDS += "grep cksum sha256sum wc sync".split()
CAPABILITIES = ["CAP_CHOWN", "CAP_KILL", "CAP_NET_RAW", "CAP_SETUID", "CAP_SETGID", "CAP_SYS_ADMIN", "CAP_SYS_PTRACE"]


def missing(*, kernels: tuple[str, ...] = ("vmlinux", "bzImage")) -> str:
    """Why no machine can be made here, with these kernels in the guest's directory; empty when it can."""
    expected = [
        *(GUEST_DIR / name for name in kernels),
        GUEST_DIR / "system.erofs",
        *([] if AGENT else [GUEST_DIR / "initramfs"]),
    ]
    for path in expected:
        if not path.exists():
            return f"{path} is missing: build the guest's images first"
    tools = ("busybox", "mke2fs")
    return next((f"{tool} is not installed" for tool in tools if not shutil.which(tool)), "")


def cpio_of(agent: bytes) -> bytes:
    """An initramfs (newc) with nothing but /init."""
    out = b""
    for number, (name, mode, body) in enumerate([("init", 0o100755, agent), ("TRAILER!!!", 0, b"")], 1):
        fields = [number, mode, 0, 0, 1, 0, len(body), 0, 0, 0, 0, len(name) + 1, 0]
        entry = b"070701" + b"".join(b"%08x" % value for value in fields) + name.encode() + b"\0"
        entry += b"\0" * (-len(entry) % 4)
        out += entry + body + b"\0" * (-len(body) % 4)
    return out


def make_image(root: Path) -> None:
    """A busybox root with the libraries that it needs."""
    for name in ("bin", "dev", "proc", "sys", "tmp", "etc", "root"):
        (root / name).mkdir(parents=True)
    shutil.copy2(shutil.which("busybox") or "", root / "bin" / "busybox")
    for name in COMMANDS:
        (root / "bin" / name).symlink_to("busybox")
    listing = subprocess.run(["ldd", root / "bin" / "busybox"], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", listing):
        target = root / library[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)


def process_of(argv: list[str], *, tty: bool = False) -> dict[str, Any]:
    """An OCI process object."""
    return {
        "terminal": tty,
        # What the request says comes with crun's answer, when the process may have looked already.
        **({"consoleSize": {"width": 80, "height": 24}} if tty else {}),
        "user": {"uid": 0, "gid": 0},
        "args": argv,
        "env": ["PATH=/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), CAPABILITIES),
    }


def config_of(name: str, argv: list[str], *, tty: bool = False, memory: int = 0) -> dict[str, Any]:
    """An OCI config: own pid namespace through the pod's pause process, everything else the guest's."""
    return {
        "ociVersion": "1.0.2",
        "process": process_of(argv, tty=tty),
        "root": {"path": f"/run/clearpod/containers/{name}/rootfs"},
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["mode=755"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["newinstance", "ptmxmode=0666"]},
        ],
        "linux": {
            "namespaces": [{"type": "mount"}, {"type": "pid", "path": "/run/clearpod/pause.pid-ns"}],
            "cgroupsPath": f"/clearpod/{name}",
            "resources": {"memory": {"limit": memory}} if memory else {},
        },
    }  # fmt: skip


MACS = ("52:54:00:12:34:56", "52:54:00:12:34:57")
"""Of the machine's network devices."""


class PatientClient(GuestClient):
    """It waits longer in the lab."""

    def call(self, op: Op, timeout_s: float = 30.0) -> Reply:
        """As GuestClient."""
        return super().call(op, timeout_s * PATIENCE)


class Machine:
    """One VM and the client that talks to its agent. `output` and `exits` collect what came in."""

    def __init__(self, work: Path, *more: str, hypervisor: str = "qemu", talk: bool = True) -> None:
        self.listener = vsock.listen(0) if hypervisor == "kvmtool" else None
        self.work, self.console = work, work / "console.log"
        self.layers, self.volumes = work / "layers", work / "volumes"
        make_image(self.layers / "image")
        self.volumes.mkdir()
        self.output: dict[int, bytes] = {}
        self.ended: set[int] = set()
        self.exits: list[Exited] = []
        self._next_stream = 1
        self._taps: list[str] = []
        self._start(more)
        if not talk:
            return
        try:
            self.client = self.connect(1)
        except BaseException:
            self.kill()
            raise

    def _start(self, more: tuple[str, ...]) -> None:
        initramfs = GUEST_DIR / "initramfs"
        if AGENT:
            initramfs = self.work / "initramfs"
            initramfs.write_bytes(cpio_of(Path(AGENT).read_bytes()))
        scratch = self.work / "scratch.img"
        subprocess.run(["mke2fs", "-q", "-t", "ext4", scratch, "64M"], check=True, capture_output=True)
        line = ["panic=-1", "quiet", "tsc=reliable", "no_timer_check",
                "clearpod.system=/dev/vda", "clearpod.scratch=/dev/vdb", "clearpod.mark"]  # fmt: skip
        if self.listener:
            port = self.listener.getsockname()[1]
            argv = self._kvmtool(initramfs, scratch, [*line, f"clearpod.link=vsock:{port}", *more])
        else:
            argv = self._qemu(initramfs, scratch, [*line, "console=ttyS0", "reboot=t", "clearpod.link=serial", *more])
        env = {**os.environ, "HOME": str(self.work)}
        with self.console.open("wb") as log:
            self.vm = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)

    def _kvmtool(self, initramfs: Path, scratch: Path, line: list[str]) -> list[str | Path]:
        argv: list[str | Path] = ["lkvm", "run", "--name", "vm", "--mem", "160M", "--cpus", "1", "--console", "serial"]
        argv += ["--kernel", GUEST_DIR / "bzImage", "--initrd", initramfs, "--params", " ".join(line), "--rng"]
        argv += ["--vsock", str(vsock.choose_cid(os.getpid()))]
        argv += ["--disk", f"{GUEST_DIR}/system.erofs,ro", "--disk", scratch]
        for tag, path in (("layers", self.layers), ("volumes", self.volumes)):
            argv += ["--9p", f"{path},{tag}"]
        for number, mac in enumerate(MACS):  # kvmtool has only one device without a tap
            tap = f"t{os.urandom(4).hex()}-{number}"
            subprocess.run(["ip", "tuntap", "add", tap, "mode", "tap"], check=True)
            self._taps.append(tap)
            argv += ["--network", f"mode=tap,tapif={tap},script=none,guest_mac={mac}"]
        return argv

    def _qemu(self, initramfs: Path, scratch: Path, line: list[str]) -> list[str | Path]:
        argv: list[str | Path] = ["qemu-system-x86_64", "-M", "microvm,acpi=off", "-accel", "tcg", "-cpu", EMULATED_CPU]
        argv += ["-m", "160", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]
        argv += ["-kernel", GUEST_DIR / "vmlinux", "-initrd", initramfs, "-append", " ".join(line)]
        for number, (path, more) in enumerate([(GUEST_DIR / "system.erofs", ",readonly=on"), (scratch, "")]):
            argv += ["-drive", f"id=d{number},if=none,format=raw,file={path}{more}"]
            argv += ["-device", f"virtio-blk-device,drive=d{number}"]
        for tag, path in (("layers", self.layers), ("volumes", self.volumes)):
            argv += ["-fsdev", f"local,id={tag},path={path},security_model=none,multidevs=remap"]
            argv += ["-device", f"virtio-9p-device,fsdev={tag},mount_tag={tag}"]
        argv += ["-chardev", f"socket,id=link,path={self.work}/agent.sock,server=on,wait=off"]
        argv += ["-device", "virtio-serial-device", "-device", "virtserialport,chardev=link,name=clearpod.agent"]
        for number, mac in enumerate(MACS):
            argv += ["-netdev", f"user,id=n{number},restrict=on"]
            argv += ["-device", f"virtio-net-device,netdev=n{number},mac={mac}"]
        return argv

    def _factory(self) -> Factory:
        return accept_factory(self.listener) if self.listener else unix_factory(f"{self.work}/agent.sock")

    def connect(self, epoch: int, *streams: int) -> GuestClient:
        """A new client that knows these streams; what an earlier one had is only kept by the guest."""
        client = PatientClient(self._factory(), KEY, epoch)
        for stream in streams:
            client.link.open_stream(stream)
        client.hello(60 * PATIENCE, lambda: self.vm.poll() is None)
        return client

    def close(self) -> None:
        """End the VM, whatever its state."""
        if hasattr(self, "client"):
            self.client.close()
        self.kill()

    def kill(self) -> None:
        """End the VM without a word."""
        self.vm.kill()
        self.vm.wait()
        for tap in self._taps:
            subprocess.run(["ip", "tuntap", "del", tap, "mode", "tap"], check=True)
        if self.listener:
            self.listener.close()

    def streams(self, count: int = 2) -> list[int]:
        """So many new stream ids, open on the client."""
        ids = list(range(self._next_stream, self._next_stream + count))
        self._next_stream += count
        for stream in ids:
            self.client.link.open_stream(stream)
        return ids

    def create(self, name: str, argv: list[str], *, tty: bool = False, stdin: bool = False, **how: Any) -> Stdio:
        """Write the bundle and create the container."""
        bundle = self.volumes / "containers" / name
        bundle.mkdir(parents=True)
        memory, tmpfs = how.get("memory", 0), how.get("tmpfs", False)
        config = config_of(name, argv, tty=tty, memory=memory)
        config["mounts"] += how.get("mounts", [])
        config["linux"]["namespaces"] = how.get("namespaces", config["linux"]["namespaces"])
        config["process"]["user"]["uid"] = uid = how.get("uid", 0)
        if uid:
            config["process"]["capabilities"] = {"bounding": CAPABILITIES}
        (bundle / "config.json").write_text(json.dumps(config))
        stdio = self._stdio(tty=tty, stdin=stdin)
        lower, window = how.get("lower", "image"), how.get("window", False)
        self.client.call(Create(id=name, lower=lower, tmpfs=tmpfs, stdio=stdio, window=window))
        return stdio

    def _stdio(self, *, tty: bool, stdin: bool) -> Stdio:
        out, err, source = self.streams(3)
        return Stdio(source if stdin or tty else 0, out, 0 if tty else err, tty, *((80, 24) if tty else (0, 0)))

    def run(self, name: str, argv: list[str], **how: Any) -> Stdio:
        """Create and start."""
        stdio = self.create(name, argv, **how)
        self.client.call(Start(id=name))
        return stdio

    def exec(self, name: str, number: int, argv: list[str], *, tty: bool = False, stdin: bool = False) -> Stdio:
        """Another process in a running container."""
        file = self.volumes / "containers" / name / f"exec-{number}.json"
        file.write_text(json.dumps(process_of(argv, tty=tty)))
        stdio = self._stdio(tty=tty, stdin=stdin)
        self.client.call(Exec(container=name, exec=number, process=file.name, stdio=stdio))
        return stdio

    def pump(self, until: Callable[[], Any], limit_s: float = 30) -> None:
        """Collect what comes until the condition holds; fails after `limit_s`."""
        end = time.monotonic() + limit_s * PATIENCE
        while not until():
            if time.monotonic() > end:
                raise AssertionError(f"it did not come: {self.exits} {self.output}\n{self.console.read_text()}")
            for item in self.client.pump(0.2):
                self._take(item)
                self.client.done(item)

    def _take(self, item: Any) -> None:
        if isinstance(item, DataSeen):
            assert item.stream not in self.ended
            self.output[item.stream] = self.output.get(item.stream, b"") + item.data
            if item.end:
                self.ended.add(item.stream)
        elif isinstance(item, EventSeen):
            self.exits.append(item.event)

    def exit_of(self, name: str, exec_number: int = 0) -> Exited:
        """Wait for the exit event; all output is in by then."""

        def matching() -> list[Exited]:
            return [e for e in self.exits if (e.container, e.exec) == (name, exec_number)]

        self.pump(matching)
        return matching()[0]
