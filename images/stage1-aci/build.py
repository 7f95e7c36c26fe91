# SPDX-License-Identifier: Apache-2.0
"""The stage1 image of rkt: an ACI with all that a pod needs of us, so that a host needs no clearpod and no Python.

`tree` makes what is inside, the ACI is that tree packed. README.md beside this file tells where things are in it,
and known to the launcher and to stage1/rkt.
"""

import ast
import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from lib import bytecode, cache, elf, imports, startup, tar, tools

SOURCE = Path(__file__).resolve().parents[2]
LIB = SOURCE / "images" / "lib"
PROGRAM = "stage1"
HOME = "usr/lib/clearpod"
NAME = "clearpod.io/stage1"
ENTRIES = ("run", "enter", "stop", "gc", "attach", "app_add", "app_start", "app_stop", "app_rm")
INTERFACE = "6"
AC_VERSION = "0.8.11"

PLUGIN_LINKS = "usr/lib/rkt/plugins/net"
DIRECTORIES = (
    *("etc/rkt/net.d", "opt/stage2", PLUGIN_LINKS),
    *("rkt/status", "rkt/env", "rkt/iottymux", "rkt/volumes"),
)
FILES = {
    "etc/hosts-fallback": "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n",
    "etc/os-release": 'NAME="clearpod stage1"\nID=clearpod\n',
}
LINKS = {"etc/mtab": "../proc/self/mounts", "flavor": "clearpod"}
FILTERS = ("seccomp-qemu.bpf", "seccomp-kvmtool.bpf")
BOOTED = ("vmlinux", "bzImage", "initramfs", "system.erofs")
"""What a variant of the kernel has its own of."""
GUEST_FILES = (*BOOTED, "lkvm-shim.so", "jailer", "own-init", *FILTERS)
PROFILES = {"systemd": ("initramfs-systemd", "system-systemd.erofs")}
"""Files of further profiles, put in where they were built: a pod asks for one."""
PLUGINS = ("bridge", "host-local", "macvlan", "portmap", "ptp", "static")
"""What rkt's own configurations need, and what people write into theirs."""
MKFS = "mkfs.ext4"
PLUGIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")

PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
STDLIB_FIRST = ("os", "encodings.utf_8", "encodings.aliases", "encodings.ascii", "encodings.latin_1")
OMITTED = ("_hashlib", "_ssl", "_bz2", "_lzma")
"""Of the standard library, which does without: they would bring megabytes of libraries."""
LEAN = Path(__file__).parent / "lean"
"""Modules in place of the library's, which take longer to load."""
RUN_MODULES = Path(__file__).with_name("run-modules.txt")
"""Names of the modules that `run` loads for a pod with a network that is a copy of a template: they are read at once.
A name too many or too few costs a little time. `scripts/bench entry --modules` writes it.
"""


class Parts(NamedTuple):
    """What is put in: the launcher, the guest's files, kvmtool if there is one, the network plugins, what makes disks.

    `profile` and the variant `kernel` are those of pods that ask for none; empty is the ordinary one. `plain` Python
    is compiled as it is written, and loads slower: to tell a fault of it from one of the steps in lib/startup.py.
    """

    launcher: Path
    guest: Path
    lkvm: Path | None
    plugins: tuple[Path, ...]
    mkfs: Path
    profile: str = ""
    kernel: str = ""
    plain: bool = False

    @property
    def suffix(self) -> str:
        """What names of an image for a profile or a kernel end with."""
        return "".join(f"-{name}" for name in (self.profile, self.kernel) if name)

    @property
    def guest_files(self) -> list[str]:
        """By name; some may be missing, but not of a profile that is not `profile`."""
        more = [names for name, names in PROFILES.items() if name == self.profile or self._has(names)]
        files = [file for names in more for file in names]
        return [*GUEST_FILES, *files, *(map(self._of_kernel, (*BOOTED, *files)) if self.kernel else ())]

    def _of_kernel(self, name: str) -> str:
        """The file that the variant has in place of `name`."""
        stem, dot, suffix = name.partition(".")
        return f"{stem}-{self.kernel}{dot}{suffix}"

    def _has(self, names: tuple[str, ...]) -> bool:
        return all((self.guest / name).exists() for name in names)


def file_name(parts: Parts) -> str:
    """The archive's."""
    return f"clearpod-stage1{parts.suffix}.aci"


