# SPDX-License-Identifier: Apache-2.0
"""ImageFsInfo: where images are kept and how much they take. Every image client's first call, so it is
quick.
"""

import time
from typing import TYPE_CHECKING

from cri.pb import runtime_pb2 as pb

if TYPE_CHECKING:
    from cri.node import Node


async def image_fs_info(node: "Node", request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
    """The same entry for images and for containers' writable layers: both are in the state directory."""
    used, inodes = node.images.usage()
    usage = pb.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=pb.FilesystemIdentifier(mountpoint=node.images.state_dir),
        used_bytes=pb.UInt64Value(value=used),
        inodes_used=pb.UInt64Value(value=inodes),
    )
    return pb.ImageFsInfoResponse(image_filesystems=[usage], container_filesystems=[usage])
