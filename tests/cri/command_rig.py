# SPDX-License-Identifier: Apache-2.0
"""The `clearpod` command against a world's daemon, in this process: a new one costs a second of imports."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import pytest

from cri.__main__ import main

from .conftest import World


class Ended(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Command = Callable[..., Awaitable[Ended]]


def command(world: World, capfd: pytest.CaptureFixture[str]) -> Command:
    """`await command("ps", "-a")`, with a configuration that names the world's directories."""
    file = world.root / "config.toml"
    file.write_text(f'run_dir = "{world.config.run_dir}"\nstate_dir = "{world.config.state_dir}"\n')

    def run(argv: list[str]) -> int:
        try:
            return main(argv)
        except SystemExit as error:
            return int(error.code or 0)

    async def call(name: str, *argv: str) -> Ended:
        capfd.readouterr()
        code = await asyncio.to_thread(run, [*name.split(), "--config", str(file), *argv])
        return Ended(code, *capfd.readouterr())

    return call


def verdict(ended: Ended) -> str:
    """The verdict of `clearpod why --json`."""
    assert ended.code == 0, ended.err
    return str(json.loads(ended.out)["verdict"])
