# SPDX-License-Identifier: Apache-2.0
"""Isolators: which one counts, and which can't be."""

from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.rkt import isolators
from stage1.rkt.isolators import Isolators, Names


def one(name: str, value: Any) -> dict[str, Any]:
    return {"name": name, "value": value}


def read(*given: dict[str, Any]) -> Isolators:
    return isolators.read(given, where="x")


MEMORY, CPU = "resource/memory", "resource/cpu"
RETAIN, REMOVE = "os/linux/capabilities-retain-set", "os/linux/capabilities-remove-set"
CALLS, NO_CALLS = "os/linux/seccomp-retain-set", "os/linux/seccomp-remove-set"


@pytest.mark.parametrize(
    "given, expected",
    [
        ([], Isolators()),
        ([one(MEMORY, {"limit": "64Mi"})], Isolators(memory=64 << 20)),
        ([one(MEMORY, {"limit": "64Mi"}), one(MEMORY, {"limit": "1G"})], Isolators(memory=10**9)),
        ([one(MEMORY, {"limit": "1G"}), one(MEMORY, {"request": "1M"})], Isolators()),
        ([one(MEMORY, {"request": "1M", "limit": None})], Isolators()),
        ([one(MEMORY, None)], Isolators()),
        ([one(MEMORY, {"limit": 4096})], Isolators(memory=4096)),
        ([one(CPU, {"default": False, "request": "1", "limit": "1500m"})], Isolators(cpu_milli=1500)),
        ([one("os/linux/cpu-shares", 512)], Isolators(cpu_shares=512)),
        ([one("os/linux/oom-score-adj", -1000)], Isolators(oom_score_adj=-1000)),
        ([one("os/linux/oom-score-adj", None)], Isolators()),
        ([one(RETAIN, {"set": ["CAP_KILL", "CAP_KILL"]})], Isolators(capabilities=Names(True, ("CAP_KILL",)))),
        ([one(RETAIN, {"set": None})], Isolators(capabilities=Names(True, ()))),
        ([one(REMOVE, {"set": ["CAP_KILL"]})], Isolators(capabilities=Names(False, ("CAP_KILL",)))),
        ([one(CALLS, {"set": ["read"], "errno": "EPERM"})], Isolators(seccomp=Names(True, ("read",), "EPERM"))),
        ([one(NO_CALLS, {"set": ["read"], "errno": ""})], Isolators(seccomp=Names(False, ("read",)))),
        ([one("os/linux/no-new-privileges", True)], Isolators(no_new_privs=True)),
        (
            [one("os/linux/no-new-privileges", True), one("os/linux/no-new-privileges", False)],
            Isolators(no_new_privs=True),
        ),
        ([one("os/unix/sysctl", {"a.b": "1"})], Isolators(sysctls=(("a.b", "1"),))),
        (
            [one("resource/block-iops", {"limit": "1"})] * 2,
            Isolators(warnings=("x: the isolator resource/block-iops is not applied in a VM",)),
        ),
    ],
)
def test_what_counts(given: list[dict[str, Any]], expected: Isolators) -> None:
    assert read(*given) == expected


@pytest.mark.parametrize(
    "given, sentence",
    [
        ([one("os/linux/odd", 1)], "x: .*isolator 'os/linux/odd'"),
        ([one("", 1)], "x: .*isolator ''"),
        (
            [one(MEMORY, {"limit": "1MiB"})],
            "x: .*resource/memory: '1MiB' .*suffix .* m k M G T P E Ki Mi Gi Ti Pi Ei",
        ),
        ([one(MEMORY, "1M")], "x: .*'resource/memory' .*object, .*'1M'"),
        ([one(MEMORY, {"limit": True})], "x: .*resource/memory: 'limit' .*string, .*True"),
        ([one("os/linux/cpu-shares", 1)], "x: .*os/linux/cpu-shares .*2 to 262144, .* 1$"),
        (
            [one("os/linux/oom-score-adj", 1001)],
            "x: .*os/linux/oom-score-adj .*-1000 to 1000, .*1001",
        ),
        ([one("os/linux/cpu-shares", "512")], "x: 'os/linux/cpu-shares' .*integer, .*'512'"),
        (
            [one(RETAIN, {"set": []}), one(REMOVE, {"set": []})],
            f"x: .*2 isolators .*{RETAIN} and {REMOVE}",
        ),
        (
            [one(CALLS, {"set": []}), one(CALLS, {"set": []})],
            f"x: .*2 isolators .*{CALLS}",
        ),
        ([one(CALLS, {"set": "read"})], f"x: .*{CALLS}: 'set' .*list, .*'read'"),
        (
            [one("os/linux/no-new-privileges", "yes")],
            "x: 'os/linux/no-new-privileges' .*true or false, .*'yes'",
        ),
        (
            [one("os/unix/sysctl", {"a\0": "1"})],
            "x: .*os/unix/sysctl: 'key' .*zero byte",
        ),
        ([one("os/unix/sysctl", {"a": 1})], "x: .*os/unix/sysctl: 'a' .*string, .*1$"),
    ],
)
def test_what_cant_be(given: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        read(*given)
