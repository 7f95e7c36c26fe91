# SPDX-License-Identifier: Apache-2.0
"""`clearpod run` with an lkvm that does not start: one clear sentence, and nothing left behind.

The fixture `clearpod` checks the last after each test. The lkvm is a program of ours, so all before it is real. It may
do no more than the real one, so it runs no shell and writes no file. tests/unit/vm/test_early.py counts the tries.
"""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.fakes.command import Command

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(120),
    pytest.mark.only_on("kvmtool", "it is about kvmtool's faults"),
]

PROGRAM = """
#include <stdio.h>
#include <unistd.h>
const char device[] = "/dev/vhost-vsock"; /* by this text a program is known to have --vsock */
int main(void)
{
    usleep(300000);
    fputs(FIRST, stderr);
    for (int i = 1; i <= 70; i++)
        fprintf(stderr, "%d\\n", i);
    fputs(LAST, stderr);
    return CODE;
}
"""


@pytest.mark.parametrize(
    ("first", "last", "code", "text"),
    [
        ("  Error: unknown option `vsock'", "", 129, "--vsock; install"),
        ("", "KVM_CREATE_VM ioctl: Device or resource busy", 255, "KVM_CREATE_VM ioctl: Device or"),
        (
            "",
            "VHOST_VSOCK_SET_GUEST_CID failed: Address already in use",
            1,
            "SET_GUEST_CID failed: Address already in use",
        ),
    ],
    ids=["too old", "busy", "no context id"],
)
def test_an_lkvm_that_ends_at_once_is_reported_by_its_message(
    clearpod: Command, tmp_path: Path, first: str, last: str, code: int, text: str
) -> None:
    if not shutil.which("musl-gcc"):
        pytest.skip("needs musl-gcc: apt install musl-tools")
    (tmp_path / "lkvm.c").write_text(PROGRAM, encoding="utf-8")
    argv = [f'-DFIRST="{first}\\n"', f'-DLAST="{last}\\n"', f"-DCODE={code}"]
    subprocess.run(["musl-gcc", "-static", *argv, "-o", "lkvm", "lkvm.c"], cwd=tmp_path, check=True, timeout=60)
    clearpod.env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    ended = clearpod.run("--", "true")
    assert (ended.code, ended.out) == (125, b""), ended.err
    assert text in ended.err and ended.err.count("clearpod: ") == 1
    assert "Traceback" not in ended.err
