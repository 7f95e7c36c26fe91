# SPDX-License-Identifier: Apache-2.0
"""The layers of an image merged into one file system: the part of `merge` that runs in the confined process.

Whiteouts and opaque directories are applied; owner and mode of a directory that only a lower layer describes are that
layer's.
"""

import contextlib
import stat
from collections.abc import Sequence

from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.pod import own_kernel
from stage1.rootfs import facts
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.erofs import Attributes, Image
from stage1.rootfs.mkfs import make
from stage1.rootfs.surplus import find_surplus

Stack = Sequence[tuple[Image, facts.LayerFacts]]


# Revisions 1 to 3 of struct vfs_cap_data; the kernel takes nothing else, and one bad line would stop the agent.
_CAPABILITY_BYTES = (12, 20, 24)
MERGED, CAPABILITIES = "merged.erofs", "filecaps"
MOST_CAPABILITY_BYTES = 1 << 20
_OPTIONS = ("-Enosbcrc,force-inode-extended", "--ovlfs-strip=1")


def blob(number: int) -> str:
    """The name in `in` of a layer's blob, 0 for the lowest."""
    return f"{number}.erofs"


def known(number: int) -> str:
    """The name in `in` of a layer's facts."""
    return f"{number}.json"


def job(arguments: tuple[str, ...]) -> dict[str, str]:
    """`arguments`: the image's id, and how many layers are in `in`. Writes to `out`, and returns what a file in the
    image says of a kernel, as labels.

    A line of `filecaps` is the value of security.capability in hex, a space, and the absolute path: 9p does
    not carry that attribute, so the agent sets it again. Raises NoSpace, Corrupt, KernelError.
    """
    image_id, count = arguments
    merged, blobs = f"out/{MERGED}", [f"in/{blob(number)}" for number in range(int(count))]
    layers = [facts.load(f"in/{known(number)}") for number in range(int(count))]
    make(_OPTIONS, digest=image_id, image=merged, blobs=blobs)
    with Guard("merge", merged), contextlib.ExitStack() as scope:
        stack = [(scope.enter_context(Image(b, hides_all=k.is_opaque)), k) for b, k in zip(blobs, layers, strict=True)]
        image = scope.enter_context(Image(merged, writable=True))
        _remove_surplus(image, stack)
        _correct_directories(image, stack)
        caps = _filecaps(image, sorted({path for k in layers for path in k.capable}))
        kernel = _kernel(image, stack)
    if len(caps) > MOST_CAPABILITY_BYTES:
        raise Corrupt(f"the image {image_id} has too many files with capabilities; use another image")
    files.write_atomic(f"out/{CAPABILITIES}", caps)
    return kernel


def _remove_surplus(image: Image, stack: Stack) -> None:
    for path, names in find_surplus([blob for blob, _ in stack]):
        inode = image.find(path)
        if inode is not None and inode.is_directory():
            image.keep(inode, names)


def _correct_directories(image: Image, stack: Stack) -> None:
    # mkfs.erofs gives the root 0777, and believes what we had to make up in the uppermost layer.
    for path in sorted({"", *(p for _, known in stack for p in known.implicit)}):
        inode = image.find(path)
        if inode is not None and inode.is_directory():
            image.set_attributes(inode, _inherited(stack, path))


def _inherited(stack: Stack, path: str) -> Attributes:
    """The attributes of the directory `path`, from the uppermost layer that really has it."""
    for image, known in reversed(stack):
        inodes = list(image.walk(path))
        present = len(inodes) == 1 + len(path.split("/") if path else ())
        if not inodes[-1].is_directory():
            break
        if present and path not in known.implicit:
            return inodes[-1].attributes()
        if any(image.is_opaque(inode) for inode in (inodes[:-1] if present else inodes)):
            break
    return Attributes()


def _filecaps(image: Image, candidates: Sequence[str]) -> bytes:
    lines = []
    for path in candidates:
        inode = image.find(path)
        if inode is None or not stat.S_ISREG(inode.mode) or "\n" in path:
            continue
        value = image.xattr(inode, "security.capability")
        if value and len(value) in _CAPABILITY_BYTES:
            lines.append(f"{value.hex()} /{path}\n")
    return "".join(lines).encode("utf-8", "surrogateescape")


def _kernel(image: Image, stack: Stack) -> dict[str, str]:
    """The content of `own_kernel.FILE`, from the uppermost layer with that name, if it is visible in the image."""
    if image.find(own_kernel.FILE) is None:
        return {}
    for blob, _ in reversed(stack):
        if (inode := blob.find(own_kernel.FILE)) is None:
            continue
        if not stat.S_ISREG(inode.mode):
            return {own_kernel.FAULT: own_kernel.KIND}
        is_short = inode.size <= own_kernel.MOST_FILE_BYTES
        return own_kernel.of_file(blob.content(inode)) if is_short else {own_kernel.FAULT: own_kernel.SIZE}
    return {}
