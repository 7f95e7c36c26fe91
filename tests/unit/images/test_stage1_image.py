# SPDX-License-Identifier: Apache-2.0
"""rkt's stage1 image, built of small files and the real Python: what is in it, the same bytes twice, needs nothing."""

import ast
import importlib.util
import inspect
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from tests.rkt import small_stage1

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("ldd"), reason="needs ldd on PATH")]

PATH = os.environ["PATH"]
PYTHON = "/usr/lib/clearpod/python"
START = [f"{PYTHON}/ld.so", "--library-path", f"{PYTHON}/lib", "--argv0", f"{PYTHON}/bin/python3"]
START += [f"{PYTHON}/bin/python3", "-I", "-S", "-B", "-X", "utf8"]


def parts_in(place, stage1, **more):
    """The parts of an image, all but Python made up."""
    for name in ("launcher", *stage1.GUEST_FILES, *stage1.PLUGINS, stage1.MKFS):
        (place / name).write_bytes(b"\x7fELF" + name.encode())
    plugins = tuple(place / name for name in stage1.PLUGINS)
    made = {
        "launcher": place / "launcher",
        "guest": place,
        "lkvm": None,
        "plugins": plugins,
        "mkfs": place / stage1.MKFS,
    }
    return stage1.Parts(**made | more)


@pytest.fixture(scope="module")
def stage1(builder):
    return builder("stage1-aci")


@pytest.fixture(scope="module")
def parts(stage1, tmp_path_factory):
    return parts_in(tmp_path_factory.mktemp("parts"), stage1)


@pytest.fixture(scope="module")
def archive(stage1, parts, tmp_path_factory):
    return stage1.build(tmp_path_factory.mktemp("home"), parts) / "clearpod-stage1.aci"


@pytest.fixture(scope="module")
def root(archive, tmp_path_factory):
    """The file system in the archive, as rkt unpacks it."""
    place = tmp_path_factory.mktemp("home")
    with tarfile.open(archive) as tar:
        tar.extractall(place, filter="fully_trusted")
    return place / "rootfs"


@pytest.fixture(scope="module")
def equipped(stage1, tmp_path_factory):
    """An image's tree with real programs, dynamic ones that are on every machine: its parts and its root."""
    place = tmp_path_factory.mktemp("equipped")
    ip = Path("/usr/bin/ip")
    plugins = (ip.parent / "env", *(place / name for name in stage1.PLUGINS[1:]))
    mkfs = Path(shutil.which(stage1.MKFS))
    parts = parts_in(place, stage1, lkvm=ip, launcher=small_stage1.launcher(), plugins=plugins, mkfs=mkfs)
    return parts, stage1.build_tree(place / "home", parts) / "rootfs"


def python_inside(root, program):
    """Run a program's text with the image's Python where there is nothing but the image."""
    (root / "program.py").write_text(program)
    try:
        argv = ["/usr/sbin/chroot", str(root), *START, "/program.py"]
        return subprocess.run(argv, env={"LC_ALL": "de_DE.ISO-8859-1"}, capture_output=True, text=True, timeout=60)
    finally:
        (root / "program.py").unlink()


def test_the_archive_is_the_same_when_built_again_whatever_the_umask(stage1, parts, archive, tmp_path):
    before = os.umask(0o077)
    try:
        second = stage1.build(tmp_path, parts) / "clearpod-stage1.aci"
    finally:
        os.umask(before)
    assert second.read_bytes() == archive.read_bytes()


def test_the_archive_is_roots_sorted_and_of_no_time(archive):
    with tarfile.open(archive) as tar:
        entries = tar.getmembers()
    assert {(e.uid, e.gid, e.mtime) for e in entries} == {(0, 0, 0)}
    assert [e.name.split("/") for e in entries] == sorted(e.name.split("/") for e in entries)
    assert {e.name.partition("/")[0] for e in entries} == {"manifest", "rootfs"}


