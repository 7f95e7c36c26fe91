# SPDX-License-Identifier: Apache-2.0
"""Seccomp sets of rkt as filters for crun. tests/system/test_rkt_seccomp.py runs programs behind them."""

import json
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.pod import seccomp
from stage1.rkt import syscalls
from stage1.rkt.isolators import Names

HELD = ("CAP_CHOWN",)
KILL, ERRNO, ALLOW = "SCMP_ACT_KILL_PROCESS", "SCMP_ACT_ERRNO", "SCMP_ACT_ALLOW"


def filter_for(*names: str, retain: bool = True, errno: str = "EPERM") -> dict[str, Any]:
    text = syscalls.filter_for(Names(retain, names, errno), HELD, where="x")
    result: dict[str, Any] = json.loads(text)
    return result


def answer(document: dict[str, Any], name: str) -> tuple[str, int]:
    """What the filter says to a call, arguments aside."""
    for rule in document["syscalls"]:
        if name in rule["names"]:
            return rule["action"], rule.get("errnoRet", 0)
    return document["defaultAction"], document.get("defaultErrnoRet", 0)


@pytest.mark.parametrize(
    "names",
    [
        None,
        Names(True, ()),
        Names(False, ()),
        Names(False, ("@appc.io/empty",)),
        Names(True, ("@appc.io/empty", "read")),
        Names(False, ("@appc.io/all",)),
        Names(True, ("@odd/wildcard", "@systemd/odd")),
    ],
)
def test_a_value_that_is_not_given_is_the_default(names: Names | None) -> None:
    assert syscalls.filter_for(names, HELD, where="x") == seccomp.DEFAULT and not syscalls.is_tight(names)


def test_to_retain_all_is_no_filter() -> None:
    expected = Names(True, ("read", "@appc.io/all"))
    assert syscalls.filter_for(expected, HELD, where="x") == "" and not syscalls.is_tight(expected)


@pytest.mark.parametrize("errno, default", [("EPERM", (ERRNO, 1)), ("EACCES", (ERRNO, 13)), ("", (KILL, 0))])
def test_a_set_to_retain(errno: str, default: tuple[str, int]) -> None:
    result = filter_for("read", "@systemd/clock", "chown32", errno=errno)
    assert answer(result, "read") == answer(result, "settimeofday") == answer(result, "execve") == (ALLOW, 0)
    assert answer(result, "mount") == answer(result, "getppid") == default
    assert answer(result, "clone3") == answer(result, "statx") == (ERRNO, 38)
    assert "chown32" not in json.dumps(result)
    assert answer(filter_for("statx", errno=errno), "statx") == (ALLOW, 0)


@pytest.mark.parametrize("errno, output", [("EPERM", (ERRNO, 1)), ("", (KILL, 0))])
def test_a_set_to_remove(errno: str, output: tuple[str, int]) -> None:
    result = filter_for("getppid", "@docker/default-blacklist", retain=False, errno=errno)
    assert answer(result, "getppid") == answer(result, "keyctl") == output
    assert answer(result, "statx") == answer(result, "read") == (ALLOW, 0)


@pytest.mark.parametrize("errno, output", [("EPERM", (ERRNO, 1)), ("", (KILL, 0))])
def test_the_default_whitelist_and_more(errno: str, output: tuple[str, int]) -> None:
    result = filter_for("@rkt/default-whitelist", "mount", errno=errno)
    base = seccomp.profile(HELD)
    assert answer(result, "mount") == (ALLOW, 0) and answer(base, "mount") == (ERRNO, 1)
    assert answer(result, "keyctl") == output
    assert answer(result, "clone3") == answer(base, "clone3") == (ERRNO, 38)
    arguments = [rule for rule in base["syscalls"] if "args" in rule]
    assert arguments and [rule for rule in result["syscalls"] if "args" in rule] == arguments


def test_the_default_whitelist_alone_allows_what_the_default_allows() -> None:
    base, result = seccomp.profile(HELD), filter_for("@docker/default-whitelist")
    for name in syscalls.known():
        assert (answer(base, name)[0] == ALLOW) == (answer(result, name)[0] == ALLOW), name


def test_every_wildcard_names_calls() -> None:
    extinct = {"stime", "umount", "vm86", "vm86old"}
    for word, text in syscalls.WILDCARDS.items():
        names = set(text.split()) - {"@white"}
        assert names <= syscalls.known() | extinct, word
    assert len(syscalls.WILDCARDS["@rkt/default-blacklist"].split()) == 50
    for text in (syscalls.ALWAYS, syscalls.SETTING_UP, syscalls.YOUNGER):
        assert set(text.split()) <= syscalls.known()


@pytest.mark.parametrize(
    "retain, names, tight",
    [
        (True, ("read",), True),
        (True, tuple(syscalls.SETTING_UP.split()), False),
        (True, ("@rkt/default-whitelist",), False),
        (False, ("getppid",), False),
        (False, ("@rkt/default-blacklist",), False),
        (False, ("@systemd/privileged",), True),
        (False, ("prctl",), True),
    ],
)
def test_when_the_filter_must_come_last(retain: bool, names: tuple[str, ...], tight: bool) -> None:
    assert syscalls.is_tight(Names(retain, names)) == tight


def test_names_that_are_no_calls() -> None:
    assert syscalls.unknown(Names(True, ("chown32", "read", "@odd/x", "reed"))) == ("chown32", "reed")


@pytest.mark.parametrize(
    "names, sentence",
    [
        (
            Names(True, ("read",), "EODD"),
            "x: .*errno 'EODD' .*EPERM",
        ),
        (Names(True, ("read",), "os"), "x: .*errno 'os' .*EPERM"),
        (
            Names(False, ("execve", "close")),
            "x: .*seccomp-remove-set with close, execve ",
        ),
        (
            Names(False, ("@rkt/default-whitelist",)),
            "x: .*seccomp-remove-set .*default whitelist",
        ),
    ],
)
def test_what_cant_be(names: Names, sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        syscalls.filter_for(names, HELD, where="x")
