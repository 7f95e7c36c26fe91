# SPDX-License-Identifier: Apache-2.0
"""Live pods and containers -> the entries of ListPodSandbox and ListContainers, and their filters. Pure.

Called by those RPCs. A kubelet lists everything each second and little of it changes, so an entry is made once for each
record and state, and is shared, so it must not be changed.
"""

from collections.abc import Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate.replies import CONTAINER_STATES, sandbox_state


class _OfPod(NamedTuple):
    """An entry, and what it was made of."""

    record: PodRecord
    state: "pb.PodSandboxState.ValueType"
    entry: pb.PodSandbox


class _OfContainer(NamedTuple):
    """An entry, and what it was made of."""

    record: ContainerRecord
    state: str
    entry: pb.Container


_pods: WeakKeyDictionary[LivePod, _OfPod] = WeakKeyDictionary()
_containers: WeakKeyDictionary[LiveContainer, _OfContainer] = WeakKeyDictionary()


def sandbox(pod: LivePod) -> pb.PodSandbox:
    """The pod's entry as it is now."""
    record, state, known = pod.record, sandbox_state(pod), _pods.get(pod)
    if known is None or known.record is not record or known.state != state:
        config = pod.config
        entry = pb.PodSandbox(
            id=record.pod.id,
            metadata=config.metadata,
            state=state,
            created_at=record.created_ns,
            labels=config.labels,
            annotations=config.annotations,
            runtime_handler=record.handler,
        )
        _pods[pod] = known = _OfPod(record, state, entry)
    return known.entry


def container(pod: LivePod, one: LiveContainer) -> pb.Container:
    """The container's entry as it is now."""
    record, state, known = one.record, one.status.state, _containers.get(one)
    if known is None or known.record is not record or known.state != state:
        config = one.config
        entry = pb.Container(
            id=one.id,
            pod_sandbox_id=pod.id,
            metadata=config.metadata,
            image=config.image,
            image_ref=record.image_ref,
            image_id=record.image_id,
            state=CONTAINER_STATES[state],
            created_at=record.created_ns,
            labels=config.labels,
            annotations=config.annotations,
        )
        _containers[one] = known = _OfContainer(record, state, entry)
    return known.entry


def sandbox_passes(entry: pb.PodSandbox, criteria: pb.PodSandboxFilter) -> bool:
    """All parts of the filter at once; an id may be a beginning of one."""
    return (
        entry.id.startswith(criteria.id)
        and (not criteria.HasField("state") or criteria.state.state == entry.state)
        and has_labels(entry.labels, criteria.label_selector)
    )


def container_passes(entry: pb.Container, criteria: pb.ContainerFilter) -> bool:
    """All parts of the filter at once; ids may be beginnings of them."""
    return (
        entry.id.startswith(criteria.id)
        and entry.pod_sandbox_id.startswith(criteria.pod_sandbox_id)
        and (not criteria.HasField("state") or criteria.state.state == entry.state)
        and has_labels(entry.labels, criteria.label_selector)
    )


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Whether all labels of the selector are there with its values."""
    return all(labels.get(key) == value for key, value in selector.items())
