# SPDX-License-Identifier: Apache-2.0
"""The metrics, each with its name, kind, meaning and labels, and where its values come from. docs/reference/metrics.md
is made from this table, and a test holds the dashboard to it. Called by `server`.

Pure. No label holds what a pod's author chooses, so there are never more than some hundred values.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from cri import __version__, recorder
from cri.metrics.snapshot import CONTAINER_STATES, POD_STATES, Snapshot
from stage1.linux.ksm import PAGE_BYTES

COUNTER, GAUGE, HISTOGRAM = "counter", "gauge", "histogram"

Labels = tuple[str, ...]
Values = Callable[[Snapshot], Iterable[tuple[Labels, float]]]
"""The values of the labels, each with the metric's value."""


class Family(NamedTuple):
    """One metric: its name without `clearpod_`, and what it has `values` of; a histogram has those `recorded` so."""

    name: str
    kind: str
    help: str
    labels: Labels = ()
    values: Values = lambda snapshot: ()
    recorded: str = ""


def _gauge(name: str, text: str, *, of: Callable[[Snapshot], float]) -> Family:
    return Family(name, GAUGE, text, (), lambda snapshot: [((), of(snapshot))])


def _counter(name: str, text: str, *, of: Callable[[Snapshot], float]) -> Family:
    return Family(name, COUNTER, text, (), lambda snapshot: [((), of(snapshot))])


def _recorded(name: str, text: str, *, of: str, labels: Labels = ()) -> Family:
    """A counter of what is recorded; without labels it is there before anything has happened."""

    def values(snapshot: Snapshot) -> Iterable[tuple[Labels, float]]:
        counted = snapshot.daemon.counts.counted(of)
        return counted.items() if labels else [((), counted.get((), 0))]

    return Family(name, COUNTER, text, labels, values)


def _histogram(name: str, text: str, *, of: str, labels: Labels) -> Family:
    return Family(name, HISTOGRAM, text, labels, recorded=of)


def _by_state(name: str, text: str, *, states: Labels, of: Callable[[Snapshot], dict[str, int]]) -> Family:
    return Family(name, GAUGE, text, ("state",), lambda snapshot: [((one,), of(snapshot)[one]) for one in states])


def _pages(snapshot: Snapshot) -> Iterator[tuple[Labels, float]]:
    for kind in ("shared", "sharing", "unshared", "volatile"):
        yield (kind,), getattr(snapshot.ksm, f"pages_{kind}")
    yield ("zero",), max(snapshot.ksm.ksm_zero_pages, 0)


def _build(snapshot: Snapshot) -> Iterator[tuple[Labels, float]]:
    yield (__version__, snapshot.daemon.hypervisor), 1


def _pool(name: str) -> Callable[[Snapshot], float]:
    return lambda snapshot: snapshot.daemon.pool[name]


def _disk(name: str) -> Callable[[Snapshot], float]:
    return lambda snapshot: snapshot.storage[f"{name}_bytes"]


