# SPDX-License-Identifier: Apache-2.0
"""Input and output of CNI plugins. Pure: called by plugins and attach. See the CNI specification 1.1.0, sections 2 to
5.
"""

import json
from typing import Any, NamedTuple

from stage1.errors import NetworkFailed, both_ends
from stage1.net.conflist import Network
from stage1.pod.model import Pod

Document = dict[str, "Any"]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHOWN_BYTES = 500
_BURSTS_PER_S = 20
_LEAST_BURST_BITS, _MOST_BURST_BITS = 8 << 16, (1 << 32) - 1
"""One packet of the largest kind, and what the bandwidth plugin takes."""


class Call(NamedTuple):
    """Whom plugins act for. `args` become CNI_ARGS, `runtime` is offered to plugins by capability."""

    container: str
    netns: str
    ifname: str
    args: tuple[tuple[str, str], ...]
    runtime: Document


def call_for(pod: Pod, netns: str, *, ifname: str) -> Call:
    """The call for an interface of `pod`, with the arguments that kubelet's plugins look for."""
    args = (
        ("IgnoreUnknown", "1"),
        ("K8S_POD_NAMESPACE", pod.namespace),
        ("K8S_POD_NAME", pod.name),
        ("K8S_POD_INFRA_CONTAINER_ID", pod.id),
        ("K8S_POD_UID", pod.uid),
    )
    return Call(pod.id, netns, ifname, args, _runtime(pod))


def _runtime(pod: Pod) -> Document:
    """Values of the well-known capabilities (the CNI conventions)."""
    ports = [
        {
            "hostPort": port.host_port,
            "containerPort": port.container_port,
            "protocol": port.protocol,
            **({"hostIP": port.host_ip} if port.host_ip else {}),
        }
        for port in pod.ports
        if port.host_port
    ]
    rates = {"ingress": pod.ingress_bits, "egress": pod.egress_bits}
    bandwidth: Document = {}
    for direction, bits in rates.items():
        if bits:
            bandwidth |= {f"{direction}Rate": bits, f"{direction}Burst": _burst(bits)}
    dns = {"servers": pod.dns_servers, "searches": pod.dns_searches, "options": pod.dns_options}
    values = {
        "portMappings": ports,
        "bandwidth": bandwidth,
        "dns": {key: list(value) for key, value in dns.items() if value},
    }
    return {key: value for key, value in values.items() if value}


def _burst(bits: int) -> int:
    """The burst: what the rate carries in 50 ms. It comes on top of the rate, so with the largest possible burst,
    which other runtimes use, the first half gigabyte of every pod would pass without a limit.
    """
    return min(max(bits // _BURSTS_PER_S, _LEAST_BURST_BITS), _MOST_BURST_BITS)


def environment(verb: str, call: Call, *, bin_dirs: tuple[str, ...]) -> dict[str, str]:
    """The plugin's whole environment; `verb` is ADD, DEL or CHECK."""
    return {
        "CNI_COMMAND": verb,
        "CNI_CONTAINERID": call.container,
        "CNI_NETNS": call.netns,
        "CNI_IFNAME": call.ifname,
        "CNI_ARGS": ";".join(f"{key}={value}" for key, value in call.args),
        "CNI_PATH": ":".join(bin_dirs),
        "PATH": PATH,
    }


def bare_environment(verb: str, *, bin_dirs: tuple[str, ...]) -> dict[str, str]:
    """The same for STATUS and GC, which concern no container."""
    return {"CNI_COMMAND": verb, "CNI_PATH": ":".join(bin_dirs), "PATH": PATH}


def bare_request(network: Network, plugin: Document, *, more: Document) -> bytes:
    """The standard input of STATUS and GC; `more` is added to the plugin's document."""
    return json.dumps(_document(network, plugin) | more).encode()


def _document(network: Network, plugin: Document) -> Document:
    kept = {key: value for key, value in plugin.items() if key not in ("capabilities", "prevResult", "cniVersions")}
    return {**kept, "cniVersion": network.version, "name": network.name}


def request(network: Network, plugin: Document, *, call: Call, previous: Document | None) -> bytes:
    """The plugin's standard input: its document with what the runtime adds."""
    capabilities = plugin.get("capabilities") or {}
    offered = {key: value for key, value in call.runtime.items() if capabilities.get(key)}
    document = _document(network, plugin)
    if offered:
        document["runtimeConfig"] = offered
    if previous is not None:
        document["prevResult"] = previous
    return json.dumps(document).encode()


def result(text: bytes, who: str) -> Document:
    """The result that ADD wrote; `who` names plugin and network. Raises NetworkFailed when it is none."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise NetworkFailed(f"{who} answered ADD with something that is not JSON: {_printable(text)}") from None
    if not isinstance(document, dict):
        raise NetworkFailed(f"{who} answered ADD with JSON that is not an object: {_printable(text)}")
    for key in ("interfaces", "ips", "routes"):
        entries = [] if document.get(key) is None else document[key]
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise NetworkFailed(f'{who} answered ADD with "{key}" that is not a list of objects: {_printable(text)}')
    if not _is_dns(document.get("dns")):
        raise NetworkFailed(f'{who} answered ADD with "dns" that is not as CNI defines it: {_printable(text)}')
    return document


def _is_dns(value: object) -> bool:
    """Whether it is a `dns` object of a result: a domain, and lists of texts."""
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("domain") or "", str):
        return False
    lists = [value.get(key) or [] for key in ("nameservers", "search", "options")]
    return all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in lists)


def error_text(stdout: bytes, stderr: bytes, *, code: int) -> str:
    """Why a plugin failed, for people: its error document, else what it wrote, else its exit status."""
    try:
        document = json.loads(stdout)
        message = ": ".join(str(document[key]) for key in ("msg", "details") if document.get(key))
        return f"{message} (code {document.get('code', code)})" if message else f"exit status {code}"
    except (ValueError, AttributeError, TypeError, RecursionError):
        return _printable(stderr) or _printable(stdout) or f"it ended with status {code} and wrote nothing"


def ips(document: Document) -> tuple[str, ...]:
    """The pod's own addresses in the result, without prefix lengths, in its order."""
    return tuple(dict.fromkeys(address.partition("/")[0] for address in addresses(document)))


def addresses(document: Document) -> tuple[str, ...]:
    """The same with prefix lengths, as the plugin wrote them.

    An address that belongs to no interface is the pod's; so is one of an interface in a sandbox.
    """
    interfaces = document.get("interfaces") or []
    listed = []
    for entry in document.get("ips") or []:
        index = entry.get("interface")
        is_known = isinstance(index, int) and 0 <= index < len(interfaces)
        if not is_known or interfaces[index].get("sandbox"):
            listed.append(str(entry.get("address", "")))
    return tuple(dict.fromkeys(filter(None, listed)))


def dns(document: Document) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Name servers, search domains and options in the result."""
    dns = document.get("dns") or {}
    search = list(dns.get("search") or [])
    domain = dns.get("domain")
    if domain and domain not in search:
        search.insert(0, domain)
    return tuple(dns.get("nameservers") or ()), tuple(search), tuple(dns.get("options") or ())


def _printable(text: bytes) -> str:
    shown = both_ends(text.decode("utf-8", "replace").strip(), _SHOWN_BYTES)
    return "".join(c if c.isprintable() else " " for c in shown)
