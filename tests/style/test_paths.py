# SPDX-License-Identifier: Apache-2.0
"""Files that a guest or a VMM can write are reached through stage1/linux/beneath alone.

Every call that goes by a path is found in the source. A module either makes none, or is listed with what it may call
and whose paths those are: never paths below a pod's directory, a volume, an image's root or a log directory.
"""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from . import py_scan
from .repo import ROOT, of, report, where

pytestmark = pytest.mark.style

BY_PATH = frozenset(
    "open access chmod chown lchown link listdir listxattr getxattr setxattr lstat makedirs mkdir mkfifo mknod "
    "readlink remove removedirs rename renames replace rmdir scandir stat statvfs symlink truncate unlink utime "
    "walk fwalk".split()
)
OF_PATH = frozenset("exists lexists isdir isfile islink ismount getsize getmtime realpath samefile".split())
OF_FILES = frozenset("write_atomic add_line read make_dirs remove_tree remove_unmounted unlink".split())
MODULES = ("shutil", "glob", "tempfile", "pathlib", "io")
HOST = "files of the host's own: its programs, devices, /proc, /sys, /etc"
STATE = "the state directory, which no guest and no VMM sees"
IMAGES = "layers and images in the state directory: only their content is foreign"
GUEST = "the guest's kernel and images, and programs, which are part of the installation"
NET = "the CNI configuration and the records of networks, which no guest and no VMM sees"
CLIENT = "a path of the client's, who is root of this host: where it leads is for him to say"
KUBELET = "the kubelet's directory of the pod and the places of volumes in it, where no guest makes or renames one"
NOT_STARTED = "the VMM has not begun yet, so nobody writes there"
TRIAL = "a directory of the check's own"
RKT = "rkt's directory of the pod, above the apps' roots, which no guest and no VMM sees"
OURS = "the daemon's run directory, above those of the pods"
SELF = "the way itself"
TOP = "the top of the pod's directory, which is root's alone and not in the jail"
VMM = "/proc of a VMM, for people to read"

