# SPDX-License-Identifier: Apache-2.0
"""`clearpod run` with an lkvm that does not start: one clear sentence, and nothing left behind.

The fixture `clearpod` checks the last after each test. The lkvm is a script of ours, so all before it is real: it uses
the shell's own commands only, since its filter of system calls lets it start no program.
"""

import os
from pathlib import Path

import pytest

from tests.fakes.command import Command

LINES = "i=0; while [ $((i += 1)) -le 70 ]; do echo $i >&2; done"
A_WHILE = "i=0; while [ $((i += 1)) -le 99999 ]; do :; done"

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(120),
    pytest.mark.only_on("kvmtool", "it is about kvmtool's faults"),
]


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            f'echo "  Error: unknown option \\`vsock\'" >&2; {LINES}; exit 129',
            "has no option --vsock; install a newer",
        ),
        (
            f"{A_WHILE}; echo 'KVM_CREATE_VM ioctl: Device or resource busy' >&2; exit 255",
            "KVM_CREATE_VM ioctl: Device or",
        ),
        (
            "echo 'VHOST_VSOCK_SET_GUEST_CID failed: Address already in use' >&2; exit 1",
            "SET_GUEST_CID failed: Address already in use",
        ),
    ],
    ids=["too old", "busy", "no context id"],
)
def test_an_lkvm_that_ends_at_once_is_reported_in_its_words(
    clearpod: Command, tmp_path: Path, script: str, said: str
) -> None:
    program = tmp_path / "lkvm"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)
    clearpod.env["PATH"] = f"{tmp_path}:{os.environ['PATH']}"
    ended = clearpod.run("--", "true")
    assert (ended.code, ended.out) == (11, b""), ended.err
    assert said in ended.err and ended.err.count("clearpod: ") == 1
    assert "Traceback" not in ended.err
