# SPDX-License-Identifier: Apache-2.0
"""Prepares a checkpoint for use on this host: finds the images of its containers, verifies its files, and returns
what a copy is made from. Called by RestorePod and for warmed templates, in threads.
"""

from typing import TYPE_CHECKING

from cri.live.copies import Original
from cri.store import checkpoints
from cri.store.checkpoints import Manifest, SavedContainer
from cri.store.pods import ContainerRecord
from stage1.errors import NotFound
from stage1.pod.model import Container, Mount, Process
from stage1.pod.network import Interface
from stage1.rootfs import checkpoint as place
from stage1.snapshot import load
from stage1.snapshot.format import Manifest as Snapshot

if TYPE_CHECKING:
    from cri.store.images import ImageStore
    from stage1.rootfs.share import ImageFiles


def read(path: str) -> Manifest:
    """Return the manifest of the checkpoint in `path`. Raises BadRequest, NotFound, Unsupported, KernelError."""
    place.check_directory(path)
    return checkpoints.parse(place.read_manifest(path, most=checkpoints.MOST_BYTES))


def of_this_host(manifest: Manifest, images: "ImageStore", *, path: str) -> tuple[Snapshot, Original]:
    """What a copy is made from: the files are verified, and images are this host's own. Blocks. Raises BadRequest,
    NotFound, WrongState, KernelError.
    """
    given = located(manifest, images, title=f"pod {manifest.pod.namespace}/{manifest.pod.name} of {path}")
    load.check_files(path, guest=manifest.guest, disk=manifest.disk, link_key=manifest.pod.link_key)
    return given


def located(manifest: Manifest, images: "ImageStore", *, title: str) -> tuple[Snapshot, Original]:
    """Like `of_this_host`, without verifying the checkpoint's files. `title` names the copy's origin for people."""
    files: dict[str, ImageFiles] = {}
    for placed in manifest.images:
        image = images.find(f"sha256:{placed.name}")
        if image is None:
            raise NotFound(f"the image sha256:{placed.name} of the checkpoint is not in the store; pull it first")
        files[placed.name] = images.usable(image)
    was = [(one.offset, one.size, one.identity) for one in manifest.pieces]
    pieces = load.located(manifest.images, files, was=was)
    pod = manifest.pod
    made_of = {part.name: part.what for part in manifest.made_of}
    interfaces = tuple(Interface(one.name, one.mac, one.mtu, one.addresses) for one in manifest.devices)
    of_guest = Snapshot(
        made_of, memory_mib=pod.memory_mib, pieces=pieces, images=manifest.images, interfaces=interfaces
    )
    containers = tuple(map(_former, manifest.containers))
    return of_guest, Original(pod.link_key, pod.ids, containers, title, pod.decided)


def _former(one: SavedContainer) -> ContainerRecord:
    """The container as its guest has it: what is asked for is compared with `decided`, and nothing else of it is used,
    nor written down with each state of the pod.
    """
    mounts = tuple(Mount("", target) for target in one.mounts)
    container = Container(one.id, one.name, one.image_id, Process(()), mounts)
    return ContainerRecord(
        container, b"", one.attempt, 0, one.image_id, one.image_ref,
        stdin=one.stdin, stdout=one.stdout, stderr=one.stderr, window_image=one.window_image, guest_id=one.id,
        decided=one.decided,
    )  # fmt: skip
