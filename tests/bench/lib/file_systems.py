# SPDX-License-Identifier: Apache-2.0
"""Programs on a guest's file systems, for `scripts/bench volumes`: small files, a tree as npm unpacks it, git and
SQLite, on the guest's own ext4, on a directory of the host by 9p in each of its cache modes, and by virtiofsd.

One bare QEMU VM with our kernel and no agent: its init is a script, which mounts one after the other and prints the
times. Nothing else of a pod takes part, so rows differ by the file system alone. Called by the bench; everything lies
below the given directory.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from tests.fakes.patience import PATIENCE
from tests.vm.agent_machine import GUEST_DIR

VIRTIOFSD = "/usr/libexec/virtiofsd"
LIMIT_S = 900
STEPS = ("make", "stat", "read", "remove")
WORKLOADS = ("install", "clone", "sqlite")
MODES = {"9p none": "none", "9p mmap,directio": "mmap,directio", "9p loose": "loose"}
SHARED = "trans=virtio,version=9p2000.L,msize=262168,access=client"
PACKAGES, FILES = 20, 10
"""Of the tree that is unpacked."""
ROWS = 50
"""Transactions of SQLite's: one row each."""
_INIT = """#!/bin/sh
PATH=/bin
export PATH HOME=/ GIT_CONFIG_NOSYSTEM=1
mount -t proc proc /proc
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
set -f
cs() { read up rest < /proc/uptime; echo $(( ${up%.*} * 100 + 1${up#*.} - 100 )); }
timed() {
    name=$1; shift; begun=$(cs)
    if "$@" >/tmp/out 2>&1; then echo "workload $row $name $(( ($(cs) - begun) * 10 ))"
    else echo "failed $row $name: $(tail -n 1 /tmp/out)"; fi
}
install() (
    cd $at && mkdir new && tar xf /packages.tar -C new && mv new/node_modules . && set +f &&
    cat node_modules/*/package.json >/dev/null && find . -type f | xargs stat >/dev/null && rm -rf node_modules new
)
clone() ( cd $at && git clone -q --no-hardlinks /repository.git clone && git -C clone status --short && rm -rf clone )
sqlite() ( cd $at && sqlite3 base.db < /rows.sql && rm -f base.db* )
measure() {
    row=$1 at=/at/bench
    if ! mount -t $2 -o $3 $4 /at; then echo "failed $row mount: $2 $3"; return; fi
    mkdir -p $at
    small-files COUNT 1 $row=$at
    timed install install; timed clone clone; timed sqlite sqlite
    rm -rf $at; umount /at
}
MEASURED
echo done
reboot -f
"""


def measure(place: Path, count: int) -> dict[str, dict[str, float]]:
    """Microseconds per file of each of `STEPS`, and milliseconds of each of `WORKLOADS`, for each file system.

    `times` says how often longer making and removing takes than on the guest's own ext4. A workload that a file system
    can't do is absent, and so is virtiofs where Debian's virtiofsd is not installed.
    """
    shared = place / "shared"
    shared.mkdir()
    _disk(place / "disk")
    server = _virtiofsd(place, shared) if os.access(VIRTIOFSD, os.X_OK) else None
    try:
        text = _run(place, shared, has_virtiofs=server is not None, count=count)
    finally:
        if server is not None:
            server.kill()
            server.wait()
    return figures(text)


def figures(text: str) -> dict[str, dict[str, float]]:
    """What the init script said on the console."""
    result: dict[str, dict[str, float]] = {}
    for name, us in re.findall(r"^small-files (\S+) ([0-9. ]+)\r?$", text, re.MULTILINE):
        result[name.replace("_", " ")] = dict(zip(STEPS, map(float, us.split()), strict=True))
    for name, what, ms in re.findall(r"^workload (\S+) (\S+) (\d+)\r?$", text, re.MULTILINE):
        result[name.replace("_", " ")][what] = float(ms)
    if "ext4" not in result or not re.search(r"^done\r?$", text, re.MULTILINE):
        raise RuntimeError(f"the guest did not come to its end: {text[-2000:]}")
    own = result["ext4"]["make"] + result["ext4"]["remove"]
    for row in result.values():
        row["times"] = round((row["make"] + row["remove"]) / own, 1)
    return result


def _run(place: Path, shared: Path, *, has_virtiofs: bool, count: int) -> str:
    rows = ["measure ext4 ext4 noatime /dev/vda"]
    for name, mode in MODES.items():
        rows.append(f"measure {name.replace(' ', '_')} 9p {SHARED},cache={mode} shared")
    rows += ["measure virtiofs virtiofs rw virtiofs"] if has_virtiofs else []
    _initramfs(place, _INIT.replace("COUNT", str(count)).replace("MEASURED", "\n".join(rows)))
    argv = _qemu(place, shared, has_virtiofs=has_virtiofs)
    done = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT_S * PATIENCE, check=False
    )
    return done.stdout + done.stderr


