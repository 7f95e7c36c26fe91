# SPDX-License-Identifier: Apache-2.0
"""rkt's network options and results. Called by rkt's entry points only.

`--net` is parsed, matched with rkt's configurations and the two that rkt has built in, and attached in the order of the
configurations' file names. No option that rkt accepts is refused: `none` is loopback only, and `host` is returned to
the caller, who knows whether the operator allows it.
"""

import json
import os
from typing import NamedTuple

from stage1.errors import BadRequest, PodError
from stage1.linux import files
from stage1.net import attach, conflist, protocol, record
from stage1.net.conflist import Network, find_plugin
from stage1.net.protocol import Document
from stage1.net.record import Attachment
from stage1.net.settings import Settings, netns_path
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork

NETWORKS, NONE, HOST = "networks", "none", "host"
ALL = "all"
INFO = "net-info.json"
DEL_S = 10.0
"""Time limits for all plugins of a pod together, and for all pods whose DEL is retried by one gc, since a user waits
for it.
"""
_ENDINGS = (".conf", ".conflist")
_OLD = ("", "0.1.0", "0.2.0")
_LENIENT = ("IgnoreUnknown", "1")
"""Plugins know the arguments of some kinds only, and refuse the others unless they are told not to."""
_READ_AS = "0.4.0"
"""For rkt's configurations, which have no version. It has chains, so host ports can be added; all plugins know it."""

Args = tuple[tuple[str, str], ...]


class NetOption(NamedTuple):
    """The parsed `--net`: `kind` NETWORKS, NONE or HOST; names in the given order with their CNI_ARGS."""

    kind: str
    names: tuple[tuple[str, Args], ...] = ()

    @property
    def is_all(self) -> bool:
        """Whether every configured network is wanted."""
        return any(name == ALL for name, _ in self.names)


def parse(text: str) -> NetOption:
    """The words of `--net=WORDS`: NAME or NAME:KEY=VALUE;KEY=VALUE, separated by commas; empty is `default`.

    As in rkt, `host` wins over everything, then `none`. Raises BadRequest.
    """
    named: list[tuple[str, Args]] = []
    for word in (text or "default").split(","):
        name, _, args = word.partition(":")
        if not conflist.is_word(name):
            raise BadRequest(f"--net={text}: {name!r} is not the name of a network")
        if name in dict(named):
            raise BadRequest(f"--net={text}: the network {name!r} is there twice")
        named.append((name, _args(args, text)))
    names = dict(named)
    kind = HOST if HOST in names else NONE if NONE in names else NETWORKS
    return NetOption(kind, tuple(named) if kind == NETWORKS else ())


def _args(text: str, whole: str) -> Args:
    pairs = [word.partition("=") for word in text.split(";") if word]
    for key, sign, _ in pairs:
        if not key or not sign:
            raise BadRequest(f"--net={whole}: arguments are KEY=VALUE;KEY=VALUE, but there is {text!r}")
    return tuple((key, value) for key, _, value in pairs)


def _builtin(name: str, subnet: str, **more: object) -> Network:
    routes = {"routes": [{"dst": "0.0.0.0/0"}]} if more else {}
    ipam = {"type": "host-local", "subnet": subnet, **routes}
    return Network(name, _READ_AS, ({"type": "ptp", **more, "ipam": ipam},), f"99-{name}.conf, built in")


BUILTIN = (_builtin("default", "172.16.28.0/24", ipMasq=True), _builtin("default-restricted", "172.31.0.0/16"))


def configured(conf_dir: str) -> tuple[tuple[Network, ...], tuple[str, ...]]:
    """The networks in `<local config>/net.d` and those built in that they do not replace, by file name; and sentences
    about files that can't be understood.
    """
    networks, problems = [], []
    for path in conflist.candidates(conf_dir, _ENDINGS):
        try:
            networks.append(conflist.parse(_with_version(files.read(path).decode("utf-8", "replace")), path))
        except PodError as error:
            problems.append(str(error))
    names = {network.name for network in networks}
    networks += [network for network in BUILTIN if network.name not in names]
    return tuple(sorted(networks, key=lambda network: os.path.basename(network.file))), tuple(problems)


def _with_version(text: str) -> str:
    try:
        document = json.loads(text)
        if document.get("cniVersion", "") in _OLD and "cniVersions" not in document:
            return json.dumps({**document, "cniVersion": _READ_AS})
    except (ValueError, AttributeError):
        pass  # conflist reports it
    return text


