# SPDX-License-Identifier: Apache-2.0
"""`clearpod debug`: an unconfined shell in a pod's guest, next to its containers.

The guest has no programs of its own, so the shell is that of an image. It sees the guest's processes, network and, in
/proc/1/root, files. The daemon refuses it unless `policy.debug` allows it, and writes it to its log and to the pod's
history. The container is removed afterwards; one whose client was killed is removed by the next call.
"""

import argparse
import os
import secrets
import sys
from typing import Any

from cri.cli import exec as execs
from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from cri.pb import runtime_pb2 as pb
from cri.policy import DEBUG
from stage1.errors import PodError, WrongState

EXAMPLES = (
    ("clearpod debug default/web", "a shell from the image of the pod's first container"),
    ("clearpod debug --image busybox:1.37 default/web ps", "run ps from an image that is on this machine"),
)
PID = "clearpod.io/debug-pid"
"""Label with the process that removes the container in the end."""


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod debug`."""
    parser.usage = "clearpod debug [--image IMAGE] POD [COMMAND [ARGUMENT...]]"
    parser.take_pod()
    parser.add_argument(
        "--image", default="", help="the image of the shell (default: that of the pod's oldest container)"
    )
    parser.take_config()
    parser.take_command(after=1)


def main(args: argparse.Namespace) -> int:
    """The exit code of the shell or command. Raises NotFound, BadRequest, WrongState, Unsupported."""
    with connect(args.config) as daemon:
        pod = lookup.pod(daemon, args.pod)
        _remove_orphans(daemon, pod.id)
        made = _make(daemon, pod, image=args.image or _image(daemon, pod))
        try:
            daemon("StartContainer", container_id=made)
            has_terminal = not args.rest and os.isatty(0) and os.isatty(1)
            if has_terminal:
                print("The guest's files are in /proc/1/root.", file=sys.stderr)
            asked: dict[str, Any] = {"stdin": True, "stdout": True, "stderr": not has_terminal, "tty": has_terminal}
            return execs.run(daemon, made, command=args.rest or ["sh"], **asked)
        finally:
            daemon("RemoveContainer", container_id=made)


def _image(daemon: Daemon, pod: Any) -> str:
    listed = daemon("ListContainers").containers
    own = [one for one in listed if one.pod_sandbox_id == pod.id and DEBUG not in one.annotations]
    if not own:
        raise WrongState(f"the pod {lookup.title(pod)} has no container; give the image of the shell with --image")
    return str(min(own, key=lambda one: one.created_at).image_id)


def _make(daemon: Daemon, pod: Any, *, image: str) -> str:
    """A container that only waits: a shell without input. Its id."""
    name = f"debug-{secrets.token_hex(3)}"
    kubelets = {key: value for key, value in pod.labels.items() if key.startswith("io.kubernetes.pod.")}
    config = pb.ContainerConfig(
        metadata=pb.ContainerMetadata(name=name),
        image=pb.ImageSpec(image=image),
        command=["sh"],
        stdin=True,
        annotations={DEBUG: "true"},
        labels={**kubelets, PID: str(os.getpid())},
    )
    return str(daemon("CreateContainer", pod_sandbox_id=pod.id, config=config).container_id)


def _remove_orphans(daemon: Daemon, pod_id: str) -> None:
    """Remove those whose maker has ended."""
    for one in daemon("ListContainers").containers:
        pid = one.labels.get(PID, "")
        if one.pod_sandbox_id == pod_id and pid.isdigit() and DEBUG in one.annotations and not _lives(int(pid)):
            try:
                daemon("RemoveContainer", container_id=one.id)
            except PodError:
                continue


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
