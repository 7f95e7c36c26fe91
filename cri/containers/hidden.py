# SPDX-License-Identifier: Apache-2.0
"""Explains why the guest does not find a command that the image has: compares what the host and the VMM see.

Called by `create` when the guest reports that there is no such command. Changes nothing.
"""

import asyncio
import os

from cri.live.pod import LivePod
from cri.store.pods import ContainerRecord
from stage1.errors import KernelError, NoCommand, NotExecutable, PodError
from stage1.linux import beneath, in_root
from stage1.pod import oci
from stage1.pod.model import Process
from stage1.rootfs.export import image_name

MOST_PLACES = 64
"""Directories of PATH that are looked into."""
MOST_TEXT = 200
"""Characters of PATH in the error."""


async def explained(pod: LivePod, record: ContainerRecord, *, error: PodError) -> PodError:
    """The guest's error; where the container's image has the command that it misses, with what each side sees."""
    if not isinstance(error, NoCommand) or isinstance(error, NotExecutable) or pod.record.pod.host:
        return error
    pid = pod.vm.pid if pod.vm else 0
    sides = await asyncio.to_thread(_sides, pod.directory, record, pid=pid)
    command = sides["host"].rpartition(" ")[2]
    if not command.startswith("/") or _is_covered(record, command):
        return error
    seen = ", ".join(f"the {side} has {what}" for side, what in sides.items())
    return NoCommand(
        f"{error}, though it is in the image {record.image_ref}: {seen}; {len(pod.containers)} containers, PATH is"
        f" {path_of(record.container.process)[:MOST_TEXT]}; delete the container, so that it is made again, and report"
        " this"
    )


def _sides(directory: str, record: ContainerRecord, *, pid: int) -> dict[str, str]:
    share = f"{directory}/share"
    root = f"{share}/layers/{image_name(record.container.image)}"
    sides = {"host": ("self", root)} | ({"VMM": (str(pid), f"/proc/{pid}/root{root}")} if pid else {})
    return {
        side: f"the share {propagation(process, share)} and {seen(place, record.container.process)}"
        for side, (process, place) in sides.items()
    }


def propagation(process: str, point: str) -> str:
    """The propagation of what is mounted at `point` for a process, as in proc(5)."""
    try:
        with open(f"/proc/{process}/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            for line in file:
                fields = line.split(" ")
                if fields[4] == point:
                    return " ".join(fields[6 : fields.index("-")]) or "private"
    except OSError as error:
        return f"unknown ({os.strerror(error.errno or 0)})"
    return "not mounted"


def seen(root: str, process: Process) -> str:
    """Device and inode of an image's root at `root`, and where the command is in it; or why there is none."""
    try:
        with beneath.Root(root) as image:
            about = os.fstat(image.fd)
            return f"device {about.st_dev} inode {about.st_ino} {find(image.fd, process) or 'without it'}"
    except KernelError as error:
        return f"no image: {os.strerror(error.errno or 0)}"


def find(root: str | int, process: Process) -> str:
    """The path at which execvp(3) would find the command in an image, whose `root` is a path or a descriptor; empty
    if it is not there.
    """
    name = process.argv[0] if process.argv else ""
    places = [""] if "/" in name else path_of(process).split(":")[:MOST_PLACES]
    for path in (os.path.join("/", process.cwd, place, name) for place in places if name):
        try:
            os.close(in_root.open_path(root, path, flags=os.O_PATH))
            return path
        except (PodError, OSError, ValueError):
            continue  # not there, or nothing that a path can be
    return ""


def path_of(process: Process) -> str:
    """PATH as the process has it."""
    given = (oci.PATH, *process.env)
    return next(one for one in reversed(given) if one.startswith("PATH=")).removeprefix("PATH=")


def _is_covered(record: ContainerRecord, command: str) -> bool:
    """Whether a volume may hide it from the guest."""
    return any(command.startswith(one.target.rstrip("/") + "/") for one in record.container.mounts)
