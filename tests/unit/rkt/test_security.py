# SPDX-License-Identifier: Apache-2.0
"""What confines an app."""

import pytest

from stage1.errors import BadRequest
from stage1.pod import oci, seccomp
from stage1.pod.capabilities import ALL, DEFAULT, bounding
from stage1.pod.model import Container, Pod, Process, Security
from stage1.rkt import security
from stage1.rkt.arguments import RunOptions
from stage1.rkt.isolators import Isolators, Names

UUID = "6733c088-a507-4694-aabf-eda9d3f3f5c0"
PLAIN = RunOptions(UUID)
NOTHING = Isolators()


def made(asked: Isolators = NOTHING, options: RunOptions = PLAIN, *, uid: int = 0) -> Security:
    return security.security(asked, options, uid=uid, read_only_root=False, where="x")


def held(actual: Security) -> set[str]:
    return set(bounding(actual.add_capabilities, actual.drop_capabilities))


def test_the_default() -> None:
    result = made()
    assert held(result) == set(DEFAULT) and result.seccomp == seccomp.DEFAULT and not result.no_new_privs
    assert "/proc/kallsyms" in result.masked_paths and "/proc/bus" in result.readonly_paths


@pytest.mark.parametrize(
    "names, expected",
    [
        (Names(True, ("CAP_KILL", "cap_net_admin")), {"CAP_KILL", "CAP_NET_ADMIN"}),
        (Names(True, ()), set()),
        (Names(False, ("CAP_KILL", "CAP_NET_ADMIN")), set(DEFAULT) - {"CAP_KILL"}),
        (Names(False, ()), set(DEFAULT)),
    ],
)
def test_capabilities(names: Names, expected: set[str]) -> None:
    assert held(made(Isolators(capabilities=names))) == expected
    assert held(made(Isolators(capabilities=names), PLAIN._replace(all_capabilities=True))) == set(ALL)


@pytest.mark.parametrize("retain", [True, False])
def test_a_capability_that_linux_does_not_have(retain: bool) -> None:
    with pytest.raises(BadRequest, match=r"'CAP_ODD' .*capabilities\(7\)"):
        made(Isolators(capabilities=Names(retain, ("CAP_ODD",))))


@pytest.mark.parametrize(
    "asked, uid, options, expected",
    [
        (Isolators(), 0, PLAIN, False),
        (Isolators(), 5, PLAIN, True),
        (Isolators(), 5, PLAIN._replace(no_seccomp=True), False),
        (Isolators(no_new_privs=True), 0, PLAIN._replace(no_seccomp=True), True),
        (Isolators(seccomp=Names(True, ("@appc.io/all",))), 5, PLAIN, False),
        (Isolators(seccomp=Names(True, ("read",))), 0, PLAIN, True),
        (Isolators(seccomp=Names(True, ("read",))), 0, PLAIN._replace(no_seccomp=True), False),
        (Isolators(seccomp=Names(False, ("getppid",))), 0, PLAIN, False),
    ],
)
def test_no_new_privileges(asked: Isolators, uid: int, options: RunOptions, expected: bool) -> None:
    result = made(asked, options, uid=uid)
    assert result.no_new_privs == expected and (not result.seccomp if options.no_seccomp else True)


def test_no_protection_of_paths() -> None:
    result = made(options=PLAIN._replace(all_paths=True))
    assert result.masked_paths == result.readonly_paths == () and result.writable_sys
    pod, container = Pod("a", "a"), Container("a", "a", "", Process(("x",)), security=result)
    (sys,) = (one for one in oci.config(pod, container)["mounts"] if one["destination"] == "/sys")
    assert "rw" in sys["options"] and "ro" not in sys["options"]


def test_a_handler_may_what_its_app_may_not() -> None:
    result = security.of_handler(PLAIN, read_only_root=True)
    assert held(result) == set(ALL) and not result.seccomp and not result.no_new_privs
    assert result.masked_paths and result.read_only_root
