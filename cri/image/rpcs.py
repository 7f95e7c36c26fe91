# SPDX-License-Identifier: Apache-2.0
"""The RPCs of the ImageService. Called by `cri.server`."""

import asyncio
import hashlib
import json
import time
from collections.abc import AsyncIterator, Collection
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from cri.image.origins import Auth
from cri.image.pull import pull
from cri.image.source import LOCAL
from cri.pb import runtime_pb2 as pb
from cri.storage.disk import measure
from cri.store import history, reference
from cri.store.history import Fact
from cri.store.images import Image
from cri.threads import run_uncancellable
from cri.translate.chunks import chunks
from stage1.errors import BadRequest, WrongState
from stage1.pod import states

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from cri.node import Node
    from cri.store.images import ImageStore

_MOST_DIGITS = 18
"""More may not fit into an int64; no user has as many."""


def describe(image: Image, pins: Collection[str] = (), *, kept: Collection[str] = ()) -> pb.Image:
    """The image as the CRI's message. `pins` are full names of images that are pinned, in which a star stands for
    anything; `kept` are ids of others.

    `uid` when the image's user is a number, else `username`; a group is dropped, as kubelet wants it.
    """
    user = image.user.partition(":")[0]
    names = (*image.repo_tags, *image.repo_digests)
    is_number = user.isascii() and user.isdigit() and len(user) <= _MOST_DIGITS
    number = pb.Int64Value(value=int(user)) if is_number else None
    return pb.Image(
        id=image.id,
        repo_tags=image.repo_tags,
        repo_digests=image.repo_digests,
        size=image.size_bytes,
        uid=number,
        username="" if number else user,
        pinned=image.id in kept or any(fnmatchcase(name, pin) for name in names for pin in pins),
        spec=pb.ImageSpec(image=image.id),
    )


async def list_images(node: "Node", request: pb.ListImagesRequest) -> pb.ListImagesResponse:
    """Lists all images, or those that match the filter; the newest first. The filter takes every form of a reference;
    one without tag and digest is all of that repository.
    """
    return pb.ListImagesResponse(images=matching(node, request.filter))


def matching(node: "Node", criteria: pb.ImageFilter) -> list[pb.Image]:
    """The list, also for the streamed twin of this call."""
    pins, kept = node.config.pinned_images, node.snapshots.image_ids
    return [describe(image, pins, kept=kept) for image in _named(node.images, criteria.image.image)]


def _named(images: "ImageStore", name: str) -> "Iterable[Image]":
    if not name:
        return images.list()
    repository = reference.repository(name)
    same = [one for one in images.list() if any(tag.rpartition(":")[0] == repository for tag in one.repo_tags)]
    if repository and same:
        return same
    image = images.find(name)
    return [image] if image else []


async def stream_images(node: "Node", request: pb.StreamImagesRequest) -> AsyncIterator[pb.StreamImagesResponse]:
    """The list of ListImages, in parts, so that it may be larger than one message. No piece for an empty list."""
    for chunk in chunks(matching(node, request.filter)):
        yield pb.StreamImagesResponse(images=chunk)


async def image_status(node: "Node", request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
    """One image by any of its names; an unknown one is an empty answer and no error, and so is a damaged one: kubelet
    then pulls it, which replaces what is damaged. Verbose adds `info`: a JSON object with the OCI config as
    `imageSpec`, and the `chainID` of its layers.
    """
    if not request.image.image:
        raise BadRequest("ImageStatus needs image.image")
    image = node.images.find(request.image.image)
    if image is None or image.aside:
        return pb.ImageStatusResponse()
    details = {"chainID": chain_id(image.config), "imageSpec": image.config}
    info = {"info": json.dumps(details)} if request.verbose else None
    described = describe(image, node.config.pinned_images, kept=node.snapshots.image_ids)
    return pb.ImageStatusResponse(image=described, info=info)


def chain_id(config: "Mapping[str, Any]") -> str:
    """The chain id of the layers of an image with this OCI config, OCI image-spec, config.md."""
    chain, *above = (config.get("rootfs") or {}).get("diff_ids") or [""]
    for one in above:
        chain = f"sha256:{hashlib.sha256(f'{chain} {one}'.encode()).hexdigest()}"
    return str(chain)


async def pull_image(node: "Node", request: pb.PullImageRequest) -> pb.PullImageResponse:
    """Pulls an image from its registry. Returns the image's id, as all other calls do. One that is here already is
    looked up again: its tag may have moved. Raises what `pull` raises.
    """
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


async def remove_image(node: "Node", request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
    """Removes an image with all its names, by any of them; idempotent. Containers that use it are not affected: their
    pod has it mounted. Raises WrongState for one that a suspended pod needs. In a thread, since removing large files is
    slow. Works on a full disk by means of the daemon's reserve.
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


async def image_fs_info(node: "Node", request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
    """Where images and writable layers are, and how much they take. Every image client's first call, so it is quick.
    Both are in the state directory, so kubelet sees one file system, whose free space it evicts by.
    """
    images = _usage(node, node.images.usage())
    layers = (await asyncio.to_thread(measure, node.images.state_dir)).layers
    containers = _usage(node, (layers.used_bytes, layers.inodes))
    return pb.ImageFsInfoResponse(image_filesystems=[images], container_filesystems=[containers])


def _usage(node: "Node", taken: tuple[int, int]) -> pb.FilesystemUsage:
    """`taken` are bytes and inodes."""
    return pb.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=pb.FilesystemIdentifier(mountpoint=node.images.state_dir),
        used_bytes=pb.UInt64Value(value=taken[0]),
        inodes_used=pb.UInt64Value(value=taken[1]),
    )
