# SPDX-License-Identifier: Apache-2.0
"""A kernel of its own that an image names: the values of its labels, validated. Pure.

Called by CreateContainer and by rkt with the labels of an image and the annotations of its manifest, which are
untrusted. An ACI has no capital letters in names, so urunc's labels match without them. docs/user/own-kernels.md lists
the keys. Files are not read here, but by `kernel_image`.
"""

import binascii
import json
from collections.abc import Mapping
from typing import NamedTuple

from stage1.errors import BadRequest, Unsupported

OURS, URUNC = "io.clearpod.kernel.", "com.urunc.unikernel."
"""The prefix of the keys."""
MOST_TEXT = 4096
"""Characters of one value."""
FILE, MOST_FILE_BYTES = "urunc.json", 8192
"""The file of urunc's tools in the image's root: the same keys, for runtimes that do not see annotations."""
FAULT = f"{OURS}file-fault"
"""The key in place of the file's where that is invalid: the value is one of `FAULTS`."""
KIND, SIZE, JSON, EMPTY = "kind", "size", "json", "empty"
FAULTS = {
    KIND: "is no regular file",
    SIZE: f"has more than {MOST_FILE_BYTES} bytes",
    JSON: "is no JSON object",
    EMPTY: f"has no key that begins with {URUNC} and whose value is a text",
}

NONE, ABSENT, LINUX, LINUX_INIT, SOLO5, RUMPRUN, OSV = (
    "none",
    "absent",
    "linux",
    "linux-init",
    "solo5",
    "rumprun",
    "osv",
)
UNIKRAFT, UNIKRAFT_OLD, MEWZ, HERMIT = "unikraft", "unikraft-old", "mewz", "hermit"
INCLUDEOS, FREEBSD = "includeos", "freebsd"
FORMS = (
    *(NONE, ABSENT, LINUX, LINUX_INIT, SOLO5, RUMPRUN, OSV, UNIKRAFT, UNIKRAFT_OLD, MEWZ, HERMIT, INCLUDEOS, FREEBSD),
)
"""The forms in which the kernel gets its address (own_command_line); with ABSENT it has no network device."""
MICROVM, MICROVM_PCI, Q35, PC = "microvm", "microvm-pci", "q35", "pc"
MACHINES = (MICROVM, MICROVM_PCI, Q35, PC)
"""The machines: with virtio-mmio, or virtio over PCI."""
ANY, MODERN = "any", "modern"
VIRTIOS = (ANY, MODERN)
"""Which virtio devices it knows: also those from before virtio 1.0, or only later ones, which have other PCI ids."""
PASSED, NOT_PASSED = "passed", "none"
ENVIRONMENTS = (PASSED, NOT_PASSED)
"""Whether it gets the container's environment variables, if its form of telling addresses has one for them."""
POWEROFF, RESET, DEBUG_EXIT, SOLO5_EXIT, HERMIT_EXIT = "poweroff", "reset", "debug-exit", "solo5", "hermit"
EXITS = (POWEROFF, RESET, DEBUG_EXIT, SOLO5_EXIT, HERMIT_EXIT)
"""The ways to report an exit code: none (with RESET a reset counts as powering off), or QEMU's device for that."""
_SUCCESSES = {SOLO5_EXIT: {41: 0}, HERMIT_EXIT: {1: 0, 0: 1}}
"""The values that mean success and failure there."""
RESET_CODE, PANIC_CODE = 133, 134
"""Exit codes of a kernel that reset its machine where it could power off, as systemd-nspawn's for a reboot, and of one
whose panic its hypervisor was told, as that of abort().
"""


class OwnKernel(NamedTuple):
    """A kernel in an image. `path`, `initrd` and `block` are paths in the image, the latter two empty for none.

    `arguments` are for the program in it, `block_mount` is where the block image is mounted, by forms that can pass it.
    An empty `path` stands for no kernel.
    """

    path: str = ""
    arguments: str = ""
    initrd: str = ""
    block: str = ""
    block_mount: str = ""
    network: str = NONE
    machine: str = MICROVM
    exit: str = POWEROFF
    virtio: str = ANY
    environment: str = PASSED

    @property
    def has_debug_exit(self) -> bool:
        """Whether it reports its exit code through a debug device of the VM."""
        return self.exit not in (POWEROFF, RESET)

    def may_reset(self, *, has_power_off: bool) -> bool:
        """Whether a reset is a regular end: the image sets it, or the kernel powers off and the machine can't."""
        return self.exit == RESET or (self.exit == POWEROFF and not has_power_off)

    def code(self, written: int) -> int:
        """The exit code, of what it has written to the debug device."""
        return _SUCCESSES.get(self.exit, {}).get(written, written)


_NOTHING = OwnKernel(machine=MICROVM, network="")


class _Kind(NamedTuple):
    """The defaults for a kind of unikernel."""

    network: str
    machine: str
    exit: str = POWEROFF
    virtio: str = ANY


