# SPDX-License-Identifier: Apache-2.0
"""The commands of `scripts/lab`: a machine with working KVM for those who have none.

Called by scripts/lab as root. See docs/dev/testing.md.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from stage1.errors import PodError
from stage1.linux.host import which
from tests.lab import client, plan, protocol, start, state
from tests.lab.state import LabError
from tests.lab.suite import Suite

ROOT = start.ROOT
TESTS = ["tests/vm", "tests/rkt", "tests/hostile", "tests/system", "tests/cri"]
NOT_UP = "the lab is {word}; bring it up with: scripts/lab up"


def main(argv: list[str]) -> int:
    """Run one verb; its exit code, or that of the command in the lab."""
    args = parser().parse_args(argv)
    try:
        return int(globals()[f"do_{args.verb}"](args))
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it flushes at its end
        return 141
    except (LabError, PodError, OSError) as error:
        print(f"lab: {error}", file=sys.stderr)
        return error.code if isinstance(error, LabError) else 1
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog="scripts/lab", description="A machine with KVM: docs/dev/testing.md.")
    verbs = top.add_subparsers(dest="verb", required=True)
    machine = argparse.ArgumentParser(add_help=False)
    machine.add_argument("--path", action="append", default=[], metavar="DIR", help="put DIR first on PATH inside")
    machine.add_argument("--memory", type=int, default=3072, metavar="MIB")
    machine.add_argument("--cpus", type=int, default=2, metavar="N")
    machine.add_argument("--deterministic", action="store_true", help="one instruction is one nanosecond (slow)")
    verbs.add_parser("up", parents=[machine], help="boot it; fine when it is up")
    run = verbs.add_parser("run", help="run a command in it")
    run.add_argument("-i", dest="stdin", action="store_true", help="pass standard input on")
    run.add_argument("-C", dest="cwd", default="", metavar="DIR", help="directory (default: this one, else /)")
    run.add_argument("--timeout", type=float, default=0, metavar="S", help="kill it after so many seconds (code 124)")
    run.add_argument("argv", nargs=argparse.REMAINDER, metavar="COMMAND...")
    verbs.add_parser("status", help="tell whether it is up")
    verbs.add_parser("console", help="print what its kernel said")
    verbs.add_parser("down", help="end it")
    test = verbs.add_parser("test", parents=[machine], help="run the kvmtool tests in it")
    test.add_argument("pytest", nargs=argparse.REMAINDER, metavar="PYTEST-ARGUMENT...")
    return top


def directory() -> Path:
    """Where the lab keeps its state: $CLEARPOD_LAB_DIR, else build/lab."""
    return Path(os.environ.get("CLEARPOD_LAB_DIR", ROOT / "build" / "lab")).resolve()


def paths(args: argparse.Namespace) -> list[str]:
    """Directories that go on PATH inside: --path, then $CLEARPOD_LAB_PATH."""
    return [*args.path, *filter(None, os.environ.get("CLEARPOD_LAB_PATH", "").split(":"))]


def path_inside(args: argparse.Namespace) -> str:
    """PATH of the tests in there, with all directories that were named: the lab that was up may have another one."""
    return ":".join([*dict.fromkeys(paths(args)), plan.STANDARD_PATH])


def do_up(args: argparse.Namespace) -> int:
    """Boot the lab."""
    given = paths(args)
    options = {"memory_mib": args.memory, "vcpus": args.cpus, "deterministic": args.deterministic}
    print(f"lab: {start.up(start.describe(directory(), options, given))}")
    return 0


def do_run(args: argparse.Namespace) -> int:
    """Run a command in the lab."""
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise LabError("run what? scripts/lab run COMMAND...", 2)
    result = state.read(directory())
    if result.word != "up":
        raise LabError(NOT_UP.format(word=result.word), protocol.LAB_FAILED)
    return client.run(directory(), client.Job(argv, args.cwd, 0 if args.stdin else -1, args.timeout))


def do_status(args: argparse.Namespace) -> int:
    """Print one word, and the processes if there are any; 1 unless up."""
    result = state.read(directory())
    print(result.word)
    if result.record:
        print(f"keeper {result.record['pid']}")
        for name, (pid, _) in result.record["children"].items():
            print(f"{name} {pid}")
    return 0 if result.word == "up" else 1


def do_console(args: argparse.Namespace) -> int:
    """Print the console, also that of a lab that has ended."""
    console = directory() / plan.CONSOLE
    if not console.exists():
        raise LabError(f"there is no {console}: no lab was up here")
    sys.stdout.buffer.write(console.read_bytes())
    return 0


def do_down(args: argparse.Namespace) -> int:
    """End the lab."""
    start.down(directory())
    return 0


def do_test(args: argparse.Namespace) -> int:
    """Run the tests that need the real kvmtool, in a lab that is brought up for them if need be."""
    lkvm = shutil.which("lkvm", path=":".join(paths(args)) or "/nonexistent") or which("lkvm")
    if not lkvm:
        raise LabError(
            "there is no lkvm in --path, $CLEARPOD_LAB_PATH or PATH, so no test can run; see docs/dev/testing.md"
        )
    args.path.append(os.path.dirname(lkvm))
    python = ROOT / ".venv/bin/python"
    if not python.exists():
        raise LabError(f"there is no {python}; scripts/test or scripts/lint make it")
    if subprocess.run([ROOT / "images" / "build"]).returncode != 0:  # what is built already takes no time
        raise LabError("the guest was not built, so its tests would tell of an older one")
    arguments = [word for word in args.pytest if word != "--"]
    tests = [word for word in arguments if word.startswith("tests")] or TESTS
    options = [word for word in arguments if not word.startswith("tests")]
    pytest = [str(python), "-m", "pytest", "-rs", "-m", "kvmtool or lab", "--durations=10", *options]
    suite = Suite(ROOT, pytest, tests=tests, path=path_inside(args))
    was_up = state.read(directory()).word != "down"
    begun = time.monotonic()
    try:
        return suite.run(directory(), up=lambda: do_up(args), down=lambda: start.down(directory()))
    finally:
        print(f"lab: the tests took {time.monotonic() - begun:.0f} s in it")
        if not was_up:
            start.down(directory())