ALLOWED: dict[str, dict[str, str]] = {
    "cri/__main__.py": {"os.open": HOST},
    "cri/cli/check/facts.py": dict.fromkeys(
        "open os.path.exists os.path.isdir os.path.isfile os.path.realpath os.statvfs".split(), HOST
    ),
    "cri/cli/check/trial_mounts.py": dict.fromkeys(
        ("files.make_dirs", "files.read", "files.write_atomic", "os.open"), TRIAL
    ),
    "cri/cli/check/start.py": dict.fromkeys(("os.path.exists", "os.path.isdir"), "the run directory and the socket"),
    "cri/cli/run/claimed_name.py": dict.fromkeys(
        "files.unlink os.listdir os.makedirs os.open os.path.isdir os.stat os.unlink".split(), OURS
    ),
    "cri/cli/run/cp.py": dict.fromkeys(
        "open os.link os.path.exists os.path.isdir os.path.lexists os.path.realpath".split(),
        "the paths that the user names; what the container's archive names is below a Root",
    ),
    "cri/cli/run/foreground.py": dict.fromkeys(("os.listdir", "os.makedirs", "os.path.exists", "os.unlink"), OURS),
    "cri/cli/images.py": {"os.access": HOST},
    "cri/cli/check/init.py": dict.fromkeys(
        ("files.write_atomic", "open", "os.makedirs", "os.path.exists", "os.path.lexists"), CLIENT
    ),
    "cri/cli/view/ksm.py": dict.fromkeys(("os.listdir", "os.path.exists"), HOST),
    "cri/cli/check/proposal.py": dict.fromkeys(("os.path.isdir", "os.statvfs"), HOST),
    "cri/cli/run/sample.py": {"os.path.exists": GUEST},
    "cri/cli/check/unit.py": dict.fromkeys(
        ("files.write_atomic", "open", "os.path.exists", "os.path.isdir", "os.path.lexists", "os.path.realpath"), HOST
    ),
    "cri/cli/run/values.py": dict.fromkeys(("open", "os.path.exists"), CLIENT),
    "cri/config.py": dict.fromkeys(("open", "os.path.isdir"), HOST),
    "cri/containers/hidden.py": {"open": VMM},
    "cri/image/archive.py": dict.fromkeys(("open", "os.rename"), "its own, in the confined process"),
    "cri/image/client.py": dict.fromkeys(("open", "os.rename"), "its own, in the confined process"),
    "cri/cli/credentials.py": dict.fromkeys(
        "files.make_dirs files.write_atomic open os.open os.path.exists os.path.realpath".split(), CLIENT
    ),
    "cri/image/convert.py": dict.fromkeys(
        "files.make_dirs files.unlink files.write_atomic os.path.exists os.path.getsize os.statvfs".split(), IMAGES
    ),
    "cri/image/origins.py": dict.fromkeys(("open", "os.listdir", "os.stat"), HOST),
    "cri/image/pull.py": {"os.statvfs": IMAGES},
    "cri/image/registry.py": {"os.path.isdir": IMAGES},
    "cri/image/source.py": dict.fromkeys("open os.open os.path.getsize os.path.isdir".split(), IMAGES),
    "cri/snapshots/suspension.py": {"files.read": VMM, "os.stat": STATE},
    "cri/logs/place.py": {
        "files.make_dirs": "the sandbox's log directory itself, which is the kubelet's",
        **dict.fromkeys(("os.listdir", "os.path.isdir", "shutil.rmtree"), STATE),
    },
    "cri/monitors/mounts.py": {"os.open": HOST},
    "cri/memory/record.py": dict.fromkeys(("files.read", "files.write_atomic", "files.unlink"), OURS),
    "cri/owner.py": dict.fromkeys(
        "files.make_dirs os.lstat os.makedirs os.path.realpath os.unlink".split(), "run and state directory, sockets"
    ),
    "cri/readiness.py": dict.fromkeys(
        ("os.access", "os.path.isfile", "os.statvfs"), "the installation's, and the two directories themselves"
    ),
    "cri/monitors/disk_guard.py": {"os.statvfs": STATE},
    "cri/storage/disk.py": {"os.statvfs": STATE},
    "cri/nri/listener.py": dict.fromkeys(("files.unlink", "os.chmod"), OURS),
    "cri/translate/apparmor.py": dict.fromkeys(("open", "os.listdir", "os.path.lexists"), HOST),
    "cri/server.py": dict.fromkeys(("os.chmod", "os.chown", "files.unlink"), OURS),
    "cri/store/reserve.py": dict.fromkeys(
        ("files.make_dirs", "os.open", "os.path.getsize", "os.stat", "os.statvfs", "os.truncate"), STATE
    ),
    "cri/store/disk_errors.py": {"os.statvfs": STATE},
    "cri/store/images.py": dict.fromkeys(
        ("os.listdir", "os.path.exists", "os.rename", "os.scandir", "os.stat", "os.path.getsize"), IMAGES
    ),
    "cri/store/workshop.py": dict.fromkeys(("os.listdir", "os.path.exists"), IMAGES),
    "cri/store/schema.py": dict.fromkeys(
        ("files.unlink", "os.chmod", "os.open", "os.path.exists", "os.replace"), STATE
    ),
    "cri/store/integrity.py": dict.fromkeys(("os.listdir", "os.path.exists", "os.stat"), IMAGES),
    "cri/translate/cdi.py": dict.fromkeys(("open", "os.listdir", "os.path.exists", "os.path.realpath"), HOST),
    "cri/translate/mounts.py": dict.fromkeys(("os.path.exists", "os.path.realpath", "os.stat"), CLIENT),
    "stage1/linux/open_files.py": dict.fromkeys(("open", "os.listdir", "os.stat"), VMM),
    "stage1/own.py": {
        **dict.fromkeys(("files.unlink", "os.open"), TOP),
        **dict.fromkeys(("files.read", "os.listdir"), HOST),
    },
    "stage1/rootfs/own_files.py": {"os.readlink": HOST},
    "stage1/rootfs/own_initrd.py": dict.fromkeys(
        ("files.read", "files.unlink", "os.open"),
        "an image's file, found without links; the guest's; the state directory",
    ),
    "cri/translate/kubelet.py": dict.fromkeys(("os.path.isdir", "os.path.islink", "os.path.realpath"), KUBELET),
    "cri/translate/guest_volumes.py": dict.fromkeys(("os.lstat", "os.path.exists", "os.stat"), KUBELET),
    "stage1/prewarmed.py": {"os.stat": HOST},
    "stage1/engine.py": {"files.make_dirs": OURS},
    "stage1/linux/affinity.py": dict.fromkeys(("files.read", "os.listdir"), HOST),
    "stage1/linux/beneath.py": {"os.open": SELF},
    "stage1/linux/in_root.py": {"os.open": SELF},
    "stage1/linux/cgroup.py": dict.fromkeys(
        ("files.read", "open", "os.access", "os.makedirs", "os.path.exists", "os.path.isdir", "os.rmdir", "os.walk"),
        HOST,
    ),
    "stage1/linux/dbus.py": dict.fromkeys(("os.path.exists", "os.path.isdir"), HOST),
    "stage1/linux/files.py": dict.fromkeys(
        "os.chmod os.lstat os.mkdir os.open os.path.isdir os.path.isfile os.path.lexists os.rename os.unlink".split(),
        "the calls that this test counts as going by a path",
    ),
    "stage1/linux/flock.py": {"os.open": OURS},
    "stage1/linux/host.py": dict.fromkeys(("open", "os.access", "os.open", "os.path.isfile"), HOST),
    "stage1/linux/idmap.py": dict.fromkeys(("open", "os.open", "os.stat", "os.unlink"), HOST),
    "stage1/linux/ksm.py": dict.fromkeys(("files.read", "open", "os.access", "os.listdir", "os.path.exists"), HOST),
    "stage1/linux/mount.py": {
        **dict.fromkeys(("open", "os.open"), HOST),
        "os.path.realpath": "of the directory that the caller names, no further",
        "os.statvfs": "a mount point, of which only the size is read",
    },
    "stage1/linux/mount_copies.py": {"os.path.realpath": "of the directory that the caller names, no further"},
    "stage1/linux/namespace.py": dict.fromkeys(
        "files.make_dirs os.listdir os.open os.stat files.unlink os.unlink".split(), HOST
    ),
    "stage1/linux/podcgroup.py": dict.fromkeys(
        ("files.read", "os.path.exists", "os.path.isdir", "os.path.samefile"), HOST
    ),
    **{path: {"files.read": HOST} for path in ("stage1/linux/pressure.py", "stage1/vm/usage.py")},
    "stage1/linux/mapped.py": {"open": HOST},
    "stage1/linux/process.py": dict.fromkeys(("open", "os.listdir", "os.open"), HOST),
    "stage1/linux/removal.py": {"os.scandir": SELF},
    "stage1/linux/tsc.py": dict.fromkeys(("files.make_dirs", "files.read", "files.write_atomic"), OURS),
    "stage1/linux/scope.py": dict.fromkeys(("open", "os.makedirs", "os.path.exists", "os.path.isdir"), HOST),
    **{path: {"os.open": HOST} for path in ("stage1/linux/tun.py", "stage1/linux/vsock.py")},
    "stage1/machine.py": dict.fromkeys(("os.path.exists", "os.path.getsize", "os.path.realpath"), GUEST),
    "stage1/net/attach.py": {"files.make_dirs": NET},
    "stage1/net/conflist.py": dict.fromkeys(("files.read", "os.access", "os.listdir", "os.path.isfile"), NET),
    "stage1/net/tap_links.py": {"os.path.exists": HOST},
    "stage1/net/living.py": {
        "os.listdir": HOST,
        "os.path.lexists": "whether the pod's directory is there, no further",
    },
    "stage1/net/networks.py": dict.fromkeys(("open", "os.path.exists"), HOST),
    "stage1/net/record.py": {
        **dict.fromkeys(
            "files.read files.write_atomic files.add_line os.link os.listdir os.rename files.unlink".split(), NET
        ),
        "os.path.realpath": "to see that it does not lead to what the guest sees",
    },
    "stage1/net/rkt.py": dict.fromkeys(("files.read", "files.write_atomic"), RKT),
    "stage1/net/pool_slot.py": {"files.make_dirs": NET},
    "stage1/net/lock.py": dict.fromkeys(("files.make_dirs", "os.open"), NET),
    "stage1/net/status_gc.py": dict.fromkeys(("files.read", "os.listdir", "os.path.isdir", "os.stat"), NET),
    "stage1/net/writeoff.py": {"os.path.exists": NET},
    "stage1/rkt/copying.py": dict.fromkeys(
        ("os.getxattr", "os.listxattr", "os.scandir", "os.setxattr", "os.utime"), "descriptors, no paths"
    ),
    "stage1/rkt/directory.py": dict.fromkeys(
        (
            "os.open",
            "files.read",
            "files.write_atomic",
            "os.link",
            "os.path.exists",
            "os.path.isdir",
            "os.path.isfile",
            "os.path.realpath",
            "os.readlink",
            "os.symlink",
            "os.unlink",
            "os.utime",
        ),
        RKT,
    ),
    "stage1/rkt/orphans.py": dict.fromkeys(("os.listdir", "os.readlink"), HOST),
    "stage1/rkt/logs.py": dict.fromkeys(("os.path.isdir", "os.path.realpath"), CLIENT),
    "stage1/rkt/machine.py": {
        "files.make_dirs": NOT_STARTED,
        **dict.fromkeys(("os.path.isdir", "os.path.lexists"), RKT),
    },
    "stage1/rkt/copies.py": dict.fromkeys(("files.read", "files.write_atomic", "os.path.realpath"), RKT),
    "stage1/entry/gc.py": dict.fromkeys(("os.path.exists", "os.path.isdir"), RKT),
    "stage1/entry/templating.py": {"files.make_dirs": NOT_STARTED, "os.path.isdir": RKT},
    "stage1/rkt/make.py": {"files.make_dirs": RKT},
    "stage1/rkt/manifest.py": {"files.read": RKT},
    "stage1/rkt/network.py": {"os.stat": NET},
    "stage1/rkt/loader.py": dict.fromkeys(("os.path.isdir", "os.path.realpath"), RKT),
    "stage1/rkt/ports.py": {"files.make_dirs": NET},
    "stage1/rkt/connect.py": dict.fromkeys(("os.listdir", "os.open"), HOST),
    "stage1/rkt/runtime.py": dict.fromkeys(("files.read", "files.write_atomic"), RKT),
    "stage1/rkt/texts.py": dict.fromkeys(("files.read", "os.path.exists"), HOST),
    "stage1/rkt/userspace.py": {"files.read": RKT},
    "stage1/rkt/volumes.py": dict.fromkeys(
        ("os.path.exists", "os.path.isdir", "os.path.isfile", "os.path.realpath"), CLIENT
    ),
    "stage1/rootfs/blob.py": {"os.open": IMAGES},
    "stage1/rootfs/erofs.py": {"os.open": IMAGES},
    "stage1/rootfs/facts.py": dict.fromkeys(("files.read", "files.write_atomic"), IMAGES),
    "stage1/rootfs/export.py": {"os.stat": IMAGES},
    "stage1/rootfs/flat.py": {"os.path.getsize": IMAGES},
    "stage1/rootfs/identity.py": dict.fromkeys(("files.read", "os.path.exists"), HOST),
    "stage1/rootfs/journal.py": {
        **dict.fromkeys(("files.make_dirs", "os.path.realpath"), "the place that the pod's owner names, no further"),
        "files.remove_tree": STATE,
    },
    "stage1/rootfs/layers.py": dict.fromkeys(
        ("files.unlink", "os.path.exists", "os.path.getsize", "os.rename"), IMAGES
    ),
    "stage1/rootfs/merge.py": {"os.path.getsize": IMAGES},
    "stage1/rootfs/overlay.py": {
        **dict.fromkeys(("os.listdir", "os.mkdir", "os.rmdir"), TOP),
        **dict.fromkeys(("files.make_dirs", "os.path.realpath"), RKT),
    },
    "stage1/rootfs/owners.py": dict.fromkeys(("os.open", "os.path.exists"), TOP),
    "stage1/rootfs/orphans.py": dict.fromkeys(("files.remove_tree", "os.listdir", "os.lstat"), STATE),
    "stage1/rootfs/parted.py": dict.fromkeys(("files.read", "files.write_atomic", "os.open"), KUBELET),
    "stage1/rootfs/scratch.py": dict.fromkeys(
        """files.make_dirs files.remove_tree files.unlink os.path.lexists open os.chown os.mkdir os.open
        os.rename os.unlink""".split(),
        STATE,
    ),
    "stage1/rootfs/seal.py": dict.fromkeys(
        ("files.read", "files.write_atomic", "open", "os.open", "os.path.getsize", "os.stat"), IMAGES
    ),
    "stage1/rootfs/share.py": {"os.open": IMAGES},
    "stage1/rootfs/unmounting.py": dict.fromkeys(
        "os.path.realpath files.remove_tree files.remove_unmounted".split(), TOP
    ),
    "stage1/rootfs/volumes.py": {"os.readlink": HOST},
    "stage1/vm/startup.py": dict.fromkeys(("open", "os.listdir"), HOST),
    "stage1/vm/jail.py": dict.fromkeys(
        ("os.path.exists", "os.path.isdir", "os.path.islink", "os.path.realpath", "os.readlink"), NOT_STARTED
    ),
    "stage1/vm/kernels.py": dict.fromkeys(("os.listdir", "os.path.isdir"), GUEST),
    "stage1/vm/mapping.py": {"os.open": IMAGES},
    "stage1/vm/launch_spec.py": dict.fromkeys(("os.path.exists", "os.path.realpath"), GUEST),
    "stage1/vm/programs.py": dict.fromkeys(
        "files.make_dirs files.write_atomic open os.path.isfile os.path.realpath os.stat".split(), HOST
    ),
    "stage1/vm/profiles.py": {"os.path.exists": GUEST},
    "stage1/vm/starter.py": {
        **dict.fromkeys(("os.access", "os.chown", "os.open", "os.path.exists", "os.stat"), NOT_STARTED),
        "os.unlink": TOP,
    },
    "stage1/vm/vmm.py": dict.fromkeys(("open", "os.listdir"), HOST),
    "cri/cli/view/jail.py": {"os.listdir": OURS},
    "stage1/linux/confine.py": dict.fromkeys(("open", "os.open"), "/proc, and what a confined process may reach"),
    "stage1/linux/sandbox.py": dict.fromkeys(("os.path.exists", "os.path.isdir", "os.path.realpath", "os.stat"), HOST),
    "stage1/rootfs/confined.py": dict.fromkeys(("open", "os.open"), "/proc, and its own descriptors"),
    "stage1/rootfs/worker.py": dict.fromkeys(
        (
            "files.remove_tree",
            "os.chmod",
            "os.chown",
            "os.link",
            "os.mkdir",
            "open",
            "os.open",
            "os.rename",
            "os.scandir",
            "os.stat",
        ),
        IMAGES,
    ),
    "stage1/rootfs/mergejob.py": {"files.write_atomic": IMAGES},
    "stage1/rootfs/mkfs.py": dict.fromkeys(("os.path.getsize", "os.statvfs"), IMAGES),
    "stage1/vm/in_force.py": dict.fromkeys(("files.read", "os.listdir", "os.path.lexists", "os.readlink"), VMM),
    "stage1/vm/launch.py": {"os.access": GUEST},
    "stage1/vm/volume_server.py": {"os.access": GUEST, "os.open": TOP},
    "stage1/vm/needs.py": dict.fromkeys(("files.make_dirs", "files.remove_tree", "os.access", "os.path.exists"), TRIAL),
    "stage1/vm/sigsys.py": {"os.open": HOST},
    "stage1/rootfs/checkpoint.py": dict.fromkeys(("files.write_atomic", "os.lstat", "os.open"), CLIENT),
    "stage1/snapshot/save.py": dict.fromkeys(
        """files.make_dirs files.remove_tree files.unlink files.write_atomic os.listdir os.mkdir os.open
        os.path.lexists os.rename""".split(),
        STATE,
    ),
    "stage1/snapshot/format.py": dict.fromkeys(("files.read", "os.rename", "os.stat", "os.utime"), STATE),
    "stage1/snapshot/load.py": {"os.path.lexists": CLIENT},
    "stage1/vm/medium.py": {"os.open": IMAGES},
    "stage1/vm/monitor.py": {"os.open": STATE},
    "stage1/snapshot/machine.py": {**dict.fromkeys(("os.path.realpath", "os.stat"), GUEST), "files.read": HOST},
    "stage1/snapshot/store.py": dict.fromkeys(
        """files.make_dirs files.remove_tree files.unlink files.write_atomic open os.chmod os.chown os.link
        os.lstat os.path.isdir os.rename os.scandir os.stat os.statvfs""".split(),
        STATE,
    ),
    "stage1/vm/slots.py": dict.fromkeys(
        (
            "files.make_dirs",
            "open",
            "os.listdir",
            "os.path.islink",
            "os.path.lexists",
            "os.readlink",
            "os.symlink",
            "files.unlink",
            "os.unlink",
        ),
        TOP,
    ),
}


