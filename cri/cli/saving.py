# SPDX-License-Identifier: Apache-2.0
"""`clearpod suspend`, `resume`, `fork` and `snapshot`: what saves a pod's guest, or begins pods with a saved one.

`snapshot` is about named snapshots alone: `create` makes one of a running pod, `list`, `show` and `rm` are about those
that exist. The daemon makes and removes templates by itself.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.translate.bounds import short
from stage1.errors import BadRequest, NotFound

LIMIT_S = 600.0
"""How long a copy or a snapshot may take."""

SUSPEND_EXAMPLES = (("clearpod suspend default/web", "free its memory and processors until it is resumed"),)
SUSPEND_S = 180.0


def add_pod(parser: Parser) -> None:
    """The options of `clearpod suspend` and `resume`."""
    parser.take_pod()
    parser.take_config()


def suspend(args: argparse.Namespace) -> int:
    """Suspend the pod. Raises NotFound, and WrongState with the reason why it can't be suspended."""
    with connect(args.config) as daemon:
        daemon("SuspendPod", limit_s=SUSPEND_S, pod_sandbox_id=lookup.pod(daemon, args.pod).id)
    return 0


RESUME_EXAMPLES = (("clearpod resume default/web", "its programs continue where they were"),)


def resume(args: argparse.Namespace) -> int:
    """Resume the pod. Raises NotFound, and WrongState when it can't be resumed here."""
    with connect(args.config) as daemon:
        daemon("ResumePod", limit_s=SUSPEND_S, pod_sandbox_id=lookup.pod(daemon, args.pod).id)
    return 0


FORK_EXAMPLES = (
    ("clearpod fork default/web", "a copy of the pod with its memory, named web-fork"),
    ("clearpod fork web --name try -n 4", "try-1 to try-4"),
)


def add_fork(parser: Parser) -> None:
    """The options of `clearpod fork`."""
    parser.take_pod()
    parser.add_argument("--name", metavar="NAME", help="name of the copy; with -n a number is appended")
    parser.add_argument("-n", "--copies", metavar="N", default="1", help="number of copies")
    parser.take_config()


def fork(args: argparse.Namespace) -> int:
    """Writes the copies' names and ids. Raises NotFound, and WrongState with the reason why it can't be copied."""
    with connect(args.config) as daemon:
        options = {"copies": args.copies, **({"name": args.name} if args.name is not None else {})}
        pod = lookup.pod(daemon, args.pod)
        made = daemon("ForkPod", limit_s=LIMIT_S, pod_sandbox_id=pod.id, options=options)
    for one in made.items:
        print(f"{lookup.title(one)}  {one.id}")
    return 0


SNAPSHOT_EXAMPLES = (
    ("clearpod snapshot create default/web warm", "pods with `clearpod.io/snapshot: warm` begin as copies"),
    ("clearpod snapshot list", "all snapshots and their sizes"),
    ("clearpod snapshot show default/warm", "its origin, and whether it can still be used"),
    ("clearpod snapshot rm default/warm", "remove it; copies are not affected"),
)
HEADER = ("NAME", "POD", "AGE", "SIZE", "MEMORY", "USABLE")


def add_snapshot(parser: Parser) -> None:
    """The arguments of `clearpod snapshot`."""
    actions = parser.take_actions()
    summary = "write a running pod, which consents and continues, to the disk"
    create = _action(actions, "create", function=create_one, summary=summary)
    create.take_pod()
    create.add_argument("name", metavar="NAME", help="name of the snapshot, in the pod's namespace")
    listed = _action(actions, "list", function=list_all, summary="list the snapshots")
    listed.add_argument("--json", action="store_true", help="one array, for programs")
    for name, function, summary in (
        ("show", show, "verify the digests of a snapshot's files and show it as JSON"),
        ("rm", remove, "remove snapshots; pods that are copies of them are not affected"),
    ):
        action = _action(actions, name, function=function, summary=summary)
        action.add_argument("snapshot", nargs="+", metavar="NAME", help="NAME or NAMESPACE/NAME")


def _action(actions: Any, name: str, *, function: Callable[..., None], summary: str) -> Parser:
    action: Parser = actions.add_parser(name, help=summary)
    action.set_defaults(action_of=function)
    action.take_config()
    return action


def snapshot(args: argparse.Namespace) -> int:
    """Run a command on named snapshots. Raises NotFound, BadRequest, and WrongState with the reason why a pod can't be
    saved.
    """
    with connect(args.config) as daemon:
        args.action_of(args, daemon)
    return 0


def create_one(args: argparse.Namespace, daemon: Daemon) -> None:
    """Make one of a pod, and print its name and size."""
    pod = lookup.pod(daemon, args.pod)
    reply = daemon("CreateSnapshot", limit_s=LIMIT_S, pod_sandbox_id=pod.id, options={"name": args.name})
    made = json.loads(reply.info["snapshot"])
    shown.write(f"{_title(made)}  {shown.size(made['takenBytes'])}")


def list_all(args: argparse.Namespace, daemon: Daemon) -> None:
    """Print a line for each snapshot."""
    snapshots = _all(daemon)
    if args.json:
        shown.write(json.dumps(snapshots, indent=2))
    else:
        shown.write(shown.table([HEADER, *(_row(one) for one in snapshots)], shown.width()))


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    usable = f"no: {one['blocker']}" if one["blocker"] else "yes"
    size = shown.size(one["takenBytes"])
    if "made" not in one:
        return _title(one), "", "", size, "", usable
    age = shown.age(time.time() - shown.moment(one["made"]).timestamp())
    return _title(one), one["pod"]["name"], age, size, f"{one['memoryMib']} MiB", usable


def show(args: argparse.Namespace, daemon: Daemon) -> None:
    """Print each snapshot as a JSON object."""
    for word in args.snapshot:
        reply = daemon("ShowSnapshot", limit_s=LIMIT_S, options=_options(daemon, word))
        shown.write(json.dumps(json.loads(reply.info["snapshot"]), indent=2))


def remove(args: argparse.Namespace, daemon: Daemon) -> None:
    """Remove snapshots and print which."""
    for word in args.snapshot:
        options = _options(daemon, word)
        daemon("RemoveSnapshot", limit_s=LIMIT_S, options=options)
        shown.write(_title(options))


def _options(daemon: Daemon, word: str) -> dict[str, str]:
    """Return namespace and name of the snapshot that `word` names. Raises NotFound, BadRequest when several match."""
    matching = [one for one in _all(daemon) if word in (one["name"], _title(one))]
    if not matching:
        raise NotFound(f"there is no snapshot {short(word)}; `clearpod snapshot list` shows those that exist")
    if len(matching) > 1:
        raise BadRequest(f"{short(word)} may be {', '.join(map(_title, matching[:5]))}; give NAMESPACE/NAME")
    return {"namespace": matching[0]["namespace"], "name": matching[0]["name"]}


def _all(daemon: Daemon) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(daemon("ListSnapshots").info["snapshots"])
    return result


def _title(one: dict[str, Any]) -> str:
    return f"{one['namespace']}/{one['name']}"


COMMANDS = {
    "suspend": Command(SUSPEND_EXAMPLES, add_pod, suspend),
    "resume": Command(RESUME_EXAMPLES, add_pod, resume),
    "fork": Command(FORK_EXAMPLES, add_fork, fork),
    "snapshot": Command(SNAPSHOT_EXAMPLES, add_snapshot, snapshot),
}
