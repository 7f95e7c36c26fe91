# SPDX-License-Identifier: Apache-2.0
"""`clearpod run --profile systemd` as a user has it: the same ends as without, and a journal that the host reads.

What happens inside, where systemctl is, is tested through rkt: tests/rkt/test_systemd_pods.py.
"""

import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import pytest

from stage1.vm.spec import Share, VmSpec
from tests.fakes.command import Command, finish
from tests.fakes.patience import PATIENCE
from tests.vm.conftest import Boot

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not os.path.exists("/usr/bin/journalctl"), reason="needs journalctl: apt install systemd"),
]
SYSTEMD = ("--profile", "systemd")


def entries(journal: Path, **fields: str) -> list[str]:
    """The messages of the only machine whose journal is there, as journalctl reads it."""
    match = [f"{name}={value}" for name, value in fields.items()]
    argv = ["journalctl", "-D", journal, "-o", "json", "--all", "--no-pager", *match]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return [json.loads(line)["MESSAGE"] for line in done.stdout.splitlines()]


def wait_for(journal: Path, expected: list[str]) -> None:
    until = time.monotonic() + 20 * PATIENCE
    while entries(journal, _SYSTEMD_UNIT="app@main.service") != expected:
        assert time.monotonic() < until, entries(journal)
        time.sleep(0.1)


def test_the_journal_is_read_while_the_pod_runs_and_after_it(clearpod: Command, tmp_path: Path) -> None:
    line = "trap 'echo told; exit 9' TERM; echo out; echo wrong >&2; while :; do sleep 0.1; done"
    process = clearpod.start("run", *SYSTEMD, "--journal", str(tmp_path), "--", "sh", "-c", line)
    wait_for(tmp_path, ["out", "wrong"])
    process.send_signal(signal.SIGTERM)
    ended = finish(process)
    assert (ended.code, ended.out, ended.err) == (9, b"out\ntold\n", "wrong\n")
    assert entries(tmp_path, _SYSTEMD_UNIT="app@main.service") == ["out", "wrong", "told"]
    assert "app@main.service: Main process exited, code=exited, status=9" in "\n".join(entries(tmp_path, _PID="1"))
    checked = subprocess.run(["journalctl", "-D", tmp_path, "--verify"], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
    assert len(os.listdir(tmp_path)) == 1, "one machine, and nothing beside"


def test_it_runs_on_debians_kernel(clearpod: Command, guest_dir: Path, tmp_path: Path) -> None:
    if not (guest_dir / "system-systemd-stock.erofs").exists():
        pytest.skip("needs images/build stock")
    arguments = (*SYSTEMD, "--vm-kernel", "stock", "--journal", str(tmp_path))
    ended = clearpod.run(*arguments, "--", "sh", "-c", "uname -r; echo wrong >&2; exit 7")
    assert (ended.code, ended.out.strip().endswith(b"amd64")) == (7, True), ended
    assert entries(tmp_path, _SYSTEMD_UNIT="app@main.service")[-1] == "wrong"


def test_a_command_that_is_not_there_is_reported_as_without_systemd(clearpod: Command) -> None:
    ended = clearpod.run(*SYSTEMD, "--", "/no-such-program")
    assert ended.code == 127 and "/no-such-program" in ended.err, ended


def test_input_and_a_terminal_go_through_the_agent(clearpod: Command) -> None:
    much = os.urandom(20_000)
    ended = clearpod.run(*SYSTEMD, "-i", "--", "cat", feed=much)
    assert (ended.code, ended.out == much) == (0, True), ended.err
    ours, theirs = pty.openpty()
    arguments = (*SYSTEMD, "-t", "--", "sh", "-c", "test -t 0 && exit 5")
    process = clearpod.start("run", *arguments, stdin=theirs, stdout=theirs)
    assert process.wait(60 * PATIENCE) == 5
    finish(process)
    os.close(ours), os.close(theirs)


def test_output_that_is_read_long_after_the_end_is_whole(clearpod: Command) -> None:
    line = "x" * 999
    process = clearpod.start("run", *SYSTEMD, "--", "sh", "-c", f"yes {line} | head -n 230")
    assert process.stdout is not None
    begin = os.read(process.stdout.fileno(), 1)
    time.sleep(5)  # it has ended, and what does not fit into the link's buffers is still in pipes
    ended = finish(process)
    assert (ended.code, begin + ended.out == f"{line}\n".encode() * 230) == (0, True), len(ended.out)


def test_a_guest_without_space_for_its_journal_reports_it_and_ends(
    vm: VmSpec, boot: Boot, guest_dir: Path, tmp_path: Path
) -> None:
    for name in ("layers", "volumes/pod"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "volumes/pod/machine-id").write_text("5e" * 16)
    shares = tuple(Share(name, f"{tmp_path}/{name}", read_only=False) for name in ("layers", "volumes"))
    files = {"initramfs": f"{guest_dir}/initramfs-systemd", "system_image": f"{guest_dir}/system-systemd.erofs"}
    ended = boot(vm._replace(shares=shares, scratch="", **files))
    assert ended.wait(60 * PATIENCE)
    assert (
        "clearpod-agent: bind /run/clearpod/volumes/journal on /var/log/journal: No such file" in ended.console_tail()
    )


def test_a_journal_that_can_not_be_kept_is_refused_before_there_is_a_vm(clearpod: Command, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = clearpod.run(*SYSTEMD, "--journal", f"{tmp_path}/file/journal", "--", "true")
    assert ended.code == 125 and f"{tmp_path}/file/journal" in ended.err
    assert clearpod.run("--journal", str(tmp_path), "--", "true").code == 125
    assert "default and systemd" in clearpod.run("--profile", "openrc", "--", "true").err
