# SPDX-License-Identifier: Apache-2.0
"""The entry point gc: any step may find its work done or never begun, and each is tried though another failed."""

import errno
import os
from pathlib import Path

import pytest

from stage1.entry import dispatch, gc

UUID = f"5f1c2a3b-0000-4000-8000-{os.getpid():08x}aaaa"
TREE = "deps-sha512-" + "0" * 64


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a pod that never started, as the working directory."""
    path = tmp_path / "data/pods/exited-garbage" / UUID
    (path / "stage1/rootfs").mkdir(parents=True)
    (path / "stage1TreeStoreID").write_text(TREE)
    monkeypatch.chdir(path)
    return path


def test_a_pod_that_never_started_leaves_nothing_to_do_once_or_twice(pod: Path) -> None:
    for _ in range(2):
        assert gc.main(["--debug", "--local-config", "/etc/rkt", UUID]) == 0
    assert sorted(os.listdir(pod)) == ["stage1", "stage1TreeStoreID"]


def test_a_step_that_fails_is_reported_and_the_others_are_done(pod: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (pod / "stage1TreeStoreID").write_text("../..")
    records = pod.parents[2] / "clearpod/networks"
    records.mkdir(parents=True)
    (records / f"{UUID}.json").write_text("{")
    (records / "6f1c2a3b-0000-4000-8000-00000000cccc.json").write_text("{")
    os.symlink(records / f"{UUID}.json", pod / "cni.json")
    assert gc.main([UUID]) == 1
    output = capfd.readouterr().err.splitlines()
    assert len(output) == 3 and all(line.startswith("clearpod: gc: ") for line in output)
    assert "does not name a tree" in output[0] and f"{UUID}.json" in output[1] and "6f1c2a3b" in output[2]


def test_an_error_of_the_kernels_in_one_step_does_not_skip_the_others(
    pod: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> str:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "/some/file")

    assert gc._tried(fail) == ["Operation not permitted: /some/file"]
    os.unlink(pod / "stage1TreeStoreID")
    (pod / "stage1TreeStoreID").mkdir()  # reading it is EISDIR
    records = pod.parents[2] / "clearpod/networks"
    records.mkdir(parents=True)
    (records / "6f1c2a3b-0000-4000-8000-00000000cccc.json").mkdir()
    assert gc.main([UUID]) == 1
    output = capfd.readouterr().err
    assert "stage1TreeStoreID" in output and "6f1c2a3b" in output


def test_what_another_pod_left_is_reported_and_no_failure(pod: Path, capfd: pytest.CaptureFixture[str]) -> None:
    records = pod.parents[2] / "clearpod/networks"
    records.mkdir(parents=True)
    (records / "6f1c2a3b-0000-4000-8000-00000000cccc.json").write_text("{")
    assert gc.main([UUID]) == 0 and "6f1c2a3b" in capfd.readouterr().err
    assert gc.main([UUID]) == 0 and not capfd.readouterr().err


@pytest.mark.parametrize(
    "argv, code, sentence",
    [
        ([], 254, "uuid"),
        (["--local-config", "/etc/rkt", "../x"], 254, "pod's uuid"),
        (["--new-flag", UUID], 0, "--new-flag"),
    ],
)
def test_what_makes_no_sense_is_reported_in_one_line(
    pod: Path, capfd: pytest.CaptureFixture[str], *, argv: list[str], code: int, sentence: str
) -> None:
    assert dispatch.enter("gc", argv) == code
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("clearpod: gc: ") and sentence in line


def test_a_stderr_without_reader_is_no_failure(pod: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    broken = os.fdopen(writer, "w")
    monkeypatch.setattr("sys.stderr", broken)
    assert dispatch.enter("gc", ["--odd", UUID]) == 0
    monkeypatch.undo()
    with pytest.raises(BrokenPipeError):
        broken.close()