FAMILIES = (
    Family("build_info", GAUGE, "Version and hypervisor; always 1", ("version", "hypervisor"), _build),
    _by_state("pods", "Pods", states=POD_STATES, of=lambda x: x.daemon.pods),
    _by_state("containers", "Containers", states=CONTAINER_STATES, of=lambda x: x.daemon.containers),
    _gauge("virtual_machines", "VMs that run, also those that wait in the pool", of=lambda x: x.daemon.vms),
    _recorded("pod_starts_total", "VMs booted, copied, claimed, failed", of=recorder.POD_STARTS, labels=("result",)),
    _histogram("pod_start_seconds", "From request to ready", of=recorder.POD_START_SECONDS, labels=("how",)),
    _histogram("boot_phase_seconds", "Phases of a start", of=recorder.PHASE_SECONDS, labels=("phase",)),
    _recorded("pod_deaths_total", "VMs of pods that ended without having been told to", of=recorder.POD_DEATHS),
    _recorded("container_exits_total", "Ends of containers", of=recorder.EXITS, labels=("reason",)),
    _gauge("pool_slots", "VMs that the warm pool shall hold", of=_pool("size")),
    _gauge("pool_slots_ready", "VMs that wait in the warm pool", of=_pool("waiting")),
    _counter("pool_boots_total", "VMs booted for the pool", of=_pool("booted")),
    _counter("pool_boot_failures_total", "VMs for the pool that did not boot", of=_pool("failed")),
    _counter("pool_claims_total", "Pods that got a VM of the pool", of=_pool("taken")),
    _counter("pool_misses_total", "Pods that would have and found none", of=_pool("missed")),
    _counter("pool_deaths_total", "VMs that ended in the pool or when they were claimed", of=_pool("died")),
    _gauge("ksm_level", "How fast this daemon lets KSM look: 0 stopped to 4", of=lambda x: x.daemon.merging[0]),
    _gauge("ksm_cpu_ratio", "Part of a processor that KSM took lately", of=lambda x: x.daemon.merging[1] / 100),
    Family("ksm_pages", GAUGE, "Pages of this host, by what KSM found", ("kind",), _pages),
    _gauge("ksm_saved_bytes", "Memory of this host that KSM saves", of=lambda x: x.ksm.saved * PAGE_BYTES),
    _counter("ksm_full_scans_total", "Passes of KSM over all memory", of=lambda x: x.ksm.full_scans),
    _gauge("dax_windows", "VMs with a DAX window", of=lambda x: x.windows.number),
    _gauge("dax_window_bytes", "Size of all DAX windows", of=lambda x: x.windows.size_bytes),
    _gauge("dax_used_bytes", "Of that, where images are mapped", of=lambda x: x.windows.used_bytes),
    _gauge("dax_images", "Images mapped into DAX windows; one counts in each VM", of=lambda x: x.windows.images),
    _gauge("images", "Images in the store", of=lambda x: x.images.number),
    _gauge("images_damaged", "Images that were put aside", of=lambda x: x.images.damaged),
    _gauge("image_bytes", "Disk that images take", of=lambda x: x.images.bytes),
    _gauge("disk_free_bytes", "Free space of state_dir", of=_disk("free")),
    _gauge("layers_used_bytes", "Disk that writable layers take", of=_disk("used")),
    _gauge("layers_promised_bytes", "What pods may write into their layers", of=_disk("promised")),
    _gauge("reserve_bytes", "Disk that the daemon keeps for itself", of=_disk("reserve")),
    _recorded("rpcs_total", "Calls of the CRI that have ended", of=recorder.RPCS, labels=("method", "code")),
    _histogram("rpc_seconds", "How long they took, whatever came of them", of=recorder.RPC_SECONDS, labels=("method",)),
    _gauge("rpcs_in_progress", "Calls that are being carried out", of=lambda x: x.daemon.calls),
    _counter("link_busy_seconds_total", "The event loop worked for guests' links", of=lambda x: x.daemon.link.busy_s),
    _counter(
        "link_turns_total", "Times a link waited for its turn on the event loop", of=lambda x: x.daemon.link.turns
    ),
    _counter("link_held_total", "Times a link over its own budget was not read", of=lambda x: x.daemon.link.held),
    _counter("link_held_seconds_total", "For so long, together", of=lambda x: x.daemon.link.held_s),
    _recorded("link_cuts_total", "Guests cut off, since they broke the rules of the link", of=recorder.LINK_CUTS),
)


def made(snapshot: Snapshot) -> Iterator[Metric]:
    """Return the text of all metrics at that moment."""
    for family in FAMILIES:
        yield _metric(family, snapshot)


def _metric(family: Family, snapshot: Snapshot) -> Metric:
    name = f"clearpod_{family.name}"
    if family.kind == HISTOGRAM:
        return _histogram_metric(family, name, snapshot=snapshot)
    made = {COUNTER: CounterMetricFamily, GAUGE: GaugeMetricFamily}[family.kind]
    metric: CounterMetricFamily | GaugeMetricFamily = made(name, family.help, labels=family.labels)
    for labels, value in family.values(snapshot):
        metric.add_metric(labels, value)
    return metric


def _histogram_metric(family: Family, name: str, *, snapshot: Snapshot) -> Metric:
    metric = HistogramMetricFamily(name, family.help, labels=family.labels)
    for labels, one in snapshot.daemon.counts.observed(family.recorded).items():
        metric.add_metric(labels, list(_cumulative(one.buckets)), one.total[0])
    return metric


def _cumulative(buckets: list[int]) -> Iterator[tuple[str, float]]:
    """Prometheus counts in each bucket what is in those before it."""
    total = 0
    for bound, count in zip((*map(repr, recorder.BOUNDS_S), "+Inf"), buckets, strict=True):
        total += count
        yield bound, total