@cache
def _calls(path: Path) -> tuple[tuple[int, str], ...]:
    """Line and name of each mention of something that goes by a path; a call with a directory's descriptor does not."""
    return tuple(_by_path(list(ast.walk(py_scan.tree(path)))))


def _by_path(nodes: list[ast.AST]) -> Iterator[tuple[int, str]]:
    relative = {id(node.func) for node in nodes if isinstance(node, ast.Call) and _has_directory(node)}
    for node in nodes:
        if isinstance(node, ast.Name | ast.Attribute) and id(node) not in relative and (name := _name(node)):
            yield node.lineno, name
        elif isinstance(node, ast.ImportFrom) and node.module in ("os", "os.path", *MODULES):
            yield node.lineno, f"from {node.module}"


def _has_directory(node: ast.Call) -> bool:
    return any(word.arg in ("dir_fd", "src_dir_fd") for word in node.keywords)


def _name(node: ast.Name | ast.Attribute) -> str:
    if isinstance(node, ast.Name):
        return "open" if node.id == "open" else ""
    text = ast.unparse(node)
    module, _, name = text.rpartition(".")
    known = {"os": BY_PATH, "os.path": OF_PATH, "files": OF_FILES}
    return text if name in known.get(module, ()) or module in MODULES else ""


def _complaints(paths: "tuple[Path, ...] | list[Path]", allowed: dict[str, dict[str, str]]) -> Iterator[str]:
    for path in paths:
        name = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
        known = allowed.get(name, {})
        for line, call in _calls(path):
            if call not in known:
                yield f"{where(path, line) if path.is_relative_to(ROOT) else name}: {call}"


