# SPDX-License-Identifier: Apache-2.0
"""Fault points: each step of the daemon that changes something has a name, and a process stops itself there.

No code of clearpod knows of them. Python calls an audit hook for files that are opened for writing, made, renamed,
linked and removed, for processes that are started and sockets that are bound; clearpod itself raises audit events for
mounts and namespaces, and for requests to a guest's agent. A step is named by the function that takes it and by its
action, such as `engine.prepare mkdir`; a repeated one has a number.

`install` is called in the daemon under test (tests.faults.daemon). The file `arm` has Orders of the harness.
"""

import contextlib
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_EVENTS = {
    "os.mkdir": "mkdir",
    "os.rename": "rename",
    "os.link": "link",
    "os.symlink": "symlink",
    "os.remove": "unlink",
    "os.rmdir": "rmdir",
    "os.truncate": "truncate",
    "os.posix_spawn": "spawn",
    "socket.bind": "bind",
}
_LIBC = {"mount": "mount", "umount2": "umount", "unshare": "unshare", "setns": "setns"}
_SYSCALLS = {429: "move_mount", 442: "mount_setattr"}
_THIN = ("/stage1/linux/", "/stage1/vm/monitor.py", "/cri/threads.py", "/cri/agent.py", "/cri/live/pod.py LivePod.call")
"""Who calls these is the one who takes the step."""
_ROOT = f"{Path(__file__).parents[2]}/"


class Orders(NamedTuple):
    """`token` is another one each time, so that counting begins anew; `point` is where to stop, empty: only note."""

    token: str
    point: str = ""


def arm(root: Path, orders: Orders) -> None:
    """For the harness: from now on these orders count."""
    new = root / "arm.new"
    new.write_text(json.dumps(orders))
    new.rename(root / "arm")


def noted(root: Path, token: str) -> list[str]:
    """The points that were passed while these orders counted, in order."""
    path = root / f"points.{token}"
    return path.read_text().splitlines() if path.exists() else []


def install(root: Path) -> None:
    """In this process, from now on and for good."""
    Points(root).install()


class Points:
    """What was seen since the last orders."""

    def __init__(self, root: Path) -> None:
        self._root, self._orders = root, Orders("")
        self._seen: dict[str, int] = {}
        self._lock, self._busy = threading.RLock(), threading.local()

    def install(self) -> None:
        sys.addaudithook(self._hook)

    def _hook(self, event: str, args: tuple[Any, ...]) -> None:
        what = step(event, args)
        if not what or getattr(self._busy, "at_work", False):
            return
        self._busy.at_work = True
        try:
            if function := taker(sys._getframe(1)):
                self._pass(f"{function} {what}")
        finally:
            self._busy.at_work = False

    def _pass(self, step: str) -> None:
        with self._lock:
            try:
                orders = Orders(*json.loads((self._root / "arm").read_text()))
            except OSError:  # there are none, or no descriptor to read them with
                return
            if orders.token != self._orders.token:
                self._orders, self._seen = orders, {}
            self._seen[step] = self._seen.get(step, 0) + 1
            point = f"{step} {self._seen[step]}" if self._seen[step] > 1 else step
            with contextlib.suppress(OSError), (self._root / f"points.{orders.token}").open("a") as file:
                file.write(f"{point}\n")
        if point == orders.point:
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def step(event: str, args: tuple[Any, ...]) -> str:
    """What the event changes, in a word; empty when nothing."""
    if event == "open":
        return "write" if isinstance(args[2], int) and args[2] & _WRITE and args[0] != "/dev/null" else ""
    if event == "clearpod.open":
        return "write" if args[1] & _WRITE else ""
    if event == "clearpod.call":
        return f"asks {args[0]}"
    if event == "clearpod.monitor":
        return "" if args[0].startswith("query-") else f"asks monitor {args[0]}"
    if event == "clearpod.libc":
        return _SYSCALLS.get(args[1], "") if args[0] == "syscall" else _LIBC.get(args[0], "")
    return _EVENTS.get(event, "")


def taker(frame: FrameType | None) -> str:
    """The nearest function of clearpod's that is above the thin layers, as module.function."""
    while frame is not None:
        file = frame.f_code.co_filename
        name = frame.f_code.co_qualname.replace(".<locals>", "")
        if file.startswith(_ROOT) and not any(thin in f"{file} {name}" for thin in _THIN):
            package, _, path = file.removeprefix(_ROOT).removesuffix(".py").partition("/")
            if package in ("stage1", "cri"):
                return f"{path.replace('/', '.')}.{name}"
        frame = frame.f_back
    return ""
