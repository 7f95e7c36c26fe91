# SPDX-License-Identifier: Apache-2.0
"""RPCs about one container: CreateContainer, StartContainer, StopContainer, RemoveContainer, ContainerStatus,
UpdateContainerResources, ReopenContainerLog, clearpod's own KillContainer and WaitContainer, and CheckpointContainer,
which is not offered.
"""

import asyncio
import logging
from functools import partial
from typing import NoReturn

from cri.containers import create, limits, order, start, stop
from cri.live.images import Accounts, RootRequest
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.store.images import Image
from cri.store.pods import ContainerRecord
from cri.translate import apparmor, cdi, container, debugging, own_kernel, replies, resources
from cri.translate.container import Findings
from stage1.errors import BadRequest, NotFound, Unsupported
from stage1.guest import messages
from stage1.rootfs.share import ImageFiles

log = logging.getLogger("clearpod.container")

LAST_SIGNAL = 64


async def create_container(node: Node, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
    """Bring the image into the guest, which mounts the container's root.

    The sandbox must be ready and the image present and sound (DATA_LOSS if it is not). Failure frees the name; the
    request's sandbox_config is ignored.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    pod.require_ready()
    config = request.config
    if debugging.is_asked(config):
        debugging.check(pod.record.pod, node.config)
        log.warning("container.debug", extra={"pod": pod.id, "title": pod.title, "container": config.metadata.name})
    images = _images(node, config)
    kernel = own_kernel.of(images[config.image.image], pod.config.annotations, config.annotations)
    if kernel.path:
        namespace = pod.record.pod.namespace
        own_kernel.require_allowed(node.config.policy.of(namespace), namespace, image=config.image.image)
    create.require_alone(pod, kernel, image=config.image.image)
    devices = tuple(one.name for one in config.CDI_devices)
    edits = await asyncio.to_thread(cdi.edits, devices, node.config.cdi_dirs) if devices else cdi.Edits()

    name, asked = (pod.id, config.metadata.name, config.metadata.attempt), request.SerializeToString(deterministic=True)
    if made := await node.pods.container_names.repeated(name, asked):
        return pb.CreateContainerResponse(container_id=made)

    def plan(accounts: Accounts) -> ContainerRecord:
        return container.record(config, pod.record, images=images, findings=Findings(accounts, kernel, edits))

    image, find_files = images[config.image.image], partial(_usable, node, tuple(images.values()))
    root_request = RootRequest(image.id, find_files, plan, node.accounts)
    with node.pods.container_names.reserved(name, asked) as reservation:
        async with create.held(pod, root_request, kernel=kernel) as root:
            node.verifier.soon(images.values())
            record, policy = await _confined(node, pod, record=root.planned, config=config)
            if debugging.is_asked(config):
                record = debugging.unconfined(record)
            made = await create.create(pod, record, root=root, policy=policy)
        reservation.keep(made)
    return pb.CreateContainerResponse(container_id=made)


def _images(node: Node, config: pb.ContainerConfig) -> dict[str, Image]:
    """The container's own image, then those of its image volumes, by the names that the request uses.

    Raises BadRequest, and NotFound for its own; a volume's is looked for when it is translated.
    """
    if not config.image.image:
        raise BadRequest("a container needs image.image")
    names = dict.fromkeys((config.image.image, *(one.image.image for one in config.mounts if one.image.image)))
    images = {name: image for name in names if (image := node.images.find(name))}
    if config.image.image not in images:
        raise NotFound(f"the image {config.image.image} is not on this machine; pull it first")
    return images


async def _confined(
    node: Node, pod: LivePod, *, record: ContainerRecord, config: pb.ContainerConfig
) -> tuple[ContainerRecord, bytes]:
    """Return the record with the AppArmor profile that its kernel can apply, and the compiled policy for its guest."""
    security, of_pod = record.container.security, pod.record.pod
    asked = apparmor.profile(config.linux.security_context)
    name = apparmor.require(asked, of_pod, is_there=pod.hello.apparmor and not record.kernel.path)
    places = apparmor.Places(node.config.apparmor_dir, node.host.guest_dir)
    policy = await asyncio.to_thread(apparmor.find, name, places) if name and not of_pod.host else b""
    return record._replace(container=record.container._replace(security=security._replace(apparmor=name))), policy


def _usable(node: Node, images: tuple[Image, ...]) -> tuple[ImageFiles, ...]:
    """Their files, which look as they were made: what they hold is read later. Blocks. Raises as `usable`."""
    return tuple(map(node.images.usable, images))


async def start_container(node: Node, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
    """Start a created container.

    Only from CREATED. If the command can't be run, the guest does not answer in time or the client disconnects, the
    call fails and the container is EXITED, 128, StartError.
    """
    await start.start(*node.pods.get_container(request.container_id))
    return pb.StartContainerResponse()


async def stop_container(node: Node, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
    """Send the stop signal and, after the grace period, SIGKILL; return when the container is EXITED.

    Idempotent: returns at once when it does not run or is unknown.
    """
    if pair := node.pods.find_container(request.container_id):
        await stop.stop(*pair, grace_s=max(request.timeout, 0))
    return pb.StopContainerResponse()


async def kill_container(node: Node, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
    """Send a signal to the first process of a container, once; the request's `timeout` is its number.

    NOT_FOUND for an unknown id; FAILED_PRECONDITION unless the container runs.
    """
    pod, container = node.pods.get_container(request.container_id)
    if not 1 <= request.timeout <= LAST_SIGNAL:
        raise BadRequest(f"there is no signal {request.timeout}; signals have the numbers 1 to {LAST_SIGNAL}")
    order.require(container, "kill")
    await pod.call(messages.Signal(container.id, 0, request.timeout, False))
    return pb.StopContainerResponse()


async def wait_container(node: Node, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
    """Answer with the container's status when it has exited, also if it is removed in that moment.

    There is no limit. NOT_FOUND for an unknown id.
    """
    _, container = node.pods.get_container(request.container_id)
    await container.ended.wait()
    return pb.ContainerStatusResponse(status=replies.container_status(container))


async def remove_container(node: Node, request: pb.RemoveContainerRequest) -> pb.RemoveContainerResponse:
    """Kill the container if it runs, and remove it, except the log file, which is the kubelet's.

    Idempotent: also for an unknown one.
    """
    if pair := node.pods.find_container(request.container_id):
        await node.pods.remove_container(*pair)
    return pb.RemoveContainerResponse()


async def container_status(node: Node, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
    """Return the container's status from memory; verbose adds the OCI document.

    NOT_FOUND for an unknown id.
    """
    pod, container = node.pods.get_container(request.container_id)
    info = replies.container_info(pod, container) if request.verbose else {}
    return pb.ContainerStatusResponse(status=replies.container_status(container), info=info)


async def update_container_resources(
    node: Node, request: pb.UpdateContainerResourcesRequest
) -> pb.UpdateContainerResourcesResponse:
    """Change the limits of a created or running container (`crictl update`, in-place resize).

    All or nothing; RESOURCE_EXHAUSTED for more than the VM has. A new oom_score_adj is recorded and counts from the
    next exec on.
    """
    if not request.HasField("linux"):
        raise BadRequest("the request has no new limits in linux, and a Linux guest has no others")
    pod, container = node.pods.get_container(request.container_id)
    given = await pod.tools.hooks.updating(pod, container, given=request.linux)

    def make() -> ContainerRecord:
        changed = resources.updated_container(container.record, given, pod=pod.record.pod)
        resources.require_ceiling(container.record, changed, pod=pod.record.pod)
        return changed

    make()  # what makes no sense is refused at once
    await limits.update(pod, container, make=make)
    pod.tools.hooks.updated(pod, container)
    return pb.UpdateContainerResourcesResponse()


async def reopen_container_log(node: Node, request: pb.ReopenContainerLogRequest) -> pb.ReopenContainerLogResponse:
    """Continue in a new log file, since the kubelet has renamed the old one.

    Only for a running container; the new file exists when this returns.
    """
    _, container = node.pods.get_container(request.container_id)
    order.require(container, "reopen log")
    await container.reopen_log()
    return pb.ReopenContainerLogResponse()


async def checkpoint_container(node: Node, request: pb.CheckpointContainerRequest) -> NoReturn:
    """UNIMPLEMENTED, which clients take as the absence of the feature: what a container is lives in its guest."""
    raise Unsupported(
        "a container can't be written to a file apart from the virtual machine that it lives in: the "
        "guest has no CRIU, and what crun would write could only be restored inside that same guest; "
        "stop the container and start a new one instead"
    )
