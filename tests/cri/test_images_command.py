# SPDX-License-Identifier: Apache-2.0
"""`clearpod images` on a store of its own: list, inspect, remove, and what is not there."""

import json
import shutil
from pathlib import Path

import pytest

from cri.__main__ import main

from .conftest import Registered, World, copy_of_store
from .test_named import saved


@pytest.fixture
def config(registered: Registered, tmp_path: Path) -> str:
    state = copy_of_store(registered, tmp_path / "store")
    (tmp_path / "config.toml").write_text(f'run_dir = "/run/no-such"\nstate_dir = "{state}"\n')
    return str(tmp_path / "config.toml")


def test_images_are_listed_described_and_removed(
    config: str, registered: Registered, capsys: pytest.CaptureFixture[str]
) -> None:
    def output(*argv: str) -> str:
        assert main(["images", *argv, "--config", config]) == 0
        return capsys.readouterr().out

    header, *rows = output("ls").splitlines()
    assert header.split() == ["NAME", "ID", "SIZE", "CREATED"] and registered.reference in rows[0]
    (image,) = json.loads(output("ls", "--json"))
    assert registered.reference in image["names"] and image["sizeBytes"] > 0
    (whole,) = json.loads(output("inspect", "--json", registered.reference))
    assert whole["id"] == image["id"] and whole["config"]["rootfs"]["diff_ids"]
    assert image["id"] in output("inspect", image["id"][7:19])
    assert "ok" in output("verify")
    assert registered.reference not in output("prune")  # it has a name
    assert registered.reference in output("rm", registered.reference)
    assert json.loads(output("ls", "--json")) == []


def test_prune_all_spares_what_a_container_of_the_daemon_uses(
    config: str, registered: Registered, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["images", "prune", "--all", "--config", config]) == 0
    assert registered.reference in capsys.readouterr().out


async def test_an_image_in_use_is_spared(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import asyncio

    file = tmp_path / "config.toml"
    file.write_text(f'run_dir = "{world.config.run_dir}"\nstate_dir = "{world.config.state_dir}"\n')
    async with world.daemon() as cri:
        pod = await cri.pod()
        await cri.container(pod, "sleep", "1000")
        argv = ["images", "prune", "--all", "--config", str(file)]
        assert await asyncio.to_thread(main, argv) == 0
        assert world.image not in capsys.readouterr().out
        assert (await cri("ListImages")).images
        await cri("RemovePodSandbox", pod_sandbox_id=pod)


def test_an_image_of_a_named_snapshot_is_spared(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "config.toml"
    file.write_text(f'run_dir = "/run/no-such"\nstate_dir = "{world.config.state_dir}"\n')

    def output(*argv: str) -> str:
        assert main(["images", *argv, "--config", str(file)]) == 0
        return capsys.readouterr().out

    (image,) = json.loads(output("ls", "--json"))
    template = saved(world, image["id"])
    assert world.image not in output("prune", "--all")
    shutil.rmtree(template)
    assert world.image in output("prune", "--all")


@pytest.mark.parametrize("action", ["rm", "inspect"])
def test_an_image_that_is_not_there_is_named(config: str, action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["images", action, "no.such/image", "--config", config]) == 4
    sentence = capsys.readouterr().err
    assert sentence.startswith("clearpod: ") and sentence.count("\n") == 1 and "no.such/image" in sentence
