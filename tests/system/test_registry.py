# SPDX-License-Identifier: Apache-2.0
"""Pulls from a real registry into a real store, and every way in which they fail."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cri.config import Config
from cri.config_tables import Registry as Entry_
from cri.image.origins import Auth
from cri.image.pull import pull
from cri.image.registry import LoginNeeded, RegistryUnavailable
from cri.store.images import ImageStore
from stage1.errors import BadRequest, NoSpace, NotFound, PodError, Unsupported
from stage1.rootfs.corrupt import Corrupt
from tests.fakes.oci_layout import HOST_ARCH, OTHER_ARCH, Layer, Layout, digest, directory, file, tar
from tests.fakes.patience import PATIENCE
from tests.fakes.processes import children
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry, free_port, skopeo

BASE = Layer(tar([directory("./"), directory("etc/"), file("etc/passwd", b"root:x:0:0::/:/bin/sh\n")]))
TOP = Layer(tar([file("bin/hello", os.urandom(200_000), 0o755)]))


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


ME_SECRET = "me:$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a"  # bcrypt of "secret"


def config(*entries: Entry_) -> Config:
    return Config(registries=entries)


def orphans(store: ImageStore) -> list[str]:
    """Files that belong to no image."""
    known = {i.id.removeprefix("sha256:") for i in store.list()}
    known |= {d.removeprefix("sha256:") for i in store.list() for d in i.config["rootfs"]["diff_ids"]}
    result = [n for part in ("layers", "images", "tmp") for n in os.listdir(f"{store.state_dir}/{part}")]
    return [name for name in result if name.partition(".")[0] not in known]


def test_a_pull_by_tag_then_by_digest_is_one_image_with_both_names(
    registry: Registry, layout: Layout, store: ImageStore
) -> None:
    manifest = layout.image([BASE, TOP])
    name = registry.push(layout.tag("a", manifest), "t/two:1")
    image = pull_blocking(store, name, config=config())
    by_digest = f"{registry.host}/t/two@{manifest['digest']}"
    assert (image.repo_tags, image.repo_digests) == ((name,), (by_digest,))
    assert image.size_bytes > 200_000
    second = pull_blocking(store, by_digest, config=config())
    assert second == image
    assert store.find(name) == store.find(by_digest) == store.find(image.id[7:20]) == image
    assert orphans(store) == []


async def test_an_image_that_is_pulled_again_and_again_is_asked_for_by_one_process(
    registry: Registry, layout: Layout, store: ImageStore
) -> None:
    name = registry.push(layout.tag("a", layout.image([BASE])), "t/again:1")
    others = asking()  # those of former stores end a while after their last use
    images = [await pull(store, name, config=config()) for _ in range(3)]
    by_digest = images[0].repo_digests[0]
    for again in (name, name, by_digest):
        assert await pull(store, again, config=config()) == images[0]
    assert len(asking() - others) == 1
    moved = layout.image([BASE], config={"Cmd": ["moved"]})
    registry.push(layout.tag("b", moved), "t/again:1")
    assert (await pull(store, name, config=config())).id != images[0].id
    store.at_close()
    async with asyncio.timeout(10 * PATIENCE):
        while asking() - others:
            await asyncio.sleep(0.02)


def asking() -> set[int]:
    """The processes below this one that talk to a registry."""
    todo, result = [os.getpid()], set[int]()
    while todo:
        for pid in children(todo.pop()):
            todo.append(pid)
            with contextlib.suppress(OSError):
                result |= {pid} if Path(f"/proc/{pid}/comm").read_text() == "client\n" else set()
    return result


def test_a_pull_by_digest_alone_gives_no_tag(registry: Registry, layout: Layout, store: ImageStore) -> None:
    manifest = layout.image([BASE], config={"Cmd": ["digest"]})
    registry.push(layout.tag("a", manifest), "t/digest:1")
    name = f"{registry.host}/t/digest@{manifest['digest']}"
    image = pull_blocking(store, f"{registry.host}/t/digest:nonsense@{manifest['digest']}", config=config())
    assert (image.repo_tags, image.repo_digests) == ((), (name,))


def test_of_an_index_the_hosts_image_is_taken_and_the_digest_is_the_indexs(
    registry: Registry, layout: Layout, store: ImageStore
) -> None:
    images = [layout.image([BASE], arch=a, config={"Cmd": [a]}) for a in (OTHER_ARCH, HOST_ARCH)]
    index = layout.index(images)
    name = registry.push(layout.tag("many", index), "t/many:1", "--all")
    image = pull_blocking(store, name, config=config())
    assert image.config["architecture"] == HOST_ARCH
    assert image.repo_digests == (f"{registry.host}/t/many@{index['digest']}",)
    assert pull_blocking(store, image.repo_digests[0], config=config()).id == image.id


@pytest.mark.parametrize("as_index", [False, True])
def test_an_image_for_another_machine_is_refused_by_naming_both(
    as_index: bool, registry: Registry, layout: Layout, store: ImageStore
) -> None:
    made = layout.image([BASE], arch=OTHER_ARCH)
    name = registry.push(
        layout.tag("a", layout.index([made]) if as_index else made), f"t/arch{as_index}:1".lower(), "--all"
    )
    with pytest.raises(BadRequest, match=f"linux/{OTHER_ARCH} .*host is linux/{HOST_ARCH}"):
        pull_blocking(store, name, config=config())
    assert orphans(store) == []


@pytest.mark.parametrize("kind", ["location", "mirror", "two mirrors"])
def test_a_mapped_registry_keeps_the_original_name(
    kind: str, registry: Registry, layout: Layout, store: ImageStore
) -> None:
    registry.push(layout.tag("a", layout.image([BASE])), "pause:3.9")
    dead = f"127.0.0.1:{free_port()}"
    entry = {
        "location": Entry_(prefix="registry.k8s.io", location=registry.host, insecure=True),
        "mirror": Entry_(prefix="registry.k8s.io", mirrors=(registry.host,), insecure=True),
        "two mirrors": Entry_(prefix="registry.k8s.io", mirrors=(dead, registry.host), insecure=True),
    }[kind]
    image = pull_blocking(store, "registry.k8s.io/pause:3.9", config=config(entry))
    assert image.repo_tags == ("registry.k8s.io/pause:3.9",)
    assert image.repo_digests[0].startswith("registry.k8s.io/pause@sha256:")


def test_one_image_from_two_registries_is_one_image_with_two_tags(
    registry: Registry, layout: Layout, store: ImageStore
) -> None:
    registry.push(layout.tag("a", layout.image([BASE])), "pause:3.9")
    entries = [Entry_(prefix=p, location=registry.host, insecure=True) for p in ("registry.k8s.io", "k8s.gcr.io")]
    ids = {pull_blocking(store, f"{e.prefix}/pause:3.9", config=config(*entries)).id for e in entries}
    assert len(ids) == 1
    assert len(store.list()) == 1
    assert store.list()[0].repo_tags == ("k8s.gcr.io/pause:3.9", "registry.k8s.io/pause:3.9")
    store.remove("k8s.gcr.io/pause:3.9")
    assert store.list() == ()
    assert orphans(store) == []


def test_a_tag_that_moves_leaves_the_old_image_without_it(
    registry: Registry, layout: Layout, store: ImageStore
) -> None:
    name = registry.push(layout.tag("old", layout.image([BASE])), "t/moving:1")
    old = pull_blocking(store, name, config=config())
    registry.push(layout.tag("new", layout.image([BASE, TOP])), "t/moving:1")
    new = pull_blocking(store, name, config=config())
    assert new.id != old.id
    assert [image.id for image in store.list()] == [new.id, old.id]
    assert [image.repo_tags for image in store.list()] == [(name,), ()]


def test_only_missing_layers_are_downloaded(registry: Registry, layout: Layout, store: ImageStore) -> None:
    base = layout.image([BASE])
    pull_blocking(store, registry.push(layout.tag("base", base), "t/base:1"), config=config())
    name = registry.push(layout.tag("both", layout.image([BASE, TOP])), "t/derived:1")
    registry.blob(digest(BASE.blob())).rename(registry.storage / "aside")
    try:
        image = pull_blocking(store, name, config=config())
    finally:
        (registry.storage / "aside").rename(registry.blob(digest(BASE.blob())))
    assert image.config["rootfs"]["diff_ids"] == [digest(BASE.tar), digest(TOP.tar)]
    assert orphans(store) == []


@pytest.mark.parametrize("compression", ["", "zstd", "gzip"])
def test_every_compression_of_a_layer_is_understood(
    compression: str, registry: Registry, layout: Layout, store: ImageStore
) -> None:
    layer = Layer(tar([file(f"f-{compression}", b"1" * 5000)]), compression)
    name = registry.push(layout.tag("a", layout.image([layer])), f"t/compression:{compression or 'none'}")
    assert pull_blocking(store, name, config=config()).size_bytes > 5000


def spoil_layer(registry: Registry) -> None:
    path = registry.blob(digest(TOP.blob()))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_blob_is_refused_and_pulled_well_once_it_is_repaired(
    tmp_path: Path, layout: Layout, store: ImageStore
) -> None:
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/damaged:1")
        whole = registry.blob(digest(TOP.blob())).read_bytes()
        spoil_layer(registry)
        with pytest.raises(Corrupt, match=r"damaged.*[Dd]igest"):
            pull_blocking(store, name, config=config())
        assert orphans(store) == []
        registry.blob(digest(TOP.blob())).write_bytes(whole)
        assert pull_blocking(store, name, config=config()).repo_tags == (name,)


Push = Callable[[Registry, Layout], str]


def lying(registry: Registry, layout: Layout) -> str:
    made = layout.image([BASE], diff_ids=["sha256:" + "0" * 64])
    return registry.push(layout.tag("a", made), "t/lying:1")


def artefact(registry: Registry, layout: Layout) -> str:
    kind = "application/vnd.oci.image.manifest.v1+json"
    configured = layout.put(b"{}", "application/vnd.cncf.helm.config.v1+json")
    document = {"schemaVersion": 2, "mediaType": kind, "config": configured, "layers": []}
    return registry.push(layout.tag("a", layout.put(json.dumps(document).encode(), kind)), "t/chart:1")


def _pipe(path: Path) -> Path:
    pipe = Path(path, "pipe")
    if not pipe.exists():
        os.mkfifo(pipe)
    return pipe


@pytest.mark.parametrize(
    ("name", "kind", "says"),
    [
        (lambda r, _: f"{r.host}/t/nothing:1", NotFound, "image 127.0.0.1.*manifest unknown"),
        (lambda r, _: f"{r.host}/t/two:none", NotFound, "no image"),
        (lambda r, _: f"{r.host}/t/two@sha256:" + "1" * 64, NotFound, "no image"),
        (
            lambda r, _: f"127.0.0.1:{free_port()}/a:1",
            RegistryUnavailable,
            "^RegistryUnavailable: can't reach",
        ),
        (lambda r, _: "registry.invalid/a:1", RegistryUnavailable, "^RegistryUnavailable: can't reach"),
        (lambda r, _: "not a name", BadRequest, "image name"),
        (lambda r, _: "oci:/nonexistent", NotFound, "OCI layout"),
        (lambda r, made: f"oci:{made.path}/index.json", NotFound, "index.json .*not a directory"),
        (lambda r, made: f"oci:{_pipe(made.path)}", NotFound, "pipe .*not a directory"),
        (lambda r, _: "docker-archive:/nonexistent", NotFound, "no file /nonexistent"),
        (lambda _, made: f"oci:{made.path}:none", NotFound, "has no image 'none'"),
        (lying, Corrupt, "digest mismatch: .*unpacked"),
        (artefact, Unsupported, "image.*helm"),
    ],
)
def test_a_failed_pull_is_reported_in_one_sentence_and_leaves_nothing(
    name: Push, kind: type[PodError], says: str, registry: Registry, layout: Layout, store: ImageStore
) -> None:
    with pytest.raises(kind, match=says) as caught:
        pull_blocking(store, name(registry, layout), config=config())
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 700
    assert orphans(store) == []
    assert store.list() == ()


def test_credentials_are_used_and_only_for_their_registry(tmp_path: Path, layout: Layout, store: ImageStore) -> None:
    with Registry(tmp_path / "registry", htpasswd=ME_SECRET) as registry:
        name = registry.push(layout.tag("a", layout.image([BASE])), "p/a:1", "--dest-creds=me:secret")
        for auth in (
            None,
            Auth("me", "wrong"),
            Auth("me", "secret", server_address="https://elsewhere.io/v1/"),
        ):
            with pytest.raises(LoginNeeded, match="rejects the credentials"):
                asyncio.run(pull(store, name, config=config(), auth=auth))
        asyncio.run(pull(store, name, config=config(), auth=Auth("me", "secret")))
        mapped = config(Entry_(prefix="registry.k8s.io", location=registry.host, insecure=True))
        good = Auth(auth="bWU6c2VjcmV0", server_address="registry.k8s.io")
        asyncio.run(pull(store, "registry.k8s.io/p/a:1", config=mapped, auth=good))
    assert orphans(store) == []


def test_an_archive_of_docker_save_and_a_layout_give_the_same_layers(
    layout: Layout, store: ImageStore, tmp_path: Path
) -> None:
    source = layout.tag("a", layout.image([BASE, TOP]))
    archive = f"docker-archive:{tmp_path}/saved.tar"
    skopeo(source, f"{archive}:x/y:1")
    one, two = (pull_blocking(store, name, config=config()) for name in (source, archive))
    assert store.files(one).layers == store.files(two).layers
    assert orphans(store) == []


async def test_pulls_of_one_reference_share_the_work(registry: Registry, layout: Layout, store: ImageStore) -> None:
    name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/shared:1")
    pulls = [asyncio.create_task(pull(store, name, config=config())) for _ in range(5)]
    async with asyncio.timeout(10 * PATIENCE):
        while len(os.listdir(f"{store.state_dir}/tmp")) < 2:
            await asyncio.sleep(0.002)
    await asyncio.sleep(0.01)
    assert len(os.listdir(f"{store.state_dir}/tmp")) == 2  # one directory and its lock
    assert len({image.id for image in await asyncio.gather(*pulls)}) == 1
    assert orphans(store) == []


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.02, 0.05, 0.1, 0.15, 0.2])
async def test_an_abandoned_pull_ends_and_a_retry_works(
    delay_s: float, registry: Registry, layout: Layout, store: ImageStore
) -> None:
    name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/cancelled:1")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pull_and_linger(store, name), delay_s)
    if going_on := asyncio.all_tasks() - {asyncio.current_task()}:  # it may not have begun to write yet
        await asyncio.wait(going_on, timeout=30)
    assert orphans(store) == []
    assert (await pull(store, name, config=config())).repo_tags == (name,)


async def pull_and_linger(store: ImageStore, name: str) -> None:
    await pull(store, name, config=config())
    await asyncio.sleep(1)


async def test_one_of_two_waiters_may_leave(registry: Registry, layout: Layout, store: ImageStore) -> None:
    name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/leaving:1")
    leaves, stays = (asyncio.create_task(pull(store, name, config=config())) for _ in range(2))
    await asyncio.sleep(0.02)
    leaves.cancel()
    assert (await stays).repo_tags == (name,)
    assert leaves.cancelled()


def _unmount(place: Path) -> None:
    """Also when a program that was killed there has yet to die."""
    deadline = time.monotonic() + 5 * PATIENCE
    while subprocess.run(["umount", str(place)], check=False).returncode:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_full_disk_is_reported_with_its_path_and_leaves_nothing(
    registry: Registry, layout: Layout, tmp_path: Path
) -> None:
    state = tmp_path / "tiny"
    state.mkdir()
    big = Layer(tar([file("big", os.urandom(3_000_000))]))
    name = registry.push(layout.tag("a", layout.image([BASE, big])), "t/big:1")
    for size in ("1m", "4m", "5m", "6m"):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tiny", str(state)], check=True)
        store = ImageStore(str(state))
        try:
            with pytest.raises(NoSpace, match=f"bytes .*{state}"):
                pull_blocking(store, name, config=config())
            assert orphans(store) == []
        finally:
            store.close()
            _unmount(state)


def test_what_a_killed_process_leaves_is_removed(registry: Registry, layout: Layout, tmp_path: Path) -> None:
    name = registry.push(layout.tag("a", layout.image([BASE, TOP])), "t/killed:1")
    program = (
        "import asyncio, os, sys; from cri.config import Config; from cri.image import convert, pull as p\n"
        "from cri.store.images import ImageStore\n"
        "convert.merge = lambda *a, **k: os.kill(os.getpid(), 9)\n"
        "asyncio.run(p.pull(ImageStore(sys.argv[1]), sys.argv[2], config=Config()))\n"
    )
    state = str(tmp_path / "state")
    done = subprocess.run([*python(), program, state, name])
    assert done.returncode == -9
    assert len(os.listdir(f"{state}/layers")) == 6
    assert os.listdir(f"{state}/tmp")
    store = ImageStore(state)
    assert orphans(store) == []
    assert pull_blocking(store, name, config=config()).repo_tags == (name,)
    store.close()


def python() -> list[str]:
    return [sys.executable, "-c"]


def test_what_asks_a_registry_dies_with_a_killed_process(tmp_path: Path) -> None:
    # A server that takes the connection and never answers.
    state = str(tmp_path / "state")
    with socket.create_server(("127.0.0.1", 0)) as server:
        name = f"127.0.0.1:{server.getsockname()[1]}/a:1"
        program = (
            "import asyncio, sys; from cri.config import Config; from cri.image.pull import pull\n"
            "from cri.store.images import ImageStore\n"
            "asyncio.run(pull(ImageStore(sys.argv[1]), sys.argv[2], config=Config()))\n"
        )
        process = subprocess.Popen([*python(), program, state, name])
        with server.accept()[0] as asked:
            process.kill()
            process.wait()
            asked.settimeout(5 * PATIENCE)
            while asked.recv(1000):
                pass  # what it has asked, and then it is gone
    ImageStore(state).close()
    assert os.listdir(f"{state}/tmp") == []
