# SPDX-License-Identifier: Apache-2.0
"""Images in a pod's layers export: mounted where its guest sees them by 9p, and looked into by the host.

Called by who owns the pod; the engine's docstring has the pod's directory. Nothing here knows who needs an image.
"""

import os
import stat

from stage1.errors import KernelError
from stage1.linux import files, mount
from stage1.rootfs.share import ImageFiles, mount_image, unmount_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1 << 20


def image_name(image_id: str) -> str:
    """What an image is called in the guest."""
    return image_id.removeprefix("sha256:")


def has_image(directory: str, image: ImageFiles) -> bool:
    """Whether the image is in the export."""
    return mount.is_mount_point(f"{directory}/share/layers/{image_name(image.id)}")


def add_image(directory: str, image: ImageFiles, *, ids: "Callable[[], int]" = lambda: -1) -> str:
    """Mount the image read-only where the guest can see it; already there is fine. Returns its name below `layers`.

    `ids`, called when it has to be mounted, gives a descriptor of the user namespace that maps its owners, -1 for none.
    """
    name = image_name(image.id)
    target = f"{directory}/share/layers/{name}"
    if has_image(directory, image):
        return name
    files.make_dirs(f"{directory}/tree/layers/{name}", 0o755)
    capabilities = os.path.join(os.path.dirname(image.merged), "filecaps")
    if os.path.exists(capabilities):
        files.write_atomic(f"{directory}/tree/layers/{name}.filecaps", files.read(capabilities), 0o644)
    mount_image(image, target, ids=ids())
    return name


def remove_image(directory: str, image: ImageFiles) -> None:
    """Undo `add_image`; no container may use it. Not there is fine."""
    name = image_name(image.id)
    unmount_image(f"{directory}/share/layers/{name}")
    files.remove_tree(f"{directory}/tree/layers/{name}")
    files.remove_tree(f"{directory}/tree/layers/{name}.filecaps")


def read_image_file(directory: str, name: str, *, path: str) -> str:
    """A text file of the mounted image `name`, as a process chrooted into it would read it; empty when it is absent.

    At most 1 MiB is read: the image is not trusted. Bytes that are not UTF-8 are replaced.
    """
    try:
        fd = files.open_beneath(f"{directory}/share/layers/{name}", path, flags=os.O_RDONLY | os.O_NONBLOCK)
    except KernelError:
        return ""
    try:
        is_regular = stat.S_ISREG(os.fstat(fd).st_mode)
        return os.read(fd, _MIB).decode(errors="replace") if is_regular else ""
    finally:
        os.close(fd)
