# SPDX-License-Identifier: Apache-2.0
"""What `scripts/conformance --lab` runs in the lab, and what it refuses before it begins."""

from pathlib import Path

import pytest

from tests.conformance import in_lab, main
from tests.lab import plan
from tests.lab.state import LabError

OUTPUT = str(in_lab.RESULTS / "x")


def command(*argv: str) -> str:
    args = main._parser().parse_args(["--lab", "--output", OUTPUT, *argv])
    return " ".join(in_lab.command(args, ["/opt/a", "/opt/b"])).partition("main.py ")[2]


@pytest.mark.parametrize(
    "argv, expected",
    [
        ((), "--focus AppArmor --handler clearpod-stock"),
        (("--json",), "--focus AppArmor --handler clearpod-stock --json"),
        (("--focus", "Streaming", "--websocket"), "--focus Streaming --handler clearpod-stock --websocket"),
        (("--handler", "clearpod"), "--handler clearpod"),
    ],
)
def test_the_run_in_the_lab_has_pods_with_apparmor_by_default(argv: tuple[str, ...], expected: str) -> None:
    assert command(*argv) == f"{expected} --output {OUTPUT}"


def test_its_programs_come_first_on_path() -> None:
    argv = in_lab.command(main._parser().parse_args(["--lab"]), ["/opt/a", "/opt/b"])
    assert f"PATH=/opt/a:/opt/b:{plan.STANDARD_PATH}" in argv


def test_programs_that_are_missing_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.delenv("CLEARPOD_LAB_PATH", raising=False)
    with pytest.raises(LabError, match=r"lkvm.* critest"):
        in_lab.directories([])
    for name in in_lab.PROGRAMS:
        place = tmp_path / name
        place.mkdir()
        (place / name).write_text("")
        (place / name).chmod(0o755)
    given = [str(tmp_path / name) for name in in_lab.PROGRAMS]
    assert in_lab.directories(given) == given


def test_reports_go_where_the_lab_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(in_lab, "directories", lambda given: given)
    args = main._parser().parse_args(["--lab", "--output", str(tmp_path)])
    with pytest.raises(LabError, match=str(tmp_path)):
        in_lab.run(args)


def test_without_sudo_the_run_itself_is_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    path = main._path(tmp_path)
    assert path.partition(":")[2] == "/nonexistent"
    program = Path(path.partition(":")[0], "sudo")
    assert program.stat().st_mode & 0o111
    program.rename(tmp_path / "sudo")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main._path(tmp_path / "more") == str(tmp_path)
