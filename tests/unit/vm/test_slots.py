# SPDX-License-Identifier: Apache-2.0
"""Claims on host ids: one for each pod, whoever claims at the same time, and none for pods that are gone."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stage1.errors import BadRequest, NoSpace
from stage1.pod.ids import POD_IDS
from stage1.vm import slots
from stage1.vm.slots import Range

FOUR = Range(8 * POD_IDS, 4 * POD_IDS)
IDS = {8 * POD_IDS, 9 * POD_IDS, 10 * POD_IDS, 11 * POD_IDS}


@pytest.fixture
def place(tmp_path: Path) -> str:
    return str(tmp_path / "claims")


def pod(tmp_path: Path, name: str) -> str:
    (tmp_path / name).mkdir()
    return str(tmp_path / name)


def test_each_pod_has_a_range_of_its_own_and_keeps_it(tmp_path: Path, place: str) -> None:
    pods = [pod(tmp_path, name) for name in "abcd"]
    first = [slots.claim(one, FOUR, place=place) for one in pods]
    assert set(first) == IDS
    assert [slots.claim(one, FOUR, place=place) for one in pods] == first
    assert [slots.find(one, place=place) for one in pods] == first


def test_when_all_are_taken_it_is_refused_until_one_is_given_back(tmp_path: Path, place: str) -> None:
    pods = [pod(tmp_path, name) for name in "abcd"]
    for one in pods:
        slots.claim(one, FOUR, place=place)
    other = pod(tmp_path, "e")
    with pytest.raises(NoSpace, match=r"all 4 ranges .*jail\.count"):
        slots.claim(other, FOUR, place=place)
    assert os.listdir(other) == []
    freed = slots.find(pods[2], place=place)
    shutil.rmtree(pods[2])
    slots.release(freed, pods[2], place=place)
    assert slots.claim(other, FOUR, place=place) == freed


def test_a_slot_with_a_damaged_claim_is_not_used(tmp_path: Path, place: str) -> None:
    pods = [pod(tmp_path, name) for name in "abcd"]
    had = {slots.claim(one, FOUR, place=place): one for one in pods}
    for number in (8, 9):
        (path := Path(place, str(number))).unlink()
        path.mkdir() if number == 8 else path.write_bytes(b"garbage")
    assert slots.find(had[8 * POD_IDS], place=place) is None
    for number in (8, 9, 10):
        shutil.rmtree(had[number * POD_IDS])
    assert slots.claim(pod(tmp_path, "e"), FOUR, place=place) == 10 * POD_IDS
    with pytest.raises(NoSpace):
        slots.claim(pod(tmp_path, "f"), FOUR, place=place)
    assert Path(place, "8").is_dir() and Path(place, "9").read_bytes() == b"garbage"


def test_what_a_pod_that_is_gone_has_left_is_free(tmp_path: Path, place: str) -> None:
    for name in "abcd":
        slots.claim(pod(tmp_path, name), FOUR, place=place)
    for name in "abcd":
        shutil.rmtree(tmp_path / name)
    assert {slots.claim(pod(tmp_path, name), FOUR, place=place) for name in "efgh"} == IDS


def test_giving_back_takes_nothing_from_who_has_it_now(tmp_path: Path, place: str) -> None:
    one_slot = FOUR._replace(length=POD_IDS)
    old, new = pod(tmp_path, "old"), pod(tmp_path, "new")
    first = slots.claim(old, one_slot, place=place)
    shutil.rmtree(old)
    assert slots.claim(new, one_slot, place=place) == first
    for _ in range(2):
        slots.release(first, old, place=place)
        slots.release(None, old, place=place)
    assert slots.find(new, place=place) == first


@pytest.mark.parametrize("target", ["/etc", "{place}/../claims/8", "{place}/x", "{place}/9"])
def test_a_link_that_leads_elsewhere_is_no_claim(tmp_path: Path, place: str, target: str) -> None:
    one, two = pod(tmp_path, "one"), pod(tmp_path, "two")
    held = slots.claim(two, FOUR._replace(first=9 * POD_IDS, length=POD_IDS), place=place)
    os.symlink(target.format(place=place), f"{one}/ids")
    assert slots.find(one, place=place) is None
    assert slots.claim(one, FOUR, place=place) != held == slots.find(two, place=place)


def test_ranges_of_two_configurations_do_not_overlap(tmp_path: Path, place: str) -> None:
    shifted = Range(FOUR.first + POD_IDS // 2, FOUR.length)
    assert [number * POD_IDS for number in shifted.slots] == [9 * POD_IDS, 10 * POD_IDS, 11 * POD_IDS]
    assert list(Range(1, POD_IDS).slots) == []


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("", Range()),
        ("[jail]\nfirst_id = 1048576\ncount = 262144\n[vm]\nmemory_mib = 256\n", Range(1048576, 262144)),
        ("[jail]\nfirst_id = 1048576\n", Range(1048576)),
    ],
)
def test_the_range_of_the_daemons_configuration_is_for_everybody(tmp_path: Path, text: str, result: Range) -> None:
    config = tmp_path / "config.toml"
    assert slots.configured(str(config)) == Range(), "without a file"
    config.write_text(text)
    assert slots.configured(str(config)) == result


@pytest.mark.parametrize(
    "text",
    ["[jail", "jail = 1", "[jail]\nfirst_id = 1000", "[jail]\nfirst_id = []", "[jail]\ncount = 1", "\0", b"\xff"],
)
def test_a_configuration_without_a_usable_range_is_named(tmp_path: Path, text: str | bytes) -> None:
    config = tmp_path / "config.toml"
    config.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadRequest, match=r"config\.toml.*"):
        slots.configured(str(config))


STORM = """
import os, sys
from stage1.errors import BadRequest, NoSpace
from stage1.vm import slots
root, name = sys.argv[1:]
within = slots.Range(8 * 131072, 8 * 131072)
for number in range(40):
    directory = f"{root}/{name}-{number}"
    os.mkdir(directory)
    try:
        print(number, slots.claim(directory, within, place=f"{root}/claims"), flush=True)
    except NoSpace:
        os.rmdir(directory)
        continue
    if number % 3:
        held = slots.find(directory, place=f"{root}/claims")
        os.mkdir(f"{root}/seen/{held}-{os.getpid()}-{number}")
        alone = [one for one in os.listdir(f"{root}/seen") if one.startswith(f"{held}-")]
        assert len(alone) == 1, alone
        os.rmdir(f"{root}/seen/{held}-{os.getpid()}-{number}")
    os.unlink(f"{directory}/ids")
    os.rmdir(directory)
    if number % 2:
        slots.release(held if number % 3 else None, directory, place=f"{root}/claims")
