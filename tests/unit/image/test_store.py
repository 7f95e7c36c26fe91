# SPDX-License-Identifier: Apache-2.0
"""The image store over real files, with made-up layers: names, removal, shared layers, crashes, other
processes.
"""

import contextlib
import json
import os
import sqlite3
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.store.images import Image, ImageStore, LayersVanished, NewImage
from stage1.errors import BadRequest, Exhausted, NotFound, PodError, WrongState
from stage1.rootfs import layout
from tests.fakes import exhausted


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ImageStore]:
    opened = ImageStore(str(tmp_path / "state"))
    yield opened
    opened.close()


def sha(number: int) -> str:
    return "sha256:" + f"{number:02x}" * 32


EROFS = bytes(1024) + struct.pack("<IIIB", 0xE0F5E1E2, 0, 0, 12) + bytes(115)
"""The head of one that has no blocks."""


def put_layer(store: ImageStore, number: int) -> str:
    for path, data in ((layout.layer_path, EROFS), (layout.facts_path, b"{}")):
        Path(path(store.layers_dir, sha(number))).write_bytes(data)
    return sha(number)


def put(store: ImageStore, number: int, *layers: int, tag: str = "", digest: str = "", user: str = "") -> Image:
    """Add the image `number` with made-up files."""
    with store.workshop() as work:
        directory = f"{work.path}/image"
        os.mkdir(directory)
        for name in ("merged.erofs", "config.json"):
            Path(directory, name).write_bytes(EROFS if name.endswith(".erofs") else b"{}")
        config = json.dumps({"config": {"User": user}, "created": "2026-01-01T00:00:00Z"}).encode()
        diff_ids = tuple(put_layer(store, n) for n in layers)
        return store.add(NewImage(sha(number), directory, config, diff_ids), tag=tag, digest=digest)


TAG, DIGEST = "docker.io/library/a:1", f"docker.io/library/a@{sha(9)}"


def test_an_image_is_what_was_added(store: ImageStore) -> None:
    image = put(store, 0xAB, 1, 2, tag=TAG, digest=DIGEST, user="me:staff")
    assert image[:5] == (sha(0xAB), (TAG,), (DIGEST,), 3 * len(EROFS) + 2, "me:staff")
    assert image.created == "2026-01-01T00:00:00Z"
    files = store.files(image)
    assert files.layers == tuple(layout.layer_path(store.layers_dir, sha(n)) for n in (1, 2))
    assert all(map(os.path.exists, (*files.layers, files.merged, files.config)))


@pytest.mark.parametrize(
    ("ref", "is_known"),
    [
        ("a:1", True),
        (TAG, True),
        (DIGEST, True),
        (f"a:other@{sha(9)}", True),
        (sha(0xAB), True),
        ("ab" * 32, True),
        ("ab" * 6, True),
        ("sha256:abab", True),
        ("a", True),  # the beginning of an id, as there is no a:latest
        ("b", False),
        ("a:2", False),
        (f"b@{sha(9)}", False),
        (f"a@{sha(8)}", False),
        ("ab" * 32 + "a", False),
        ("AB" * 32, False),
        ("", False),
        ("sha256:", False),
        ("%", False),
        ("..", False),
    ],
)
def test_an_image_has_every_name(ref: str, is_known: bool, store: ImageStore) -> None:
    image = put(store, 0xAB, 1, tag=TAG, digest=DIGEST)
    put(store, 0xCD, 1)
    assert store.find(ref) == (image if is_known else None)


def test_a_tag_wins_over_the_prefix_of_an_id_and_an_ambiguous_prefix_is_reported(store: ImageStore) -> None:
    first = put(store, 0xAB, 1)
    second = put(store, 0xAC, 1, tag="docker.io/library/ab:latest")
    assert store.find("ab") == second
    assert store.find("aba") == first
    with pytest.raises(BadRequest, match="several images"):
        store.find("a")


