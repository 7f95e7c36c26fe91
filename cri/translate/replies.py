# SPDX-License-Identifier: Apache-2.0
"""Live pods and containers -> the CRI's answers. Called by the RPCs. Pure; asks no guest."""

import json

from cri.live.container import LiveContainer
from cri.live.pod import LivePod
from cri.pb import runtime_pb2 as pb
from cri.snapshots import copies, suspension
from cri.store import codec
from cri.store.pods import ContainerRecord
from cri.translate import history, own_kernel, shown, sizes
from cri.translate.container import signal_enum
from stage1.pod import oci, states
from stage1.rootfs import journal
from stage1.vm.usage import Usage

CONTAINER_STATES = {
    states.CREATED: pb.CONTAINER_CREATED,
    states.RUNNING: pb.CONTAINER_RUNNING,
    states.EXITED: pb.CONTAINER_EXITED,
}


def sandbox_state(pod: LivePod) -> "pb.PodSandboxState.ValueType":
    """READY or NOTREADY."""
    return pb.SANDBOX_READY if pod.is_ready else pb.SANDBOX_NOTREADY


def sandbox_status(pod: LivePod) -> pb.PodSandboxStatus:
    """PodSandboxStatus."""
    config = pod.config
    options = config.linux.security_context.namespace_options
    return pb.PodSandboxStatus(
        id=pod.id,
        metadata=config.metadata,
        state=sandbox_state(pod),
        created_at=pod.record.created_ns,
        network=_network_status(pod),
        linux=pb.LinuxPodSandboxStatus(namespaces=pb.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=pod.record.handler,
    )


def _network_status(pod: LivePod) -> pb.PodSandboxNetworkStatus:
    first, *others = pod.ips or ("",)
    return pb.PodSandboxNetworkStatus(ip=first, additional_ips=[pb.PodIP(ip=ip) for ip in others])


def sandbox_info(pod: LivePod, taken: Usage, *, cgroups: list[str], console: str = "") -> dict[str, str]:
    """Verbose: one JSON object under `info`, as the peers do. `cgroups` are those that the VMM was put into, `console`
    is the end of what the guest wrote to its console.
    """
    model = pod.record.pod
    hypervisor = pod.tools.host.choice.hypervisor
    info = {
        "pid": pod.vm.pid if pod.vm else 0,
        "state": pod.status.state,
        "why": pod.status.why or pod.held,
        "suspended": pod.is_suspended,
        "suspendBlocker": "" if pod.is_suspended else suspension.blocker(pod),
        "forkBlocker": copies.fork_blocker(pod),
        "copyOf": pod.status.origin,
        "directory": pod.directory,
        "runtimeHandler": pod.record.handler,
        "kernel": pod.hello.kernel,
        "bootMs": pod.boot_ms,
        "network": codec.dump(pod.network),
        "history": history.facts(pod.status.history),
        "console": history.telling(console),
        "config": shown.message(pod.config),
        "vm": {
            "memoryMib": model.memory_mib,
            "vcpus": model.vcpus,
            "onlineVcpus": model.online_vcpus or model.vcpus,
            **({"vcpusAskedFor": asked} if (asked := sizes.refused_vcpus(pod.config, model.vcpus)) else {}),
            "windowMib": model.window_mib if hypervisor.shim and not model.host else 0,
            "hypervisor": "host" if model.host else hypervisor.name,
            "kernel": model.kernel,
            "profile": model.profile,
            **({"journal": journal.place(model, pod.tools.host.state_dir)} if model.profile else {}),
            "pssBytes": taken.pss_bytes,
            "cpuMs": taken.cpu_ms,
            "mergedBytes": taken.merged_bytes,
            "daxBytes": taken.dax_bytes,
            "cpus": sorted(pod.cpus.now),
            "cgroups": cgroups,
            "cgroupNote": pod.status.cgroup_note,
        },
    }
    return {"info": json.dumps(info)}


def container_status(container: LiveContainer) -> pb.ContainerStatus:
    """ContainerStatus, with the request's fields echoed."""
    record, status = container.record, container.status
    config = container.config
    user = record.container.process.user
    return pb.ContainerStatus(
        id=container.id,
        metadata=config.metadata,
        state=CONTAINER_STATES[status.state],
        created_at=record.created_ns,
        started_at=status.started_ns,
        finished_at=status.finished_ns,
        exit_code=status.exit_code,
        image=_image(config.image, record),
        image_ref=record.image_ref,
        image_id=record.image_id,
        reason=status.reason,
        message=status.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=_mounts(config, record),
        log_path=record.log_path,
        resources=pb.ContainerResources(linux=config.linux.resources),
        user=pb.ContainerUser(
            linux=pb.LinuxContainerUser(
                uid=user.uid, gid=user.gid, supplemental_groups=sorted({user.gid, *user.groups})
            )
        ),
        stop_signal=signal_enum(record.container.stop_signal),
    )


def _image(asked: pb.ImageSpec, record: ContainerRecord) -> pb.ImageSpec:
    """The request's, by its tag if it has one; lists have the request's as it is, as with containerd."""
    spec = pb.ImageSpec()
    spec.CopyFrom(asked)
    spec.image = record.image_tag or asked.image
    return spec


def _mounts(config: pb.ContainerConfig, record: ContainerRecord) -> list[pb.Mount]:
    """The request's, with the id of the image where it is an image volume. What CDI added comes after them."""
    echoed = [pb.Mount.FromString(one.SerializeToString()) for one in config.mounts]
    for one, made in zip(echoed, record.container.mounts, strict=False):
        if made.image:
            one.image.image_ref = made.image
    return echoed


def container_info(pod: LivePod, container: LiveContainer) -> dict[str, str]:
    """Verbose: one JSON object under `info`, with the OCI document that crun got."""
    own = container.record.container
    info = {
        "sandboxID": pod.id,
        "pid": container.guest_pid,
        "pidIsOf": "guest",
        "image": container.record.image_way,
        "logFault": container.log.fault,
        "config": shown.message(container.config),
        "runtimeSpec": oci.config(pod.record.pod, own, target_pid=0),
    }
    if container.record.kernel.path:
        info["kernel"] = own_kernel.shown(pod, container)
    return {"info": shown.text(json.dumps(info, ensure_ascii=False))}
