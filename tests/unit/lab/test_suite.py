# SPDX-License-Identifier: Apache-2.0
"""The suite goes on in a new machine when one breaks; here the machine is a process that may end early."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.lab import client, main, plan, protocol, start
from tests.lab.retry import TRIES
from tests.lab.state import LabError
from tests.lab.suite import Suite

pytestmark = pytest.mark.slow  # for each machine pytest starts anew

TESTS = """
import os, pathlib
ROOT = pathlib.Path(__file__).parent
def count(name):
    with open(ROOT / name, "a") as file: file.write("x")
    return (ROOT / name).stat().st_size
def test_first(): count("first")
def test_breaks(): count("breaks") > int((ROOT / "times").read_text()) or os._exit(9)
def test_last(): assert count("last") and (ROOT / "good").exists()
"""
HOOKS = Path(__file__).parents[2] / "conftest.py"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with three tests under the hooks of ours; `client.run` runs its order right here."""
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(TESTS)
    (tmp_path / "tests" / "good").touch()
    hooks = f"import sys; sys.path.insert(0, {str(HOOKS.parents[1])!r})\n"
    (tmp_path / "conftest.py").write_text(hooks + "from tests.conftest import pytest_runtest_makereport\n")

    def run(directory: Path, job: client.Job) -> int:
        code = subprocess.run(job.argv, cwd=job.cwd, check=False, stdout=subprocess.DEVNULL).returncode
        if code == 9:
            raise LabError("the machine is gone", protocol.LAB_FAILED)
        return code

    monkeypatch.setattr(client, "run", run)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # what the plugins load costs more than all else here
    return tmp_path


def run_suite(tree: Path, *, breaks: int, down_at: int = 0) -> tuple[int, int]:
    """Exit code, and how many machines it took. The machine `down_at`, counted from 1, does not come up."""
    (tree / "tests" / "times").write_text(str(breaks))
    ups: list[None] = []

    def up() -> None:
        ups.append(None)
        if len(ups) == down_at:
            raise LabError("the lab did not come up")

    pytest_argv = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider"]
    suite = Suite(tree, pytest_argv, tests=["tests"], path="/usr/bin:/bin")
    return suite.run(tree, up=up, down=lambda: None), len(ups)


def count(tree: Path, name: str) -> int:
    return (tree / "tests" / name).stat().st_size


def test_what_passed_is_not_repeated_and_the_rest_is(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_suite(tree, breaks=1) == (0, 2)
    assert [count(tree, name) for name in ("first", "breaks", "last")] == [1, 2, 1]
    assert "it broke in tests/test_it.py::test_breaks; a new machine for the 2 left" in capsys.readouterr().out
    assert not list((tree / "build" / "results").iterdir())


def test_a_machine_that_does_not_come_up_is_made_again_but_not_the_first_one(tree: Path) -> None:
    assert run_suite(tree, breaks=1, down_at=2) == (0, 3)
    with pytest.raises(LabError, match="come up"):
        run_suite(tree, breaks=0, down_at=1)


def test_what_is_compiled_is_compiled_outside(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    run_suite(tree, breaks=0)
    assert list(tree.glob("tests/__pycache__/test_it.*pytest*.pyc")), "pytest's own, which it made while it collected"
    (tree / ".venv" / "bin").mkdir(parents=True)
    (tree / ".venv" / "bin" / "python").symlink_to(sys.executable)
    for name in start.COMPILED:
        (tree / name).mkdir(parents=True, exist_ok=True)
    (tree / "cri" / "module.py").write_text("NUMBER = 1\n")
    start.compile_modules(tree)
    assert list(tree.glob("cri/__pycache__/module.*.pyc"))


def test_a_failure_stays_one(tree: Path) -> None:
    (tree / "tests" / "good").unlink()
    assert run_suite(tree, breaks=1) == (1, 2)


def test_a_test_that_always_breaks_the_machine_is_a_failure(tree: Path) -> None:
    with pytest.raises(LabError, match="machine"):
        run_suite(tree, breaks=99)
    assert count(tree, "breaks") == TRIES


def test_a_run_in_which_every_test_is_skipped_is_a_failure(tree: Path) -> None:
    (tree / "tests" / "test_it.py").write_text("import pytest\ndef test_it(): pytest.skip('no lkvm')\n")
    with pytest.raises(LabError, match="skipped"):
        run_suite(tree, breaks=0)


def test_without_lkvm_the_tests_of_the_lab_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CLEARPOD_LAB_PATH", raising=False)
    assert main.main(["test"]) == 1


def test_tests_find_programs_in_all_directories_that_were_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLEARPOD_LAB_PATH", "/opt/kvmtool:/opt/crictl")
    args = main.parser().parse_args(["test", "--path", "/opt/rkt", "--path", "/opt/kvmtool"])
    assert main.path_inside(args) == f"/opt/rkt:/opt/kvmtool:/opt/crictl:{plan.STANDARD_PATH}"


def test_a_name_that_selects_nothing_is_an_error_before_a_machine_is_started(tree: Path) -> None:
    with pytest.raises(LabError, match=r"test_it\.py::test_none"):
        Suite(tree, [sys.executable, "-m", "pytest"], tests=["tests/test_it.py::test_none"], path="/usr/bin:/bin")