def test_the_newest_is_listed_first(store: ImageStore) -> None:
    for number in (5, 1, 3):
        put(store, number, 1)
    assert [image.id for image in store.list()] == [sha(3), sha(1), sha(5)]


def test_removal_by_one_tag_takes_all_names_and_only_unshared_layers(store: ImageStore) -> None:
    image = put(store, 1, 1, 2, tag=TAG, digest=DIGEST)
    store.name(image, tag="x.io/b:2")
    put(store, 2, 2, 3)
    removed = store.remove("x.io/b:2")
    assert removed is not None
    assert removed.repo_tags == (TAG, "x.io/b:2")
    assert [store.find(ref) for ref in (TAG, DIGEST, "x.io/b:2", sha(1))] == [None] * 4
    assert sorted(os.listdir(store.layers_dir)) == [f"{n:02x}" * 32 + e for n in (2, 3) for e in (".erofs", ".json")]
    assert os.listdir(f"{store.state_dir}/images") == ["02" * 32]
    assert store.remove(TAG) is None
    with pytest.raises(NotFound, match="was removed"):
        store.files(image)


def test_an_image_that_comes_again_keeps_its_files_and_gets_the_name(store: ImageStore) -> None:
    put(store, 1, 1, tag=TAG)
    assert put(store, 1, 1, tag="x.io/b:2").repo_tags == (TAG, "x.io/b:2")
    assert len(store.list()) == 1


def test_a_layer_that_was_removed_meanwhile_is_noticed(store: ImageStore) -> None:
    with store.workshop() as work, pytest.raises(LayersVanished):
        store.add(NewImage(sha(1), work.path, b"{}", (sha(1),)), tag=TAG)
    assert store.list() == ()
    assert store.find(TAG) is None
    assert os.listdir(f"{store.state_dir}/tmp") == []


def test_naming_a_removed_image_is_not_possible(store: ImageStore) -> None:
    image = put(store, 1, 1)
    store.remove(image.id)
    assert store.name(image, tag=TAG) is None
    assert store.find(TAG) is None


def test_discarded_layers_go_unless_an_image_has_them(store: ImageStore) -> None:
    put(store, 1, 1)
    put_layer(store, 2)
    store.discard([sha(1), sha(2), sha(3)])
    assert sorted(os.listdir(store.layers_dir)) == ["01" * 32 + ".erofs", "01" * 32 + ".json"]


def test_a_new_start_removes_what_was_half_done_and_keeps_the_rest(store: ImageStore) -> None:
    kept = put(store, 1, 1, tag=TAG)
    put_layer(store, 7)
    os.mkdir(f"{store.state_dir}/images/" + "07" * 32)
    os.makedirs(f"{store.state_dir}/tmp/dead/blobs")
    Path(store.state_dir, "tmp", "dead.lock").touch()
    Path(store.layers_dir, "08" * 32 + ".lock").touch()
    Path(store.layers_dir, "01" * 32 + ".seal.0123456789ab~").touch()
    store.close()
    reopened = ImageStore(store.state_dir)
    try:
        assert reopened.list() == (kept,)
        assert os.listdir(f"{store.state_dir}/tmp") == []
        assert os.listdir(f"{store.state_dir}/images") == ["01" * 32]
        assert sorted(os.listdir(store.layers_dir)) == ["01" * 32 + ".erofs", "01" * 32 + ".json"]
    finally:
        reopened.close()


def test_a_new_process_leaves_the_work_of_a_living_one_alone(store: ImageStore) -> None:
    with store.workshop() as work:
        put_layer(store, 5)
        ImageStore(store.state_dir).close()
        assert os.path.isdir(work.path)
        assert os.path.exists(layout.layer_path(store.layers_dir, sha(5)))
    ImageStore(store.state_dir).close()
    assert os.listdir(store.layers_dir) == []


