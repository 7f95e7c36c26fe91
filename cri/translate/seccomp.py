# SPDX-License-Identifier: Apache-2.0
"""SecurityProfile -> what the model keeps of seccomp. Called by `security`.

A Localhost profile is read when the container is created and kept with it, so that a change of the file changes nothing
that exists. It is validated here, because crun would refuse it only in the guest, and with less detail.
"""

import json
import os
from typing import Any

from cri.pb import runtime_pb2 as pb
from cri.translate.bounds import short
from stage1.errors import BadRequest, KernelError, NotFound
from stage1.linux import files, in_root
from stage1.pod.seccomp import DEFAULT

PROFILE_BYTES = 1 << 20
ACTIONS = frozenset(
    f"SCMP_ACT_{name}" for name in "ALLOW ERRNO KILL KILL_PROCESS KILL_THREAD LOG TRACE TRAP".split()
)  # not NOTIFY: who should be notified is on the host
OPERATORS = frozenset(f"SCMP_CMP_{name}" for name in "NE LT LE EQ GE GT MASKED_EQ".split())
ARCHITECTURES = frozenset(
    f"SCMP_ARCH_{name}"
    for name in (
        "X86 X86_64 X32 ARM AARCH64 MIPS MIPS64 MIPS64N32 MIPSEL MIPSEL64 MIPSEL64N32 PPC PPC64 PPC64LE S390 S390X "
        "PARISC PARISC64 RISCV64"
    ).split()
)
MOST_NAMES, MOST_ARGUMENTS = 8192, 1024
"""Of all rules of a profile: Linux has some 460 system calls, and what crun makes of more conditions is no filter that
the kernel takes, after minutes.
"""
MOST_ERRNO = 65535
"""A larger one loses its upper bits on the way to the kernel, so that the call would seem to succeed."""
FLAGS = frozenset(f"SECCOMP_FILTER_FLAG_{name}" for name in "LOG SPEC_ALLOW TSYNC".split())


def profile(given: pb.SecurityProfile) -> str:
    """Return the profile for `Security.seccomp`. Raises NotFound for a file that can't be read, BadRequest for one that
    is no profile.
    """
    if given.profile_type == pb.SecurityProfile.Unconfined:
        return ""
    if given.profile_type == pb.SecurityProfile.RuntimeDefault:
        return DEFAULT
    path = given.localhost_ref.removeprefix("localhost/")
    if not path.startswith("/"):
        raise BadRequest(f"seccomp.localhost_ref must be an absolute path, but it is {given.localhost_ref!r}")
    try:
        text = in_root.read("/", path, most=PROFILE_BYTES + 1).decode()
    except KernelError as error:
        why = str(error) if isinstance(error, files.NotPlain) else os.strerror(error.errno)
        raise NotFound(f"the seccomp profile {path} can't be read: {why}") from None
    except ValueError as error:
        raise BadRequest(f"the seccomp profile {path} is not text: {error}") from None
    if len(text) > PROFILE_BYTES:
        raise BadRequest(f"the seccomp profile {path} has more than {PROFILE_BYTES >> 20} MiB")
    try:
        return json.dumps(oci(json.loads(text)))
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise BadRequest(f"the seccomp profile {path} is invalid: {error}") from None


def oci(given: Any) -> dict[str, Any]:
    """OCI linux.seccomp of a profile in Docker's or the OCI's style: what crun knows of it. Raises ValueError."""
    if not isinstance(given, dict):
        raise ValueError("it is not a JSON object")
    kept: dict[str, Any] = {"defaultAction": _one_of(ACTIONS, given.get("defaultAction"), what="defaultAction")}
    if given.get("defaultErrnoRet") is not None:
        kept["defaultErrnoRet"] = _number(given["defaultErrnoRet"], what="defaultErrnoRet", most=MOST_ERRNO)
    if architectures := _list(given.get("architectures"), what="architectures"):
        kept["architectures"] = [_one_of(ARCHITECTURES, name, what="an architecture") for name in architectures]
    if flags := _list(given.get("flags"), what="flags"):
        kept["flags"] = [_one_of(FLAGS, name, what="a flag") for name in flags]
    kept["syscalls"] = [_rule(rule) for rule in _list(given.get("syscalls"), what="syscalls")]
    _require_size(kept["syscalls"])
    return kept


def _require_size(rules: list[dict[str, Any]]) -> None:
    names = sum(len(rule["names"]) for rule in rules)
    arguments = sum(len(rule["names"]) * len(rule.get("args", ())) for rule in rules)
    if names > MOST_NAMES or arguments > MOST_ARGUMENTS:
        raise ValueError(
            f"its rules have {names} names of system calls with {arguments} conditions on their arguments, and "
            f"{MOST_NAMES} with {MOST_ARGUMENTS} are allowed"
        )


def _rule(given: Any) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"a rule is {short(given)}, not a JSON object")
    names = _list(given.get("names"), what="names") or _list(
        [given["name"]] if given.get("name") else None, what="name"
    )
    if not names:
        raise ValueError("a rule names no system call")
    names, first = [_text(name, what="the name of a system call") for name in names], short(names[0])
    if given.get("includes") or given.get("excludes"):
        raise ValueError(f"the rule of {first} has includes or excludes, which only Docker itself understands")
    rule: dict[str, Any] = {
        "names": names,
        "action": _one_of(ACTIONS, given.get("action"), what=f"the action of {first}"),
    }
    if given.get("errnoRet") is not None:
        rule["errnoRet"] = _number(given["errnoRet"], what=f"errnoRet of {first}", most=MOST_ERRNO)
    if args := _list(given.get("args"), what="args"):
        rule["args"] = [_argument(arg, first) for arg in args]
    return rule


def _argument(given: Any, name: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise ValueError(f"an argument of {name} is {short(given)}, not a JSON object")
    numbers = {key: _number(given.get(key) or 0, what=f"{key} of {name}") for key in ("index", "value", "valueTwo")}
    if numbers["index"] > 5:
        raise ValueError(f"{name} has no argument {numbers['index']}; they are counted from 0 to 5")
    return {**numbers, "op": _one_of(OPERATORS, given.get("op"), what=f"op of {name}")}


def _one_of(known: frozenset[str], value: Any, *, what: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"{what} is {short(value)}, not one of {', '.join(sorted(known))}")
    return value


def _number(value: Any, *, what: str, most: int = (1 << 64) - 1) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise ValueError(f"{what} must be a whole number up to {most}, but it is {short(value)}")
    return value


def _text(value: Any, *, what: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"{what} must be text, but it is {short(value)}")
    return value


def _list(value: Any, *, what: str) -> list[Any]:
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{what} must be a list")
    return value or []
