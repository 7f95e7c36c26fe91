# SPDX-License-Identifier: Apache-2.0
"""The one process that a lab is: it starts virtiofsd and QEMU, and they never outlive it.

Started by start.py with a plan on its standard input; runs in the lab's state directory. It holds the lock on
`keeper` as long as it lives, which is how others know that there is a lab. Until it reads "keep" it ends when its
starter does, so that a killed `lab up` leaves nothing; any child that ends, ends all; a SIGKILL of it kills them.
"""

import ctypes
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from types import FrameType
from typing import Any

from stage1.linux import mount, namespace
from stage1.linux.process import start_time

RECORD = "keeper"
SOCKET_S = 10.0
KILL_AFTER_S = 3.0
PR_SET_PDEATHSIG = 1
Child = subprocess.Popen[bytes]


class Over(Exception):
    """The lab ends: why."""


def main() -> int:
    """Keep a lab; return 0 when stopped, 1 when it broke, with one sentence on standard error."""
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    lock = os.open(RECORD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.ftruncate(lock, 0)  # a record of one that was killed would be taken for ours
    children: dict[str, Child] = {}
    try:
        _remove_sockets()  # of a keeper that was killed: theirs would be taken for ours
        plan = json.loads(sys.stdin.buffer.readline())
        _write_record(lock, children)
        _see_root_alone(plan["root_bind"])
        _start_all(plan, children, lock)
        _wait(children)
    except Over as reason:
        if str(reason):
            print(f"lab: {reason}", file=sys.stderr)
        return 1 if str(reason) else 0
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        _end(children)
        _remove_sockets()
        os.ftruncate(lock, 0)
    return 0


def _remove_sockets() -> None:
    for name in os.listdir():
        if name.endswith((".sock", ".sock.pid")):
            os.unlink(name)


def _stop(number: int, frame: FrameType | None) -> None:
    raise Over


def _write_record(lock: int, children: dict[str, Child]) -> None:
    """Who we are and whom we started, for `lab status`."""
    mine = {"pid": os.getpid(), "started": start_time(os.getpid())}
    theirs = {name: (child.pid, start_time(child.pid)) for name, child in children.items()}
    os.pwrite(lock, json.dumps({**mine, "children": theirs}).ljust(4000).encode(), 0)


def _see_root_alone(bind: str) -> None:
    """The host's root without what is mounted on it: overlays in the lab could not use that anyway."""
    namespace.unshare(namespace.NEW_NS)
    mount.set_propagation("/", mount.MS_PRIVATE | mount.MS_REC)
    mount.bind("/", bind)


def _start_all(plan: dict[str, Any], children: dict[str, Child], lock: int) -> None:
    *first, last = plan["argvs"].items()
    for name, argv in first:
        children[name] = _start(name, argv)
        _write_record(lock, children)
    deadline = time.monotonic() + SOCKET_S
    while not all(os.path.exists(f"{name}.sock") for name, _ in first):
        _check(children)
        if time.monotonic() > deadline:
            raise Over("the sockets of virtiofsd did not appear")
        time.sleep(0.02)
    children[last[0]] = _start(*last)
    _write_record(lock, children)


def _start(name: str, argv: list[str]) -> Child:
    with open(f"{name}.log", "wb") as log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=_die_with_us,  # noqa: PLW1509  there is one thread
        )


def _die_with_us() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _check(children: dict[str, Child]) -> None:
    for name, child in children.items():
        if child.poll() is not None:
            with open(f"{name}.log", errors="replace") as log:
                output = log.read()[-2000:].strip()
            raise Over(f"{name} ended with code {child.returncode}" + (f":\n{output}" if output else ""))


def _wait(children: dict[str, Child]) -> None:
    """Until a child ends, we are told to end, or our starter went before it said "keep"."""
    poll = select.poll()
    poll.register(0, select.POLLIN)
    for child in children.values():
        poll.register(os.pidfd_open(child.pid), select.POLLIN)
    while True:
        for fd, _ in poll.poll():
            if fd != 0:
                time.sleep(0.1)  # QEMU's end makes those of virtiofsd; let the cause be known
                _check(dict(reversed(children.items())))
            elif os.read(0, 100):
                poll.unregister(0)
            else:
                raise Over("whoever started the lab went away before it was up")


def _end(children: dict[str, Child]) -> None:
    for child in children.values():
        child.terminate()
    deadline = time.monotonic() + KILL_AFTER_S
    for child in children.values():
        try:
            child.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


if __name__ == "__main__":
    sys.exit(main())
