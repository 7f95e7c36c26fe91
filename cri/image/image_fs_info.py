# SPDX-License-Identifier: Apache-2.0
"""ImageFsInfo: where images and writable layers are, and how much they take. Every image client's first call, so it
is quick.
"""

import asyncio
import time
from typing import TYPE_CHECKING

from cri.pb import runtime_pb2 as pb
from cri.storage.disk import measure

if TYPE_CHECKING:
    from cri.node import Node


async def image_fs_info(node: "Node", request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
    """Both are in the state directory, so kubelet sees one file system, whose free space it evicts by."""
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