def find_parts(launcher: Path, guest: Path, profile: str = "", *, kernel: str = "", plain: bool = False) -> Parts:
    """What this machine has. Raises BuildFailed when something is missing that rkt needs."""
    tools.need({"ldd": "libc-bin", MKFS: "e2fsprogs"})
    plugins = [next((f for f in (Path(d, name) for d in PLUGIN_DIRS) if f.exists()), None) for name in PLUGINS]
    if None in plugins:
        raise cache.BuildFailed(
            f"no CNI plugins {' '.join(PLUGINS)} in {' or '.join(PLUGIN_DIRS)}; "
            "install with: apt-get install --no-install-recommends containernetworking-plugins"
        )
    lkvm = shutil.which("lkvm")
    mkfs = Path(shutil.which(MKFS) or "")
    programs = Path(lkvm) if lkvm else None, tuple(path for path in plugins if path), mkfs
    return Parts(launcher, guest, *programs, profile=profile, kernel=kernel, plain=plain)


def build_tree(home: Path, parts: Parts) -> Path:
    """The directory with `manifest` and `rootfs`, as they are in the archive. It lies below `home`."""

    def make(out: Path) -> None:
        tree(out / "rootfs", parts)
        (out / "manifest").write_text(json.dumps(manifest(parts), indent=1) + "\n")
        (out / "manifest").chmod(0o644)

    return _only(home, "tree", cache.hash_of(_inputs(parts)), make)


def build(home: Path, parts: Parts) -> Path:
    """The directory with the archive, `file_name(parts)`. It lies below `home`."""
    place = build_tree(home, parts)
    return _only(home, "aci", place.name, lambda out: tar.pack(place, out / file_name(parts)))


def _only(home: Path, kind: str, key: str, make: Callable[[Path], None]) -> Path:
    """As `cache.built`, but of the kind there is no other afterwards: each edit in stage1 makes a new one, and they are
    large.
    """
    place = cache.built(home, kind, key, make)
    for other in place.parent.iterdir():
        if other.is_dir() and not other.suffix and other != place:
            shutil.rmtree(other, ignore_errors=True)
    return place


def _inputs(parts: Parts) -> list[str | Path]:
    guest = [parts.guest / name for name in parts.guest_files if (parts.guest / name).exists()]
    python = tools.package_version(f"libpython{PYTHON.name.removeprefix('python')}-stdlib")
    mine = [Path(__file__).parent, *sorted(LIB.glob("*.py")), SOURCE / "stage1", SOURCE / "cri" / "__init__.py"]
    settings = [sys.version, python, parts.profile, *([f"kernel {parts.kernel}"] if parts.kernel else ())]
    settings += ["plain"] if parts.plain else []
    return [*settings, PYTHON, *mine, parts.launcher, *guest, *parts.plugins, parts.mkfs, *_present(parts.lkvm)]


def _present(path: Path | None) -> list[Path]:
    return [path] if path else []


def manifest(parts: Parts) -> dict[str, object]:
    """The image's manifest: an entry point for each command of rkt, and what has to be on the host."""
    annotations = {f"coreos.com/rkt/stage1/{name.replace('app_', 'app/')}": f"/{name}" for name in ENTRIES}
    annotations["coreos.com/rkt/stage1/interface-version"] = INTERFACE
    annotations["clearpod.io/needs"] = "iptables" + ("" if parts.lkvm else " qemu-system-x86_64|lkvm")
    labels = {"version": version(), "arch": "amd64", "os": "linux"}
    return {
        "acKind": "ImageManifest",
        "acVersion": AC_VERSION,
        "name": f"{NAME}{parts.suffix}",
        "labels": [{"name": name, "value": value} for name, value in labels.items()],
        "annotations": [{"name": name, "value": value} for name, value in annotations.items()],
    }


def version() -> str:
    """clearpod's, which is the image's too."""
    version = re.search(r'^__version__ = "(.*)"$', (SOURCE / "cri" / "__init__.py").read_text(), re.MULTILINE)
    if not version:
        raise cache.BuildFailed("cri/__init__.py says no __version__")
    return version[1]


def tree(root: Path, parts: Parts) -> None:
    """Make the image's root file system at `root`, which must not exist."""
    for name in DIRECTORIES:
        (root / name).mkdir(parents=True)
    for name, text in FILES.items():
        (root / name).write_text(text)
    for name, target in LINKS.items():
        (root / name).symlink_to(target)
    shutil.copyfile(parts.launcher, root / "launcher")
    for name in ENTRIES:
        (root / name).symlink_to("launcher")
    _add_guest(root / HOME, parts)
    more = [*filter(elf.is_dynamic, (*_present(parts.lkvm), parts.mkfs, *parts.plugins))]
    _add_python(root / HOME / "python", more, plain=parts.plain)
    for plugin in parts.plugins:
        _add_plugin(root, plugin)
    _fix_modes(root)


