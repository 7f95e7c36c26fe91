# SPDX-License-Identifier: Apache-2.0
"""The unit for systemd that docs/node.md gives."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

import cri.__main__ as command

UNIT = Path(__file__).parents[3] / "docs" / "clearpod.service"


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


def test_it_starts_a_command_that_there_is(unit: configparser.ConfigParser, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "clearpod"
    with pytest.raises(SystemExit) as ended:
        command.main([*words, "--help"])
    assert ended.value.code == 0 and "usage: clearpod serve" in capsys.readouterr().out


def test_it_ends_the_daemon_and_leaves_no_helper(unit: configparser.ConfigParser) -> None:
    assert unit["Service"]["KillMode"] == "mixed"


def test_systemd_understands_it(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze (apt install systemd)")
    program = tmp_path / "clearpod"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text(encoding="utf-8").replace("/opt/clearpod/.venv/bin/clearpod", str(program))
    copy = tmp_path / "clearpod.service"
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and str(copy) not in done.stderr, done.stderr
