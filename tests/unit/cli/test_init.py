# SPDX-License-Identifier: Apache-2.0
"""`clearpod init`: what it proposes for a host, what it writes and replaces, and when it starts the daemon."""

import contextlib
import os
import pty
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cri.cli.check import init, proposal, unit
from cri.cli.check.proposal import Seen, Wishes
from cri.cli.check.requirements import FAIL, OK, Item
from cri.cli.parser import Parser
from cri.config import Config, parse
from stage1.errors import AlreadyExists, BadRequest, PodError, WrongState
from stage1.vm.slots import Range
from tests.fakes.patience import PATIENCE

LARGE = 1 << 40
HOST = Seen(disk_bytes=LARGE)


@pytest.mark.parametrize(
    ("seen", "wishes", "action", "value"),
    [
        (HOST, Wishes(), lambda c: c == Config(), True),
        (HOST, Wishes(state_dir='/srv/"pods"'), lambda c: c.state_dir, '/srv/"pods"'),
        (HOST, Wishes(hypervisor="qemu"), lambda c: c.vm.hypervisor, "qemu"),
        (HOST._replace(is_emulated=True), Wishes(), lambda c: c.vm.boot_timeout_s, 180.0),
        (HOST._replace(disk_bytes=20 << 30), Wishes(), lambda c: c.vm.scratch_mib, 5120),
        (HOST._replace(disk_bytes=1 << 30), Wishes(), lambda c: c.vm.scratch_mib, 512),
        (HOST, Wishes(host_pods=True), lambda c: (c.host_pods.allow, c.host_pods.privileged), (("network",), True)),
        (HOST, Wishes(metrics=True, pool=3), lambda c: (c.metrics.enabled, c.pool.size), (True, 3)),
        (HOST._replace(ids=Range(0x60000000, 0x0FFE0000)), Wishes(), lambda c: c.jail.ids.first, 0x60000000),
    ],
)
def test_a_proposal_has_what_the_host_needs_and_the_user_wants(
    seen: Seen, wishes: Wishes, action: Callable[[Config], object], value: object
) -> None:
    assert action(parse(proposal.text(seen, wishes))) == value


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., int]:
    """`run("--yes", items=...)` on a machine without systemd, with that result of the checks."""
    monkeypatch.setattr(unit, "BOOTED", str(tmp_path / "none"))

    def call(*arguments: str, items: tuple[Item, ...] = (Item("user", OK, "root"),), seen: Seen = HOST) -> int:
        parser = Parser(prog="clearpod init")
        init.add_arguments(parser)
        with monkeypatch.context() as patched:
            patched.setattr(init.root, "require", lambda why: None)
            patched.setattr(init, "gather", lambda path: None)
            patched.setattr(proposal, "gather", lambda *given: seen)
            patched.setattr(init, "evaluate", lambda facts: [*items])
            return init.main(parser.parse_args(["--config", f"{tmp_path}/etc/config.toml", *arguments]))

    return call


