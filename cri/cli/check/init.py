# SPDX-License-Identifier: Apache-2.0
"""`clearpod init`: makes this machine a node: writes a configuration, checks the host, starts the daemon's unit.

It asks on a terminal, and otherwise follows the flags; existing files are replaced only with `--force`. Idempotent.
"""

import argparse
import difflib
import itertools
import os
import sys

from cri import config as configuration
from cri.cli import root
from cri.cli.check import proposal, requirements, unit
from cri.cli.check.facts import gather
from cri.cli.check.proposal import Wishes
from cri.cli.check.requirements import FAIL, evaluate
from cri.cli.parser import Command, Parser
from stage1.errors import AlreadyExists, BadRequest, PodError
from stage1.linux import files
from stage1.vm import hypervisors

EXAMPLES = (
    ("sudo clearpod init", "asks, writes /etc/clearpod/config.toml, checks, offers to start the daemon"),
    ("sudo clearpod init --yes --host-pods --metrics", "for scripts: a node of Kubernetes with metrics"),
    ("sudo clearpod init --yes --no-start --config ./new.toml", "only writes and checks"),
)
OLD = ".old"


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod init`."""
    parser.add_argument(
        "-y", "--yes", action="store_true", help="do not ask: write the configuration, and start the unit"
    )
    parser.add_argument("--force", action="store_true", help="replace an existing configuration that differs")
    parser.add_argument("--start", action=argparse.BooleanOptionalAction, default=None, help="start the unit or not")
    parser.add_argument(
        "--state-dir", default="", metavar="DIR", help="directory of images and pods' disks; should be on a large disk"
    )
    parser.add_argument("--hypervisor", choices=hypervisors.names(), default="", help="default: the best one here")
    text = "allow pods with the host's network, outside of VMs, which kube-proxy and cluster networks need"
    parser.add_argument("--host-pods", action="store_true", help=text)
    parser.add_argument("--metrics", action="store_true", help="serve metrics for Prometheus on loopback")
    parser.add_argument("--pool", type=int, default=0, metavar="VMS", help="size of the warm pool")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """0 when pods can run; 1 when a check has failed. Raises BadRequest, PodError."""
    root.require("writes a configuration and starts the daemon")
    path = os.path.abspath(args.config or configuration.DEFAULT_PATH)
    proposed = proposal.text(*_plan(args))
    configuration.parse(proposed, "the proposal")
    is_changed = _write(path, proposed, args=args)
    items = evaluate(gather(path if os.path.exists(path) else None))
    print(requirements.text(items), flush=True)
    if failed := [item.name for item in items if item.status == FAIL]:
        print(f"Not started: pods can't run before this is fixed: {', '.join(failed)}.")
        return 1
    _offer_start(args, is_changed=is_changed)
    return 0


def _plan(args: argparse.Namespace) -> tuple[proposal.Seen, Wishes]:
    """Facts about the host, and the user's choices."""
    state_dir = args.state_dir and os.path.abspath(args.state_dir)
    wishes = Wishes(state_dir, args.hypervisor, args.host_pods, args.metrics, args.pool)
    seen = proposal.gather(wishes.state_dir or configuration.Config().state_dir, wishes.hypervisor or "auto")
    if seen.has_kubelet and not wishes.host_pods and _may_ask(args):
        question = "There is a kubelet. Let pods have the host's network, outside of VMs, as kube-proxy needs?"
        wishes = wishes._replace(host_pods=_ask(question, default=False))
    return seen, wishes


def _write(path: str, proposed: str, *, args: argparse.Namespace) -> bool:
    """Return whether the file was written, after asking or as the flags determine."""
    existing = _read(path)
    if existing == proposed:
        print(f"{path} is as it should be.")
        return False
    if existing is None:
        print(proposed)
        if not args.yes and not _may_ask(args):
            raise BadRequest(f"{path} was not written: there is no terminal to ask on; give --yes to have it written")
        if not args.yes and not _ask(f"Write this to {path}?", default=True):
            return False
    else:
        lines = (existing.splitlines(), proposed.splitlines())
        print("\n".join(difflib.unified_diff(*lines, path, "proposed", lineterm="")))
        old = _unused(f"{path}{OLD}")
        question = f"Replace {path}, and keep the old one as {old}?"
        if not args.force and not (_may_ask(args) and _ask(question, default=False)):
            if lacks := _unmet(existing, proposed, args=args):
                raise AlreadyExists(
                    f"{path} exists and is kept as it is, so {', '.join(lacks)} had no effect; change the file, or give"
                    " --force to replace it"
                )
            print(f"{path} exists and is kept as it is; --force replaces it.")
            return False
        files.write_atomic(old, existing.encode(), 0o644)
        print(f"{old} is the old one.")
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_atomic(path, proposed.encode(), 0o644)
    print(f"{path} is written.")
    return True


def _unmet(existing: str, proposed: str, *, args: argparse.Namespace) -> list[str]:
    """The options that were given and that the existing file does not fulfil. Raises BadRequest for a file that is no
    configuration.
    """
    has, wants = configuration.parse(existing), configuration.parse(proposed)
    parts = {
        "--state-dir": (args.state_dir, has.state_dir == wants.state_dir),
        "--hypervisor": (args.hypervisor, has.vm.hypervisor == wants.vm.hypervisor),
        "--host-pods": (args.host_pods, set(wants.host_pods.allow) <= set(has.host_pods.allow)),
        "--metrics": (args.metrics, has.metrics.enabled),
        "--pool": (args.pool, has.pool.size == wants.pool.size),
    }
    return [option for option, (is_given, is_met) in parts.items() if is_given and not is_met]


def _unused(path: str) -> str:
    """The path, or with a number where there is such a file already: a backup is not written over."""
    if not os.path.lexists(path):
        return path
    return next(f"{path}.{number}" for number in itertools.count(2) if not os.path.lexists(f"{path}.{number}"))


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise BadRequest(f"{path} is there, but can't be read as a configuration: {error}") from None


def _offer_start(args: argparse.Namespace, *, is_changed: bool) -> None:
    if args.start is False:
        return
    try:
        unit.require_systemd()
        if not unit.find():
            if not _agreed(args, f"Install the unit {unit.NAME}?"):
                return
            print(f"{unit.install(sys.argv[0])} is written.")
        elif other := unit.hidden():
            print(f"Note: {unit.find()} is used and hides {other}; {unit.UNHIDE}.")
    except PodError as error:
        if args.start:
            raise
        print(f"Not started: {error}.")
        return
    is_active = unit.is_active()
    if is_active and not is_changed:
        print("The daemon runs.")
    elif _agreed(args, "Restart the daemon? Pods go on." if is_active else "Start the daemon, now and at each boot?"):
        unit.start(again=is_active)
        print("The daemon runs; `clearpod ps` shows its pods.")


def _agreed(args: argparse.Namespace, question: str) -> bool:
    return bool(args.start or args.yes) or (_may_ask(args) and _ask(question, default=True))


def _may_ask(args: argparse.Namespace) -> bool:
    return not args.yes and sys.stdin.isatty() and sys.stdout.isatty()


def _ask(question: str, *, default: bool) -> bool:
    """The answer; an empty one is the default. Raises BadRequest at the end of input."""
    while True:
        try:
            answer = input(f"{question} [{'Y/n' if default else 'y/N'}] ").strip().lower()
        except EOFError:
            raise BadRequest("nothing more was done: standard input has ended") from None
        if answer in ("", "y", "yes", "n", "no"):
            return default if not answer else answer.startswith("y")


COMMANDS = {"init": Command(EXAMPLES, add_arguments, main)}
