# SPDX-License-Identifier: Apache-2.0
"""RestorePod: a new pod begins as a checkpoint, with its containers created and not started."""

import asyncio
import contextlib
from collections.abc import Sequence
from functools import partial

from cri.live import copies
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.runtime.create_container import create_container
from cri.runtime.run_pod_sandbox import pod_record
from cri.store import checkpoints
from cri.store.checkpoints import Manifest
from cri.store.pods import ContainerRecord
from cri.translate import restoring
from stage1 import checkpoint, saved
from stage1.errors import BadRequest, NotFound, PodError, WrongState
from stage1.machine import SUSPEND
from stage1.pod.model import Container, Mount, Process
from stage1.pod.network import Interface
from stage1.rootfs import checkpoint as place
from stage1.rootfs.share import ImageFiles


async def restore_pod(node: Node, request: pb.RestorePodRequest) -> pb.RestorePodResponse:
    """The containers are frozen in the guest until StartContainer. After an error nothing is left; FAILED_PRECONDITION
    says why this host or this pod can't be what the checkpoint is.
    """
    for option in sorted(request.options):
        raise BadRequest(f"RestorePod knows no option {option!r}; leave it out")
    path = request.checkpoint_path
    manifest = await asyncio.to_thread(_read, path)
    restoring.check(manifest, request.container_configs)
    given = await asyncio.to_thread(_of_this_host, node, manifest, path=path)
    asked = pb.RunPodSandboxRequest(config=request.config, runtime_handler=request.runtime_handler)
    record = await pod_record(node, asked)
    if not record.pod.suspend:
        raise WrongState(
            f"the pod has not the annotation {SUSPEND} that the pod of the checkpoint had, and so another machine; "
            "restore it with the same annotations"
        )
    bring_up = partial(copies.bring_up, path=path, given=given)
    pod_id = await node.pods.run(record, request.SerializeToString(deterministic=True), bring_up=bring_up)
    try:
        containers = await _created(node, pod_id, configs=request.container_configs)
    except BaseException:
        with contextlib.suppress(PodError):
            await node.pods.remove(node.pods.get(pod_id))
        raise
    return pb.RestorePodResponse(pod_sandbox_id=pod_id, restored_containers=containers)


async def _created(node: Node, pod_id: str, *, configs: Sequence[pb.ContainerConfig]) -> list[pb.RestoredContainer]:
    made = []
    for config in configs:
        asked = pb.CreateContainerRequest(pod_sandbox_id=pod_id, config=config)
        container_id = (await create_container(node, asked)).container_id
        made.append(pb.RestoredContainer(name=config.metadata.name, container_id=container_id))
    return made


def _read(path: str) -> Manifest:
    """Raises BadRequest, NotFound, Unsupported."""
    place.check_directory(path)
    return checkpoints.parse(place.read_manifest(path, most=checkpoints.MOST_BYTES))


def _of_this_host(node: Node, manifest: Manifest, *, path: str) -> tuple[saved.Manifest, copies.Original]:
    """What a copy is made by: the files are as they were, images are this host's own. Blocks. Raises BadRequest,
    NotFound, WrongState, KernelError.
    """
    images: dict[str, ImageFiles] = {}
    for placed in manifest.images:
        image = node.images.find(f"sha256:{placed.name}")
        if image is None:
            raise NotFound(f"the image sha256:{placed.name} of the checkpoint is not in the store; pull it first")
        images[placed.name] = node.images.usable(image)
    was = [(one.offset, one.size, one.identity) for one in manifest.pieces]
    pieces = checkpoint.located(manifest.images, images, was=was)
    checkpoint.check(path, guest=manifest.guest, disk=manifest.disk)
    pod = manifest.pod
    made_of = {part.name: part.what for part in manifest.made_of}
    interfaces = tuple(Interface(one.name, one.mac, one.mtu, one.addresses) for one in manifest.devices)
    of_guest = saved.Manifest(pod.memory_mib, made_of, pieces, manifest.images, interfaces, {})
    containers = tuple(_former(one) for one in manifest.containers)
    return of_guest, copies.Original(pod.link_key, pod.ids, containers, f"pod {pod.namespace}/{pod.name} of {path}")


def _former(one: checkpoints.SavedContainer) -> ContainerRecord:
    """The container as its guest has it: what is asked for is compared with that, and nothing else of it is used."""
    mounts = tuple(Mount("", target) for target in one.mounts)
    container = Container(one.id, one.name, one.image_id, Process(()), mounts)
    return ContainerRecord(
        container, one.config, one.attempt, 0, one.image_id, one.image_ref,
        stdin=one.stdin, stdout=one.stdout, stderr=one.stderr, window_image=one.window_image, guest_id=one.id,
    )  # fmt: skip