def _sources() -> list[Path]:
    tops = (ROOT / "stage1", ROOT / "cri")
    return [path for path in of("python") if any(path.is_relative_to(top) for top in tops) and "pb" not in path.parts]


def test_files_that_others_can_write_are_reached_by_descriptors_alone() -> None:
    rule = "a path is followed; use stage1.linux.beneath, or say in tests/style/test_paths.py whose path it is"
    report(list(_complaints(_sources(), ALLOWED)), rule)


def test_every_exception_is_needed_and_has_a_reason() -> None:
    made = {str(path.relative_to(ROOT)): {call for _, call in _calls(path)} for path in _sources()}
    idle = [f"{name}: {call}" for name, calls in ALLOWED.items() for call in calls.keys() - made.get(name, set())]
    report(idle, "exceptions that nothing needs")
    assert all(why for calls in ALLOWED.values() for why in calls.values())


@pytest.mark.parametrize(
    ("code", "result"),
    [
        ("import os\nos.listdir('x')", ["os.listdir"]),
        ("open('x')", ["open"]),
        ("import os\nos.path.exists('x')", ["os.path.exists"]),
        ("import os\nmap(os.path.exists, ['x'])", ["os.path.exists"]),
        ("import shutil\nshutil.rmtree('x')", ["shutil.rmtree"]),
        ("from os import unlink", ["from os"]),
        ("from pathlib import Path", ["from pathlib"]),
        ("files.remove_tree('x')", ["files.remove_tree"]),
        ("import os\nos.unlink('x', dir_fd=3)", []),
        ("import os\nos.open('x', 0, dir_fd=3)", []),
        ("root.open('x')\nroot.unlink('y')\nos.fstat(3)\nos.path.join('a', 'b')", []),
    ],
)
def test_the_rule_finds_what_it_is_for(tmp_path: Path, code: str, result: list[str]) -> None:
    (tmp_path / "module.py").write_text(code)
    assert [call for _, call in _calls(tmp_path / "module.py")] == result
    violations = list(_complaints([tmp_path / "module.py"], {}))
    assert len(violations) == len(result)
