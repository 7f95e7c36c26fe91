# SPDX-License-Identifier: Apache-2.0
"""Images that bring a kernel of their own: the test's hello, built by tests/kernels, and Debian's with an initramfs.

For the tests of such pods.
"""

import gzip
import io
import lzma
import struct
import tarfile
from collections.abc import Mapping
from pathlib import Path

from stage1.pod.own_kernel import OURS
from tests.fakes import sample
from tests.fakes.c_program import CHECKOUT, make
from tests.fakes.cpio import newc
from tests.fakes.oci_layout import Entry, Layer, Layout, file, tar
from tests.fakes.registry import Registry
from tests.lab.debian_kernel import debian_kernel, default_cache


def hello() -> bytes:
    """The kernel of tests/kernels/hello.c."""
    out = CHECKOUT / "build" / "cache" / "test-kernels"  # the lab can write there
    make(CHECKOUT / "tests" / "kernels", out)
    return (out / "hello").read_bytes()


_PRINT = "ac 84c0 7403 ee ebf8"
"""lodsb; test al, al; jz past this; out dx, al; jmp to its beginning."""


def multiboot() -> bytes:
    """A flat multiboot kernel that says its command line and, if it has a module, that of the first one, and ends by
    QEMU's debug device with 0.
    """
    flags, base = 1 << 16, 0x100000
    header = struct.pack("<8I", 0x1BADB002, flags, -(0x1BADB002 + flags) & 0xFFFFFFFF, base, base, 0, 0, base + 32)
    code = f"8b7310 66baf803 {_PRINT} b00aee 837b1400 740e 8b7b18 8b7708 {_PRINT} 66ba0105 b000ee ebfe"
    return header + bytes.fromhex(code)


def wrong() -> dict[str, bytes]:
    """Files that are no kernels for this host: a text, one for another processor, one that is cut off."""
    kernel = bytearray(hello())
    kernel[18:20] = b"\xb7\0"
    return {"text": b"#!/bin/sh\n", "arm": bytes(kernel), "cut": hello()[:5000]}


WRONG = (
    ({"path": "/no"}, "/no"),
    ({"path": ""}, "path"),
    ({"path": "/text"}, "not a kernel"),
    ({"path": "/arm"}, "aarch64"),
    ({"path": "/cut"}, "truncated"),
    ({"network": ""}, "network"),
    ({"network": "dhcp"}, "dhcp"),
    ({"machine": "isapc"}, "isapc"),
    ({"exit": "maybe"}, "maybe"),
    ({"virtio": "2"}, "virtio"),
    ({"environment": "some"}, "environment"),
    ({"initrd": "/no"}, "initrd"),
)
"""Labels beside those of a right one, and what is named when they are refused."""


def labelled(**labels: str) -> dict[str, str]:
    """Labels of ours: `path`, `network` and so on."""
    return {f"{OURS}{key.replace('_', '-')}": text for key, text in labels.items()}


def push(registry: Registry, place: Path, name: str, *, files: list[Entry], labels: Mapping[str, str]) -> str:
    """An image of these files with these labels in the registry; its reference."""
    layout = Layout(place / name.replace("/", "-").replace(":", "-"))
    image = layout.image([Layer(tar(files))], config={"Labels": dict(labels)})
    return registry.push(layout.tag("1", image), name)


def hello_image(registry: Registry, place: Path, name: str, **labels: str) -> str:
    """One with hello as /kernel, told its address as Linux is."""
    given = {"path": "/kernel", "network": "linux", **labels}
    return push(registry, place, name, files=[file("kernel", hello(), 0o755)], labels=labelled(**given))


INIT = b"""#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t devtmpfs dev /dev
for one in failover net_failover virtio_net evdev button; do insmod /modules/$one.ko; done
for word in $(cat /proc/cmdline); do
    case $word in
    ip=*) set -- $(echo "${word#ip=}" | tr : ' ')
          ifconfig lo up && ifconfig eth0 "$1" netmask "$3" && route add default gw "$2" ;;
    esac
done
mkdir /w && echo "from the kernel" > /w/f && httpd -p 80 -h /w
echo "a kernel of $(uname -s) is ready"
mkfifo /pressed
for one in /dev/input/event*; do head -c 24 $one > /pressed & done
head -c 24 /pressed > /dev/null
echo "the button was pressed"
poweroff -f
"""
"""For Debian's kernel: its network by `ip=`, which that kernel does not read itself, a web server, the power button."""
MODULES = ("failover", "net_failover", "virtio_net", "evdev", "button")


def debian_files(guest_dir: Path, *, init: bytes = INIT) -> list[Entry]:
    """/kernel, a bzImage of Debian's, and /initrd with busybox, the modules that INIT needs, and `init`."""
    kernel = debian_kernel(default_cache())
    entries = [*_busybox(guest_dir), ("init", 0o100755, init)]
    for name in MODULES:
        (packed,) = kernel.modules.rglob(f"{name}.ko.xz")
        entries.append((f"modules/{name}.ko", 0o100644, lzma.decompress(packed.read_bytes())))
    return [file("kernel", kernel.image.read_bytes()), file("initrd", gzip.compress(newc(entries), 1))]


def plain_files(guest_dir: Path, *, init: bytes) -> list[Entry]:
    """The same of the kernel that our guests have, which needs no modules and is quick wherever it is emulated."""
    entries = [*_busybox(guest_dir), ("init", 0o100755, init)]
    return [file("kernel", (guest_dir / "bzImage").read_bytes()), file("initrd", newc(entries))]


def _busybox(guest_dir: Path) -> list[tuple[str, int, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(sample.busybox(guest_dir).tar)) as tar:
        member = tar.extractfile("bin/busybox")
        assert member
        program = member.read()
    entries = [(name, 0o040755, b"") for name in ("bin", "dev", "proc", "modules")]
    return [*entries, ("bin/busybox", 0o100755, program)]
