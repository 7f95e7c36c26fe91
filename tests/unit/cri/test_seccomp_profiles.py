# SPDX-License-Identifier: Apache-2.0
"""Profiles from files: what is kept of them, and a sentence for each that is none."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cri.pb import runtime_pb2 as pb
from cri.translate import seccomp
from stage1.errors import BadRequest, NotFound
from stage1.pod.seccomp import DEFAULT

RULE = {"names": ["chmod"], "action": "SCMP_ACT_ERRNO"}
EQUAL = {"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}
LEAST = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [RULE]}


def _given(path: object) -> pb.SecurityProfile:
    return pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=str(path))


def test_kinds_of_profile_are_kept_apart() -> None:
    assert seccomp.profile(pb.SecurityProfile()) == DEFAULT
    assert seccomp.profile(pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)) == ""


KEPT = [
    (LEAST, LEAST),
    ({**LEAST, "listenerPath": "/x", "archMap": [{}], "comment": "?"}, LEAST),
    ({"defaultAction": "SCMP_ACT_LOG"}, {"defaultAction": "SCMP_ACT_LOG", "syscalls": []}),
    ({**LEAST, "defaultErrnoRet": 0}, {**LEAST, "defaultErrnoRet": 0}),
    ({**LEAST, "syscalls": [{**RULE, "includes": {}, "excludes": {}, "comment": ""}]}, LEAST),
    ({**LEAST, "syscalls": [{"name": "chmod", "action": "SCMP_ACT_ERRNO", "args": None}]}, LEAST),
    (
        {**LEAST, "syscalls": [{**RULE, "errnoRet": 1, "args": [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]}]},
        {
            **LEAST,
            "syscalls": [
                {**RULE, "errnoRet": 1, "args": [{"index": 0, "value": 2, "valueTwo": 0, "op": "SCMP_CMP_EQ"}]}
            ],
        },
    ),
]


@pytest.mark.parametrize(("given", "expected"), KEPT)
def test_what_crun_knows_of_a_profile_is_kept(tmp_path: Path, given: Any, expected: Any) -> None:
    (tmp_path / "p.json").write_text(json.dumps(given))
    assert json.loads(seccomp.profile(_given(tmp_path / "p.json"))) == expected
    assert json.loads(seccomp.profile(_given(f"localhost/{tmp_path}/p.json"))) == expected


BAD = [
    ("", "Expecting value"),
    ("[]", "JSON object"),
    ("[" * 100_000, "recursion depth"),
    ("{}", "defaultAction is None"),
    ('{"defaultAction": "ALLOW"}', "defaultAction is 'ALLOW', .*SCMP_ACT_ALLOW"),
    ('{"defaultAction": "SCMP_ACT_NOTIFY"}', "SCMP_ACT_NOTIFY"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}', "syscalls .*list"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [1]}', "a rule is 1, not a JSON object"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{}]}', "no system call"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["x"]}]}', "action of 'x' .*None"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "flags": ["FAST"]}', "a flag is 'FAST'"),
    ('{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": -1}', "defaultErrnoRet .*number"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "args": [{"index": 6, "op": "SCMP_CMP_EQ"}]}]}), "no argument 6"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "args": [{"op": "EQ"}]}]}), "op of 'chmod' .*'EQ'"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "includes": {"caps": ["CAP_BPF"]}}]}), "only Docker itself"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "names": [7]}]}), "must be text"),
    ("x" * ((1 << 20) + 1), "more than 1 MiB"),
    (json.dumps({"defaultAction": "x" * 900_000}), "defaultAction is 'xxx"),
    (json.dumps({"defaultAction": ["x"] * 100_000}), "defaultAction is ..x"),
    (json.dumps({"defaultAction": 0})[:-2] + "[" * 900 + "]" * 900 + "}", "defaultAction is ..."),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "names": ["a\nb" * 100_000], "action": 1}]}), "the action of 'a.nb"),
    (
        json.dumps({**LEAST, "syscalls": [{**RULE, "names": ["x\n"], "includes": [1]}]}),
        "'x.n' has includes",
    ),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "names": ["chmod"] * 100_000}]}), "have 100000 names .* 8192"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "args": [EQUAL] * 1025}]}), "1025 conditions .* 1024"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "names": ["a", "b"] * 300, "args": [EQUAL] * 2}]}), "1200 conditions"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "args": ["x"]}]}), "argument of 'chmod'"),
    (json.dumps({**LEAST, "syscalls": [{**RULE, "errnoRet": 65536}]}), "errnoRet .*65535"),
    (json.dumps({**LEAST, "defaultErrnoRet": 1 << 20}), "defaultErrnoRet .*65535"),
    (json.dumps({**LEAST, "architectures": ["SCMP_ARCH_PDP11"]}), "an architecture is 'SCMP_ARCH_PDP11'"),
    ("\ud800", "not text"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD)
def test_a_file_that_is_no_profile_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "p.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(BadRequest, match=f"the seccomp profile {tmp_path}/p.json .*{sentence}") as caught:
        seccomp.profile(_given(tmp_path / "p.json"))
    assert len(str(caught.value)) < 1000 and str(caught.value).isprintable()


KEYWORDS = st.sampled_from(["names", "action", "args", "op", "index", "value", "SCMP_ACT_ERRNO", "SCMP_CMP_EQ", "x"])
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | KEYWORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
)


@given(ANY, ANY)
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_whatever_is_in_a_file_it_is_a_profile_or_refused(tmp_path_factory: Any, rule: Any, more: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps({**LEAST, "syscalls": [rule, more], "flags": more}))
    try:
        kept = json.loads(seccomp.profile(_given(path)))
    except BadRequest:
        return
    assert all(rule["names"] and rule["action"] in seccomp.ACTIONS for rule in kept["syscalls"])


@pytest.mark.parametrize(("path", "error"), [("p.json", BadRequest), ("/no/such", NotFound), ("/tmp", NotFound)])
def test_a_path_without_a_profile_is_refused(path: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        seccomp.profile(_given(path))


def test_a_fifo_in_the_place_of_a_profile_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "profile")
    (tmp_path / "link").symlink_to("profile")
    for name in ("profile", "link"):
        given = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref=f"{tmp_path}/{name}")
        with pytest.raises(NotFound, match="FIFO"):
            seccomp.profile(given)
