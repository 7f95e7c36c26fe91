# SPDX-License-Identifier: Apache-2.0
"""The directories of warmed templates: whole or not there, and what is lent stays when one is removed."""

import os
from pathlib import Path

import pytest

from cri.store.warmed import WarmedStore, check_name, facts, taken_bytes
from stage1.errors import AlreadyExists, BadRequest, NoSpace, NotFound
from stage1.linux import mount
from stage1.rootfs import checkpoint as place


def made(store: WarmedStore, name: str = "warm", *, guest: bytes = b"guest") -> str:
    """A template of that name in `default`."""
    path = store.begin()
    for file in (place.GUEST, place.MANIFEST):
        Path(path, file).write_bytes(guest)
    store.publish(path, "default", name=name)
    return store.path("default", name)


def test_one_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    assert store.names() == []
    path = store.begin()
    assert store.names() == [] and os.stat(path).st_mode & 0o7777 == 0o700
    Path(path, place.GUEST).write_bytes(b"x")
    store.publish(path, "default", name="warm")
    assert store.names() == [("default", "warm")] and not os.path.exists(path)
    assert taken_bytes(store.path("default", "warm")) == 4096


def test_another_of_the_same_name_is_refused_and_the_first_stays(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    first = made(store)
    with pytest.raises(AlreadyExists, match="warm"):
        made(store, guest=b"other")
    assert Path(first, place.GUEST).read_bytes() == b"guest"


def test_a_file_that_has_replaced_it_stays(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    (tmp_path / "warmed/default").mkdir(parents=True)
    (tmp_path / "warmed/default/warm").write_bytes(b"a file")
    with pytest.raises(AlreadyExists, match="warm"):
        made(store)
    assert (tmp_path / "warmed/default/warm").read_bytes() == b"a file"


def test_one_is_removed_from_a_full_disk(tmp_path: Path) -> None:
    """Which has no room for another directory."""
    mount.mount("tmpfs", str(tmp_path), "tmpfs", data="size=1m,nr_inodes=12,mode=700")
    try:
        store = WarmedStore(str(tmp_path))
        for name in ("warm", "other"):
            made(store, name)
        while os.statvfs(tmp_path).f_favail:
            (tmp_path / f"{os.statvfs(tmp_path).f_favail}").touch()
        with pytest.raises(NoSpace):
            store.begin()
        store.remove("default", "warm")
        assert store.names() == [("default", "other")] and os.listdir(tmp_path / "warmed/.new") == []
    finally:
        mount.umount(str(tmp_path))


def test_what_is_lent_stays_when_it_is_removed(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    kept = facts(made(store))
    lent = store.lend("default", "warm", borrower="pod")
    assert facts(lent) == kept and len(kept) == 1
    store.remove("default", "warm")
    assert store.names() == []
    assert Path(lent, place.GUEST).read_bytes() == b"guest"
    for _ in range(2):
        store.give_back("pod")
    assert not os.path.exists(lent)


def test_a_file_that_is_written_to_has_other_facts(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    path = made(store)
    before = facts(path)
    Path(path, place.GUEST).write_bytes(b"guesT")
    os.utime(f"{path}/{place.GUEST}", ns=(1, 1))
    assert facts(path) != before
    (Path(path) / place.GUEST).unlink()
    assert facts(path) == ()


def test_one_that_others_may_write_to_is_not_lent(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    Path(made(store)).chmod(0o777)
    with pytest.raises(BadRequest, match="0700"):
        store.lend("default", "warm", borrower="pod")


def test_what_was_only_begun_is_swept_and_foreign_names_are_ignored(tmp_path: Path) -> None:
    store = WarmedStore(str(tmp_path))
    made(store)
    store.begin()
    store.lend("default", "warm", borrower="pod")
    (tmp_path / "warmed/default/Other").mkdir()
    (tmp_path / "warmed/default/file").write_bytes(b"")
    (tmp_path / "warmed/lost+found").mkdir(0o700)
    for _ in range(2):
        store.collect_garbage()
        assert store.names() == [("default", "warm")]
    assert sorted(os.listdir(tmp_path / "warmed")) == ["default", "lost+found"]


@pytest.mark.parametrize(
    ("namespace", "name"), [("..", "warm"), ("default", ".."), ("default", "x/y"), ("", ""), (".new", "1")]
)
def test_no_other_name_leads_anywhere(tmp_path: Path, namespace: str, name: str) -> None:
    store = WarmedStore(str(tmp_path))
    made(store)
    (tmp_path / "warmed/.new/1").mkdir(parents=True)
    with pytest.raises(NotFound):
        store.path(namespace, name)
    with pytest.raises(NotFound):
        store.remove(namespace, name)


@pytest.mark.parametrize("name", ["a", "0", "a-b", "x" * 63])
def test_names_of_kubernetes_can_be_used(name: str) -> None:
    check_name(name)
