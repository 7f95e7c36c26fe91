# SPDX-License-Identifier: Apache-2.0
"""PullImage: pulls an image from its registry. Returns the image's id, as all other calls do."""

import time
from typing import TYPE_CHECKING

from cri.image.pull import pull
from cri.image.registries import Auth
from cri.image.source import LOCAL
from cri.pb import runtime_pb2 as pb
from cri.store import history
from cri.store.history import Fact
from stage1.errors import BadRequest

if TYPE_CHECKING:
    from cri.node import Node


async def pull_image(node: "Node", request: pb.PullImageRequest) -> pb.PullImageResponse:
    """An image that is here already is looked up again: its tag may have moved. Raises what `pull` raises."""
    reference = request.image.image
    if not reference:
        raise BadRequest("PullImage needs image.image")
    if reference.startswith(LOCAL):
        raise BadRequest(f"{reference} is a file of this machine; the CRI pulls from registries only")
    auth = _auth(request.auth) if request.HasField("auth") else None
    begun_ns = time.time_ns()
    image = await pull(node.images, reference, config=node.config, auth=auth)
    if pod := node.pods.about(request):
        pod.note(Fact(history.PULL, took_ns=time.time_ns() - begun_ns, text=reference))
        pod.save_soon()
    return pb.PullImageResponse(image_ref=image.id)


def _auth(given: pb.AuthConfig) -> Auth:
    return Auth(
        username=given.username,
        password=given.password,
        auth=given.auth,
        server_address=given.server_address,
        identity_token=given.identity_token,
        registry_token=given.registry_token,
    )