def plan(request: NetOption, conf_dir: str, *, has_ports: bool) -> tuple[tuple[Network, Args], ...]:
    """The networks of a pod in the order of its devices, with their arguments; with host ports one of them maps them.

    Raises BadRequest when one is not configured, or all are wanted and a configuration can't be understood.
    """
    if request.kind != NETWORKS:
        return ()
    networks, problems = configured(conf_dir)
    if request.is_all and problems:
        raise BadRequest(f"--net=all: {'; '.join(problems)}")
    args, there = dict(request.names), {network.name for network in networks}
    for name in args:
        if name not in there and name != ALL:
            known = f"the network {name!r} is not in {conf_dir}; there are: {', '.join(sorted(there))}"
            raise BadRequest("; ".join([known, *problems]))
    kept = [network for network in networks if request.is_all or network.name in args]
    if has_ports:
        kept = _with_ports(kept)
    return tuple((network, args.get(network.name, ())) for network in kept)


def _with_ports(networks: list[Network]) -> list[Network]:
    """Unless a network maps ports already, the first that masquerades does, else the last one: as in rkt."""
    if any(map(_maps_ports, networks)):
        return networks
    masquerading = [at for at, network in enumerate(networks) if network.plugins[0].get("ipMasq")]
    at = masquerading[0] if masquerading else len(networks) - 1
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}}
    return [
        network._replace(plugins=(*network.plugins, portmap)) if number == at else network
        for number, network in enumerate(networks)
    ]


def _maps_ports(network: Network) -> bool:
    return any((plugin.get("capabilities") or {}).get("portMappings") for plugin in network.plugins)


def bin_dirs(local_config: str, stage1_root: str) -> tuple[str, ...]:
    """The directories in which rkt looks for plugins, and in which distributions install them."""
    own = f"{stage1_root}/usr/lib/rkt/plugins/net"
    return (f"{local_config}/net.d", "/usr/lib/rkt/plugins/net", own, "/opt/cni/bin", "/usr/lib/cni")


def attach_pod(
    pod: Pod, directory: str, *, chosen: tuple[tuple[Network, Args], ...], settings: Settings
) -> PodNetwork | None:
    """Give the pod the networks of `plan` and write net-info.json into its directory. Undo: `attach.detach`.

    `settings.conf_dir` is not looked at. None: loopback only, and no file. Raises BadRequest and NetworkFailed.
    """
    if not chosen:
        return None
    for network, _ in chosen:
        conflist.require_plugins(network, settings.bin_dirs)
    base = protocol.call_for(pod, netns_path(pod.id), ifname="eth0")
    attachments = []
    for number, (network, args) in enumerate(chosen):
        runtime = base.runtime if _maps_ports(network) else {}
        arguments = args if not args or _LENIENT[0] in dict(args) else (_LENIENT, *args)
        attachments.append(Attachment(network, base._replace(ifname=f"eth{number}", args=arguments, runtime=runtime)))
    seen = attach.make(directory, tuple(attachments), settings=settings)
    try:
        write_info(directory)
    except BaseException:
        attach.detach(directory)
        raise
    return seen


def write_info(directory: str) -> None:
    """Write net-info.json from the pod's record, whole or not at all: rkt gives up on a pod whose file is damaged."""
    known = record.load(record.linked(directory))
    networks = [_info(one, known.bin_dirs) for one in known.attachments] if known else []
    files.write_atomic(f"{directory}/{INFO}", json.dumps(networks).encode(), 0o644)


def _info(one: Attachment, places: tuple[str, ...]) -> Document:
    addresses = sorted(protocol.addresses(one.result or {}), key=lambda address: ":" in address)
    ip, _, prefix = addresses[0].partition("/") if addresses else ("", "", "")
    return {
        "netName": one.network.name,
        "netConf": one.network.file,
        "pluginPath": find_plugin(one.network.types()[0], places),
        "ifName": one.call.ifname,
        "ip": ip or None,
        "args": ";".join(f"{key}={value}" for key, value in one.call.args if (key, value) != _LENIENT),
        "mask": _mask(ip, int(prefix)) if prefix else None,
    }


def _mask(ip: str, prefix: int) -> str:
    groups, bits = (8, 16) if ":" in ip else (4, 8)
    ones = [min(max(prefix - number * bits, 0), bits) for number in range(groups)]
    values = [((1 << count) - 1) << (bits - count) for count in ones]
    return ":".join(f"{value:x}" for value in values) if bits == 16 else ".".join(map(str, values))