_KINDS = {
    "mirage": _Kind(SOLO5, PC, SOLO5_EXIT),
    "solo5": _Kind(SOLO5, PC, SOLO5_EXIT),
    "rumprun": _Kind(RUMPRUN, PC),
    "osv": _Kind(OSV, PC),
    "unikraft": _Kind(UNIKRAFT, PC, SOLO5_EXIT),
    "linux": _Kind(LINUX_INIT, Q35),
    "mewz": _Kind(MEWZ, PC, DEBUG_EXIT, MODERN),
    "hermit": _Kind(HERMIT, PC, HERMIT_EXIT, MODERN),
    "includeos": _Kind(INCLUDEOS, PC),
    "freebsd": _Kind(FREEBSD, Q35),
}
_TRUE = ("1", "t", "true")
_MODERN_VMMS = ("firecracker", "cloud-hypervisor")
"""Monitors whose devices are of virtio 1.0."""
_OTHER_VMMS = ("hvt", "spt", "hedge", "muen", "genode", "xen", "hyperlight", "hyperlight-unikraft")
"""Monitors with an interface of their own, for which a kernel has to be built."""
_ENCODED = "b64:"
"""The prefix of a single base64 value, as newer tools of urunc's write it."""
_UNIKRAFT_NEW = (0, 16, 1)
"""The first Unikraft that takes `netdev.ip`."""


def read(labels: Mapping[str, str], *, image: str) -> OwnKernel | None:
    """The kernel that these labels of `image` name; None when they name none. Our own keys win.

    Raises BadRequest for a value that can't be, Unsupported for a kernel that no VM can boot.
    """
    require_no_fault(labels, image=image)
    labels = {key: text for key, text in labels.items() if key != FAULT}
    ours = {key.removeprefix(OURS): text for key, text in labels.items() if key.startswith(OURS)}
    theirs = {key.removeprefix(URUNC).lower(): text for key, text in labels.items() if key.startswith(URUNC)}
    if not ours and not theirs:
        return None
    for key, text in (*ours.items(), *theirs.items()):
        if len(text) > MOST_TEXT:
            raise BadRequest(
                f"the image {image} has the label {key} with {len(text)} characters of {MOST_TEXT} at most"
            )
    fields = _known(ours, image)
    try:
        kernel = _of_urunc(_plain(theirs), image) if theirs else _NOTHING
    except (BadRequest, Unsupported):
        if not fields.get("path") or not fields.get("network"):
            raise
        kernel = _NOTHING  # an image with two kernels, of which urunc's is for another monitor
    return _checked(kernel._replace(**fields), image)


def merged(*places: Mapping[str, str]) -> dict[str, str]:
    """The keys of a kernel in several places as one: of two values the later place's counts. urunc's are decoded where
    their type is beside them, since that tells whether they are encoded.
    """
    keys: dict[str, str] = {}
    for place in places:
        theirs = {key: text for key, text in place.items() if key.startswith(URUNC)}
        has_type = any(key.removeprefix(URUNC).lower() == "unikerneltype" for key in theirs)
        keys |= {key: text for key, text in place.items() if key.startswith(OURS)}
        keys |= _plain(theirs) if has_type else theirs
    return keys


def is_named(labels: Mapping[str, str]) -> bool:
    """Whether a kernel's file is among them, and not settings of one alone."""
    return any(labels.get(key) for key in (f"{OURS}path", f"{URUNC}binary"))


def is_setting(key: str) -> bool:
    """Whether it is the key of a label about a kernel."""
    return key.startswith((OURS, URUNC))


def of_file(data: bytes) -> dict[str, str]:
    """The content of a `FILE` as labels; `FAULT` if it is invalid."""
    if len(data) > MOST_FILE_BYTES:
        return {FAULT: SIZE}
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return {FAULT: JSON}
    if not isinstance(document, dict):
        return {FAULT: JSON}
    given = {key: text for key, text in document.items() if key.startswith(URUNC) and isinstance(text, str)}
    return _plain(given) if given else {FAULT: EMPTY}


def require_no_fault(labels: Mapping[str, str], *, image: str) -> None:
    """Raise BadRequest where an invalid file alone could name a kernel."""
    if FAULT in labels and not is_named(labels):
        raise BadRequest(
            f"the image {image} has the file {FILE}, which should name a kernel of its own and "
            f"{FAULTS.get(labels[FAULT], 'is invalid')}; correct it, or remove it from an image for ordinary containers"
        )


def _known(ours: Mapping[str, str], image: str) -> dict[str, str]:
    fields = {key.replace("-", "_"): text for key, text in ours.items()}
    if unknown := sorted(set(fields) - set(OwnKernel._fields)):
        raise BadRequest(
            f"the image {image} has the label {OURS}{unknown[0][:100]}, which is unknown; the last word must be one of "
            f"{', '.join(name.replace('_', '-') for name in OwnKernel._fields)}"
        )
    return fields


