# SPDX-License-Identifier: Apache-2.0
"""A pod's network under rkt: what `run` makes by `--net`, and what `gc` takes away again. Called by stage1/entry.

The records lie beside rkt's pods in its data directory, since they must survive the pod's directory, which rkt removes
whether gc could do its work or not. What a plugin would not give back is tried again by the gc of other pods.
"""

import os
import time

from stage1.errors import BadRequest, PodError, Unsupported
from stage1.net import attach as net
from stage1.net import deferred, living, neighbours, record, rkt, writeoff
from stage1.net.settings import Settings, netns_path
from stage1.pod.model import Pod
from stage1.pod.network import PodNetwork
from stage1.rkt import directory, ports
from stage1.rkt.arguments import RunOptions

RECORDS = "clearpod/networks"
AGAIN_S = 10.0
"""The delay before a failed DEL is retried."""


def attach(pod_dir: str, pod: Pod, *, options: RunOptions) -> PodNetwork | None:
    """Give the pod its networks and write net-info.json; None is loopback only. Undo: `detach`.

    Raises:
        Unsupported: `--net=host`.
        BadRequest: a network is not configured, or host ports are wanted without one.
        NetworkFailed: a plugin failed.
        WrongState: a host port is another pod's.
    """
    request = rkt.parse(options.net)
    if request.kind == rkt.HOST:
        raise Unsupported(
            "--net=host is not offered: a virtual machine can't be in the host's network; leave it out, and publish"
            " ports with --port"
        )
    has_ports = any(port.host_port for port in pod.ports)
    if request.kind == rkt.NONE and has_ports:
        raise BadRequest("--port needs a network, but --net=none leaves the pod without; leave one of them out")
    settings = _settings(pod_dir, options)
    networks = rkt.plan(request, settings.conf_dir, has_ports=has_ports)
    if not has_ports:
        return rkt.attach_pod(pod, pod_dir, chosen=networks, settings=settings)

    with ports.lock(directory.data(pod_dir), settings.cache_dir):
        ports.claim(pod, directory.data(pod_dir), place=settings.cache_dir)
        return rkt.attach_pod(pod, pod_dir, chosen=networks, settings=settings)


def _settings(pod_dir: str, options: RunOptions) -> Settings:
    bin_dirs = rkt.bin_dirs(options.local_config, directory.stored_root(pod_dir))
    return Settings(f"{options.local_config}/net.d", bin_dirs, records(pod_dir))


def records(pod_dir: str) -> str:
    """The directory of the networks' records, of all pods."""
    return f"{directory.data(pod_dir)}/{RECORDS}"


def netns(pod_id: str, network: PodNetwork | None) -> str:
    """The network namespace that the VMM is to be started in; empty for the host's."""
    return netns_path(pod_id) if network else ""


def host_ip(pod_dir: str) -> str:
    """The address at which the guest reaches the host: the gateway of the first network that masquerades, else of the
    last one. Empty if there is none.
    """
    path = record.linked(pod_dir)
    known = record.load(path) if path else None
    attachments = known.attachments if known else ()
    masquerading = [one for one in attachments if one.network.plugins[0].get("ipMasq")]
    for one in (*masquerading[:1], *attachments[-1:]):
        for entry in (one.result or {}).get("ips") or ():
            if entry.get("gateway"):
                return str(entry["gateway"])
    return ""


def detach(pod_dir: str) -> str:
    """Remove the pod's networks; idempotent, also for a pod without any. The VMM must have ended. Returns a message
    when a plugin failed; `collect_garbage` retries.
    """
    return net.detach(pod_dir, tries=1, all_s=rkt.DEL_S)


def collect_garbage(pod_dir: str) -> list[str]:
    """Remove the networks of pods that are gone, or whose plugins failed; return a sentence for each failure.

    `pod_dir` is any pod's. A DEL that keeps failing is written off in the end. The one that was tried longest ago comes
    first; where plugins hang, the others are left to the next gc.
    """
    problems: list[str] = []
    data, until = directory.data(pod_dir), time.monotonic() + rkt.DEL_S
    for pod_id, path in sorted(record.every(records(pod_dir)).items(), key=lambda one: _changed_s(one[1])):
        if time.monotonic() > until:
            break
        try:
            is_gone = not directory.exists(data, pod_id) and living.is_abandoned(path, "")
            if (deferred.is_deferred(path) or is_gone) and not _was_just_tried(path):
                problems += _retry_deferred(path)
        except (PodError, OSError) as error:
            problems.append(f"the network of pod {pod_id}, recorded in {path}: {error}")
    neighbours.remove_unused()
    return problems


def _retry_deferred(path: str) -> list[str]:
    try:
        net.detach_recorded(path, all_s=rkt.DEL_S)
    except PodError as error:
        problem = deferred.defer(path, error, tries=1, had_netns=True)
        return [writeoff.write_off(path, error, all_s=rkt.DEL_S) if writeoff.is_due(path) else problem]
    return []


def _changed_s(path: str) -> float:
    """The time of the last DEL, or of the network's creation."""
    try:
        return os.stat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def _was_just_tried(path: str) -> bool:
    """One `rkt gc` of many pods is one try: a failure is written into the record."""
    try:
        known = record.load_first(path)
        return bool(known and known.failures) and 0 <= time.time() - os.stat(path).st_mtime < AGAIN_S
    except (PodError, FileNotFoundError):
        return False
