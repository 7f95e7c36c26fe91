# SPDX-License-Identifier: Apache-2.0
"""Live pods and containers, as plugins see them. Pure; asks no guest. Used by `hub`.

As containerd shows them, without what a VM keeps to itself: a container has no pid, namespace, device or cgroup on the
host. A pod's pid is that of its VMM.
"""

from cri.live.pod import LivePod
from cri.nri import amounts
from cri.pb import nri_pb2 as nri
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord, ContainerState
from cri.translate.shown import text as text
from stage1.pod import states
from stage1.pod.model import HOST_TO_CONTAINER, Mount

STATES = {
    states.CREATED: nri.CONTAINER_CREATED,
    states.RUNNING: nri.CONTAINER_RUNNING,
    states.EXITED: nri.CONTAINER_STOPPED,
}
BIND = "bind"


def pod(live: LivePod) -> nri.PodSandbox:
    """Return the pod as NRI has it."""
    config = live.config
    made = nri.PodSandbox(
        id=live.id,
        name=config.metadata.name,
        uid=config.metadata.uid,
        namespace=config.metadata.namespace,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=live.record.handler,
        pid=live.vm.pid if live.vm else 0,
        ips=live.ips,
    )
    made.linux.cgroup_parent = config.linux.cgroup_parent
    made.linux.pod_overhead.CopyFrom(amounts.of_cri(config.linux.overhead))
    made.linux.pod_resources.CopyFrom(amounts.of_cri(config.linux.resources))
    return made


def container(live: LivePod, record: ContainerRecord, *, status: ContainerState) -> nri.Container:
    """A container of the pod's, which may be one that is about to be made."""
    config = pb.ContainerConfig.FromString(record.config)
    process, own = record.container.process, record.container
    made = nri.Container(
        id=own.id,
        pod_sandbox_id=live.id,
        name=config.metadata.name,
        state=STATES[status.state],
        labels=config.labels,
        annotations=config.annotations,
        args=[text(one) for one in process.argv],
        env=[text(one) for one in process.env],
        mounts=[mount(one) for one in own.mounts],
        created_at=record.created_ns,
        started_at=status.started_ns,
        finished_at=status.finished_ns,
        exit_code=status.exit_code,
        status_reason=status.reason,
        status_message=text(status.message),
        CDI_devices=[nri.CDIDevice(name=one.name) for one in config.CDI_devices],
        user=nri.User(uid=process.user.uid, gid=process.user.gid, additional_gids=process.user.groups),
        image=_image(record),
    )
    made.linux.resources.CopyFrom(amounts.of_cri(config.linux.resources))
    if own.oom_score_adj:
        made.linux.oom_score_adj.value = own.oom_score_adj
    return made


def _image(record: ContainerRecord) -> nri.Image:
    _, at, digest = record.image_ref.partition("@")
    return nri.Image(name=record.image_tag, digest=digest if at else "", config_digest=record.image_id)


def mount(one: Mount) -> nri.Mount:
    """A volume of the host, in the words of the OCI; of an image's only the place."""
    options = ["rbind" if one.recursive else "bind", "ro" if one.read_only else "rw", *one.options]
    options.append("rslave" if one.propagation == HOST_TO_CONTAINER else "rprivate")
    source = "" if one.image else text(one.source)
    return nri.Mount(destination=text(one.target), type=BIND, source=source, options=options)