def _add_guest(home: Path, parts: Parts) -> None:
    (home / "guest").mkdir(parents=True)
    for name in parts.guest_files:
        if not (parts.guest / name).exists():
            part = parts.kernel if parts.kernel and parts.kernel in name else "all"
            raise cache.BuildFailed(f"{parts.guest / name} is missing; build it with: images/build {part}")
        shutil.copyfile(parts.guest / name, home / "guest" / name)
    for name, chosen in (("profile", parts.profile), ("kernel", parts.kernel)):
        if chosen:
            (home / name).write_text(f"{chosen}\n")
    for name in ("bin", "loaded", "plugins"):
        (home / name).mkdir()
    if parts.lkvm:
        _add_program(home, parts.lkvm, Path("bin/lkvm"))
    # Not in `bin`, where it would be found without its loader.
    _add_program(home, parts.mkfs, Path("plugins" if elf.is_dynamic(parts.mkfs) else "bin") / MKFS)


def _add_program(home: Path, source: Path, place: Path) -> None:
    """With a link that starts it by the image's loader, if it needs that."""
    shutil.copyfile(source, home / place)
    if elf.is_dynamic(source):
        (home / "loaded" / place.name).symlink_to("../../../../launcher")


def _add_plugin(root: Path, plugin: Path) -> None:
    """Where rkt has plugins, or a link to the launcher there if it needs the image's loader."""
    if elf.is_dynamic(plugin):
        shutil.copyfile(plugin, root / HOME / "plugins" / plugin.name)
        (root / PLUGIN_LINKS / plugin.name).symlink_to("../../../../../launcher")
    else:
        shutil.copyfile(plugin, root / PLUGIN_LINKS / plugin.name)


def _add_python(home: Path, more: list[Path], *, plain: bool) -> None:
    """An interpreter with its loader and libraries, which also serve the programs `more`, and what it runs."""
    own = (SOURCE,) if plain else (LEAN, SOURCE)
    tree = imports.parsed if plain else _lean
    modules = imports.closure(_roots(), own, without=OMITTED, tree=tree)
    shared = [module.path for module in modules if module.path.suffix == ".so"]
    for name in ("bin", "lib"):
        (home / name).mkdir(parents=True)
    shutil.copyfile(PYTHON, home / "bin" / "python3")
    for library in elf.libraries([PYTHON, *shared, *more]):
        target = home / "ld.so" if library == elf.loader_of(PYTHON) else home / "lib" / library.name
        shutil.copyfile(library, target)
    _add_first(home / "lib" / PYTHON.name, imports.closure(STDLIB_FIRST, own, tree=tree))
    for path in shared:
        shutil.copyfile(path, home / "lib" / PYTHON.name / "lib-dynload" / path.name)
    _add_modules(home.parent, [module for module in modules if module.path.suffix != ".so"], plain=plain)


def _lean(module: imports.Module) -> ast.Module:
    """The module as it is packed: without imports that only annotations use."""
    tree = imports.parsed(module)
    return startup.lean(tree, lambda name: bool(imports.find(name, (SOURCE,)))) if _is_program(module) else tree


def _is_program(module: imports.Module) -> bool:
    return module.name.partition(".")[0] == PROGRAM


def _roots() -> list[str]:
    """All of rkt's side of stage1, and what it needs."""
    names = [path.relative_to(SOURCE) for room in ("entry", "rkt") for path in (SOURCE / "stage1" / room).glob("*.py")]
    return [".".join(name.with_suffix("").parts).removesuffix(".__init__") for name in names]


def _add_first(library: Path, modules: list[imports.Module]) -> None:
    """What the interpreter takes from its library before it runs anything. By `os` it knows that it is its library."""
    jobs = []
    for module in modules:
        target = (library / _file(module)).with_suffix(".pyc")
        target.parent.mkdir(parents=True, exist_ok=True)
        jobs.append((module.path, target, _file(module)))
    (library / "lib-dynload").mkdir()
    bytecode.compile_all(jobs)


def _add_modules(home: Path, modules: list[imports.Module], *, plain: bool) -> None:
    bytecode.compile_all([(Path(__file__).with_name("start.py"), home / "start.pyc", "start.py")])
    packed = [(one.name, one.is_package, one.path, _file(one)) for one in modules]
    together = {one.name for one in modules} & set(RUN_MODULES.read_text().split())
    bytecode.pack(home / "modules", packed, program=PROGRAM, together=together, plain=plain)


def _file(module: imports.Module) -> str:
    """Where a library has the module."""
    return module.name.replace(".", "/") + ("/__init__.py" if module.is_package else ".py")


def _fix_modes(root: Path) -> None:
    """Whatever the umask was, and whatever the files had: what an ELF or a directory is can be run."""
    for path in (root, *root.rglob("*")):
        if path.is_symlink():
            continue
        is_program = path.is_dir() or path.read_bytes()[:4] == b"\x7fELF"
        path.chmod(0o755 if is_program else 0o644)
