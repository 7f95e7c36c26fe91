# SPDX-License-Identifier: Apache-2.0
"""CNI network configurations: read, checked, chosen. Called by attach, the daemon's Status and `clearpod check`.

`parse` is pure. A directory's files are read each time they are asked for, so a change counts at once. It must not
run plugins. See the CNI specification 1.1.0, section 1.
"""

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from stage1.errors import BadRequest, PodError
from stage1.linux import files

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Those whose results look alike, oldest first."""
ENDINGS = (".conf", ".conflist", ".json")
_FILE_BYTES = 1 << 20
_WORD = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")


class Network(NamedTuple):
    """One network. `plugins` are their documents as they were read, in the order of ADD."""

    name: str
    version: str
    plugins: tuple[dict[str, Any], ...]
    file: str = ""
    disable_check: bool = False
    disable_gc: bool = False

    def types(self) -> tuple[str, ...]:
        """The names of the network's plugins."""
        return tuple(plugin["type"] for plugin in self.plugins)


class Selection(NamedTuple):
    """The network that counts, or None; `problems` are sentences about files that were passed over."""

    network: Network | None
    problems: tuple[str, ...] = ()


def find(conf_dir: str) -> Selection:
    """The first network in `conf_dir` by file name that can be understood."""
    problems: list[str] = []
    for one in _read(conf_dir):
        if isinstance(one, Network):
            return Selection(one, tuple(problems))
        problems.append(one)
    return Selection(None, tuple(problems))


def every(conf_dir: str) -> tuple[tuple[Network, ...], tuple[str, ...]]:
    """All networks in `conf_dir` by file name, and sentences about files that can't be understood."""
    read = tuple(_read(conf_dir))
    networks = tuple(one for one in read if isinstance(one, Network))
    return networks, tuple(one for one in read if isinstance(one, str))


def _read(conf_dir: str) -> Iterator[Network | str]:
    """Each file's network, or why there is none in it; the directory itself may be the problem."""
    try:
        paths = candidates(conf_dir)
    except OSError as error:
        yield f"{conf_dir} can't be read: {error.strerror}"
        return
    for path in paths:
        try:
            yield parse(_text(path), path)
        except PodError as error:
            yield str(error)
        except OSError as error:
            yield f"{path} can't be read: {error.strerror}"


def candidates(conf_dir: str, endings: tuple[str, ...] = ENDINGS) -> list[str]:
    """The configuration files in `conf_dir`, in the order in which they count; none when it does not exist."""
    try:
        names = sorted(os.listdir(conf_dir))
    except FileNotFoundError:
        return []
    return [f"{conf_dir}/{name}" for name in names if name.endswith(endings)]


def lacks_plugin(network: Network, bin_dirs: tuple[str, ...]) -> str:
    """Which plugin of the network is not there, as a sentence; empty when all are."""
    for kind in network.types():
        if not find_plugin(kind, bin_dirs):
            return _missing(kind, network, bin_dirs=bin_dirs)
    return ""


def find_plugin(kind: str, bin_dirs: tuple[str, ...]) -> str:
    """The path of the plugin `kind`, or empty."""
    paths = (f"{directory}/{kind}" for directory in bin_dirs)
    return next((path for path in paths if os.path.isfile(path) and os.access(path, os.X_OK)), "")


def require_plugins(network: Network, bin_dirs: tuple[str, ...]) -> None:
    """Raise BadRequest when a plugin is missing: known before anything has been made."""
    if sentence := lacks_plugin(network, bin_dirs):
        raise BadRequest(sentence)


def _missing(kind: str, network: Network, *, bin_dirs: tuple[str, ...]) -> str:
    where = " or ".join(bin_dirs)
    return f"the CNI plugin {kind!r} of network {network.name!r} ({network.file}) is not in {where}; install it there"


def parse(text: str, file: str) -> Network:
    """The network in `text`, a list of plugins or a single one. Raises BadRequest, naming `file`."""
    try:
        document = json.loads(text)
    except ValueError as error:
        raise BadRequest(f"{file} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise BadRequest(f"{file} is not a CNI configuration: it must be a JSON object")
    plugins = document.get("plugins", [document])
    _check_plugins(plugins, file)
    name: Any = document.get("name")
    if not is_word(name):
        raise BadRequest(f"{file}: the network's name {name!r} must be letters, digits, '_', '.', '-'")
    version = _version(document, file)
    no_check, no_gc = (document.get(key) in (True, "true") for key in ("disableCheck", "disableGC"))
    return Network(name, version, tuple(plugins), file, no_check, no_gc)


def is_word(text: Any) -> bool:
    """Whether it can be the name of a network, a plugin or a container: no path can be made of it (CNI 1.1.0)."""
    return isinstance(text, str) and 0 < len(text) <= 255 and text[0].isalnum() and _WORD.issuperset(text)


def _check_plugins(plugins: object, file: str) -> None:
    if not isinstance(plugins, list) or not plugins:
        raise BadRequest(f'{file}: "plugins" must be a list with at least one plugin')
    for plugin in plugins:
        kind = plugin.get("type") if isinstance(plugin, dict) else None
        if not is_word(kind):
            raise BadRequest(f'{file}: a plugin\'s "type" must be the name of a program, but it is {kind!r}')
        if not isinstance(plugin.get("capabilities", {}), dict):
            raise BadRequest(f'{file}: "capabilities" of the plugin {kind!r} must be an object')


def _version(document: dict[str, Any], file: str) -> str:
    several = document.get("cniVersions") or []
    offered = [*(several if isinstance(several, list) else []), document.get("cniVersion")]
    known = [version for version in VERSIONS if version in offered]
    if not known:
        version = document.get("cniVersion")
        raise BadRequest(
            f"{file}: cniVersion {version!r} is not supported by clearpod; use one of {', '.join(VERSIONS)}"
        )
    return known[-1]


def _text(path: str) -> str:
    data = files.read(path)
    if len(data) > _FILE_BYTES:
        raise BadRequest(f"{path} is too large for a CNI configuration: {len(data)} bytes")
    return data.decode("utf-8", "replace")
