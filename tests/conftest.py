# SPDX-License-Identifier: Apache-2.0
"""What every test may use: coroutines, the built guest, a place for evidence, a watch for leaked processes.

Loaded by pytest. It must not import `stage1` or `cri`: the style tests run even when those do not import.
"""

import asyncio
import ctypes
import functools
import gc
import inspect
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import promises
from tests.fakes import durations, places, preloaded, run_order, surroundings
from tests.fakes.patience import PACE, PATIENCE

surroundings.forget()
places.use()
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGQUIT, signal.SIG_DFL),
    (signal.SIGHUP, signal.SIG_DFL),
):  # ignored in a script's background or under nohup, which what tests start would inherit
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)
hypothesis.settings.register_profile("clearpod", deadline=None)  # on a busy machine any example may take long
hypothesis.settings.load_profile("clearpod")

ROOT = Path(__file__).parent.parent
QUICK = ("style", "unit", "contract")
"""Folders of the tests that run first, and with `scripts/test --fast`."""
ORDER = ("style", "unit", "contract", "system", "cri", "bench", "vm", "rkt")
NEEDS = {"kvmtool": "lkvm", "crictl": "crictl", "critest": "critest", "rkt": "rkt"}
FAILED = pytest.StashKey[bool]()
SKIPPED = pytest.StashKey[bool]()
PASSED = os.environ.get("CLEARPOD_PASSED", "")
"""A file for lines of `passed` or `skipped` and the name of a test, if given: tests/lab/suite.py."""
PR_SET_CHILD_SUBREAPER = 36


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run `async def` tests, each in an event loop of its own."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    expected = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in expected}))
    return True


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[object]:
    """Without the garbage collector, which never has to look at what stays: a third of the time, in each process."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def _folder(item: pytest.Item) -> str:
    return _folder_of(item.path)


@functools.cache
def _folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[1]


@functools.cache
def _name_of(path: Path) -> str:
    """As `run_order` has it."""
    return str(path.relative_to(ROOT / "tests").with_suffix(""))


def _rank(item: pytest.Item) -> tuple[bool | int, ...]:
    """Side by side a file's tests stay together, so that the first of them says when the file's turn is."""
    folder = _folder(item)
    place = ORDER.index(folder) if folder in ORDER else len(ORDER)
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return bool(item.get_closest_marker("vm")), place
    return folder not in QUICK, run_order.rank(_name_of(item.path)), place


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what answers at once first, and what boots virtual machines last. Limits are longer in the lab."""
    items.sort(key=_rank)
    for item in items:
        if _folder(item) in QUICK and not item.get_closest_marker("vm"):
            item.add_marker("quick")
        if isinstance(item, pytest.Function) and promises.holds(_name_of(item.path), item.originalname):
            item.add_marker("promise")
    for item in items if PACE > 1 else ():
        given = item.get_closest_marker("timeout")
        limit_s = given.args[0] if given else float(item.config.getini("timeout"))
        item.add_marker(pytest.mark.timeout(limit_s * PACE), append=False)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Called by pytest-xdist, whatever `--dist` is: files stay whole, and what waits has processes of its own."""
    from tests.fakes.lanes import Lanes

    return Lanes(config, log)


def guest_directory() -> Path:
    """Where the built guest is, or would be."""
    return Path(os.environ.get("CLEARPOD_GUEST_DIR", ROOT / "build" / "guest"))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what needs a program that Debian does not have, or a kernel that was not built, and say which."""
    for marker, program in NEEDS.items():
        if item.get_closest_marker(marker) and not shutil.which(program):
            pytest.skip(f"needs {program} on PATH")
    if item.get_closest_marker("own_kernel") and not (guest_directory() / "vmlinux").exists():
        pytest.skip("needs clearpod's own kernel, for guests that are saved: images/build kernel")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember whether a test failed, for the fixtures that keep evidence, and what it cost; write down who passed, for
    the lab.
    """
    report = yield
    report.processor_s = durations.spent_s()
    if report.failed:
        item.stash[FAILED] = True
    elif report.skipped:
        item.stash[SKIPPED] = True
    elif report.when == "teardown" and PASSED and not item.stash.get(FAILED, False):
        with open(PASSED, "a", encoding="utf-8") as journal:
            journal.write(f"{'skipped' if item.stash.get(SKIPPED, False) else 'passed'} {item.nodeid}\n")
    return report


def pytest_terminal_summary(terminalreporter: "pytest.TerminalReporter") -> None:
    """Tell what took long when files of tests ran side by side."""
    if not terminalreporter.config.getoption("numprocesses", None):
        return
    for title, lines in durations.sections(terminalreporter.stats):
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


@pytest.fixture(scope="session")
def guest_dir() -> Path:
    """The built guest (kernel, initramfs, system image, sample): $CLEARPOD_GUEST_DIR, else build/guest."""
    path = guest_directory()
    if not path.is_dir():
        pytest.fail(f"no guest in {path}: run images/build all, or scripts/test, which does")
    return path


@pytest.fixture(scope="session")
def jailer(guest_dir: Path) -> str:
    """The program that starts VMMs."""
    return str(guest_dir / "jailer")


@pytest.fixture
def results(request: pytest.FixtureRequest) -> Iterator[Path]:
    """An empty directory for consoles, argv, states; kept in $RESULTS (build/results) if the test fails."""
    base = Path(os.environ.get("RESULTS", ROOT / "build" / "results"))
    path = base / re.sub(r"[^\w.-]+", "_", f"{request.node.path.stem}.{request.node.name}")[:100]
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    if request.node.stash.get(FAILED, False):
        print(f"evidence: {path}")
    else:
        shutil.rmtree(path)


def _children() -> dict[int, str]:
    """Living descendants that have no other parent left: pid -> command line."""
    result = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = task.joinpath("children").read_text().split()
        except OSError:
            continue  # a thread that has ended just now
        for pid in pids:
            try:
                command = Path("/proc", pid, "cmdline").read_text().replace("\0", " ").strip()
            except OSError:
                continue
            if command:  # a zombie has none
                result[int(pid)] = command
    return result


@pytest.fixture(scope="session", autouse=True)
def no_process_outlives_the_tests() -> Iterator[None]:
    """Adopt orphans, and fail at the end when one is still there (a VM that nobody stopped, say)."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    before = _children()
    yield
    preloaded.stop()
    deadline = time.monotonic() + 2 * PATIENCE  # what was told to go may need a moment
    while _children().keys() - before.keys() and time.monotonic() < deadline:
        time.sleep(0.05)
    left = {pid: command for pid, command in _children().items() if pid not in before}
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    if left:
        pytest.fail("left running: " + "; ".join(f"{pid} {command[:200]}" for pid, command in left.items()))
