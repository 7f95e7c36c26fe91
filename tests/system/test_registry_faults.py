# SPDX-License-Identifier: Apache-2.0
"""Registries that hang, die and lie, downloads that are killed, credentials that must not be seen."""

import asyncio
import base64
import json
import logging
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from cri.config import Config
from cri.config_tables import Images, Storage
from cri.image import convert
from cri.image import registry as registry_module
from cri.image.origins import Auth
from cri.image.pull import pull
from cri.image.registry import LoginNeeded, RegistryUnavailable
from cri.storage import filling
from cri.store.images import ImageStore
from stage1.errors import NoSpace, PodError
from stage1.rootfs import layout as layout_of_store
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import OverLimit
from tests.fakes import odd_registry
from tests.fakes.oci_layout import Layer, Layout, digest, file, tar
from tests.fakes.odd_registry import OddRegistry
from tests.fakes.patience import PACE, PATIENCE
from tests.fakes.pulled import pull_blocking
from tests.fakes.registry import Registry, skopeo
from tests.fakes.token_server import TokenServer

from .test_registry import asking, orphans

BIG = Layer(tar([file("big", os.urandom(400_000))]))
SECRET, IDENTITY = "hunter2-is-not-for-you", "an-identity-for-nobody-else"
PULL = (
    "import asyncio, sys; from cri.config import Config; from cri.image.pull import pull\n"
    "from cri.store.images import ImageStore\n"
    "asyncio.run(pull(ImageStore(sys.argv[1]), sys.argv[2], config=Config()))\n"
)


