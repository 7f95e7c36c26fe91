# SPDX-License-Identifier: Apache-2.0
"""Files of images that are not as they were made: the image is put aside with a sentence, nothing else is touched, and
the next pull makes anew just what is damaged. And the index of all images: it has a copy.
"""

import logging
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cri.__main__ import main
from cri.config import Config
from cri.store import schema
from cri.store.images import Image, ImageStore
from stage1.errors import Exhausted, WrongState
from stage1.rootfs.corrupt import Corrupt
from tests.fakes.exhausted import no_descriptors
from tests.fakes.oci_layout import Layer, Layout, directory, file, tar
from tests.fakes.pulled import pull_blocking


class Made(NamedTuple):
    """Two images that share their lowest layer, and where they can be pulled from again."""

    store: ImageStore
    references: tuple[str, str]
    images: tuple[Image, Image]


@pytest.fixture(scope="module")
def pulled(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """A state directory with the images, and their references."""
    place = tmp_path_factory.mktemp("pulled")
    layout = Layout(place / "layout")
    shared = Layer(tar([directory("./"), file("big", os.urandom(200_000)), file("cap", b"x")]))
    own = [Layer(tar([file(name, name.encode() * 5000)])) for name in "ab"]
    references = [layout.tag(str(n), layout.image([shared, one])) for n, one in enumerate(own)]
    store = ImageStore(f"{place}/state")
    for reference in references:
        pull_blocking(store, reference, config=Config())
    store.close()
    return f"{place}/state", references[0], references[1]


@pytest.fixture
def made(pulled: tuple[str, str, str], tmp_path: Path) -> Iterator[Made]:
    shutil.copytree(pulled[0], tmp_path / "state")
    store = ImageStore(f"{tmp_path}/state")
    second, first = store.list()
    yield Made(store, pulled[1:], (first, second))
    store.close()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def flip(path: Path) -> None:
    """One bit in the middle: what no look at sizes finds."""
    with path.open("r+b") as opened:
        opened.seek(path.stat().st_size // 2)
        byte = opened.read(1)[0]
        opened.seek(-1, os.SEEK_CUR)
        opened.write(bytes([byte ^ 1]))


def garble(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def gone(path: Path) -> None:
    path.unlink()


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def file_of(store: ImageStore, image: Image, name: str) -> Path:
    result = store.files(image)
    own, upper = Path(result.merged).parent, Path(result.layers[1])
    return upper.with_suffix(name.removeprefix("layer")) if name.startswith("layer") else own / name


AT_A_GLANCE: list[tuple[str, Callable[[Path], None]]] = [
    *[(name, do) for name in ("layer.erofs", "merged.erofs") for do in (cut, empty, garble, gone)],
    *[(name, do) for name in ("layer.json", "config.json", "filecaps", "manifest.json") for do in (empty, gone)],
    *[(name, do) for name in ("layer.seal", "seal") for do in (cut, empty, garble, a_directory)],
]
BY_READING: list[tuple[str, Callable[[Path], None]]] = [
    (name, flip) for name in ("layer.erofs", "merged.erofs", "layer.json", "config.json", "manifest.json")
]


@pytest.mark.parametrize(("name", "do"), AT_A_GLANCE, ids=lambda value: getattr(value, "__name__", value))
def test_damage_is_noticed_at_use_and_at_a_start_and_repaired_by_a_pull(
    name: str, do: Callable[[Path], None], made: Made
) -> None:
    store, (reference, _), (image, neighbour) = made
    assert store.usable(image)
    if name == "filecaps" and do is empty:
        file_of(store, image, name).write_bytes(b"x")
    else:
        do(file_of(store, image, name))
    with pytest.raises(Corrupt, match=image.id) as caught:
        store.usable(image)
    if name.startswith("layer"):
        assert "sha256:" + os.path.basename(store.files(image).layers[1]).partition(".")[0] in str(caught.value)
    result = store.find(image.id)
    assert result and result.aside == str(caught.value)
    assert store.usable(neighbour)
    store.close()
    reopened = ImageStore(store.state_dir)
    try:
        assert [one.aside != "" for one in reopened.list()] == [False, True]
        assert_repaired(reopened, reference, image)
    finally:
        reopened.close()


def test_an_image_that_can_not_be_looked_at_now_is_not_damaged(made: Made) -> None:
    store, _, (image, _) = made
    Path(store.files(image).merged).touch()  # else it is known from the store's opening
    with no_descriptors(os.getpid()), pytest.raises(Exhausted):
        store.usable(image)
    assert store.usable(image) and store.find(image.id) == image


def test_an_image_that_was_not_touched_since_is_not_opened_again(made: Made) -> None:
    store, _, (image, _) = made
    assert store.usable(image)
    with no_descriptors(os.getpid()):
        assert store.usable(image) == store.files(image)


def assert_repaired(store: ImageStore, reference: str, image: Image) -> None:
    assert pull_blocking(store, reference, config=Config()) == image
    for path in (*store.files(image).layers, store.files(image).merged):
        subprocess.run(["fsck.erofs", path], check=False, stdout=subprocess.DEVNULL)
    assert store.usable(image) == store.files(image)
    assert store.examine(image, whole=True) == ""
    assert [one.aside for one in store.list()] == ["", ""]


@pytest.mark.parametrize(("name", "do"), BY_READING, ids=lambda value: getattr(value, "__name__", value))
def test_a_flipped_bit_is_noticed_by_reading_and_by_a_pull(name: str, do: Callable[[Path], None], made: Made) -> None:
    store, (reference, _), (image, neighbour) = made
    do(file_of(store, image, name))
    assert store.examine(neighbour, whole=True) == ""
    assert_repaired(store, reference, image)
    do(file_of(store, image, name))
    assert "damaged" in store.examine(image, whole=True)
    assert_repaired(store, reference, image)


def test_a_start_reports_damage_with_its_kind(made: Made, caplog: pytest.LogCaptureFixture) -> None:
    store, _, (image, _) = made
    cut(file_of(store, image, "layer.erofs"))
    store.close()
    with caplog.at_level(logging.ERROR, "clearpod"):
        ImageStore(store.state_dir).close()
    (record,) = [one for one in caplog.records if one.getMessage() == "image.damaged"]
    assert record.__dict__["image"] == image.id and "bytes instead of" in record.__dict__["error"]


def test_a_layer_of_two_images_puts_both_aside_and_each_is_repaired_by_its_pull(made: Made) -> None:
    store, references, images = made
    cut(Path(store.files(images[0]).layers[0]))
    for image in images:
        with pytest.raises(Corrupt):
            store.usable(image)
    for reference, image in zip(references, images, strict=True):
        assert pull_blocking(store, reference, config=Config()) == image
    assert [store.examine(image, whole=True) for image in images] == ["", ""]


def test_an_image_that_was_merged_from_another_form_of_a_layer_is_damaged(made: Made) -> None:
    """As when another version of mkfs.erofs has made the layer again: blocks may lie elsewhere in it."""
    store, (reference, _), (image, neighbour) = made
    layer = Path(store.files(image).layers[0])
    layer.write_bytes(layer.read_bytes() + bytes(4096))
    layer.with_suffix(".seal").unlink()
    store.seal(os.path.dirname(store.files(neighbour).merged), [f"sha256:{layer.stem}"])
    with pytest.raises(Corrupt, match="recreated"):
        store.usable(image)
    assert pull_blocking(store, reference, config=Config()).aside == ""


def test_a_damaged_image_can_be_removed(made: Made) -> None:
    store, _, (image, neighbour) = made
    cut(file_of(store, image, "merged.erofs"))
    with pytest.raises(Corrupt):
        store.usable(image)
    assert store.remove(image.id) is not None
    assert [one.id for one in store.list()] == [neighbour.id]
    assert store.usable(neighbour)


def test_what_a_former_version_made_has_no_seals_and_gets_them_when_it_is_read(made: Made) -> None:
    store, (reference, _), (image, _) = made
    for path in Path(store.state_dir).rglob("*seal"):
        path.unlink()
    assert store.usable(image)
    assert store.examine(image, whole=True) == ""
    flip(file_of(store, image, "layer.erofs"))
    assert "layer" in store.examine(image, whole=True)
    assert_repaired(store, reference, image)


def test_verify_reads_all_images_and_names_the_damaged_one(made: Made, capsys: pytest.CaptureFixture[str]) -> None:
    store, _, (image, neighbour) = made
    config = Path(store.state_dir).with_name("config.toml")
    config.write_text(f'state_dir = "{store.state_dir}"\n')
    assert main(["images", "verify", "--config", str(config)]) == 0
    flip(file_of(store, image, "layer.erofs"))
    assert main(["images", "verify", "--config", str(config)]) == 1
    lines = capsys.readouterr().out.splitlines()[2:]
    assert sorted(line.split()[0] for line in lines) == ["damaged", "ok"]
    assert any(neighbour.id in line for line in lines if line.startswith("ok"))
    result = store.find(image.id)
    assert result and result.aside


def database(state: str) -> Path:
    return Path(state, "images.db")


def middle(path: Path) -> None:
    with path.open("r+b") as opened:
        opened.seek(4096)
        opened.write(os.urandom(8192))


def foreign(path: Path) -> None:
    path.write_bytes(b"not a database" * 1000)


@pytest.mark.parametrize("do", [cut, empty, garble, gone, middle, foreign])
def test_a_damaged_index_is_replaced_by_its_copy(
    do: Callable[[Path], None], made: Made, caplog: pytest.LogCaptureFixture
) -> None:
    store = made.store
    store.name(made.images[0], tag="x.io/late:1")
    before = store.list()
    store.close()
    do(database(store.state_dir))
    with caplog.at_level(logging.ERROR, "clearpod"):
        reopened = ImageStore(store.state_dir)
    assert reopened.list() == before
    assert all(reopened.usable(image) for image in before)
    reopened.close()
    assert [one.getMessage() for one in caplog.records] == ["images.damaged"]
    if do is not gone:
        assert Path(store.state_dir, "images.db" + schema.DAMAGED).exists()
    ImageStore(store.state_dir).close()


def test_an_index_that_is_damaged_with_its_copy_leaves_an_empty_store_that_works(made: Made) -> None:
    made.store.close()
    for path in (database(made.store.state_dir), database(made.store.state_dir + "").with_suffix(".db.copy")):
        foreign(path)
    reopened = ImageStore(made.store.state_dir)
    assert reopened.list() == ()
    assert pull_blocking(reopened, made.references[0], config=Config()).id == made.images[0].id
    reopened.close()


def test_a_config_that_the_index_has_lost_puts_its_image_aside_alone(made: Made) -> None:
    store, (reference, _), (image, _) = made
    with sqlite3.connect(database(store.state_dir)) as db:
        db.execute("UPDATE images SET config = '{' WHERE id = ?", (image.id,))
    db.close()
    assert [one.aside != "" for one in store.list()] == [False, True]
    assert_repaired(store, reference, image)


def test_a_newer_state_directory_is_refused_and_not_touched(made: Made) -> None:
    state = made.store.state_dir
    made.store.close()
    with sqlite3.connect(database(state)) as db:
        db.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    db.close()
    Path(state, "layers", "of-the-future").touch()
    before = contents(state)
    with pytest.raises(WrongState, match="newer clearpod"):
        ImageStore(state)
    assert contents(state) == before


def contents(state: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(Path(state).rglob("*")) if path.is_file()}