def test_without_a_terminal_nothing_is_written_unless_requested(
    run: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(BadRequest, match="--yes"):
        run()
    assert not (tmp_path / "etc").exists()
    assert run("--yes") == 0
    file = tmp_path / "etc/config.toml"
    assert (parse(file.read_text()).vm.hypervisor, stat.S_IMODE(file.stat().st_mode)) == ("auto", 0o644)
    assert "systemd" in capsys.readouterr().out


def test_existing_files_are_replaced_only_on_request(run: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "etc/config.toml"
    file.parent.mkdir()
    file.write_text("cgroup_driver = 'cgroupfs'\n")
    assert run("--yes") == 0
    assert file.read_text() == "cgroup_driver = 'cgroupfs'\n"
    assert run("--yes", "--force") == 0
    assert Path(f"{file}.old").read_text() == "cgroup_driver = 'cgroupfs'\n"
    before = file.stat()
    assert run("--yes", "--force") == run() == 0
    assert (file.stat().st_ino, file.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns), "it is not written"


def test_no_backup_is_lost(run: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "etc/config.toml"
    file.parent.mkdir()
    file.write_text("cgroup_driver = 'cgroupfs'\n")
    for number in range(3):
        assert run("--yes", "--force", "--pool", str(number + 1)) == 0
    texts = [Path(f"{file}.old{more}").read_text() for more in ("", ".2", ".3")]
    assert texts[0] == "cgroup_driver = 'cgroupfs'\n"
    assert [parse(text).pool.size for text in (*texts[1:], file.read_text())] == [1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--host-pods"], "--host-pods"),
        (["--pool", "2", "--metrics"], "--metrics, --pool"),
        (["--yes", "--host-pods"], "-"),
    ],
)
def test_a_wish_that_an_existing_file_does_not_have_is_refused(
    run: Callable[..., int], tmp_path: Path, arguments: list[str], word: str
) -> None:
    file = tmp_path / "etc/config.toml"
    file.parent.mkdir()
    file.write_text("cgroup_driver = 'cgroupfs'\n")
    with pytest.raises(AlreadyExists, match=f"{word}.*--force"):
        run(*arguments)
    assert file.read_text() == "cgroup_driver = 'cgroupfs'\n"
    file.write_text(
        "[host_pods]\nallow = ['network']\nprivileged = true\n[pool]\nsize = 2\n[metrics]\nenabled = true\n"
    )
    assert run(*arguments) == 0, "it has what is wished, and more"


def test_a_unit_that_hides_the_packages_is_reported(
    run: Callable[..., int], systemd: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    systemd()
    packages = tmp_path / "packages"
    packages.mkdir()
    monkeypatch.setattr(unit, "PLACES", (str(tmp_path / "units"), str(packages)))
    assert unit.hidden() == "" and run("--yes", "--no-start") == 0
    (packages / unit.NAME).touch()
    assert unit.hidden() == f"{packages}/{unit.NAME}"
    capsys.readouterr()
    assert run("--yes") == 0
    assert f"{packages}/{unit.NAME}" in capsys.readouterr().out
    (tmp_path / "units" / unit.NAME).unlink()
    (tmp_path / "units" / unit.NAME).symlink_to("/dev/null")
    assert unit.hidden() == "", "it is masked on purpose"


def test_a_failed_check_is_the_exit_code_and_starts_nothing(
    run: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--yes", "--start", items=(Item("mkfs.erofs", FAIL, "is not on PATH", "apt install erofs-utils"),)) == 1
    assert "mkfs.erofs" in capsys.readouterr().out.splitlines()[-1]


def test_a_start_without_systemd_is_refused(run: Callable[..., int]) -> None:
    with pytest.raises(WrongState, match="systemd"):
        run("--yes", "--start")
    assert run("--yes", "--no-start") == 0


@pytest.mark.parametrize("arguments", [["--state-dir", "/a,b"], ["--pool", "-1"]])
def test_a_wish_that_makes_no_sense_is_one_sentence(run: Callable[..., int], arguments: list[str]) -> None:
    with pytest.raises(BadRequest):
        run("--yes", *arguments)


SYSTEMCTL = """#!/bin/sh
echo "$*" >>{log}
case "$1" in is-active) exit {inactive};; start) echo "Job failed." >&2; exit {fails};; esac
"""


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Path]:
    """A machine with systemd, whose systemctl writes down what it is called with; the file."""

    def make(*, inactive: int = 3, fails: int = 0, has_unit: bool = True) -> Path:
        places = tmp_path / "units"
        for directory in (places, tmp_path / "bin", tmp_path / "booted"):
            directory.mkdir(exist_ok=True)
        monkeypatch.setattr(unit, "BOOTED", str(tmp_path / "booted"))
        monkeypatch.setattr(unit, "OWN", str(places))
        monkeypatch.setattr(unit, "PLACES", (str(places),))
        if has_unit:
            (places / unit.NAME).touch()
        program = tmp_path / "bin/systemctl"
        program.write_text(SYSTEMCTL.format(log=tmp_path / "calls", inactive=inactive, fails=fails))
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
        return tmp_path / "calls"

    return make


@pytest.mark.parametrize(
    ("inactive", "arguments", "calls"),
    [
        (3, ["--yes"], [f"is-active --quiet {unit.NAME}", f"enable {unit.NAME}", f"start {unit.NAME}"]),
        (0, ["--yes"], [f"is-active --quiet {unit.NAME}", f"enable {unit.NAME}", f"restart {unit.NAME}"]),
        (3, ["--yes", "--no-start"], []),
    ],
)
def test_the_unit_is_started_or_begun_anew(
    run: Callable[..., int], systemd: Callable[..., Path], inactive: int, arguments: list[str], calls: list[str]
) -> None:
    log = systemd(inactive=inactive)
    assert run(*arguments) == 0
    assert (log.read_text().splitlines() if log.exists() else []) == calls


def test_done_again_it_leaves_a_daemon_alone(run: Callable[..., int], systemd: Callable[..., Path]) -> None:
    run("--yes", "--no-start")
    log = systemd(inactive=0)
    assert run("--yes") == 0
    assert log.read_text() == f"is-active --quiet {unit.NAME}\n"


def test_an_error_of_systemctl_is_passed_on(run: Callable[..., int], systemd: Callable[..., Path]) -> None:
    systemd(fails=1)
    with pytest.raises(PodError, match="Job failed"):
        run("--yes")


def test_a_checkout_brings_its_unit(
    run: Callable[..., int], systemd: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = systemd(has_unit=False)
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/clearpod", "init"])
    assert run("--yes") == 0
    assert "\nExecStart=/somewhere/bin/clearpod serve\n" in Path(unit.OWN, unit.NAME).read_text()
    assert log.read_text().splitlines()[0] == "daemon-reload"


def _on_a_terminal(answers: str, function: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    ours, theirs = pty.openpty()

    def drain() -> None:
        with contextlib.suppress(OSError):  # EIO when the other end is closed
            while os.read(ours, 1 << 16):
                pass

    reader = threading.Thread(target=drain)
    os.write(ours, answers.encode())
    reader.start()
    try:
        with os.fdopen(theirs, "r+b", buffering=0) as raw, monkeypatch.context() as patched:
            patched.setattr("sys.stdin", open(raw.fileno(), encoding="utf-8", closefd=False))  # noqa: SIM115
            patched.setattr("sys.stdout", open(raw.fileno(), "w", encoding="utf-8", closefd=False))  # noqa: SIM115
            return function()
    finally:
        reader.join(10 * PATIENCE)
        os.close(ours)


@pytest.mark.parametrize(
    ("answers", "seen", "is_written"),
    [
        ("\n", HOST, True),
        ("perhaps\ny\n", HOST, True),
        ("n\n", HOST, False),
        ("n\ny\n", HOST._replace(has_kubelet=True), True),
    ],
)
def test_on_a_terminal_it_asks(
    run: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: str, seen: Seen, is_written: bool
) -> None:  # fmt: skip
    assert _on_a_terminal(answers, lambda: run("--no-start", seen=seen), monkeypatch) == 0
    assert (tmp_path / "etc/config.toml").exists() == is_written
