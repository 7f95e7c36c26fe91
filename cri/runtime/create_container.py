# SPDX-License-Identifier: Apache-2.0
"""CreateContainer: brings the image into the guest, which mounts the container's root."""

import asyncio
import logging
from functools import partial

from cri.containers import create
from cri.live.accounts import Accounts
from cri.live.images import RootRequest
from cri.live.pod import LivePod
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.store.images import Image
from cri.store.pods import ContainerRecord
from cri.translate import apparmor, cdi, container, debugging, own_kernel
from cri.translate.container import Findings
from stage1.errors import BadRequest, NotFound
from stage1.rootfs.share import ImageFiles

log = logging.getLogger("clearpod.container")


async def create_container(node: Node, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
    """The sandbox must be ready and the image present and sound (DATA_LOSS if it is not).

    Failure frees the name; the request's sandbox_config is ignored.
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
