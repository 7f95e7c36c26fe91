# SPDX-License-Identifier: Apache-2.0
"""What the node asks of plugins apart from any pod: STATUS, are they able to work; and GC, remove orphans.

Both came with version 1.1.0 of the CNI specification. Called by the daemon, in threads, since a plugin may take its
whole time limit. What GC must spare is read from the records; a pod whose record is elsewhere, as rkt's are, is known
by its netns.
"""

import json
import os

from stage1.errors import NetworkFailed, PodError
from stage1.linux import files, process
from stage1.net import conflist, living, protocol, record
from stage1.net.conflist import Network, find_plugin
from stage1.net.lock import AttachLock
from stage1.net.plugins import Runner
from stage1.net.settings import Settings

FIRST = "1.1.0"
"""The version of the specification with STATUS and GC."""
STATUS_LIMIT_S = 5.0

_MOST_DEVICES = 16
"""Of a pod whose record is elsewhere."""

Attachment = tuple[str, str, str]
"""Network, container, device."""


def status(network: Network, settings: Settings) -> str:
    """Why the network's plugins can't serve pods now, as a sentence; empty when they can or have no STATUS."""
    try:
        for plugin in network.plugins:
            _require_version(network, plugin["type"], settings=settings)
    except NetworkFailed as error:
        return str(error)
    if network.version != FIRST:
        return ""
    runner = Runner(settings.bin_dirs, min(settings.limit_s, STATUS_LIMIT_S))
    for plugin in network.plugins:
        try:
            runner.ask("STATUS", network, plugin=plugin, more={})
        except NetworkFailed as error:
            return str(error)
    return ""


def _require_version(network: Network, kind: str, *, settings: Settings) -> None:
    known = versions(find_plugin(kind, settings.bin_dirs))
    if known and network.version not in known:
        problem = f"the CNI plugin {kind!r} supports versions {', '.join(known)} and not {network.version}"
        raise NetworkFailed(f"{problem}, which network {network.name!r} ({network.file}) has; change its cniVersion")


_VERSIONS: dict[tuple[str, int], tuple[str, ...]] = {}


def versions(path: str) -> tuple[str, ...]:
    """The versions that the plugin at `path` reports; empty when it reports none. Asked once for each file."""
    try:
        key = (path, os.stat(path).st_mtime_ns)
        if key not in _VERSIONS:
            env = {"CNI_COMMAND": "VERSION", "PATH": protocol.PATH}
            ended = process.run([path], timeout_s=STATUS_LIMIT_S, input=b'{"cniVersion": "1.0.0"}', env=env)
            supported = json.loads(ended.stdout)["supportedVersions"] if ended.code == 0 else []
            _VERSIONS[key] = tuple(map(str, supported))
        return _VERSIONS[key]
    except (PodError, OSError, ValueError, KeyError, TypeError):
        return ()


def collect_garbage(settings: Settings) -> tuple[str, ...]:
    """GC by all plugins of all networks of version 1.1.0 that do not forbid it; sentences about what went wrong.

    Waits for pods that are being attached, and keeps others waiting while it lasts.
    """
    networks = [network for network in conflist.every(settings.conf_dir)[0] if _takes_garbage(network, settings)]
    if not networks:
        return ()
    places = [settings.cache_dir, f"{settings.cache_dir}/run"]
    with AttachLock(alone=True):
        try:
            valid = [*_recorded(places), *_of_others(settings.results_dir)]
        except PodError as error:
            return (f"garbage collection failed: {error}",)
        valid += [one for network in networks for one in _elsewhere(network, valid)]
        return tuple(problem for network in networks for problem in _garbage_collect(network, valid, settings=settings))


def _takes_garbage(network: Network, settings: Settings) -> bool:
    return network.version == FIRST and not network.disable_gc and not conflist.lacks_plugin(network, settings.bin_dirs)


def _garbage_collect(network: Network, valid: list[Attachment], *, settings: Settings) -> list[str]:
    mine = [{"containerID": container, "ifname": ifname} for name, container, ifname in valid if name == network.name]
    # The second name is that of the specification's first edition, which plugins of that time look for.
    more = {"cni.dev/valid-attachments": mine, "cni.dev/attachments": mine}
    problems, runner = [], Runner(settings.bin_dirs, settings.limit_s)
    for plugin in network.plugins:
        if FIRST in (versions(find_plugin(plugin["type"], settings.bin_dirs)) or (FIRST,)):
            try:
                runner.ask("GC", network, plugin=plugin, more=more)
            except PodError as error:
                problems.append(str(error))
    return problems


def _recorded(places: list[str]) -> list[Attachment]:
    """Return the attachments of all our pods, also those whose DEL is deferred. Raises PodError when a record is
    damaged.
    """
    known = [record.load_first(path) for place in places for path in record.every(place).values()]
    return [(one.network.name, one.call.container, one.call.ifname) for pod in known if pod for one in pod.attachments]


def _elsewhere(network: Network, known: list[Attachment]) -> list[Attachment]:
    """Attachments of pods whose records are elsewhere: rkt's, and those of daemons with another state directory."""
    ids = {container for _, container, _ in known}
    others = [pod for pod in living.pods() if pod not in ids]
    return [(network.name, pod, f"eth{number}") for pod in others for number in range(_MOST_DEVICES)]


def _of_others(directory: str) -> list[Attachment]:
    """Return the attachments of other runtimes. Raises PodError when a file of theirs can't be read."""
    attachments = []
    for name in os.listdir(directory) if os.path.isdir(directory) else ():
        try:
            attachment = json.loads(files.read(f"{directory}/{name}"))
            attachments.append((attachment["networkName"], attachment["containerId"], attachment["ifName"]))
        except (OSError, ValueError, KeyError, TypeError):
            raise PodError(
                f"{directory}/{name} is not a CNI attachment that can be read; repair or remove it"
            ) from None
    return attachments
