# SPDX-License-Identifier: Apache-2.0
"""The owners of the host's ports among rkt's pods: the plugins would map one port to two pods, and packets go to the
first.

Called by network before a pod with ports gets its networks. Only the pods of one data directory are known.
"""

from stage1.errors import PodError, WrongState
from stage1.linux import files
from stage1.linux.flock import Lock
from stage1.net import attach as net
from stage1.net import record, rkt
from stage1.pod.model import Pod
from stage1.rkt import directory

LOCK = "ports.lock"
_ANY = ("", "0.0.0.0", "::")
Claim = tuple[str, int, str]
"""Protocol, port of the host, its address."""


def lock(data_dir: str, place: str) -> Lock:
    """`with lock(...):` no other pod gets ports. `place` is where the records are, in rkt's data directory."""
    files.make_dirs(place, 0o700)
    return Lock(f"{data_dir}/clearpod/{LOCK}")


def claim(pod: Pod, data_dir: str, *, place: str) -> None:
    """Make sure that no other pod has the pod's ports. One that has ended and was not collected yet gives its network
    back.

    Must be called in `lock`. Raises WrongState with the owner, NetworkFailed when a plugin keeps what it made.
    """
    host_ports = [(port.protocol, port.host_port, port.host_ip) for port in pod.ports if port.host_port]
    for pod_id, path in record.every(place).items():
        shared = next((one for one in host_ports for other in _of(path) if _meet(one, other)), None)
        if pod_id == pod.id or shared is None:
            continue
        if directory.is_running(data_dir, pod_id):
            raise WrongState(
                f"the host's port {shared[1]}/{shared[0]} is used by the pod {pod_id}; stop it, or choose another port"
            )
        net.detach_recorded(path, all_s=rkt.DEL_S)


def _of(path: str) -> list[Claim]:
    try:
        known = record.load_first(path)
    except PodError:
        return []
    mapped = [one.call.runtime.get("portMappings") or [] for one in known.attachments] if known else []
    return [(one["protocol"], one["hostPort"], one.get("hostIP", "")) for ports in mapped for one in ports]


def _meet(one: Claim, other: Claim) -> bool:
    return one[:2] == other[:2] and (one[2] == other[2] or one[2] in _ANY or other[2] in _ANY)
