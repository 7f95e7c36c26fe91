# SPDX-License-Identifier: Apache-2.0
"""The image RPCs over a store with images out of small layouts, no registry and no socket."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cri.config import Config
from cri.image.pull import pull
from cri.image.rpcs import chain_id, image_fs_info, image_status, list_images, pull_image, remove_image
from cri.pb import runtime_pb2 as pb
from cri.store.images import Image, ImageStore
from cri.store.reserve import Reserve
from stage1.errors import BadRequest
from stage1.rootfs import scratch
from tests.fakes.oci_layout import Layer, Layout, file, tar

TAG = "docker.io/library/a:1"


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Any]:
    store = ImageStore(str(tmp_path / "state"))
    storage = SimpleNamespace(reserve=Reserve(f"{tmp_path}/state/reserve", 0))
    pods, snapshots = SimpleNamespace(pods=list), SimpleNamespace(image_ids=frozenset())
    yield SimpleNamespace(images=store, config=Config(), storage=storage, snapshots=snapshots, pods=pods)
    store.close()


async def add(node: Any, tmp_path: Path, user: str = "", tag: str = TAG) -> Image:
    layout = Layout(tmp_path / f"layout-{tag.replace('/', '-')}")
    made = layout.image([Layer(tar([file("a")]))], config={"User": user, "Labels": {"for": tag}})
    image = await pull(node.images, layout.tag("x", made), config=node.config)
    named = node.images.name(image, tag=tag)
    assert isinstance(named, Image)
    return named


def spec(ref: str) -> pb.ImageSpec:
    return pb.ImageSpec(image=ref)


@pytest.mark.parametrize(
    ("user", "uid", "username"),
    [
        ("", None, ""),
        ("0", 0, ""),
        ("1002", 1002, ""),
        ("1003:1004", 1003, ""),
        ("www-data", None, "www-data"),
        ("www-data:1004", None, "www-data"),
        ("٣", None, "٣"),
        ("9" * 18, 10**18 - 1, ""),
        ("9" * 19, None, "9" * 19),
    ],
)
async def test_the_user_is_a_number_or_a_name(
    user: str, uid: int | None, username: str, node: Any, tmp_path: Path
) -> None:
    await add(node, tmp_path, user)
    image = (await image_status(node, pb.ImageStatusRequest(image=spec(TAG)))).image
    assert (image.uid.value if image.HasField("uid") else None, image.username) == (uid, username)


async def test_all_kinds_of_references_give_the_same_status(node: Any, tmp_path: Path) -> None:
    image = await add(node, tmp_path)
    refs = (TAG, "a:1", image.id, image.id.removeprefix("sha256:"), image.id[7:19])
    result = [(await image_status(node, pb.ImageStatusRequest(image=spec(r)))).image for r in refs]
    assert result[0].size > 0
    assert list(result[0].repo_tags) == [TAG]
    assert all(other == result[0] for other in result)


@pytest.mark.parametrize(
    ("pins", "pinned"), [((), False), ((TAG,), True), (("docker.io/library/*",), True), (("a:1", "x.io/*"), False)]
)
async def test_images_are_pinned_by_their_full_names(
    pins: tuple[str, ...], pinned: bool, node: Any, tmp_path: Path
) -> None:
    await add(node, tmp_path)
    node.config = Config(pinned_images=pins)
    assert (await image_status(node, pb.ImageStatusRequest(image=spec(TAG)))).image.pinned == pinned
    assert [image.pinned for image in (await list_images(node, pb.ListImagesRequest())).images] == [pinned]


async def test_an_unknown_image_has_an_empty_status(node: Any) -> None:
    response = await image_status(node, pb.ImageStatusRequest(image=spec("nothing")))
    assert not response.HasField("image")


async def test_the_verbose_status_has_the_oci_config(node: Any, tmp_path: Path) -> None:
    image = await add(node, tmp_path, "7")
    response = await image_status(node, pb.ImageStatusRequest(image=spec(TAG), verbose=True))
    assert json.loads(response.info["info"]) == {"chainID": chain_id(image.config), "imageSpec": image.config}
    assert not (await image_status(node, pb.ImageStatusRequest(image=spec(TAG)))).info


def test_the_chain_of_layers_is_that_of_the_image_spec() -> None:
    one, two = (f"sha256:{digit * 64}" for digit in "12")
    both = f"sha256:{hashlib.sha256(f'{one} {two}'.encode()).hexdigest()}"
    assert chain_id({"rootfs": {"diff_ids": [one]}}) == one
    assert chain_id({"rootfs": {"diff_ids": [one, two]}}) == both
    assert chain_id({}) == chain_id({"rootfs": None}) == ""


async def test_lists_are_newest_first_and_may_be_filtered(node: Any, tmp_path: Path) -> None:
    first, second = await add(node, tmp_path), await add(node, tmp_path, tag="x.io/b:1")
    everything = await list_images(node, pb.ListImagesRequest())
    assert [image.id for image in everything.images] == [second.id, first.id]
    for ref, ids in (("a:1", [first.id]), (second.id, [second.id]), ("nothing", [])):
        request = pb.ListImagesRequest(filter=pb.ImageFilter(image=spec(ref)))
        assert [image.id for image in (await list_images(node, request)).images] == ids


async def test_a_removed_image_is_gone_at_once_and_removing_it_again_is_fine(node: Any, tmp_path: Path) -> None:
    image = await add(node, tmp_path)
    for _ in range(2):
        await remove_image(node, pb.RemoveImageRequest(image=spec(image.id)))
        assert not (await image_status(node, pb.ImageStatusRequest(image=spec(TAG)))).HasField("image")
        assert not (await list_images(node, pb.ListImagesRequest())).images


async def test_the_file_system_is_described_even_when_it_is_empty(node: Any, tmp_path: Path) -> None:
    before = await image_fs_info(node, pb.ImageFsInfoRequest())
    for one in (*before.image_filesystems, *before.container_filesystems):
        assert one.timestamp > 0
        assert one.fs_id.mountpoint == str(tmp_path / "state")
    await add(node, tmp_path)
    after = await image_fs_info(node, pb.ImageFsInfoRequest())
    assert _grown(before, after, "image_filesystems") == [True, True]
    assert _grown(before, after, "container_filesystems") == [False, False]
    scratch.make_scratch(_made(tmp_path / "state/scratch") + "/pod.img", 16 << 20, template_dir=f"{tmp_path}/templates")
    later = await image_fs_info(node, pb.ImageFsInfoRequest())
    assert _grown(after, later, "image_filesystems") == [False, False]
    assert _grown(after, later, "container_filesystems") == [True, True]
    used = later.container_filesystems[0].used_bytes.value
    assert 0 < used < 16 << 20, "what is taken of the disk, not what the pod may write"


def _made(place: Path) -> str:
    place.mkdir()
    return str(place)


def _grown(before: Any, after: Any, kind: str) -> list[bool]:
    """Bytes, inodes."""
    old, new = getattr(before, kind)[0], getattr(after, kind)[0]
    return [new.used_bytes.value > old.used_bytes.value, new.inodes_used.value > old.inodes_used.value]


@pytest.mark.parametrize("ref", ["", "not a name", "oci:/etc", "docker-archive:/etc/passwd"])
async def test_the_cri_pulls_names_only(ref: str, node: Any) -> None:
    with pytest.raises(BadRequest):
        await pull_image(node, pb.PullImageRequest(image=spec(ref)))


@pytest.mark.parametrize(
    ("rpc", "request_"), [(image_status, pb.ImageStatusRequest()), (remove_image, pb.RemoveImageRequest())]
)
async def test_a_request_without_an_image_is_refused(rpc: Any, request_: Any, node: Any) -> None:
    with pytest.raises(BadRequest, match=r"needs image\.image"):
        await rpc(node, request_)
