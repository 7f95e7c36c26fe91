# SPDX-License-Identifier: Apache-2.0
"""`scripts/conformance --lab`: the same in the lab, on the real kvmtool, on a host kernel with AppArmor.

Called by main.py once the images are built: in the lab the cache is read-only, and there is no network to build from.
"""

import argparse
import os
import shutil
from pathlib import Path

from tests.lab import client, plan, retry, start, state
from tests.lab.main import directory
from tests.lab.state import LabError
from tests.lab.suite import IN_MEMORY

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "build" / "results"
FOCUS, HANDLER = "AppArmor", "clearpod-stock"
"""What no other machine has. The pods have AppArmor if their kernel is `stock`."""
KERNEL = ROOT / "build" / "guest" / "bzImage-stock"
PROGRAMS = ("lkvm", "critest")


def run(args: argparse.Namespace) -> int:
    """The exit code of `scripts/conformance` in there. Raises LabError, also when it can't begin."""
    paths = directories(args.path)
    if RESULTS.resolve() not in args.output.resolve().parents:
        raise LabError(f"--output: the lab can write only below {RESULTS}, and not in {args.output}")
    if not args.handler and not KERNEL.exists():
        raise LabError(f"there is no {KERNEL}; build it: images/build stock")
    place = directory()
    was_up = state.read(place).word != "down"
    try:
        return retry.finish(
            lambda: client.run(place, client.Job(command(args, paths), cwd=str(ROOT))),
            lambda: ["critest"],
            up=lambda: start.up(start.describe(place, {}, paths)),
            down=lambda: start.down(place),
        )
    finally:
        if not was_up:
            start.down(place)


def directories(given: list[str]) -> list[str]:
    """Where the programs are that Debian does not have. Raises LabError."""
    places = [*given, *filter(None, os.environ.get("CLEARPOD_LAB_PATH", "").split(":")), os.environ.get("PATH", "")]
    programs = {name: shutil.which(name, path=":".join(places)) for name in PROGRAMS}
    if missing := [name for name, path in programs.items() if not path]:
        raise LabError(
            f"there is no {' and no '.join(missing)} in --path, $CLEARPOD_LAB_PATH or PATH; see docs/dev/testing.md"
        )
    return list(dict.fromkeys(os.path.dirname(os.path.realpath(path)) for path in programs.values() if path))


def command(args: argparse.Namespace, paths: list[str]) -> list[str]:
    """What runs in the lab, whose kernel and pods can AppArmor. Pure."""
    given = {"--focus": args.focus or ("" if args.handler else FOCUS), "--handler": args.handler or HANDLER}
    options = [word for name, text in given.items() if text for word in (name, text)]
    flags = [f"--{name}" for name in ("json", "websocket") if getattr(args, name)]
    return [
        *("env", f"PATH={':'.join(paths)}:{plan.STANDARD_PATH}", "PYTHONPATH=.", *IN_MEMORY),
        *(str(ROOT / ".venv/bin/python"), "tests/conformance/main.py"),
        *(*options, *flags, "--output", str(args.output.resolve())),
    ]
