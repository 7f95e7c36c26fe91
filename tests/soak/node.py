# SPDX-License-Identifier: Apache-2.0
"""A node whose daemon is killed and started again: directories, a netns that stands for the host, the real command.

Used by scripts/soak and scripts/faults. Everything is below one root, so that what stays can be seen.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from cri.config import Config
from cri.store.images import ImageStore
from stage1 import engine
from stage1.linux import namespace, process
from tests.fakes import preloaded
from tests.fakes.host_state import HostState
from tests.fakes.outer_net import BIN_DIR, conflist
from tests.fakes.patience import PATIENCE
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry

REPO = Path(__file__).parents[2]


class Node:
    """`with Node(root, guest_dir) as node:`; no daemon runs yet, and the sample image is in the store as `image`."""

    def __init__(self, root: Path, guest_dir: Path, *, keeps_registry: bool = False, more: str = "") -> None:
        """`more` is of its configuration."""
        self._keeps_registry, self._undo, self._more = keeps_registry, contextlib.ExitStack(), more
        self.root, self.guest_dir = root, guest_dir
        self.run_dir, self.state_dir, self.socket = f"{root}/run", f"{root}/state", f"{root}/run/clearpod.sock"
        self.host_state = HostState(root)
        self.image = ""
        self.program = ("cri",)
        """The module that is the daemon, and what it takes before `serve`."""
        self.daemon: subprocess.Popen[bytes] | None = None
        self._netns = f"/run/netns/t-soak-{os.urandom(4).hex()}"
        self.lives_in_netns = True
        """Whether daemons do; else they are where we are."""
        self.environment: dict[str, str] = {}
        """What daemons have in it besides ours."""

    def __enter__(self) -> "Node":
        namespace.make_net(self._netns)
        self._in_netns("ip", "link", "set", "lo", "up")
        for name in ("run/pods", "state", "net.d", "tmp", "logs"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        document = conflist(self.root)
        document["plugins"][0] |= {"ipMasq": False}
        (self.root / "net.d/10.conflist").write_text(json.dumps({**document, "plugins": document["plugins"][:1]}))
        self._configure()
        self._bring_image()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop(signal.SIGKILL)
        for directory in engine.directories(self.run_dir):
            engine.clean_up(directory)  # after a failure; else there is none
        self._undo.close()
        namespace.remove_net(self._netns)

    def _configure(self) -> None:
        text = f'run_dir = "{self.run_dir}"\nstate_dir = "{self.state_dir}"\n[guest]\ndir = "{self.guest_dir}"\n'
        text += f'[network]\nconf_dir = "{self.root}/net.d"\nbin_dirs = ["{BIN_DIR}"]\n[vm]\nhypervisor = "qemu"\n'
        text += f"scratch_mib = 64\nboot_timeout_s = {60 * PATIENCE}\nadopt_timeout_s = {20 * PATIENCE}\n"
        (self.root / "config.toml").write_text(f"{text}{self._more}")

    def _bring_image(self) -> None:
        with contextlib.ExitStack() as undo, namespace.inside_net(self._netns):
            registry = undo.enter_context(Registry(self.root / "registry"))
            self.image = registry.push(f"oci:{self.guest_dir}/sample:sample", "t/busybox:1")
            store = ImageStore(self.state_dir)
            pull_blocking(store, self.image, config=Config())
            store.close()
            if self._keeps_registry:
                self._undo.push(undo.pop_all())

    def _in_netns(self, *argv: str) -> bytes:
        return process.run(["nsenter", f"--net={self._netns}", *argv], timeout_s=20).stdout

    def start(self) -> None:
        """Start a daemon; it serves a moment later."""
        argv = [sys.executable, "-m", *self.program, "serve", "--config", f"{self.root}/config.toml"]
        env = {**os.environ, "TMPDIR": f"{self.root}/tmp", **self.environment}
        there = namespace.inside_net(self._netns) if self.lives_in_netns else contextlib.nullcontext()
        with (self.root / "serve.log").open("ab") as log, there:
            self.daemon = preloaded.Popen(argv, cwd=REPO, env=env, stdout=log, stderr=log)

    def stop(self, number: signal.Signals, limit_s: float = 10) -> int:
        """End the daemon by this signal; its exit code."""
        daemon, self.daemon = self.daemon, None
        if daemon is None:
            return 0
        daemon.send_signal(number)
        return daemon.wait(limit_s * PATIENCE)

    def restart(self) -> None:
        """End the daemon in order, and start the next one."""
        self.stop(signal.SIGTERM)
        self.start()

    def daemons(self) -> list[int]:
        """Pids of all that run here."""
        result = self.host_state.processes().items()
        return [pid for pid, line in result if f" serve --config {self.root}/" in line]

    def vmms(self) -> dict[int, str]:
        """Pids of VMMs, and the pods that they are."""
        pods = os.listdir(f"{self.run_dir}/pods")
        result = {pid: line for pid, line in self.host_state.processes().items() if pid in self.host_state.vmms()}
        return {pid: pod for pid, line in result.items() for pod in pods if pod in line}

    def links(self) -> list[str]:
        """Devices in the netns that stands for the host, but for those that stay: loopback and the bridge."""
        names = [line.split(":")[1].strip() for line in self._in_netns("ip", "-o", "link").decode().splitlines()]
        return [name for name in names if name not in ("lo", "ct0")]

    def leases(self) -> list[str]:
        """Addresses that host-local has given."""
        files = [path.name for path in (self.root / "leases").rglob("*") if path.is_file()]
        return [name for name in files if name != "lock" and not name.startswith("last_reserved")]

    def left(self, within_s: float = 10) -> list[str]:
        """What is there though no pod and no daemon is, by kind; waits for what is going."""
        empty: dict[str, list[str]] = {kind: [] for kind in self.host_state.seen()}
        kept = {"run_dir": ["pods", "daemon.lock", "format"]}
        deadline = time.monotonic() + within_s * PATIENCE
        while True:
            result = self.host_state.added({**empty, **kept})
            output = [f"{kind}: {one}" for kind, ones in result.items() for one in ones]
            output += [f"device: {name}" for name in self.links()] + [f"address: {name}" for name in self.leases()]
            if not output or time.monotonic() >= deadline:
                return output
            time.sleep(0.2)
