# SPDX-License-Identifier: Apache-2.0
"""The unit for systemd that docs/admin/node.md gives."""

import configparser
import shutil
import subprocess
from pathlib import Path

import pytest

import cri.__main__ as command
from cri.cli.service import END_S
from stage1.errors import BadRequest

EXPOSURE = 75
"""By systemd-analyze, of 100."""
UNIT = Path(__file__).parents[3] / "docs/admin/clearpod.service"


@pytest.fixture
def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",), strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(UNIT, encoding="utf-8")
    return parser


def test_it_starts_a_command_that_there_is(unit: configparser.ConfigParser, capsys: pytest.CaptureFixture[str]) -> None:
    program, *arguments = unit["Service"]["ExecStart"].split()
    assert Path(program).name == "clearpod"
    with pytest.raises(SystemExit) as ended:
        command.main([*arguments, "--help"])
    assert ended.value.code == 0 and "usage: clearpod serve" in capsys.readouterr().out


def test_it_ends_the_daemon_and_leaves_no_helper(unit: configparser.ConfigParser) -> None:
    assert unit["Service"]["KillMode"] == "mixed"


MOUNTS = """BindPaths BindReadOnlyPaths ExecPaths InaccessiblePaths MountFlags NoExecPaths PrivateDevices PrivateMounts
PrivateTmp ProcSubset ProtectControlGroups ProtectHome ProtectKernelLogs ProtectKernelModules ProtectKernelTunables
ProtectProc ProtectSystem ReadOnlyPaths ReadWritePaths RootDirectory RootImage TemporaryFileSystem""".split()
"""What makes a mount namespace: volumes and images must be mounted where the host's programs see them."""


def test_it_is_started_when_it_serves_and_is_watched(unit: configparser.ConfigParser) -> None:
    service = unit["Service"]
    assert service["Type"] == "notify-reload" and int(service["WatchdogSec"]) > 0
    assert int(service["TimeoutStopSec"]) > END_S


def test_it_is_not_started_again_and_again_with_a_bad_configuration(unit: configparser.ConfigParser) -> None:
    assert unit["Service"]["RestartPreventExitStatus"].split() == [str(BadRequest.exit_code)]
    assert unit["Unit"]["Documentation"]


def test_it_stays_in_the_hosts_mounts(unit: configparser.ConfigParser) -> None:
    assert not [key for key in unit["Service"] if key in MOUNTS]


def test_its_hardening_does_not_get_less() -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze (apt install systemd)")
    argv = ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE}", UNIT]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-300:]


def test_systemd_understands_it(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("needs systemd-analyze (apt install systemd)")
    program = tmp_path / "clearpod"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = UNIT.read_text(encoding="utf-8").replace("/opt/clearpod/.venv/bin/clearpod", str(program))
    copy = tmp_path / "clearpod.service"
    copy.write_text(text)
    done = subprocess.run(["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and str(copy) not in done.stderr, done.stderr