def test_work_that_can_not_be_removed_now_is_removed_by_another_try(store: ImageStore) -> None:
    """It stayed until the daemon's next start, with all blobs that were brought."""
    work = store.workshop()
    work.open()
    Path(work.path, "blob").write_bytes(b"x" * 1000)
    listed = sorted(os.listdir(f"{store.state_dir}/tmp"))
    with exhausted.no_descriptors(os.getpid()), pytest.raises(Exhausted):
        work.close()
    assert sorted(os.listdir(f"{store.state_dir}/tmp")) == listed
    ImageStore(store.state_dir).close()
    assert sorted(os.listdir(f"{store.state_dir}/tmp")) == listed, "it is still in use"
    for _ in range(2):
        work.close()
    assert os.listdir(f"{store.state_dir}/tmp") == []


def test_two_stores_on_one_directory_see_each_other(store: ImageStore) -> None:
    other = ImageStore(store.state_dir)
    image = put(store, 1, 1, tag=TAG)
    assert other.find(TAG) == image
    other.remove(TAG)
    assert store.find(TAG) is None
    other.close()


def test_a_repeated_query_is_looked_up_once_until_a_change(store: ImageStore) -> None:
    first, queries = put(store, 1, 1, tag=TAG), list[str]()
    store._db._db.set_trace_callback(queries.append)
    assert store.find(TAG) == first and any("FROM tags" in one for one in queries)
    queries.clear()
    assert store.find(TAG) == first and not any("FROM" in one for one in queries)
    other = ImageStore(store.state_dir)
    second = put(other, 2, 2, tag=TAG)
    other.close()
    assert store.find(TAG) == second, "another process's change"
    store.remove(TAG)
    assert store.find(TAG) is None, "its own"
    assert put(store, 3, 3, tag=TAG).id == sha(3) and (again := store.find(TAG)) and again.id == sha(3)


def test_many_threads_may_remove_the_same_image(store: ImageStore) -> None:
    put(store, 1, 1)
    removed: list[Image | None] = []
    threads = [threading.Thread(target=lambda: removed.append(store.remove(sha(1)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(image is not None for image in removed) == 1
    assert len(removed) == 5


def test_usage_counts_what_is_on_disk(store: ImageStore) -> None:
    assert store.usage() == (0, 0)
    put(store, 1, 1)
    used, inodes = store.usage()
    assert inodes == 5
    assert used >= 4 * 512


def test_a_database_of_a_newer_clearpod_is_left_alone(tmp_path: Path) -> None:
    ImageStore(str(tmp_path)).close()
    with sqlite3.connect(tmp_path / "images.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(WrongState, match="newer clearpod"):
        ImageStore(str(tmp_path))


@pytest.mark.parametrize("attempt", range(5))
def test_a_new_store_may_be_opened_by_many_at_once(tmp_path: Path, attempt: int) -> None:
    """Each thread has a connection of its own, as a process would."""
    together, faults = threading.Barrier(8), []

    def open_it() -> None:
        together.wait()
        try:
            ImageStore(str(tmp_path / "state")).close()
        except PodError as error:
            faults.append(str(error))

    threads = [threading.Thread(target=open_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_only_root_reads_the_database_its_side_files_and_its_copy(tmp_path: Path) -> None:
    """Whatever the directory's mode and the umask are, and what an earlier clearpod left."""
    place = tmp_path / "state"
    place.mkdir(mode=0o755)
    before = os.umask(0o022)
    try:
        for _ in range(2):
            with contextlib.closing(ImageStore(str(place))) as store:
                put(store, 1, 1, tag=TAG)
                modes = {
                    one.name: one.stat().st_mode & 0o777 for one in place.glob("images.db*") if one.suffix != ".lock"
                }
                assert {"images.db", "images.db-wal", "images.db.copy"} <= set(modes)
                assert set(modes.values()) == {0o600}, modes
            for name in ("images.db", "images.db.copy"):
                (place / name).chmod(0o644)
    finally:
        os.umask(before)
