# SPDX-License-Identifier: Apache-2.0
"""Death by SIGKILL between any two steps of what changes the machine, without a change to the code under test.

Python tells an audit hook of each file that is opened for writing, renamed, linked or removed, of each netns that is
entered, of each socket that is bound, by which devices are changed, and of each process that is started. `arm` kills
this process just before the n-th of them. As a program it attaches or detaches a pod that way:
`python -m tests.fakes.dying STEP attach|detach DIRECTORY`, with the pod's ports, the names of its networks and the
settings as JSON on its standard input; it prints nothing, and exits 0 when the pod had fewer steps.
"""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from stage1.net import attach
from stage1.net.settings import Settings
from stage1.pod.model import Pod, Port
from tests.fakes import preloaded
from tests.fakes.patience import PATIENCE

_WRITE = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.symlink", "os.remove", "os.posix_spawn", "socket.bind"}


def is_step(event: str, args: tuple[Any, ...]) -> bool:
    """Whether it changes what is on the machine, or enters a netns, which comes between making and keeping one."""
    if event == "open":
        path, flags = str(args[0]), args[2] or 0
        return bool(flags & _WRITE and "/pods/" not in path) or path.startswith(("/run/netns/", "/proc/thread-self/ns"))
    return event in _CHANGES


def arm(step: int, *, begins: str = "/") -> None:
    """Once the file `begins` is there, the `step`-th change (from 0) is the death of this process."""
    seen = 0

    def hook(event: str, args: tuple[Any, ...]) -> None:
        nonlocal seen
        if is_step(event, args) and os.path.exists(begins):
            if seen == step:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    sys.addaudithook(hook)


def die(step: int, verb: str, directory: str, *, settings: Settings, **pod: Any) -> bool:
    """Attach or detach in a process that dies at `step`; false when it lived to the end."""
    given = json.dumps({"settings": settings._asdict(), **pod})
    argv = [sys.executable, "-m", "tests.fakes.dying", str(step), verb, directory]
    root = str(Path(__file__).parents[2])
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with preloaded.Popen(argv, cwd=root, **pipes) as ended:
        _, err = ended.communicate(given.encode(), timeout=60 * PATIENCE)
    assert ended.returncode in (0, -signal.SIGKILL), err.decode()
    return ended.returncode != 0


def main(step: str, verb: str, directory: str) -> None:
    """Do it, and maybe die."""
    given = json.load(sys.stdin)
    output = given["settings"]
    settings = Settings(**{**output, "bin_dirs": tuple(output["bin_dirs"])})
    ports = tuple(Port(*port) for port in given.get("ports", ()))
    pod = Pod(os.path.basename(directory), "web", ports=ports, networks=tuple(given.get("networks", ())))
    arm(int(step))
    if verb == "attach":
        attach.attach(pod, directory, settings=settings)
    else:
        attach.detach(directory)


if __name__ == "__main__":
    main(*sys.argv[1:])