def _qemu(place: Path, shared: Path, *, has_virtiofs: bool) -> list[str]:
    memory = ["-object", "memory-backend-memfd,id=mem,size=512M,share=on"]
    argv = ["qemu-system-x86_64", *memory, "-M", "microvm,acpi=off,memory-backend=mem", "-accel", "tcg", "-cpu", "max"]
    argv += ["-m", "512", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-serial", "stdio"]
    line = "console=ttyS0 quiet panic=-1 reboot=t pci=off tsc=reliable no_timer_check random.trust_cpu=on"
    argv += ["-kernel", str(GUEST_DIR / "vmlinux"), "-initrd", str(place / "initramfs"), "-append", line]
    argv += [
        "-drive",
        f"id=d,if=none,format=raw,cache=unsafe,file={place}/disk",
        "-device",
        "virtio-blk-device,drive=d",
    ]
    argv += ["-fsdev", f"local,id=s,path={shared},security_model=none,multidevs=remap"]
    argv += ["-device", "virtio-9p-device,fsdev=s,mount_tag=shared"]
    if has_virtiofs:
        argv += ["-chardev", f"socket,id=v,path={place}/virtiofs.sock"]
        argv += ["-device", "vhost-user-fs-device,chardev=v,tag=virtiofs"]
    return argv


def _virtiofsd(place: Path, shared: Path) -> "subprocess.Popen[bytes]":
    """It exits by itself when the VMM has gone."""
    socket = place / "virtiofs.sock"
    argv = [VIRTIOFSD, "--socket-path", socket, "--shared-dir", shared, "--sandbox", "none", "--log-level", "error"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _disk(path: Path) -> None:
    subprocess.run(["mke2fs", "-q", "-t", "ext4", path, "256M"], check=True, capture_output=True, timeout=60)


def _initramfs(place: Path, init: str) -> None:
    root = place / "root"
    for name in ("bin", "dev", "proc", "tmp", "at"):
        (root / name).mkdir(parents=True)
    (root / "init").write_text(init)
    (root / "init").chmod(0o755)
    source = Path(__file__).parents[1] / "small_files.c"
    subprocess.run(["musl-gcc", "-static", "-O1", "-o", root / "bin/small-files", source], check=True, timeout=60)
    for name in ("busybox", "git", "sqlite3"):
        _add_program(root, name)
    for name in "sh mount umount mkdir rm tar cat find xargs stat tail mv reboot".split():
        (root / "bin" / name).symlink_to("busybox")
    for name in ("git-upload-pack", "git-index-pack"):
        (root / "bin" / name).symlink_to("git")
    _packages(place, root / "packages.tar")
    _repository(place, root / "repository.git")
    insert = "".join(f"INSERT INTO t VALUES({n}, 'row {n}');\n" for n in range(ROWS))
    (root / "rows.sql").write_text(f"CREATE TABLE t(n INTEGER PRIMARY KEY, s TEXT);\n{insert}SELECT count(*) FROM t;\n")
    names = "\0".join(str(path.relative_to(root)) for path in root.rglob("*"))
    with (place / "initramfs").open("wb") as out:
        subprocess.run(
            ["cpio", "--quiet", "-0", "-o", "-H", "newc"], cwd=root, input=names.encode(), stdout=out, check=True
        )


def _add_program(root: Path, name: str) -> None:
    path = shutil.which(name)
    if path is None:
        raise RuntimeError(f"{name} is not installed, which the benchmark runs in the guest")
    shutil.copy2(path, root / "bin" / name)
    listing = subprocess.run(["ldd", path], capture_output=True, text=True, check=False).stdout
    for library in re.findall(r"(/\S+) \(0x", listing):
        target = root / library[1:]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)


def _packages(place: Path, archive: Path) -> None:
    """As of npm: packages of a few small files each."""
    tree = place / "packages"
    for package in range(PACKAGES):
        directory = tree / "node_modules" / f"package-{package}"
        (directory / "lib").mkdir(parents=True)
        for number in range(FILES):
            name = "package.json" if not number else f"lib/{number}.js"
            (directory / name).write_text(f"// {package} {number}\n" * (5 + 30 * (number % 4)))
    subprocess.run(["tar", "-C", tree, "-cf", archive, "node_modules"], check=True, timeout=60)


def _repository(place: Path, target: Path) -> None:
    """The same files, in a bare repository."""
    tree, who = place / "packages", ["-c", "user.name=bench", "-c", "user.email=bench@localhost"]
    for arguments in (["init", "-q"], ["add", "."], [*who, "commit", "-q", "-m", "all"]):
        subprocess.run(["git", "-C", tree, *arguments], check=True, capture_output=True, timeout=60)
    subprocess.run(["git", "clone", "-q", "--bare", tree, target], check=True, capture_output=True, timeout=60)
