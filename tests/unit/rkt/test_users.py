# SPDX-License-Identifier: Apache-2.0
"""Who an app runs as."""

import os
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest
from stage1.pod.model import User
from stage1.rkt import manifest, users
from tests.unit.rkt.pod_dir import DOCKER, Document, app, lay, root_of


def resolve(place: Path, image: Document | None = None, **fields: Any) -> User:
    pod = lay(place, app(**fields), image=image)
    (Path(pod) / "stage1" / "rootfs" / "opt" / "stage2" / "one" / "rootfs" / "here").symlink_to("/etc")
    if os.geteuid() == 0:
        os.chown(root_of(pod) / "here", 7, 8, follow_symlinks=False)
    (entry,) = manifest.read(f"{pod}/pod", lambda _: str(root_of(pod).parent / "manifest")).entries
    return users.resolve(entry, str(root_of(pod)))


@pytest.mark.parametrize(
    "user, group, expected",
    [
        ("0", "0", User(0, 0)),
        ("root", "root", User(0, 0)),
        ("web", "www", User(33, 55)),
        ("web", "0", User(33, 0)),
        ("4711", "4712", User(4711, 4712)),
        ("33", "www", User(33, 55)),
    ],
)
def test_names_and_numbers(tmp_path: Path, user: str, group: str, expected: User) -> None:
    assert resolve(tmp_path, user=user, group=group) == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_owner_of_a_path_is_that_of_the_link_itself(tmp_path: Path) -> None:
    assert resolve(tmp_path, user="/here", group="/here") == User(7, 8)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
@pytest.mark.parametrize("owner", [(1 << 31, 0), (0, 4294967294)])
def test_an_owner_that_no_pod_can_have_is_refused(tmp_path: Path, owner: tuple[int, int]) -> None:
    pod = lay(tmp_path, app(user="/here", group="/here"))
    (root_of(pod) / "here").touch()
    os.chown(root_of(pod) / "here", *owner)
    (entry,) = manifest.read(f"{pod}/pod", lambda _: str(root_of(pod).parent / "manifest")).entries
    with pytest.raises(BadRequest, match=f"app 'one': /here .*{max(owner)}.* 2147483647"):
        users.resolve(entry, str(root_of(pod)))


def test_supplementary_groups_are_numbers_and_not_the_own_one(tmp_path: Path) -> None:
    assert resolve(tmp_path, group="5", supplementaryGIDs=[6, 5, 6, 7]) == User(0, 5, (6, 7))


def test_docker_images_repeat_the_user_as_group(tmp_path: Path) -> None:
    image = {"app": {"exec": ["x"], "user": "web", "group": "web"}, "annotations": DOCKER}
    assert resolve(tmp_path / "a", image, user="web", group="web") == User(33, 33)
    assert resolve(tmp_path / "b", image, user="4711", group="web") == User(4711, 4711)


@pytest.mark.parametrize(
    "image, fields",
    [
        ({"app": {"exec": ["x"], "user": "web", "group": "web"}}, {"user": "web", "group": "web"}),
        ({"app": {"exec": ["x"], "user": "web", "group": "0"}, "annotations": DOCKER}, {"user": "web", "group": "web"}),
        ({"app": {"exec": ["x"], "user": "a", "group": "a"}, "annotations": DOCKER}, {"user": "web", "group": "web"}),
    ],
)
def test_that_rule_is_for_nothing_else(tmp_path: Path, image: Document, fields: dict[str, str]) -> None:
    with pytest.raises(BadRequest, match=r"group 'web' .*/etc/group"):
        resolve(tmp_path, image, **fields)


@pytest.mark.parametrize(
    "fields, sentence",
    [
        (
            {"user": "nobody"},
            "app 'one': user 'nobody' .*/etc/passwd",
        ),
        ({"user": ""}, "app 'one': '' .*--user"),
        ({"group": ""}, "app 'one': '' .*--group"),
        ({"user": "web:www"}, "app 'one': 'web:www' .*--user"),
        ({"user": "/no/such"}, "app 'one': .*owner of /no/such"),
        ({"user": "9999999999"}, "app 'one': .* 9999999999 .* 2147483647"),
        ({"supplementaryGIDs": [-1]}, "app 'one': .*supplementary group -1 .*2147483647"),
    ],
)
def test_the_overflow_user(tmp_path: Path, fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(BadRequest, match=sentence):
        resolve(tmp_path, **fields)
