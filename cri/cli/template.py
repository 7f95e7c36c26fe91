# SPDX-License-Identifier: Apache-2.0
"""`clearpod template`: warmed templates, pods that have run and that later pods of their namespace begin as copies of.

`create` makes one of a running pod, `list`, `show` and `rm` are about those that exist. Other templates are made and
removed by the daemon itself, and not seen here.
"""

import argparse
import json
import time
from collections.abc import Callable
from typing import Any

from cri.cli import lookup, shown
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Parser
from cri.translate.bounds import short
from stage1.errors import BadRequest, NotFound

EXAMPLES = (
    ("clearpod template create --from default/web warm", "pods with `clearpod.io/template: warm` start as copies"),
    ("clearpod template list", "all templates and their sizes"),
    ("clearpod template show default/warm", "its origin, and whether it can still be used"),
    ("clearpod template rm default/warm", "remove it; copies are not affected"),
)
LIMIT_S = 600.0
HEADER = ("NAME", "POD", "AGE", "SIZE", "MEMORY", "USABLE")


def add_arguments(parser: Parser) -> None:
    """The arguments of `clearpod template`."""
    actions = parser.take_actions()
    summary = "write a running pod, which continues, to the disk as a template"
    create = _action(actions, "create", function=create_one, summary=summary)
    create.add_argument("--from", dest="pod", metavar="POD", required=True, help="the pod, which must consent")
    create.add_argument("name", metavar="NAME", help="name of the template, in the pod's namespace")
    listed = _action(actions, "list", function=list_all, summary="list the templates")
    listed.add_argument("--json", action="store_true", help="one array, for programs")
    for name, function, summary in (
        ("show", show, "verify the digests of a template's files and show it as JSON"),
        ("rm", remove, "remove templates; pods that are copies of them are not affected"),
    ):
        action = _action(actions, name, function=function, summary=summary)
        action.add_argument("template", nargs="+", metavar="NAME", help="NAME or NAMESPACE/NAME")


def _action(actions: Any, name: str, *, function: Callable[..., None], summary: str) -> Parser:
    action: Parser = actions.add_parser(name, help=summary)
    action.set_defaults(action_of=function)
    action.take_config()
    return action


def main(args: argparse.Namespace) -> int:
    """Run a command on warmed templates. Raises NotFound, BadRequest, and WrongState with the reason why a pod can't be
    made a template.
    """
    with connect(args.config) as daemon:
        args.action_of(args, daemon)
    return 0


def create_one(args: argparse.Namespace, daemon: Daemon) -> None:
    """Make a template of a pod, and print its name and size."""
    pod = lookup.pod(daemon, args.pod)
    reply = daemon("CreateTemplate", limit_s=LIMIT_S, pod_sandbox_id=pod.id, options={"name": args.name})
    made = json.loads(reply.info["template"])
    shown.write(f"{_title(made)}  {shown.size(made['takenBytes'])}")


def list_all(args: argparse.Namespace, daemon: Daemon) -> None:
    """Print a line for each template."""
    templates = _all(daemon)
    if args.json:
        shown.write(json.dumps(templates, indent=2))
    else:
        shown.write(shown.table([HEADER, *(_row(one) for one in templates)], shown.width()))


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    usable = f"no: {one['blocker']}" if one["blocker"] else "yes"
    size = shown.size(one["takenBytes"])
    if "made" not in one:
        return _title(one), "", "", size, "", usable
    age = shown.age(time.time() - shown.moment(one["made"]).timestamp())
    return _title(one), one["pod"]["name"], age, size, f"{one['memoryMib']} MiB", usable


def show(args: argparse.Namespace, daemon: Daemon) -> None:
    """Print each template as a JSON object."""
    for word in args.template:
        reply = daemon("ShowTemplate", limit_s=LIMIT_S, options=_options(daemon, word))
        shown.write(json.dumps(json.loads(reply.info["template"]), indent=2))


def remove(args: argparse.Namespace, daemon: Daemon) -> None:
    """Remove templates and print which."""
    for word in args.template:
        options = _options(daemon, word)
        daemon("RemoveTemplate", limit_s=LIMIT_S, options=options)
        shown.write(_title(options))


def _options(daemon: Daemon, word: str) -> dict[str, str]:
    """Return namespace and name of the template that `word` names. Raises NotFound, BadRequest when several match."""
    matching = [one for one in _all(daemon) if word in (one["name"], _title(one))]
    if not matching:
        raise NotFound(f"there is no template {short(word)}; `clearpod template list` shows those that exist")
    if len(matching) > 1:
        raise BadRequest(f"{short(word)} may be {', '.join(map(_title, matching[:5]))}; give NAMESPACE/NAME")
    return {"namespace": matching[0]["namespace"], "name": matching[0]["name"]}


def _all(daemon: Daemon) -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = json.loads(daemon("ListTemplates").info["templates"])
    return result


def _title(one: dict[str, Any]) -> str:
    return f"{one['namespace']}/{one['name']}"