def test_the_manifest_names_an_entry_point_for_every_command_of_rkt(archive):
    with tarfile.open(archive) as tar:
        manifest = json.load(tar.extractfile("manifest"))
        annotations = {one["name"]: one["value"] for one in manifest["annotations"]}
        prefix = "coreos.com/rkt/stage1/"
        names = {name.removeprefix(prefix): path for name, path in annotations.items() if name.startswith(prefix)}
        assert names.pop("interface-version") == "6"
        assert set(names) == {
            *("run", "enter", "gc", "stop", "attach"),
            *("app/add", "app/rm", "app/start", "app/stop"),
        }
        for path in names.values():
            entry = tar.getmember(f"rootfs{path}")
            assert entry.issym() and tar.getmember(f"rootfs/{entry.linkname}").mode == 0o755
        assert tar.getmember("rootfs/rkt/status").isdir()
    assert (manifest["acKind"], manifest["name"]) == ("ImageManifest", "clearpod.io/stage1")
    assert {one["name"] for one in manifest["labels"]} == {"version", "arch", "os"}
    assert "qemu-system-x86_64|lkvm" in annotations["clearpod.io/needs"]


def test_with_kvmtool_on_the_build_host_the_image_has_it_and_its_libraries(stage1, equipped):
    parts, root = equipped
    home = root / "usr/lib/clearpod"
    assert (home / "bin/lkvm").read_bytes() == Path("/usr/bin/ip").read_bytes()
    libraries = subprocess.run(["ldd", "/usr/bin/ip"], capture_output=True, text=True, check=True).stdout.split()
    expected = {Path(word).name for word in libraries if word.startswith("/") and "/ld-" not in word}
    assert expected <= {path.name for path in (home / "python/lib").iterdir()}
    assert "qemu" not in json.dumps(stage1.manifest(parts))


def profile_files(place):
    for name in ("initramfs-systemd", "system-systemd.erofs"):
        (place / name).write_bytes(name.encode())


def test_a_profile_that_was_built_is_put_in_and_another_image_has_it_by_default(stage1, tmp_path):
    parts = parts_in(tmp_path, stage1)
    assert parts.guest_files == [*stage1.GUEST_FILES]
    profile_files(tmp_path)
    assert parts.guest_files == [*stage1.GUEST_FILES, "initramfs-systemd", "system-systemd.erofs"]
    default = stage1.build(tmp_path / "default", parts._replace(profile="systemd"))
    with tarfile.open(default / "clearpod-stage1-systemd.aci") as tar:
        assert tar.getmember("rootfs/usr/lib/clearpod/guest/system-systemd.erofs").size > 0
        assert tar.extractfile("rootfs/usr/lib/clearpod/profile").read() == b"systemd\n"
        assert json.load(tar.extractfile("manifest"))["name"] == "clearpod.io/stage1-systemd"


def test_an_image_for_a_kernel_has_it_for_both_hypervisors_with_what_it_boots(stage1, tmp_path):
    parts = parts_in(tmp_path, stage1, kernel="stock")
    with pytest.raises(Exception, match=r"vmlinux-stock is missing.* images/build stock"):
        stage1.build_tree(tmp_path / "home", parts)
    names = ["vmlinux-stock", "bzImage-stock", "initramfs-stock", "system-stock.erofs"]
    for name in (*names, "initramfs-systemd-stock"):
        (tmp_path / name).write_bytes(b"\x7fELF")
    assert parts.guest_files == [*stage1.GUEST_FILES, *names]
    profile_files(tmp_path)
    with pytest.raises(Exception, match=r"system-systemd-stock.erofs is missing.* images/build stock"):
        stage1.build_tree(tmp_path / "home", parts)
    (tmp_path / "system-systemd-stock.erofs").write_bytes(b"modules")
    both = stage1.build(tmp_path / "both", parts._replace(profile="systemd"))
    with tarfile.open(both / "clearpod-stage1-systemd-stock.aci") as tar:
        assert tar.extractfile("rootfs/usr/lib/clearpod/kernel").read() == b"stock\n"
        files = {one.name.removeprefix("rootfs/usr/lib/clearpod/guest/") for one in tar.getmembers()}
        assert {*names, "initramfs-systemd-stock", "system-systemd-stock.erofs"} <= files
        assert json.load(tar.extractfile("manifest"))["name"] == "clearpod.io/stage1-systemd-stock"


