# SPDX-License-Identifier: Apache-2.0
"""Debian's own kernel as a guest's, without compiling one: `linux-image-amd64`, from the host where it is installed,
else from its package, of which nothing is installed.

Made into `vmlinux-stock` (the ELF file inside the packed kernel: what QEMU boots, by PVH), `bzImage-stock` (the packed
one: what kvmtool loads), `initramfs-stock` with the modules that a pod needs to boot, and system images with the
others, which the kernel loads when a program uses them. docs/design/kernel.md
"""

import os
import re
import struct
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from lib import cache, cpio, system, tools

META, VARIANT = "linux-image-amd64", "stock"
LOADER, MODPROBE = Path(__file__).with_name("loader.c"), Path(__file__).with_name("modprobe.c")
COMPILE = ("musl-gcc", "-std=c17", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Os", "-g0", "-static", "-s")
PLACE = "usr/lib/clearpod"
BOOT = (
    *("crc32c_generic", "virtio_blk", "virtio_net", "virtio_balloon", "virtio_rng", "9p", "9pnet_virtio"),
    *("erofs", "overlay", "ext4", "vmw_vsock_virtio_transport", "ip_tables", "ip6_tables"),
)
"""Modules that are loaded before the agent begins, each behind those that it needs. `crc32c_generic` is named since
erofs and ext4 ask for it by an alias only; the last two since iptables-legacy expects modprobe in its container to load
them, and the kernel itself asks for their tables, but not for them."""
KEPT = re.compile(
    "(arch|block|crypto|fs|lib|net)/.*|drivers/(block|crypto/virtio|dax|md|nvdimm|virtio)/.*"
    "|drivers/net/([^/]+|(bonding|ipvlan|ppp|team|vxlan|wireguard)/.*)"
)
"""The modules beside: not the drivers of hardware that no pod has, which are two thirds of all."""
PARAMETERS = {"bonding": "max_bonds=0", "dummy": "numdummies=0", "ifb": "numifbs=0"}
"""Without these parameters the modules make devices in the network namespace as they are loaded."""
MAGIC = {
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ": "xz",
    b"\x1f\x8b": "gzip",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x02\x21\x4c\x18": "lz4",
}
HDRSIZE, PAYLOAD = 0x1F1, 0x248
"""setup_sects and payload_offset in a bzImage: Documentation/arch/x86/boot.rst."""


class Kernel(NamedTuple):
    """A packed kernel, the directory of its modules with their lists (modules.dep), and its release."""

    image: Path
    modules: Path
    release: str


def find(cache_dir: Path) -> Kernel:
    """The newest of Debian's kernels for amd64 that is installed, else the package's. Raises BuildFailed."""
    for image in sorted(Path("/boot").glob("vmlinuz-*-amd64"), key=_version, reverse=True):
        release = image.name.removeprefix("vmlinuz-")
        place = Path("/lib/modules") / release
        if "cloud" not in release and (place / "modules.dep").exists() and any((place / "kernel/fs/9p").glob("9p.ko*")):
            return Kernel(image, place, release)
    tools.need({"apt-cache": "apt", "dpkg-deb": "dpkg", "depmod": "kmod"})
    match = re.search(r"Depends: (linux-image-\S+)", tools.run(["apt-cache", "depends", META]))
    if not match:
        raise cache.BuildFailed(f"apt knows no package {META}; run `apt-get update`, or install Debian's kernel")
    package = match[1]
    place = cache.built(cache_dir, "stock-kernel", package, lambda out: _unpack(package, out))
    release = package.removeprefix("linux-image-")
    return Kernel(place / f"boot/vmlinuz-{release}", place / "usr/lib/modules" / release, release)


def _version(image: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", image.name)]


def _unpack(package: str, out: Path) -> None:
    cache.say(f"fetching {package} from Debian (109 MB)")
    tools.run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", package], cwd=out)
    (deb,) = out.glob("*.deb")
    tools.run(["dpkg-deb", "-x", deb, out])
    deb.unlink()
    tools.run(["depmod", "-b", out / "usr", package.removeprefix("linux-image-")])


def build(
    cache_dir: Path, agents: Mapping[str, Path], contents: Mapping[str, tuple[system.Content, str]]
) -> dict[str, Path]:
    """The name of each file, and where it is. `agents` are the agent's programs, and `contents` what is in a system
    image and its UUID, both by profile ("" is the ordinary one). Raises BuildFailed.
    """
    tools.need({"musl-gcc": "musl-tools", "objcopy": "binutils", "xz": "xz-utils", **system.PROGRAMS})
    kernel = find(cache_dir)
    index = Index(kernel.modules)
    key = cache.hash_of([kernel.image, Path(__file__)])
    place = cache.built(cache_dir, "stock", key, lambda out: _kernels(kernel, out))
    made = {f"{name}-{VARIANT}": place / name for name in ("vmlinux", "bzImage")}
    for profile, agent in agents.items():
        key = cache.hash_of([agent, LOADER, Path(__file__), kernel.release, Path(cpio.__file__)])
        name = "-".join(word for word in ("initramfs", profile, VARIANT) if word)
        place = cache.built(cache_dir, "stock-initramfs", key, lambda out, one=agent: _initramfs(index, one, out))
        made[name] = place / "initramfs"
    for profile, (content, uuid) in contents.items():
        name = "-".join(word for word in ("system", profile, VARIANT) if word) + ".erofs"
        key = cache.hash_of([*system.inputs(content), MODPROBE, Path(__file__), kernel.release])
        make = lambda out, what=content, ident=uuid: _system(index, what, ident, out)  # noqa: E731
        made[name] = cache.built(cache_dir, "stock-system", key, make) / "system.erofs"
    return made


class Index:
    """Which modules there are, what each needs, and the names by which the kernel asks for them: depmod's lists."""

    def __init__(self, directory: Path) -> None:
        self.files: dict[str, Path] = {}
        self.needs: dict[str, list[str]] = {}
        for line in (directory / "modules.dep").read_text().splitlines():
            path, _, needed = line.partition(":")
            name = _name(path)
            self.files[name] = directory / path
            self.needs[name] = [_name(one) for one in reversed(needed.split())]
        lines = (line.split() for line in (directory / "modules.alias").read_text().splitlines())
        self.aliases = [
            (_normalised(words[1]), _normalised(words[2]))
            for words in lines
            if len(words) == 3 and words[0] == "alias" and not set(words[1]) & set("*?[")
        ]
        kernel = directory / "kernel"
        self.kept = [name for name, path in sorted(self.files.items()) if KEPT.fullmatch(str(path.relative_to(kernel)))]

    def in_order(self, names: Iterable[str]) -> list[str]:
        """The modules, each behind those that it needs."""
        order = [one for name in names for one in (*self.needs[name], name)]
        return list(dict.fromkeys(order))

    def text(self) -> str:
        """The file by which modprobe.c finds modules: a name, and the modules behind it in the order of loading."""
        behind: dict[str, list[str]] = {name: [name] for name in self.kept}
        for alias, name in self.aliases:
            if name in self.files and name in self.kept:
                behind.setdefault(alias, []).append(name)
        words = ((alias, self.in_order(names)) for alias, names in sorted(behind.items()))
        return "".join(f"{alias} {' '.join(map(_word, names))}\n" for alias, names in words)


def _name(path: str) -> str:
    return _normalised(path.rpartition("/")[2].partition(".ko")[0])


def _normalised(name: str) -> str:
    """With `_` where it has `-`, as the kernel compares names."""
    return name.replace("-", "_")


def _word(name: str) -> str:
    return f"{name},{PARAMETERS[name]}" if name in PARAMETERS else name


def _kernels(kernel: Kernel, out: Path) -> None:
    packed = kernel.image.read_bytes()
    (out / "bzImage").write_bytes(packed)
    (out / "vmlinux").write_bytes(unpacked(packed, name=str(kernel.image)))


def unpacked(packed: bytes, *, name: str) -> bytes:
    """The ELF file inside a bzImage. Raises BuildFailed."""
    start, length = struct.unpack_from("<II", packed, PAYLOAD)
    start += ((packed[HDRSIZE] or 4) + 1) * 512
    payload = packed[start : start + length]
    program = next((one for magic, one in MAGIC.items() if payload.startswith(magic)), "")
    if not program:
        raise cache.BuildFailed(f"{name} is packed by a program that is not known here: {payload[:4].hex()}")
    tools.need({program: {"xz": "xz-utils"}.get(program, program)})
    # Behind the payload is its length, 4 bytes, which these programs would take for a damaged frame.
    done = subprocess.run([program, "-dc"], input=payload[:-4], capture_output=True)
    if not done.stdout.startswith(b"\x7fELF"):
        raise cache.BuildFailed(f"{program} could not unpack {name}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout


def _initramfs(index: Index, agent: Path, out: Path) -> None:
    """Modules without what debuggers read and without their signatures, which each boot would check."""
    tools.run([*COMPILE, LOADER, "-o", out / "loader"], env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
    order = index.in_order(BOOT)
    entries = [
        cpio.Entry("dev", cpio.S_DIR | 0o755),
        cpio.Entry("dev/console", cpio.S_CHAR | 0o600, device=(5, 1)),
        cpio.Entry("root", cpio.S_DIR | 0o755),
        cpio.Entry("init", cpio.S_FILE | 0o755, (out / "loader").read_bytes()),
        cpio.Entry("agent", cpio.S_FILE | 0o755, agent.read_bytes()),
        cpio.Entry("modules", cpio.S_DIR | 0o755),
        cpio.Entry("modules/order", cpio.S_FILE | 0o644, "".join(f"{name}.ko\n" for name in order).encode()),
    ]
    module = out / "module.ko"
    for name in order:
        module.write_bytes(_content(index.files[name]))
        tools.run(["objcopy", "--strip-debug", module])
        entries.append(cpio.Entry(f"modules/{name}.ko", cpio.S_FILE | 0o644, module.read_bytes()))
    (out / "initramfs").write_bytes(cpio.archive(entries))
    module.unlink()
    (out / "loader").unlink()


def _content(path: Path) -> bytes:
    programs = {".xz": "xz", ".zst": "zstd", ".gz": "gzip"}
    if path.suffix not in programs:
        return path.read_bytes()
    return subprocess.run([programs[path.suffix], "-dc", path], check=True, capture_output=True).stdout


def _system(index: Index, content: system.Content, uuid: str, out: Path) -> None:
    """The modules stay packed as they are: the kernel unpacks them (MODULE_DECOMPRESS)."""
    tools.run([*COMPILE, MODPROBE, "-o", out / "modprobe"], env={"PATH": os.environ["PATH"], "LC_ALL": "C"})
    (out / "index").write_text(index.text())
    wanted = {name: index.files[name] for name in index.in_order(index.kept)}
    packed = {f"{PLACE}/modules/{name}.ko{path.name.partition('.ko')[2]}": path for name, path in wanted.items()}
    copies = {
        f"{PLACE}/modprobe": out / "modprobe",
        f"{PLACE}/modules/index": out / "index",
        **packed,
    }
    system.make(content._replace(copies={**content.copies, **copies}), out / "system.erofs", uuid=uuid)
