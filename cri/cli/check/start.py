# SPDX-License-Identifier: Apache-2.0
"""What `clearpod serve` and `clearpod run` refuse at their start, for `clearpod check`. Each problem is asked of the
function that refuses it, so that the messages are the same. Called by `facts`; changes nothing.
"""

import os
from collections.abc import Callable
from typing import NamedTuple

from cri import owner, readiness, tracing
from cri.cli.run import sample
from cri.config import Config
from cri.store.schema import require_known
from stage1.errors import PodError
from stage1.linux import beneath, files, mount, sandbox


class Tried(NamedTuple):
    """One thing: what is there, or the sentence with which it is refused; `is_fatal` if nothing works then."""

    name: str
    detail: str
    error: str = ""
    is_fatal: bool = True


def tried(config: Config) -> tuple[Tried, ...]:
    """All of them. What a daemon that serves has taken is not asked for again."""
    is_served = os.path.exists(config.socket_path) and owner.answers(config.socket_path)
    results = [
        _run_dir(config),
        _state_dir(config),
        _socket(config, is_served=is_served),
        _util_linux(),
        _sample(config),
    ]
    if config.metrics.enabled:
        results.append(_port("metrics", config.metrics.address, port=config.metrics.port, is_served=is_served))
    if config.streaming.port:
        results.append(
            _port("streaming port", config.streaming.address, port=config.streaming.port, is_served=is_served)
        )
    if config.tracing.endpoint:
        results.append(_try("tracing", tracing.require_sdk, detail=f"sent to {config.tracing.endpoint}"))
    if config.nri.enabled:
        path = config.nri.socket
        detail = f"plugins connect to {path}"
        results.append(_try("NRI", lambda: owner.require_socket(path, key="nri.socket"), detail=detail))
    return tuple(results)


def _try(name: str, function: Callable[[], object], *, detail: str) -> Tried:
    try:
        function()
    except PodError as error:
        return Tried(name, detail, str(error))
    return Tried(name, detail)


def _run_dir(config: Config) -> Tried:
    path = config.run_dir

    def known() -> None:
        if os.path.isdir(path):
            with beneath.Root(path) as root:
                owner.require_known(root, path)

    fact = _try("run directory", known, detail=f"{path}, on {mount.type_of(files.existing(path))}")
    if lack := readiness.disk("run_dir", files.existing(path)):
        return fact._replace(error=lack.message)
    if not fact.error and (outlives := owner.outlives_a_boot(files.existing(path))):
        return fact._replace(error=outlives, is_fatal=False)
    return fact


def _state_dir(config: Config) -> Tried:
    path = config.state_dir

    detail = f"{path}, on {mount.type_of(files.existing(path))}"
    fact = _try("state directory", lambda: require_known(path), detail=detail)
    lack = readiness.disk("state_dir", files.existing(path))
    return fact._replace(error=lack.message) if lack else fact


def _socket(config: Config, *, is_served: bool) -> Tried:
    def claimable() -> None:
        owner.require_socket(config.socket_path, key="socket.path")
        owner.group_id(config.socket.group)

    state = "a daemon serves there" if is_served else "no daemon serves there now"
    return _try("socket", claimable, detail=f"{config.socket_path}: {state}")


def _port(name: str, address: str, *, port: int, is_served: bool) -> Tried:
    def listen() -> None:
        if not is_served and port:
            owner.listener(address, port, table=name.split()[0]).close()

    return _try(name, listen, detail=f"on {address}, {f'port {port}' if port else 'any free port'}")


def _sample(config: Config) -> Tried:
    detail = "for `clearpod run` without an image"
    return _try("sample image", lambda: sample.reference(config.guest_dir), detail=detail)._replace(is_fatal=False)


def _util_linux() -> Tried:
    fact = _try("util-linux", sandbox.means, detail="programs that read images are confined")
    if not fact.error and (lacks := sandbox.means().lacks):
        return fact._replace(error=lacks, is_fatal=False)
    return fact