def test_an_image_for_a_profile_that_was_not_built_is_none(stage1, tmp_path):
    with pytest.raises(Exception, match=r"initramfs-systemd .*images/build all"):
        stage1.build_tree(tmp_path / "home", parts_in(tmp_path, stage1, profile="systemd"))


def test_the_programs_of_the_image_run_where_there_is_nothing_else(equipped):
    """By their links, which is how rkt's side starts them: no loader and no library is on this host."""
    _, root = equipped
    (root / "proc").mkdir()
    programs = {"usr/lib/clearpod/loaded/lkvm": ["-V"], "usr/lib/rkt/plugins/net/env": ["-u", "X", "sh", "-c"]}
    programs["usr/lib/clearpod/loaded/mkfs.ext4"] = ["-V"]
    enter = f"mount -t proc proc {root}/proc && exec /usr/sbin/chroot {root} "
    ended = {}
    for path, arguments in programs.items():
        argv = ["unshare", "--mount", "sh", "-c", f'{enter}"$@"', "sh", f"/{path}", *arguments]
        ended[path] = subprocess.run(argv, env={"X": "1", "PATH": PATH}, capture_output=True, text=True, timeout=60)
    version, env, mkfs_version = ended.values()
    assert version.returncode == 0 and "iproute2" in version.stdout, version.stderr
    assert mkfs_version.returncode == 0 and "mke2fs" in mkfs_version.stderr, mkfs_version.stderr
    assert env.returncode == 127 and "'sh': No such file" in env.stderr, "it ran, and there is no shell"


def test_a_missing_part_of_the_guest_is_reported(stage1, tmp_path):
    parts = parts_in(tmp_path, stage1)
    (tmp_path / "initramfs").unlink()
    with pytest.raises(Exception, match=r"initramfs .*images/build all"):
        stage1.build_tree(tmp_path / "home", parts)


def test_every_module_of_the_image_can_be_imported_where_there_is_nothing_else(root):
    """Also on a host with a locale that the image has no encoding for."""
    before = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    ended = python_inside(root, f"{MODULES}for name in modules: __import__(name)\nprint(*modules)")
    assert {"stage1.entry.run", "stage1.entry.gc", "typing", "encodings.unicode_escape"} <= {*ended.stdout.split()}, (
        ended.stderr
    )
    after = {path: path.lstat().st_mtime_ns for path in root.rglob("*")}
    assert {path for path in before if before[path] != after[path]} <= {root}, "it wrote into the image"


MODULES = """
import marshal
with open("/usr/lib/clearpod/start.pyc", "rb") as file:
    code = marshal.loads(file.read()[16:])
space = {"__name__": "start", "__file__": "/usr/lib/clearpod/start.pyc"}
exec(code, space)
modules = sorted(space["modules"])
"""


def test_the_steps_are_taken_and_the_images_own_modules_are_used(root):
    """Which is what makes `run` start in half of the instructions."""
    ended = python_inside(root, MODULES + ASKED)
    assert ended.stdout.split() == ["{}", "False", "True", "False"], ended.stderr


ASKED = """
import sys
from stage1.rkt import loader
print(loader.read_pod.__annotations__, "stage1.rkt.own_kernel" in sys.modules)
print(hasattr(loader.RktPod((), ()), "warnings"), "re" in sys.modules)
"""


