# SPDX-License-Identifier: Apache-2.0
"""CreateContainer: mounts the image, writes the bundle, and lets the guest make the container's root."""

import asyncio

from cri.containers.create import Accounts
from cri.node import Node
from cri.pb import runtime_pb2 as pb
from cri.store.pods import ContainerRecord
from cri.translate import cdi, container
from stage1.errors import BadRequest, NotFound


async def create_container(node: Node, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
    """The sandbox must be ready and the image present and sound (DATA_LOSS if it is not).

    Failure frees the name; the request's sandbox_config is ignored.
    """
    pod = node.pods.get(request.pod_sandbox_id)
    pod.require_ready()
    config = request.config
    if not config.image.image:
        raise BadRequest("a container needs image.image")
    names = dict.fromkeys((config.image.image, *(one.image.image for one in config.mounts if one.image.image)))
    images = {name: image for name in names if (image := node.images.find(name))}
    if config.image.image not in images:
        raise NotFound(f"the image {config.image.image} is not on this machine; pull it first")

    files = await asyncio.to_thread(lambda: tuple(map(node.images.usable, images.values())))
    node.verifier.soon(images.values())
    devices = tuple(one.name for one in config.CDI_devices)
    added = await asyncio.to_thread(cdi.edits, devices, node.config.cdi_dirs)

    def plan(accounts: Accounts) -> ContainerRecord:
        return container.record(config, pod.record, images=images, accounts=accounts, added=added)

    made = await node.pods.create_container(
        pod,
        files,
        plan=plan,
        name=(config.metadata.name, config.metadata.attempt),
        request=request.SerializeToString(deterministic=True),
    )
    return pb.CreateContainerResponse(container_id=made)
