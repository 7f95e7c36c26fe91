# SPDX-License-Identifier: Apache-2.0
"""Images in a pod's layers export: mounted where its guest sees them by 9p, and looked into by the host.

Called by who owns the pod; the engine's docstring has the pod's directory. Nothing here knows who needs an image.
"""

import os

from stage1.errors import KernelError
from stage1.linux import beneath, in_root, mount, namespace
from stage1.rootfs.share import ImageFiles, mount_image, unmount_image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MIB = 1 << 20


def image_name(image_id: str) -> str:
    """The name of an image in the guest."""
    return image_id.removeprefix("sha256:")


def has_image(directory: str, image: ImageFiles) -> bool:
    """Whether the image is in the export, as a file system of its own; cheaper than searching the table of all mounts,
    which grows with the pods.
    """
    with beneath.Root(directory) as own:
        layers, there = own.stat("share/layers"), own.stat(f"share/layers/{image_name(image.id)}")
    return layers is not None and there is not None and there.st_dev != layers.st_dev


def add_image(
    directory: str, image: ImageFiles, *, ids: "Callable[[], int]" = lambda: -1, pid: "Callable[[], int]" = lambda: 0
) -> str:
    """Mount the image read-only where the guest can see it; idempotent. Returns its name below `layers`.

    What is there from files that were damaged, and replaced since, gives way to the new ones.
    Called when it has to be mounted, `ids` gives a descriptor of the user namespace that maps its owners, -1 for none,
    and `pid` the process in whose mounts the guest sees the export, 0 for none.
    """
    name, files = image_name(image.id), _identity(image)
    if has_image(directory, image):
        if _mounted_from(directory, name) in (files, b""):
            return name
        remove_image(directory, image)
    with beneath.Root(directory) as own:
        own.make_directories("images", 0o700)
        own.write(f"images/{name}", files)
        own.make_directories(f"tree/layers/{name}", 0o755)
        with beneath.Root(os.path.dirname(image.merged)) as place:
            # Of most images it is empty, and the guest asks less of one that is not there.
            if place.exists("filecaps") and (capabilities := place.read("filecaps")):
                own.write(f"tree/layers/{name}.filecaps", capabilities, 0o644)
        target = own.pin_for_mount(f"share/layers/{name}")
        try:
            mount_image(image, target, ids=ids())
        finally:
            os.close(target)
    try:
        _show(directory, name, pid=pid())
    except BaseException:
        remove_image(directory, image)
        raise
    return name


def _show(directory: str, name: str, *, pid: int) -> None:
    """Mount the image for `pid` as well, where the kernel does not: the share is private once a program has made all
    mounts of the host so (`mount --make-rprivate /`, which mmdebstrap does).
    """
    with beneath.Root(directory) as own:
        share, layers = own.open_directory("share"), own.open_directory("share/layers")
    try:
        if not pid or mount.is_shared(share):
            return
        image = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=layers)
        try:
            tree = mount.open_tree(image, recursive=False)
        finally:
            os.close(image)
    finally:
        os.close(share)
        os.close(layers)
    try:
        namespace.in_mounts_of(pid, lambda: _attach(tree, directory, name=name))
    finally:
        os.close(tree)


def _attach(tree: int, directory: str, *, name: str) -> None:
    if mount.is_mount_point(directory, below=f"share/layers/{name}"):
        _unmount(directory, name)  # from before, when the host could not tell
    with beneath.Root(directory) as own:
        own.attach(tree, f"share/layers/{name}")


def remove_image(directory: str, image: ImageFiles) -> None:
    """Undo `add_image`; no container may use it. Idempotent."""
    name = image_name(image.id)
    _unmount(directory, name)
    with beneath.Root(directory) as own:
        own.remove_tree(f"tree/layers/{name}")
        own.unlink(f"tree/layers/{name}.filecaps")
        own.unlink(f"images/{name}")


def _unmount(directory: str, name: str) -> None:
    with beneath.Root(directory) as own:
        layers = own.open_directory("share/layers")
    try:
        namespace.in_directory(layers, lambda: unmount_image(name))
    finally:
        os.close(layers)


def _identity(image: ImageFiles) -> bytes:
    try:
        statuses = [os.stat(path) for path in (image.merged, *image.layers)]
    except FileNotFoundError:
        return b"none"  # to mount it says better what is missing
    return "".join(f"{one.st_ino} {one.st_mtime_ns}\n" for one in statuses).encode()


def _mounted_from(directory: str, name: str) -> bytes:
    """Empty if it was not recorded, as in earlier versions."""
    try:
        with beneath.Root(directory) as own:
            return own.read(f"images/{name}", ours=True)
    except FileNotFoundError:
        return b""


def read_image_file(directory: str, name: str, *, path: str) -> str:
    """A text file of the mounted image `name`, as a process chrooted into it would read it; empty when it is absent.

    At most 1 MiB is read: the image is not trusted. Bytes that are not UTF-8 are replaced.
    """
    try:
        with beneath.Root(directory) as own:
            root = own.open_directory(f"share/layers/{name}")
        try:
            return in_root.read(root, path, most=_MIB).decode(errors="replace")
        finally:
            os.close(root)
    except KernelError:
        return ""
