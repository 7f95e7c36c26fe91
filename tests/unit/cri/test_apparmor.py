# SPDX-License-Identifier: Apache-2.0
"""Which AppArmor profile a container gets, where its policy is found, and the sentence when there is none."""

import os
from pathlib import Path

import pytest

from cri.pb import runtime_pb2 as pb
from cri.translate import apparmor
from cri.translate.apparmor import COMPILED, COMPILER, Places
from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.linux.host import which
from stage1.pod.apparmor import DEFAULT, FEATURES, FILE
from stage1.pod.model import Pod

ROOT = Path(__file__).parents[3]
LOCAL = pb.SecurityProfile(profile_type=pb.SecurityProfile.Localhost, localhost_ref="mine")
FILES_ONLY = "file {mask {create read write exec append mmap_exec link lock\n}\n}\n"
SOURCE = ROOT / "images" / "apparmor" / "features"
UNCONFINED = pb.SecurityProfile(profile_type=pb.SecurityProfile.Unconfined)
POD = Pod(id="a" * 64, name="web")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, DEFAULT),
        ({"privileged": True}, ""),
        ({"apparmor_profile": "runtime/default"}, DEFAULT),
        ({"apparmor_profile": "unconfined"}, ""),
        ({"apparmor_profile": "localhost/mine"}, "mine"),
        ({"apparmor_profile": "localhost//usr/bin/man"}, "/usr/bin/man"),
        ({"apparmor_profile": "localhost/mine", "privileged": True}, "mine"),
        ({"apparmor": pb.SecurityProfile(), "apparmor_profile": "localhost/mine"}, DEFAULT),
        ({"apparmor": pb.SecurityProfile(), "privileged": True}, ""),
        ({"apparmor": UNCONFINED, "apparmor_profile": "localhost/mine"}, ""),
        ({"apparmor": LOCAL, "apparmor_profile": "unconfined"}, "mine"),
    ],
)
def test_the_new_field_wins_and_without_one_it_is_the_default(given: dict[str, object], expected: str) -> None:
    assert apparmor.profile(pb.LinuxContainerSecurityContext(**given)) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "pod", "is_there", "expected"),
    [
        ("", POD, True, ""),
        (DEFAULT, POD, True, DEFAULT),
        (DEFAULT, POD, False, ""),
        (DEFAULT, POD._replace(host=("network",)), True, ""),
        ("mine", POD, True, "mine"),
        ("mine", POD._replace(host=("network",)), True, "mine"),
    ],
)
def test_the_default_profile_is_for_guests_that_can_have_it(name: str, pod: Pod, is_there: bool, expected: str) -> None:
    assert apparmor.require(name, pod, is_there=is_there) == expected


@pytest.mark.parametrize(
    ("pod", "noun"),
    [
        (POD, "kernel 'default'"),
        (POD._replace(kernel="mine"), "kernel 'mine'"),
        (POD._replace(host=("network",)), "the host's kernel"),
    ],
)
def test_a_profile_by_name_needs_a_kernel_with_apparmor(pod: Pod, noun: str) -> None:
    with pytest.raises(Unsupported, match=f"'mine'.*{noun}.*clearpod-stock"):
        apparmor.require("mine", pod, is_there=False)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    for name in ("files", "guest", "loaded"):
        (tmp_path / name).mkdir()
    return Places(f"{tmp_path}/files", f"{tmp_path}/guest", f"{tmp_path}/loaded", compiler=lambda: "")


def _policy(*names: str) -> bytes:
    return COMPILED + b"\x02\x08\x00\x00\x00" + b"".join(name.encode() + b"\0" for name in names)


def _load(places: Places, directory: str, name: str, raw: bytes | None) -> None:
    """As the host's kernel shows a profile; one of a kernel that keeps no policy has no `raw_data`."""
    place = Path(places.loaded, directory)
    place.mkdir()
    (place / "name").write_text(f"{name}\n")
    if raw is not None:
        (place / "raw_data").write_bytes(raw)