def small(layout: Layout) -> str:
    """The digest of an image of one large layer."""
    return str(layout.image([BIG])["digest"])


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stalled download is given up after five seconds."""
    monkeypatch.setattr(registry_module, "STALLED_S", 5.0 * PACE)
    monkeypatch.setattr(registry_module, "CHECK_S", 0.05)


@pytest.mark.parametrize(
    ("answer", "kind", "says"),
    [
        (odd_registry.half_then_hang, RegistryUnavailable, r"^RegistryUnavailable: .* \d+ seconds"),
        (odd_registry.half_then_die, RegistryUnavailable, "^RegistryUnavailable: can't reach"),
        (odd_registry.other_bytes, Corrupt, "damaged .*[Dd]igest"),
    ],
)
def test_a_registry_that_fails_in_the_middle_of_a_layer_is_reported_and_leaves_nothing(
    hasty: None, answer: odd_registry.Answer, kind: type[PodError], says: str, layout: Layout, store: ImageStore
) -> None:
    top = small(layout)
    with OddRegistry(layout, {"1": top}, answer) as registry, pytest.raises(kind, match=says) as caught:
        pull_blocking(store, f"{registry.host}/a:1", config=Config())
    assert "\n" not in str(caught.value) and f"{registry.host}/a:1" in str(caught.value)
    assert (orphans(store), store.list()) == ([], ())
    with OddRegistry(layout, {"1": top}) as registry:
        assert pull_blocking(store, f"{registry.host}/a:1", config=Config()).size_bytes > 400_000


def test_a_manifest_that_does_not_match_its_digest_is_refused(layout: Layout, store: ImageStore) -> None:
    top = small(layout)
    with OddRegistry(layout, {}, lies=True) as registry, pytest.raises(PodError, match=r"does not match|digest"):
        pull_blocking(store, f"{registry.host}/a@{top}", config=Config())
    assert (orphans(store), store.list()) == ([], ())


def test_layers_whose_declared_size_exceeds_the_limit_are_not_requested(layout: Layout, store: ImageStore) -> None:
    top = json.loads((layout.path / "blobs/sha256" / small(layout).partition(":")[2]).read_bytes())
    top["layers"][0]["size"] = 2 << 20
    large = digest(data := json.dumps(top).encode())
    (layout.path / "blobs/sha256" / large.partition(":")[2]).write_bytes(data)
    with OddRegistry(layout, {"1": large}) as registry, pytest.raises(OverLimit, match=r"images.image_mib = 1 "):
        pull_blocking(store, f"{registry.host}/a:1", config=Config(images=Images(image_mib=1)))
    assert registry.gets[top["layers"][0]["digest"]] == 0
    assert (orphans(store), store.list()) == ([], ())


async def test_a_download_that_takes_what_is_kept_for_pods_is_ended(
    monkeypatch: pytest.MonkeyPatch, layout: Layout, store: ImageStore
) -> None:
    """It was only looked when a layer was whole: by then the disk may be full."""
    monkeypatch.setattr(registry_module, "CHECK_S", 0.02)
    top, kept = small(layout), Config().but(storage=Storage(keep_free_mib=1 << 30))
    with OddRegistry(layout, {"1": top}, odd_registry.half_then_hang) as registry:
        task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=kept))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        monkeypatch.setattr(filling, "PART", 1)  # all of the disk is kept
        async with asyncio.timeout(30 * PATIENCE):
            with pytest.raises(NoSpace, match=r"storage.keep_free_mib"):
                await task
    assert (orphans(store), store.list()) == ([], ())


async def test_progress_is_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, layout: Layout, store: ImageStore
) -> None:
    caplog.set_level(logging.INFO, "clearpod.pull")
    monkeypatch.setattr(registry_module, "LOG_EVERY_S", 0.0)
    monkeypatch.setattr(registry_module, "CHECK_S", 0.02)
    with OddRegistry(layout, {"1": small(layout)}, odd_registry.half_then_hang) as registry:
        task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=Config()))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        async with asyncio.timeout(30 * PATIENCE):
            while not any(getattr(record, "bytes", 0) > 0 for record in caplog.records if "of" in vars(record)):
                await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    (begun,) = [record for record in caplog.records if record.message == "pull.download"]
    assert (vars(begun)["image"], vars(begun)["bytes"]) == (f"{registry.host}/a:1", len(BIG.blob()))
    last = [record for record in caplog.records if record.message == "pull.progress"][-1]
    assert 0 < vars(last)["bytes"] <= vars(last)["of"] == len(BIG.blob())


async def test_pulls_of_images_that_share_layers_bring_each_layer_once(layout: Layout, store: ImageStore) -> None:
    tops = [Layer(tar([file(f"f{n}", os.urandom(20_000))])) for n in range(4)]
    made = {str(n): str(layout.image([BIG, top])["digest"]) for n, top in enumerate(tops)}

    def slowly(registry: OddRegistry, http: object, name: str, data: bytes) -> None:
        time.sleep(0.3)
        odd_registry.plainly(registry, http, name, data)  # type: ignore[arg-type]

    with OddRegistry(layout, made, slowly) as registry:
        names = [f"{registry.host}/a:{tag}" for tag in made]
        images = await asyncio.gather(*(pull(store, name, config=Config()) for name in names))
    assert {tag for image in images for tag in image.repo_tags} == set(names)
    expected = [digest(layer.blob()) for layer in (BIG, *tops)]
    assert {name: registry.gets[name] for name in expected} == dict.fromkeys(expected, 1)
    assert orphans(store) == []


@pytest.mark.parametrize("is_index", [False, True])
def test_an_image_that_is_here_is_known_by_its_manifest_alone(
    is_index: bool, layout: Layout, store: ImageStore
) -> None:
    made = layout.image([BIG])
    top = str((layout.index([made]) if is_index else made)["digest"])
    with OddRegistry(layout, {"1": top, "2": top}) as registry:
        first = pull_blocking(store, f"{registry.host}/a:1", config=Config())
        registry.gets.clear()
        assert pull_blocking(store, f"{registry.host}/a:1", config=Config()) == first
        second = pull_blocking(store, f"{registry.host}/a:2", config=Config())
        assert (second.id, len(second.repo_tags), second.repo_digests) == (first.id, 2, first.repo_digests)
        assert registry.gets == {}, "not even the config is asked for"


async def test_a_layer_is_converted_while_another_still_comes(layout: Layout, store: ImageStore) -> None:
    soon = Layer(tar([file("soon", b"x")]))
    made = str(layout.image([soon, BIG])["digest"])
    with OddRegistry(layout, {"1": made}, odd_registry.half_then_hang) as registry:
        task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=Config()))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        async with asyncio.timeout(10 * PATIENCE):
            while not os.path.exists(layout_of_store.layer_path(store.layers_dir, digest(soon.tar))):
                await asyncio.sleep(0.02)
        assert not task.done()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with asyncio.timeout(10 * PATIENCE):  # the pull goes on until it has cleaned up
        while list(Path(store.state_dir).glob("tmp/*")):
            await asyncio.sleep(0.02)
    assert orphans(store) == []


async def test_a_layer_that_another_pull_gave_up_is_brought_by_who_waits_for_it(
    layout: Layout, store: ImageStore
) -> None:
    made = {str(n): str(layout.image([BIG], config={"Cmd": [str(n)]})["digest"]) for n in range(2)}
    first = True

    def first_hangs(registry: OddRegistry, http: object, name: str, data: bytes) -> None:
        nonlocal first
        hangs, first = first and len(data) > 10_000, first and len(data) < 10_000
        answer = odd_registry.half_then_hang if hangs else odd_registry.plainly
        answer(registry, http, name, data)  # type: ignore[arg-type]

    with OddRegistry(layout, made, first_hangs) as registry:
        leaves = asyncio.create_task(pull(store, f"{registry.host}/a:0", config=Config()))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        stays = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=Config()))
        await asyncio.sleep(0.5)
        assert not stays.done() and registry.gets[digest(BIG.blob())] == 1
        leaves.cancel()
        assert (await stays).repo_tags == (f"{registry.host}/a:1",)
    assert orphans(store) == []


def test_a_layer_that_vanishes_under_a_pull_is_brought_again(
    layout: Layout, store: ImageStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    merge, merged = convert.merge, []

    def vanishing(*arguments: Any, **options: Any) -> None:
        merged.append(1)
        if len(merged) == 1:
            store.discard([digest(BIG.tar)])  # as a failing pull does that had brought it
        merge(*arguments, **options)

    monkeypatch.setattr(convert, "merge", vanishing)
    with OddRegistry(layout, {"1": small(layout)}) as registry:
        assert pull_blocking(store, f"{registry.host}/a:1", config=Config()).size_bytes > 400_000
        assert (len(merged), registry.gets[digest(BIG.blob())]) == (2, 2)
    assert orphans(store) == []


def test_a_pull_killed_at_any_moment_leaves_what_the_next_start_sweeps(tmp_path: Path, layout: Layout) -> None:
    layers = [BIG, *(Layer(tar([file(f"f{n}", os.urandom(50_000))])) for n in range(3))]
    state = str(tmp_path / "state")
    with Registry(tmp_path / "registry") as registry:
        name = registry.push(layout.tag("a", layout.image(layers)), "t/killed:1")
        argv = [sys.executable, "-c", PULL, state, name]
        begun = time.monotonic()
        subprocess.run(argv, check=True, timeout=60 * PATIENCE)
        whole_s = time.monotonic() - begun
        for step in range(8):
            store = ImageStore(state)
            store.remove(name)
            store.close()
            process = subprocess.Popen(argv)
            time.sleep(whole_s * (step + 0.5) / 8)
            process.kill()
            process.wait()
            # What it was just starting has its lock until it has become another program: it seems to go on.
            until = time.monotonic() + 5 * PATIENCE
            while left := _left(state):
                assert time.monotonic() < until, left
        store = ImageStore(state)
        assert pull_blocking(store, name, config=Config()).repo_tags == (name,)
        assert orphans(store) == []
        store.close()


def _left(state: str) -> list[str]:
    with closing(ImageStore(state)) as store:
        return orphans(store)


async def test_a_killed_client_is_reported_and_leaves_nothing(layout: Layout, store: ImageStore) -> None:
    before = asking()
    with OddRegistry(layout, {"1": small(layout)}, odd_registry.half_then_hang) as registry:
        name = f"{registry.host}/a:1"
        task = asyncio.create_task(pull(store, name, config=Config()))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        (client,) = set(asking()) - set(before)
        os.kill(client, signal.SIGKILL)
        with pytest.raises(PodError, match=f"{name} was killed"):
            await task
    assert orphans(store) == []


def _seen(secrets: list[str]) -> list[str]:
    """Where one of `secrets` can be read by others: command lines and environments of all processes but this one."""
    result = []
    for path in (*Path("/proc").glob("[0-9]*/cmdline"), *Path("/proc").glob("[0-9]*/environ")):
        try:
            text = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        result += [str(path) for secret in secrets if secret in text and path.parent.name != str(os.getpid())]
    return result


@pytest.mark.parametrize(
    "auth",
    [
        Auth("me", SECRET),
        Auth(auth=base64.b64encode(f"me:{SECRET}".encode()).decode()),
        Auth(identity_token=SECRET),
    ],
)
async def test_credentials_are_in_no_command_line_environment_file_or_log(
    auth: Auth, layout: Layout, store: ImageStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = [SECRET, base64.b64encode(f"me:{SECRET}".encode()).decode()]
    with OddRegistry(layout, {"1": small(layout)}, odd_registry.half_then_hang) as registry:
        task = asyncio.create_task(pull(store, f"{registry.host}/a:1", config=Config(), auth=auth))
        await asyncio.to_thread(registry.hangs.wait, 30 * PATIENCE)
        assert _seen(secrets) == []
        files = [one.read_bytes() for one in Path(store.state_dir).rglob("*") if one.is_file()]
        assert files and not any(secret.encode() in data for data in files for secret in secrets)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not any(secret in f"{record.msg} {vars(record)}" for record in caplog.records for secret in secrets)
    async with asyncio.timeout(10 * PATIENCE):  # the pull goes on until it has cleaned up
        while list(Path(store.state_dir).glob("tmp/*")):
            await asyncio.sleep(0.02)


def test_identity_tokens_and_passwords_are_exchanged_at_the_registrys_token_server(
    tmp_path: Path, layout: Layout, store: ImageStore
) -> None:
    who = {"user": "me", "password": SECRET, "identity": IDENTITY}
    with (
        TokenServer(tmp_path / "tokens", **who) as tokens,
        Registry(tmp_path / "registry", auth=tokens.auth) as registry,
    ):
        name = registry.push(layout.tag("a", layout.image([BIG])), "p/a:1", f"--dest-creds=me:{SECRET}")
        for bad in (None, Auth("me", "wrong"), Auth(identity_token="wrong")):
            with pytest.raises(LoginNeeded, match="rejects the credentials") as caught:
                asyncio.run(pull(store, name, config=Config(), auth=bad))
            assert SECRET not in str(caught.value)
        for good in (Auth(identity_token=IDENTITY), Auth("me", SECRET)):
            assert asyncio.run(pull(store, name, config=Config(), auth=good)).repo_tags == (name,)
            store.remove(name)
        token = tokens.sign(["repository:p/a:pull"])
        assert asyncio.run(pull(store, name, config=Config(), auth=Auth(registry_token=token))).repo_tags == (name,)
        with pytest.raises(LoginNeeded, match="rejects the credentials"):
            asyncio.run(pull(store, name, config=Config(), auth=Auth(registry_token="a.b.c")))
    assert orphans(store) == []


@pytest.mark.parametrize("compression", ["gzip", ""])
def test_dockers_own_manifests_are_pulled_from_a_real_registry(
    compression: str, tmp_path: Path, layout: Layout, store: ImageStore
) -> None:
    with Registry(tmp_path / "registry") as registry:
        source_, name = layout.tag("a", layout.image([Layer(BIG.tar, compression)])), f"{registry.host}/t/docker:1"
        skopeo("--dest-tls-verify=false", "--format", "v2s2", source_, f"docker://{name}")
        image = pull_blocking(store, name, config=Config())
        kept = Path(store.state_dir, "images", image.id[7:], "manifest.json").read_text()
    assert "application/vnd.docker.distribution.manifest.v2+json" in kept
    assert image.config["rootfs"]["diff_ids"] == [digest(BIG.tar)]
