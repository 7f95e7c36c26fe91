# SPDX-License-Identifier: Apache-2.0
"""RemoveImage: removes an image with all its names, by any of them; idempotent."""

from typing import TYPE_CHECKING

from cri.pb import runtime_pb2 as pb
from cri.threads import run_uncancellable
from stage1.errors import BadRequest, WrongState
from stage1.pod import states

if TYPE_CHECKING:
    from cri.node import Node


async def remove_image(node: "Node", request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
    """Remove an image. Containers that use it are not affected: their pod has it mounted. Raises WrongState for one
    that a suspended pod needs. In a thread, since removing large files is slow. Works on a full disk by means of the
    daemon's reserve.
    """
    if not request.image.image:
        raise BadRequest("RemoveImage needs image.image")
    _require_free(node, request.image.image)
    await run_uncancellable(node.storage.reserve.spend, node.images.remove, request.image.image)
    return pb.RemoveImageResponse()


def _require_free(node: "Node", name: str) -> None:
    """Raise WrongState when a suspended pod needs the image: its files are not open, and the guest needs the
    same ones.
    """
    if (image := node.images.find(name)) is None:
        return
    for pod in node.pods.pods():
        living = [one.record.image_id for one in pod.containers.values() if one.status.state != states.EXITED]
        if pod.is_suspended and image.id in (*living, *(one.image_id for one in pod.status.waiting)):
            raise WrongState(
                f"the image {name} is needed by {pod.title}, which is suspended; resume or remove the pod first"
            )
