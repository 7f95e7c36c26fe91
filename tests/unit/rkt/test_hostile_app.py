# SPDX-License-Identifier: Apache-2.0
"""What an image may ask for, and what a running app may do to its root, so that nobody could operate it any more."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from stage1.errors import BadRequest, NotFound, Unsupported
from stage1.rkt import loader, manifest
from stage1.rkt.arguments import RunOptions
from tests.unit.rkt.pod_dir import UUID, Document, app, lay, root_of

OPTIONS = RunOptions(UUID, mutable=True)


def remove_users(root: Path) -> None:
    (root / "etc/passwd").unlink()


def put_pipe(root: Path) -> None:
    (root / "etc/group").unlink()
    os.mkfifo(root / "etc/group")


def fill_users(root: Path) -> None:
    with open(root / "etc/passwd", "ab") as file:
        file.truncate(1 << 25)


def claim_kernel(root: Path) -> None:
    (root / manifest.KERNEL_FILE).write_text(json.dumps({"com.urunc.unikernel.binary": "L2s="}))


def remove_volume(root: Path) -> None:
    (root.parents[6] / "volume").rmdir()


ATTACKS = {
    remove_users: BadRequest,
    put_pipe: BadRequest,
    fill_users: BadRequest,
    claim_kernel: Unsupported,
    remove_volume: NotFound,
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_app_can_not_keep_its_operator_out(tmp_path: Path, attack: Any) -> None:
    (tmp_path / "volume").mkdir()
    volumes = [{"name": "v", "kind": "host", "source": str(tmp_path / "volume")}]
    entry = app("one", {"mounts": [{"volume": "v", "path": "/v"}]}, user="web", group="www")
    pod = lay(tmp_path, entry, volumes=volumes)
    before = loader.read_pod(pod, OPTIONS, only="one", runs=True).apps[0].container
    assert before.process.user.uid == 33 and before.security.no_new_privs
    attack(root_of(pod))
    after = loader.read_pod(pod, OPTIONS, only="one", runs=True).apps[0].container
    assert after.security == before.security and after.process.env == before.process.env
    with pytest.raises(ATTACKS[attack]):
        loader.read_pod(pod, OPTIONS, only="one")


def points(count: int, name: str = "v{}") -> list[Document]:
    return [{"name": name.format(number), "path": f"/x{number}"} for number in range(count)]


@pytest.mark.parametrize(
    "apps, sentence",
    [
        ([app("a" * 90)], "'a{90}' has 90 letters.*--name"),
        ([app("one", mountPoints=points(1, "v" * 100))], "one-v{100}.*104 letters.*--volume"),
        ([app("one", mountPoints=points(loader.MOST_CONTAINERS))], "are 129, .*128"),
        ([app(f"a{number}") for number in range(65)], "65 apps.*64"),
    ],
)
def test_more_than_a_guest_has_space_for_is_refused_before_anything_is_made(
    tmp_path: Path, apps: list[Document], sentence: str
) -> None:
    pod = lay(tmp_path, *apps)
    with pytest.raises(BadRequest, match=sentence):
        loader.read_pod(pod, OPTIONS._replace(mutable=False))
    assert not os.path.exists(f"{pod}/sharedVolumes")


def test_as_much_as_there_is_space_for_is_not(tmp_path: Path) -> None:
    one = app("a" * 89, mountPoints=points(127, "v{}"))
    pod = lay(tmp_path, one, volumes=[{"name": f"v{number}", "kind": "empty"} for number in range(127)])
    assert len(loader.read_pod(pod, OPTIONS._replace(mutable=False)).empty_volumes) == 127


def test_a_manifest_that_is_nested_without_end_is_a_sentence(tmp_path: Path) -> None:
    pod = lay(tmp_path, app())
    (root_of(pod).parent / "manifest").write_text('{"x":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(BadRequest, match="manifest is not JSON"):
        loader.read_pod(pod, OPTIONS._replace(mutable=False))
