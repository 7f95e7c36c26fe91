# SPDX-License-Identifier: Apache-2.0
"""`clearpod` as a user has it: a program that is started, with a configuration of its own below one root."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

from tests.fakes import preloaded
from tests.fakes.host_state import HostState
from tests.fakes.patience import PACE, PATIENCE

CHECKOUT = Path(__file__).parent.parent.parent
SLOW = re.compile("^clearpod: warning: .* by emulation .*\n", re.M)


class Result(NamedTuple):
    """How it ended; `err` is without the warning that this host only emulates."""

    code: int
    out: bytes
    err: str


class Command:
    """`root` gets config.toml, run, state and tmp. `more` is added to the configuration, as is the hypervisor."""

    def __init__(self, root: Path, guest_dir: Path, more: str = "", *, hypervisor: str = "auto") -> None:
        self.root, self.host_state, self.hypervisor = root, HostState(root), hypervisor
        self.config = root / "config.toml"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("CLEARPOD_")},
            "CLEARPOD_GUEST_DIR": str(guest_dir),
            "PYTHONPATH": str(CHECKOUT),
            "TMPDIR": str(root / "tmp"),
        }
        (root / "tmp").mkdir(exist_ok=True)
        self.configure(more)

    def configure(self, more: str) -> None:
        """Write the configuration: the directories, no bridge on this machine, and `more`, whose last table is [vm]."""
        top = f'run_dir = "{self.root}/run"\nstate_dir = "{self.root}/state"\nnetwork.default = false\n'
        if "network.conf_dir" not in more:
            top += f'network.conf_dir = "{self.root}/net.d"\n'
        vm = "" if "[vm]" in more else "[vm]\n"
        if "boot_timeout_s" not in more:
            vm += f"boot_timeout_s = {60 * PATIENCE}\n"
        for name, usual_s in (("adopt", 10), ("react", 4)):
            vm += f"{name}_timeout_s = {usual_s * PACE}\n" if f"{name}_timeout_s" not in more else ""
        self.config.write_text(f'{top}{more}\n{vm}hypervisor = "{self.hypervisor}"\n', encoding="utf-8")

    def argv(self, command: str, *arguments: str) -> list[str]:
        """The command line of `clearpod COMMAND`."""
        return [sys.executable, "-m", "cri", command, "--config", str(self.config), *arguments]

    def start(self, command: str, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        """Start it, with pipes unless `options` say otherwise."""
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return preloaded.Popen(self.argv(command, *arguments), **{"env": self.env, **pipes, **options})

    def run(self, *arguments: str, limit_s: float = 60, **options: Any) -> Result:
        """`clearpod run WORDS` to its end. `feed` (bytes) goes to its standard input."""
        feed = options.pop("feed", None)
        stdin = {} if feed is None else {"stdin": subprocess.PIPE}
        return finish(self.start("run", *arguments, **stdin, **options), feed=feed, limit_s=limit_s)


def finish(process: "subprocess.Popen[bytes]", *, feed: bytes | None = None, limit_s: float = 60) -> Result:
    """Wait for its end and collect what it wrote; it is killed when it takes too long, in the lab much later."""
    try:
        out, err = process.communicate(feed, timeout=limit_s * PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(
            f"no end within {limit_s * PATIENCE:g} s; it wrote {out[-500:]!r} and {err[-2000:]!r}"
        ) from None
    return Result(process.returncode, out or b"", SLOW.sub("", (err or b"").decode()))
