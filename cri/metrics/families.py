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
    _gauge("virtual_machines", "Running VMs, including the warm pool's", of=lambda x: x.daemon.vms),
    _recorded(
        "pod_starts_total",
        "Starts of pods, by result: VM booted, copied, claimed or failed",
        of=recorder.POD_STARTS,
        labels=("result",),
    ),
    _histogram(
        "pod_start_seconds", "Time from the request to a ready pod", of=recorder.POD_START_SECONDS, labels=("how",)
    ),
    _histogram("boot_phase_seconds", "Time of the phases of a start", of=recorder.PHASE_SECONDS, labels=("phase",)),
    _recorded("pod_deaths_total", "VMs of pods that ended unexpectedly", of=recorder.POD_DEATHS),
    _recorded("container_exits_total", "Exits of containers", of=recorder.EXITS, labels=("reason",)),
    _gauge("pool_slots", "Configured size of the warm pool", of=_pool("size")),
    _gauge("pool_slots_ready", "Available VMs in the warm pool", of=_pool("waiting")),
    _counter("pool_boots_total", "VMs prewarmed for the pool", of=_pool("booted")),
    _counter("pool_boot_failures_total", "VMs for the pool that did not boot", of=_pool("failed")),
    _counter("pool_claims_total", "Pods that claimed a VM of the pool", of=_pool("taken")),
    _counter("pool_misses_total", "Pods that could not claim a VM of the pool", of=_pool("missed")),
    _counter("pool_deaths_total", "VMs that ended before or while they were claimed", of=_pool("died")),
    _gauge(
        "ksm_level", "KSM's scan rate as set by this daemon, from 0 (stopped) to 4", of=lambda x: x.daemon.merging[0]
    ),
    _gauge("ksm_cpu_ratio", "Share of one processor that KSM used recently", of=lambda x: x.daemon.merging[1] / 100),
    Family("ksm_pages", GAUGE, "Pages of this host in KSM, by kind", ("kind",), _pages),
    _gauge("ksm_saved_bytes", "Memory that KSM saves", of=lambda x: x.ksm.saved * PAGE_BYTES),
    _counter("ksm_full_scans_total", "Passes of KSM over all memory", of=lambda x: x.ksm.full_scans),
    _gauge("dax_windows", "VMs with a DAX window", of=lambda x: x.windows.number),
    _gauge("dax_window_bytes", "Size of all DAX windows", of=lambda x: x.windows.size_bytes),
    _gauge("dax_used_bytes", "Part of the DAX windows in which images are mapped", of=lambda x: x.windows.used_bytes),
    _gauge("dax_images", "Images mapped into DAX windows, counted once per VM", of=lambda x: x.windows.images),
    _gauge("images", "Images in the store", of=lambda x: x.images.number),
    _gauge("images_damaged", "Damaged images, which were put aside", of=lambda x: x.images.damaged),
    _gauge("image_bytes", "Disk space of images", of=lambda x: x.images.bytes),
    _gauge("disk_free_bytes", "Free space of state_dir", of=_disk("free")),
    _gauge("layers_used_bytes", "Disk space of writable layers", of=_disk("used")),
    _gauge("layers_promised_bytes", "Sum of the sizes of pods' disks", of=_disk("promised")),
    _gauge("reserve_bytes", "Disk space that the daemon keeps as a reserve", of=_disk("reserve")),
    _recorded("rpcs_total", "Calls of the CRI that have ended", of=recorder.RPCS, labels=("method", "code")),
    _histogram(
        "rpc_seconds", "Duration of calls of the CRI, with any result", of=recorder.RPC_SECONDS, labels=("method",)
    ),
    _gauge("rpcs_in_progress", "Calls in progress", of=lambda x: x.daemon.calls),
    _counter(
        "link_busy_seconds_total", "Time that the event loop spent on guests' links", of=lambda x: x.daemon.link.busy_s
    ),
    _counter(
        "link_turns_total", "Times a link waited for other links on the event loop", of=lambda x: x.daemon.link.turns
    ),
    _counter(
        "link_held_total",
        "Times that reading a link was paused because it exceeded its budget",
        of=lambda x: x.daemon.link.held,
    ),
    _counter("link_held_seconds_total", "Total time of these pauses", of=lambda x: x.daemon.link.held_s),
    _recorded(
        "link_cuts_total", "Guests that were cut off because they violated the link's protocol", of=recorder.LINK_CUTS
    ),
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