def test_a_profile_is_what_the_host_has_loaded_and_else_a_file(places: Places) -> None:
    _load(places, "mine.3", "mine", _policy("mine", "other"))
    _load(places, "usr.bin.man.1", "/usr/bin/man", None)
    Path(places.directory, "mine").write_bytes(_policy("mine"))
    Path(places.directory, "usr.bin.man").write_bytes(_policy("/usr/bin/man"))
    Path(places.directory, "only-a-file").write_bytes(_policy("only-a-file"))
    assert apparmor.find("mine", places) == _policy("mine", "other")
    assert apparmor.find("/usr/bin/man", places) == _policy("/usr/bin/man")
    assert apparmor.find("only-a-file", places) == _policy("only-a-file")


def test_the_default_one_is_in_the_guests_directory(places: Places) -> None:
    with pytest.raises(NotFound, match=f"{FILE}.*`clearpod images build stock`"):
        apparmor.find(DEFAULT, places)
    Path(places.guest_dir, FILE).write_bytes(_policy(DEFAULT))
    assert apparmor.find(DEFAULT, places) == _policy(DEFAULT)


@pytest.mark.parametrize(
    ("content", "error", "noun"),
    [
        (None, NotFound, "no AppArmor profile 'mine'.*/files/mine"),
        (_policy("another"), BadRequest, "/files/mine .*'mine' is no policy"),
        (b"#" * (apparmor.POLICY_BYTES + 1), BadRequest, "/files/mine has more than 4 MiB"),
        (COMPILED + b"\0" * apparmor.POLICY_BYTES, BadRequest, "more than 4 MiB"),
        (b"profile mine { }\n", BadRequest, "/files/mine is text.*apparmor_parser"),
    ],
)
def test_what_is_no_policy_is_named(places: Places, content: bytes | None, error: type[PodError], noun: str) -> None:
    if content is not None:
        Path(places.directory, "mine").write_bytes(content)
    with pytest.raises(error, match=noun):
        apparmor.find("mine", places)


def test_a_name_leads_nowhere_else(places: Places) -> None:
    Path(places.directory, "...mine").write_bytes(_policy("../mine"))
    Path(places.directory).with_name("mine").write_bytes(_policy("../mine"))
    assert apparmor.find("../mine", places) == _policy("../mine")
    os.mkfifo(f"{places.directory}/pipe")
    with pytest.raises(BadRequest, match=r"/files/pipe can't be read: .* a FIFO"):
        apparmor.find("pipe", places)


def _compiler(place: Path, script: str) -> str:
    """A stand-in for apparmor_parser."""
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)
    return str(place)


def test_text_is_compiled_and_what_does_not_parse_is_reported(places: Places, tmp_path: Path) -> None:
    Path(places.directory, "mine").write_text("profile mine { }\n")
    (tmp_path / "compiled").write_bytes(_policy("mine"))
    good = _compiler(tmp_path / "good", f"cat {tmp_path}/compiled")
    with pytest.raises(BadRequest, match=f"{FEATURES}.*`clearpod images build stock`"):
        apparmor.find("mine", places._replace(compiler=lambda: good))
    Path(places.guest_dir, FEATURES).touch()
    assert apparmor.find("mine", places._replace(compiler=lambda: good)) == _policy("mine")
    for output, expected in (
        ("syntax error in line 1", "syntax error in line 1"),
        ("Warning: x\nAppArmor parser error for mine: found '\n' (0x1c)", r"AppArmor parser error for mine: found ' '"),
    ):
        bad = _compiler(tmp_path / "bad", f"echo first; printf '%s\\n' \"{output}\" >&2; exit 1")
        with pytest.raises(BadRequest, match=f"/files/mine does not parse: {expected}"):
            apparmor.find("mine", places._replace(compiler=lambda bad=bad: bad))
    none = _compiler(tmp_path / "none", "exit 0")
    with pytest.raises(BadRequest, match=r"/files/mine .* in it"):
        apparmor.find("mine", places._replace(compiler=lambda: none))


def test_text_is_compiled_for_the_guests_kernel_and_not_for_the_hosts(places: Places) -> None:
    """A host without AppArmor would leave out all rules but those for files: the profile would allow every mount."""
    if not (compiler := which(COMPILER)):
        pytest.skip(f"needs {COMPILER}: apt install apparmor")
    Path(places.directory, "mine").write_text("profile mine {\n  file,\n}\n")
    compiled = []
    for features in (FILES_ONLY, SOURCE.read_text()):
        Path(places.guest_dir, FEATURES).write_text(features)
        compiled.append(apparmor.find("mine", places._replace(compiler=lambda: compiler)))
    assert len(compiled[0]) < len(compiled[1])
