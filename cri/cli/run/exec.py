# SPDX-License-Identifier: Apache-2.0
"""`clearpod exec` and `debug`: one more program in a container, with our streams, and an unconfined shell in a pod's
guest, next to its containers. Both end with the program's exit code.

The guest has no programs of its own, so the shell of `debug` is that of an image. It sees the guest's processes,
network and, in /proc/1/root, files. The daemon refuses it unless `policy.debug` allows it, and writes it to its log and
to the pod's history. The container is removed afterwards; one whose client was killed is removed by the next call.
"""

import argparse
import json
import os
import sys
from typing import Any

from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.cli.run.remote import STANDARD, Files, Remote
from cri.cli.run.standard_streams import Terminal
from cri.pb import runtime_pb2 as pb
from cri.policy import DEBUG
from stage1.errors import ERROR_KIND, BadRequest, NoCommand, NotExecutable, PodError, WrongState

EXEC_EXAMPLES = (
    ("clearpod exec default/web ls /", "run ls in the only container of the pod"),
    ("clearpod exec -it default/web -c nginx sh", "a shell on a terminal in its container nginx"),
    ("clearpod exec -i default/web tar x < files.tar", "with standard input"),
)

KINDS: dict[str, type[PodError]] = {kind.__name__: kind for kind in (NoCommand, NotExecutable)}
"""The errors about the program itself, by their names in the status."""


def add_exec(parser: Parser) -> None:
    """The options of `clearpod exec`."""
    parser.usage = "clearpod exec [-i] [-t] [-c NAME] POD COMMAND [ARGUMENT...]"
    parser.take_podmans_codes()
    parser.take_container()
    parser.add_argument("-i", "--interactive", action="store_true", help="forward standard input to the command")
    parser.add_argument("-t", "--tty", action="store_true", help="allocate a terminal")
    parser.take_config()
    parser.take_command(after=1)
    parser.epilog = (
        "Exit codes: 125 if clearpod failed, 126 if the command is not executable, 127 if it does not exist, else the "
        "command's own, 128 + n when signal n ended it."
    )


def execute(args: argparse.Namespace) -> int:
    """The exit code of the program. Raises NotFound, BadRequest, WrongState, PodError."""
    if not args.rest:
        raise BadRequest("a command is missing: clearpod exec POD COMMAND")
    if args.tty and args.interactive and not os.isatty(0):
        raise BadRequest("with -it standard input must be a terminal; leave out -t")
    with connect(args.config) as daemon:
        container = lookup.container(daemon, args.name, name=args.container)
        asked = {"stdin": args.interactive, "stdout": True, "stderr": not args.tty, "tty": args.tty}
        return run(daemon, container.id, command=args.rest, **asked)


def run(daemon: Daemon, container_id: str, *, command: list[str], files: Files = STANDARD, **asked: Any) -> int:
    """Run `command`; `asked` are the fields of the CRI's ExecRequest that select its streams, which are `files` here.
    Return its exit code. Raises what `exit_code` raises.
    """
    url = daemon("Exec", container_id=container_id, cmd=command, **asked).url
    with Terminal(asked["stdin"] and asked["tty"]), Remote(url, files) as remote:
        return exit_code(remote.run(has_input=asked["stdin"], has_terminal=asked["tty"]))


def exit_code(status: bytes) -> int:
    """The program's, from the status at the end. Raises NoCommand or NotExecutable when it can't be run, PodError for
    what else kept it from ending.
    """
    kind: type[PodError] = PodError
    try:
        document = json.loads(status)
        if document["status"] == "Success":
            return 0
        for cause in document.get("details", {}).get("causes", []):
            if cause["reason"] == "ExitCode":
                return int(cause["message"])
            if cause["reason"] == ERROR_KIND:
                kind = KINDS.get(cause["message"], PodError)
        sentence = str(document.get("message", "it failed"))
    except (ValueError, KeyError, TypeError, AttributeError):
        sentence = "the connection to the program was lost before its exit code arrived; see `clearpod why`"
    raise kind(sentence)


DEBUG_EXAMPLES = (
    ("clearpod debug default/web", "a shell from the image of the pod's first container"),
    ("clearpod debug --image busybox:1.37 default/web ps", "run ps from an image that is on this machine"),
)
PID = "clearpod.io/debug-pid"
"""Label with the process that removes the container in the end."""


def add_debug(parser: Parser) -> None:
    """The options of `clearpod debug`."""
    parser.usage = "clearpod debug [--image IMAGE] POD [COMMAND [ARGUMENT...]]"
    parser.take_pod()
    parser.add_argument(
        "--image", default="", help="the image of the shell (default: that of the pod's oldest container)"
    )
    parser.take_config()
    parser.take_command(after=1)


def debug(args: argparse.Namespace) -> int:
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
            return run(daemon, made, command=args.rest or ["sh"], **asked)
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
    name = f"debug-{os.urandom(3).hex()}"
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


COMMANDS = {"exec": Command(EXEC_EXAMPLES, add_exec, execute), "debug": Command(DEBUG_EXAMPLES, add_debug, debug)}
