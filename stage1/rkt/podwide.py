# SPDX-License-Identifier: Apache-2.0
"""Settings of a pod as a whole: its name, its sysctls, published ports. Pure. Called by plan."""

from collections.abc import Sequence

from stage1.errors import BadRequest, Unsupported
from stage1.pod.model import Port
from stage1.pod.sysctls import check
from stage1.rkt.arguments import RunOptions
from stage1.rkt.isolators import Isolators
from stage1.rkt.manifest import MOST_PORT, AppPort, HostPort, Manifest
from stage1.rkt.spelling import is_hostname


def hostname(options: RunOptions) -> str:
    """The given name, or one made from the uuid. Raises BadRequest."""
    if options.hostname and not is_hostname(options.hostname):
        raise BadRequest(f"--hostname={options.hostname!r} is not made of up to 64 letters, digits, '-', '_' and '.'")
    return options.hostname or f"rkt-{options.uuid}"


def sysctls(limits: Sequence[Isolators]) -> tuple[tuple[str, str], ...]:
    """The VM is the pod, so those of its apps are the pod's. Raises BadRequest when they contradict each other."""
    values: dict[str, str] = {}
    for name, value in (pair for one in limits for pair in one.sysctls):
        if values.setdefault(name, value) != value:
            raise BadRequest(f"two apps have different values of the sysctl {name}, {values[name]!r} and {value!r}")
    if values:
        check(values)
    return tuple(values.items())


def ports(manifest: Manifest) -> tuple[Port, ...]:
    """Each port of the host with the port of the pod that it leads to. Raises BadRequest and Unsupported."""
    return tuple(port for one in manifest.ports for port in _of_host(one, _in_pod(one, manifest)))


def _in_pod(port: HostPort, manifest: Manifest) -> AppPort:
    if port.pod_port is not None:
        return port.pod_port
    named = [one for entry in manifest.entries for one in entry.ports if one.name == port.name]
    if len(named) != 1:
        many = "no app has" if not named else "several apps have"
        raise BadRequest(f"the host's port {port.host_port} is for {port.name!r}, a port that {many}")
    return named[0]


def _of_host(port: HostPort, of_pod: AppPort) -> list[Port]:
    if of_pod.socket_activated:
        raise Unsupported(f"the port {port.name!r} is socket-activated, which does not work with a VM; leave that out")
    if port.host_port + of_pod.length - 1 > MOST_PORT:
        raise BadRequest(f"{of_pod.length} ports of the host from {port.host_port} on go beyond {MOST_PORT}")
    numbers = range(of_pod.length)
    return [Port(of_pod.port + n, port.host_port + n, of_pod.protocol, port.host_ip) for n in numbers]