def _plain(theirs: Mapping[str, str]) -> dict[str, str]:
    """Decode values: as labels they are text, as annotations and in urunc.json base64, either all of them or those
    marked. A known type decides which: text can be valid base64 too.
    """
    theirs = {key: _decoded(text.removeprefix(_ENCODED)) if text.startswith(_ENCODED) else text
              for key, text in theirs.items()}  # fmt: skip
    word = next((text for key, text in theirs.items() if key.lower().endswith("unikerneltype")), "")
    if word.lower() in _KINDS:
        return dict(theirs)
    try:
        return {key: binascii.a2b_base64(text, strict_mode=True).decode() for key, text in theirs.items()}
    except ValueError:
        return dict(theirs)


def _decoded(text: str) -> str:
    """The decoded value; what is not base64 is returned unchanged, and is refused later as a path or a word."""
    try:
        return binascii.a2b_base64(text, strict_mode=True).decode()
    except ValueError:
        return _ENCODED + text


def _of_urunc(theirs: Mapping[str, str], image: str) -> OwnKernel:
    word, monitor = theirs.get("unikerneltype", "").lower(), theirs.get("hypervisor", "").lower()
    if monitor in _OTHER_VMMS:
        raise Unsupported(
            f"the kernel of the image {image} is built for the monitor {monitor}, and a VM here has virtio devices; "
            "build it for virtio"
        )
    if word not in _KINDS:
        raise BadRequest(
            f"the image {image} has a kernel of the type {word[:100]!r}, and clearpod knows {', '.join(_KINDS)}; "
            f"name its network form by {OURS}network and no type"
        )
    kind = _KINDS[word]
    _require_no_root(theirs, kind, image=image)
    is_old = word == "unikraft" and _version(theirs.get("unikernelversion", "")) < _UNIKRAFT_NEW
    return OwnKernel(
        path=theirs.get("binary", ""),
        arguments=theirs.get("cmdline", ""),
        initrd=theirs.get("initrd", ""),
        block=theirs.get("block", ""),
        block_mount=theirs.get("blkmntpoint", ""),
        network=UNIKRAFT_OLD if is_old else kind.network,
        machine=MICROVM if monitor == "firecracker" else kind.machine,
        exit=POWEROFF if monitor == "firecracker" and kind.exit == SOLO5_EXIT else kind.exit,  # it ends by a reset
        virtio=MODERN if monitor in _MODERN_VMMS else kind.virtio,
    )


def _require_no_root(theirs: Mapping[str, str], kind: _Kind, *, image: str) -> None:
    """Raise Unsupported where the kernel counts on the image's files as a disk or by 9p; some are asked for nothing."""
    asks = theirs.get("mountrootfs") or (
        theirs.get("usedmblock") if kind.network in (LINUX_INIT, RUMPRUN, FREEBSD) else ""
    )
    if (asks or "").lower() in _TRUE and not theirs.get("block") and not theirs.get("initrd"):
        raise Unsupported(
            f"the kernel of the image {image} needs the image's files as its root ({URUNC}mountRootfs or useDMBlock), "
            "which clearpod does not show to it; put them into an initrd or a block image"
        )


def _version(text: str) -> tuple[int, ...]:
    """Numbers of a version, without what follows them; of none, or of one that does not begin with some, the newest."""
    numbers = text.removeprefix("v").partition("-")[0].partition("+")[0].partition("~")[0]
    parts = numbers.split(".")
    is_one = all(part.isascii() and part.isdigit() and len(part) < 10 for part in parts)
    return tuple(map(int, parts)) if is_one else _UNIKRAFT_NEW


def _checked(kernel: OwnKernel, image: str) -> OwnKernel:
    if not kernel.path:
        raise BadRequest(f"the image {image} has labels of a kernel of its own and names none; set {OURS}path")
    kernel = kernel._replace(path=_rooted(kernel.path), initrd=_rooted(kernel.initrd), block=_rooted(kernel.block))
    for word, path in (("path", kernel.path), ("initrd", kernel.initrd), ("block", kernel.block)):
        if "," in path or not path.isprintable():
            raise BadRequest(
                f"the {word} of the kernel in the image {image} is {path[:100]!r}: it must be a path without a comma"
            )
    for word, value, known in (
        ("network", kernel.network, FORMS),
        ("machine", kernel.machine, MACHINES),
        ("exit", kernel.exit, EXITS),
        ("virtio", kernel.virtio, VIRTIOS),
        ("environment", kernel.environment, ENVIRONMENTS),
    ):
        if value not in known:
            given = f"is {value[:100]!r}" if value else "is not named"
            raise BadRequest(
                f"the {word} of the kernel in the image {image} {given}; set {OURS}{word} to one of {', '.join(known)}"
            )
    return kernel


def _rooted(path: str) -> str:
    """The absolute path: a relative one begins in the image's root, as with urunc."""
    return f"/{path.removeprefix('./')}" if path and not path.startswith("/") else path