"""


@pytest.mark.slow
def test_a_storm_of_claims_gives_no_range_to_two(tmp_path: Path) -> None:
    """A storm of processes that claim, look whether they are alone, and go, some without giving anything back."""
    (tmp_path / "seen").mkdir()
    argv = [sys.executable, "-c", STORM, str(tmp_path)]
    running = [subprocess.Popen([*argv, str(number)], stdout=subprocess.PIPE) for number in range(12)]
    outputs = [one.communicate(timeout=120)[0] for one in running]
    assert [one.returncode for one in running] == [0] * 12
    assert sum(len(output.splitlines()) for output in outputs) > 200


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@example([("claim", 0), ("claim", 3), ("vanish", 0), ("claim", 0), ("claim", 1), ("claim", 2)])
@example([("claim", 0), ("claim", 2), ("vanish", 0), ("claim", 0), ("claim", 1), ("vanish", 0), ("claim", 0)])
@given(st.lists(st.tuples(st.sampled_from(["claim", "release", "vanish"]), st.integers(0, 6)), max_size=40))
def test_whatever_comes_no_two_pods_share_and_a_free_one_is_taken(steps: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as root:
        place, held = f"{root}/claims", dict[int, int]()
        for what, number in steps:
            directory = f"{root}/{number}"
            if what == "claim":
                os.makedirs(directory, exist_ok=True)
                if number in held or len(held) < 4:
                    first = slots.claim(directory, FOUR, place=place)
                    assert held.setdefault(number, first) == first
                else:
                    with pytest.raises(NoSpace):
                        slots.claim(directory, FOUR, place=place)
            elif os.path.isdir(directory):
                first_or_none = slots.find(directory, place=place)
                assert first_or_none == held.pop(number, None)
                shutil.rmtree(directory)
                if what == "release":
                    slots.release(first_or_none, directory, place=place)
            assert len(set(held.values())) == len(held)
