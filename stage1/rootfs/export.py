# SPDX-License-Identifier: Apache-2.0
"""Images in a pod's layers export: mounted where its guest sees them by 9p, and looked into by the host.

Called by the pod's owner; the engine's docstring has the pod's directory. Nothing here knows who needs an image.
"""

import os
from collections.abc import Callable, Sequence

from stage1.errors import Exhausted, KernelError
from stage1.linux import beneath, in_root, mount, namespace
from stage1.rootfs import unmounting
from stage1.rootfs.share import ImageFiles, mount_image, unmount_image

_MIB = 1 << 20


def image_name(image_id: str) -> str:
    """The name of an image in the guest."""
    return image_id.removeprefix("sha256:")


def has_image(directory: str, image: ImageFiles) -> bool:
    """Whether the image is in the export."""
    with beneath.Root(directory) as own:
        return _has(own, image_name(image.id))


def _has(own: beneath.Root, name: str) -> bool:
    """Whether it is there, as a file system of its own; cheaper than searching the table of all mounts, which grows
    with the pods.
    """
    there = own.stat(f"share/layers/{name}")
    layers = there and own.stat("share/layers")
    return there is not None and layers is not None and there.st_dev != layers.st_dev


def add_image(
    directory: str, image: ImageFiles, *, ids: Callable[[], int] = lambda: -1, pid: Callable[[], int] = lambda: 0
) -> str:
    """Mount the image read-only where the guest can see it; idempotent. Returns its name below `layers`.

    What is there from files that were damaged, and replaced since, gives way to the new ones.
    Called when it has to be mounted, `ids` gives a descriptor of the user namespace that maps its owners, -1 for none,
    and `pid` the process in whose mounts the guest sees the export, 0 for none.
    """
    name, files = image_name(image.id), identity(image)
    with beneath.Root(directory) as own:
        if _has(own, name):
            if _mounted_from(own, name) in (files, b""):
                return name
            remove_image(directory, image)
        own.make_directories("images", 0o700)
        own.write(f"images/{name}", files)
        own.make_directories(f"tree/layers/{name}", 0o755)
        # Of most images it is empty, and the guest asks less of one that is not there.
        if capabilities := _capabilities(os.path.dirname(image.merged)):
            own.write(f"tree/layers/{name}.filecaps", capabilities, 0o644)
        target = own.pin_for_mount(f"share/layers/{name}")
        try:
            mount_image(image, target, ids=ids())
        finally:
            os.close(target)
        try:
            _show(own, name, pid=pid)
        except BaseException:
            remove_image(directory, image)
            raise
    return name


def _capabilities(place: str) -> bytes:
    """The content of the image's file of capabilities; empty when it has none."""
    try:
        is_empty = not os.stat(f"{place}/filecaps").st_size
    except FileNotFoundError:
        return b""
    if is_empty:
        return b""
    with beneath.Root(place) as images:
        return images.read("filecaps")


def _show(own: beneath.Root, name: str, *, pid: Callable[[], int]) -> None:
    """Mount the image for `pid` as well, where the kernel does not: the share is private once a program has made all
    mounts of the host so (`mount --make-rprivate /`, which mmdebstrap does).
    """
    share = own.open_directory("share")
    try:
        if mount.is_shared(share) or not (seen_by := pid()):
            return
    finally:
        os.close(share)
    image = own.pin(f"share/layers/{name}")
    try:
        tree = mount.open_tree(image, recursive=False)
    finally:
        os.close(image)
    try:
        namespace.in_mounts_of(seen_by, lambda: _attach(tree, own.path, name=name))
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
        place = f"tree/layers/{name}"
        unmounting.freed(f"{directory}/{place}", lambda: own.remove_tree(place))
        own.unlink(f"tree/layers/{name}.filecaps")
        own.unlink(f"images/{name}")


def _unmount(directory: str, name: str) -> None:
    with beneath.Root(directory) as own:
        layers = own.open_directory("share/layers")
    try:
        namespace.in_directory(layers, lambda: unmount_image(name))
    finally:
        os.close(layers)


def identity(image: ImageFiles) -> bytes:
    """The inodes and times of the files that an image is mounted from; `none` when one of them is gone."""
    try:
        statuses = [os.stat(path) for path in (image.merged, *image.layers)]
    except FileNotFoundError:
        return b"none"  # the mount's own error is better
    return "".join(f"{one.st_ino} {one.st_mtime_ns}\n" for one in statuses).encode()


def _mounted_from(own: beneath.Root, name: str) -> bytes:
    """Empty if it was not recorded, as in earlier versions."""
    try:
        return own.read(f"images/{name}", ours=True)
    except FileNotFoundError:
        return b""


def read_image_files(directory: str, name: str, *, paths: Sequence[str]) -> list[str]:
    """Text files of the mounted image `name`, as a process chrooted into it would read them; empty ones for those that
    are absent.

    At most 1 MiB of each is read: the image is not trusted. Bytes that are not UTF-8 are replaced. Raises Exhausted.
    """
    try:
        with beneath.Root(directory) as own:
            root = own.open_directory(f"share/layers/{name}")
    except Exhausted:
        raise
    except KernelError:
        return [""] * len(paths)
    try:
        return [_text(root, path) for path in paths]
    finally:
        os.close(root)


def _text(root: int, path: str) -> str:
    try:
        return in_root.read(root, path, most=_MIB).decode(errors="replace")
    except Exhausted:  # no statement about the file
        raise
    except KernelError:
        return ""