def test_a_plain_image_has_its_modules_as_they_are_written(stage1, parts, tmp_path):
    """For whoever has to tell a fault from one of the steps."""
    place = stage1.build_tree(tmp_path, parts._replace(plain=True))
    names = "print(loader.read_pod.__annotations__['pod_dir'], 'stage1.rkt.own_kernel' in sys.modules)"
    everything = "for name in modules: __import__(name)\n"
    ended = python_inside(place / "rootfs", f"{MODULES}{everything}import sys\nfrom stage1.rkt import loader\n{names}")
    assert ended.stdout.split() == ["<class", "'str'>", "True"], ended.stderr


def test_run_reads_its_modules_at_once_and_they_are_the_same_code(root):
    """Names that several modules have are read once, which is five million instructions of `run`."""
    ended = python_inside(root, f"import sys\nsys.argv[1:] = ['run']\n{MODULES}{TOGETHER}")
    assert ended.stdout.splitlines() == ["True", "True"], ended.stderr
    others = python_inside(root, f"import sys\nsys.argv[1:] = ['stop']\n{MODULES}print(len(space['modules']._read))")
    assert others.stdout.split() == ["0"], others.stderr


TOGETHER = """
packed = space["modules"]
print({"stage1.entry.run", "stage1.rkt.copies", "stage1.net.tap_links"} <= set(packed._read))
print(all(code == packed._alone(name) for name, code in packed._read.items()))
"""


def test_the_list_of_what_run_loads_names_modules_of_ours_that_exist(stage1):
    names = {name for name in stage1.RUN_MODULES.read_text().split() if name.startswith("stage1")}
    found = {name for name in names if importlib.util.find_spec(name)}
    assert names == found and "stage1.entry.run" in names, "write it anew: scripts/bench entry --modules"


def test_who_leaves_has_written_everything_and_gives_its_code(root):
    program = MODULES + "from stage1.entry import dispatch\nprint('said', end='')\ndispatch.leave(7)"
    ended = python_inside(root, program)
    assert (ended.stdout, ended.returncode) == ("said", 7)
    gone = "import os\nos.close(1)\n" + program.replace("print('said', end='')", "pass")
    assert python_inside(root, gone).returncode == 7, "with a closed stream"


def test_there_are_no_sources_and_no_debris_in_the_image(root):
    names = [path.name for path in root.rglob("*")]
    assert not [name for name in names if name.endswith(".py") or name == "__pycache__"]


def test_what_stage1_uses_of_the_replaced_modules_is_there(root, stage1):
    """By name, as in `from typing import X` and `json.x(...)` of all modules that are in the image."""
    lean = {name: (Path(stage1.__file__).parent / "lean" / file) for name, file in REPLACED.items()}
    missing, there = [], python_inside(root, f"{MODULES}print(*modules)").stdout.split()
    assert there
    for path in (stage1.SOURCE / "stage1").rglob("*.py"):
        if ".".join(path.relative_to(stage1.SOURCE).with_suffix("").parts) not in there:
            continue
        for module, name, keywords in used(stage1.startup.lean(ast.parse(path.read_text()), bool)):
            offered = getattr(loaded(lean[module]), name, None)
            is_ours = inspect.isfunction(offered) or inspect.isclass(offered)
            if offered is None or (keywords and is_ours and not keywords <= {*inspect.signature(offered).parameters}):
                missing.append(f"{path.name}: {module}.{name} {keywords}")
    assert not missing


REPLACED = {"typing": "typing.py", "json": "json/__init__.py"}


def used(tree):
    """(module, name, keywords) of what is taken from the replaced modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in REPLACED:
            yield from ((node.module, alias.name, set()) for alias in node.names)
        elif isinstance(node, ast.Attribute) and (module := _replaced(node)):
            yield module, node.attr, set()
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and (module := _replaced(node.func)):
            yield module, node.func.attr, {one.arg for one in node.keywords if one.arg}


def _replaced(node):
    return node.value.id if isinstance(node.value, ast.Name) and node.value.id in REPLACED else ""


def loaded(path):
    spec = importlib.util.spec_from_file_location("lean", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
