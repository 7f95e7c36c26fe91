# SPDX-License-Identifier: Apache-2.0
"""The profile RuntimeDefault: every system call has one place, and capabilities only ever add."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage1.pod import capabilities, oci, seccomp
from stage1.pod.model import Container, Pod, Process, Security

HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
CONDITIONAL = {"clone", "clone3", "personality", "socket"}
SETS = st.frozensets(st.sampled_from(capabilities.ALL))


def names_in(texts):
    return [name for text in texts for name in text.split()]


def answers(held):
    """What the profile says to a call by name, whatever its arguments; conditional calls are left out."""
    plain = [rule for rule in seccomp.profile(held)["syscalls"] if "args" not in rule]
    result = {}
    for rule in plain:
        for name in rule["names"]:
            assert name not in result, f"{name} has two answers"
            result[name] = rule["action"], rule.get("errnoRet")
    return result


OPEN = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}
ALLOW, EPERM = ("SCMP_ACT_ALLOW", None), ("SCMP_ACT_ERRNO", 1)


def test_every_call_of_the_kernel_has_exactly_one_place():
    if not HEADER.exists():
        pytest.skip(f"needs {HEADER}: apt install linux-libc-dev")
    known = re.findall(r"#define __NR_(\w+)\s", HEADER.read_text())
    places = [*names_in(seccomp.ALLOWED.values()), *set(names_in(seccomp.WITH_CAPABILITY.values()))]
    places += [*seccomp.FORBIDDEN.split(), *CONDITIONAL]
    assert len(places) == len(set(places))
    assert set(known) <= set(places)


def test_the_conditions_name_real_capabilities():
    assert set(seccomp.WITH_CAPABILITY) <= set(capabilities.ALL)


@given(SETS)
def test_each_capability_adds_its_calls_and_no_other(held):
    result, basic = answers(held), set(names_in(seccomp.ALLOWED.values()))
    added = set(names_in(seccomp.WITH_CAPABILITY.get(name, "") for name in held))
    allowed = {name for name, answer in result.items() if answer == ALLOW}
    assert allowed - CONDITIONAL == basic | added
    guarded = set(names_in(seccomp.WITH_CAPABILITY.values())) - added
    assert all(result[name] == EPERM for name in guarded | set(seccomp.FORBIDDEN.split()))


@given(SETS)
def test_the_link_to_the_host_can_never_be_reached(held):
    rules = [rule for rule in seccomp.profile(held)["syscalls"] if "socket" in rule["names"]]
    matches = {"SCMP_CMP_NE": lambda a, b: a != b, "SCMP_CMP_EQ": lambda a, b: a == b}
    for family in (1, 2, 10, 16, 39, 40, 41):
        actions = [r["action"] for r in rules if matches[r["args"][0]["op"]](family, r["args"][0]["value"])]
        assert actions == ["SCMP_ACT_ERRNO" if family == 40 else "SCMP_ACT_ALLOW"]


@given(SETS, st.integers(0, 2**32 - 1))
def test_a_clone_may_make_namespaces_only_with_sys_admin(held, flags):
    rules = [rule for rule in seccomp.profile(held)["syscalls"] if "clone" in rule["names"]]
    actions = {
        rule["action"] for rule in rules if all(flags & a["value"] == a["valueTwo"] for a in rule.get("args", ()))
    }
    makes_one = any(flags & flag for flag in seccomp.NAMESPACE_FLAGS)
    is_refused = makes_one and "CAP_SYS_ADMIN" not in held
    assert actions == {"SCMP_ACT_ERRNO" if is_refused else "SCMP_ACT_ALLOW"}


def test_a_call_of_a_later_kernel_does_not_exist():
    profile = seccomp.profile(capabilities.ALL)
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 38)


@pytest.mark.parametrize(
    "kept, expected",
    [
        ("", None),
        (seccomp.DEFAULT, seccomp.profile((*capabilities.DEFAULT, "CAP_SYS_TIME"))),
        (json.dumps(OPEN), OPEN),
    ],
)
def test_the_oci_document_has_the_profile_of_the_containers_own_capabilities(kept, expected):
    security = Security(seccomp=kept, add_capabilities=("CAP_SYS_TIME",))
    container = Container("c", "c", "sha256:" + "0" * 64, Process(("sh",)), security=security)
    assert oci.config(Pod("p", "p"), container)["linux"].get("seccomp") == expected
