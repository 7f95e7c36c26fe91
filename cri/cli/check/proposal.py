# SPDX-License-Identifier: Apache-2.0
"""The configuration that `clearpod init` proposes: what this host needs and the user wants, with reasons.

Called by `init`. Asks the host, writes nothing. What has a good default is left out, so that it is today's default also
after an upgrade; the same host and wishes give the same text.
"""

import json
import os
from typing import NamedTuple

from cri.cli.check import facts
from stage1.errors import PodError
from stage1.linux import files
from stage1.linux.host import HostFacts, which
from stage1.vm import hypervisors
from stage1.vm.choose import choose
from stage1.vm.slots import Range

HEAD = (
    "# Configuration of clearpod, begun by `clearpod init`. Other keys have their defaults:\n"
    "# `clearpod serve --check-config` shows all keys, docs/reference/configuration.md describes them.\n"
)
GIB = 1 << 30
PODS_ON_DISK = 4
"""How many pods' disks fit on the host's disk, so that a pod that fills its own leaves space for others and for
images.
"""
LEAST_SCRATCH_MIB, USUAL_SCRATCH_MIB = 512, 10240
SLOW_BOOT_S = 180.0
OTHER_IDS = tuple(Range(first, 0x0FFE0000) for first in (0x60000000, 0x50000000, 0x40000000, 0x30000000, 0x20000000))


class Seen(NamedTuple):
    """The host: the size of the state directory's disk, and unused `ids` if the default ones are in use."""

    is_emulated: bool = False
    disk_bytes: int = 0
    has_kubelet: bool = False
    ids: Range | None = None


class Wishes(NamedTuple):
    """Choices that only a person can make. Empty texts mean the default."""

    state_dir: str = ""
    hypervisor: str = ""
    host_pods: bool = False
    metrics: bool = False
    pool: int = 0


def gather(state_dir: str, hypervisor: str = "auto") -> Seen:
    """Gather the facts about this host."""
    facts, disk = hypervisors.facts(), os.statvfs(files.existing(state_dir))
    return Seen(
        is_emulated=_is_emulated(hypervisor, facts),
        disk_bytes=disk.f_blocks * disk.f_frsize,
        has_kubelet=bool(which("kubelet")) or os.path.isdir("/var/lib/kubelet"),
        ids=_free_ids(),
    )


def _is_emulated(hypervisor: str, facts: HostFacts) -> bool:
    try:
        return choose(hypervisor, facts).is_emulated
    except PodError:
        return False  # the checks report it


def _free_ids() -> Range | None:
    def is_taken(ids: Range) -> bool:
        return any(facts.overlaps(path, ids) for path in facts.SUBORDINATE)

    return next((ids for ids in OTHER_IDS if not is_taken(ids)), None) if is_taken(Range()) else None


def text(seen: Seen, wishes: Wishes) -> str:
    """Return the text of the configuration file."""
    parts = [HEAD, f"state_dir = {json.dumps(wishes.state_dir)}\n" if wishes.state_dir else ""]
    parts += [_table("vm", _vm(seen, wishes)), _table("host_pods", _host_pods(wishes))]
    if wishes.metrics:
        parts.append(_table("metrics", [("enabled = true", "Prometheus may ask on 127.0.0.1:9547")]))
    if wishes.pool:
        parts.append(_table("pool", [(f"size = {wishes.pool}", "so many VMs wait for pods, each with vm.memory_mib")]))
    if seen.ids:
        reason = "the default ids are given to an account by /etc/subuid or /etc/subgid"
        parts.append(_table("jail", [(f"first_id = {seen.ids.first}", reason), (f"count = {seen.ids.length}", "")]))
    return "\n".join(part for part in parts if part)


def _vm(seen: Seen, wishes: Wishes) -> list[tuple[str, str]]:
    rows = []
    if wishes.hypervisor:
        rows.append((f"hypervisor = {json.dumps(wishes.hypervisor)}", ""))
    if seen.is_emulated:
        rows.append((f"boot_timeout_s = {SLOW_BOOT_S}", "guests are emulated here, and slow"))
    part_mib = seen.disk_bytes // PODS_ON_DISK >> 20
    if part_mib < USUAL_SCRATCH_MIB:
        reason = f"one pod may write a part of the disk, which has {seen.disk_bytes / GIB:.0f} GiB"
        rows.append((f"scratch_mib = {max(part_mib // 512 * 512, LEAST_SCRATCH_MIB)}", reason))
    return rows


def _host_pods(wishes: Wishes) -> list[tuple[str, str]]:
    if not wishes.host_pods:
        return []
    reason = "kube-proxy and the agents of networks run outside of VMs, as root of this machine"
    return [('allow = ["network"]', reason), ("privileged = true", "")]


def _table(name: str, rows: list[tuple[str, str]]) -> str:
    lines = [f"# {reason[0].upper()}{reason[1:]}.\n{key}\n" if reason else f"{key}\n" for key, reason in rows]
    return f"[{name}]\n{''.join(lines)}" if lines else ""
