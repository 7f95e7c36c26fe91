# SPDX-License-Identifier: Apache-2.0
"""What the lab is made of: directories it shares, command lines, initramfs. Decides and touches nothing.

Called by start.py. Names of sockets and files are relative to the lab's state directory, in which everything runs: a
socket's path has a limit of 107 bytes, a checkout's has none.
"""

import os
import shlex
from typing import NamedTuple

from tests.fakes.builders import cpio
from tests.lab import protocol

VIRTIOFSD = "/usr/libexec/virtiofsd"
ROOT_BIND = "root"
"""In the state directory: the host's root without what is mounted on it, in the keeper's mount namespace."""
DISK, DISK_BYTES = "disk.img", 4 << 30
CONSOLE = "console.log"
STANDARD_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
APPLETS = tuple("chmod hostname insmod ip mkdir mknod mount poweroff rm sh sleep switch_root umount uname".split())
"""What init.sh calls."""
S_LINK = 0o120000
KERNEL_LINE = "console=ttyS0 quiet panic=-1 mitigations=off"
MODULES = (
    "overlay", "kvm", "kvm-amd", "vhost", "vhost_net", "vhost_vsock", "tun", "tap", "veth", "bridge", "br_netfilter",
    "macvtap", "dummy", "loop", "erofs", "ext4", "virtio_blk", "virtio_net", "nf_tables", "nft_chain_nat",
    "nft_compat", "nf_nat", "xt_MASQUERADE", "xt_conntrack", "xt_comment", "cls_u32", "cls_bpf", "act_mirred",
    "sch_ingress",
)  # fmt: skip
"""Loaded from the initramfs: unpacking them inside, through virtiofs, takes seconds. The others wait for modprobe."""
HIDDEN = ("/tmp/", "/run/", "/var/tmp/", "/var/lib/clearpod/")
"""Directories that are the lab's own."""
ICOUNT = ("-icount", "shift=0,sleep=off")


class Lab(NamedTuple):
    """One lab. All directories are absolute and real paths."""

    checkout: str
    state: str
    cache: str
    kernel: str
    modules: str
    memory_mib: int = 3072
    vcpus: int = 2
    deterministic: bool = False
    paths: tuple[str, ...] = ()
    """Directories for PATH, before the standard ones."""
    apart: tuple[str, ...] = ()
    """Directories of these that need a share of their own (`needs_share`)."""


class Share(NamedTuple):
    """A directory of the host that the lab sees at `target`."""

    tag: str
    source: str
    target: str
    writable: bool = False
    cache: str = "auto"
    """`auto`: the lab sees the host's changes within a second; `always` believes that there are none."""


def shares(lab: Lab) -> list[Share]:
    """The root first; a directory comes before those below it."""
    results = f"{lab.checkout}/build/results"
    live = [Share("checkout", lab.checkout, lab.checkout), Share("cache", lab.cache, lab.cache)]
    live += [Share(f"apart{n}", path, path) for n, path in enumerate(lab.apart)]
    live.append(Share("results", results, results, writable=True))
    root = Share("root", f"{lab.state}/{ROOT_BIND}", "/", cache="always")
    return [root, *sorted(live, key=lambda share: share.target)]


def share_argv(share: Share) -> list[str]:
    """virtiofsd's command line."""
    return [
        VIRTIOFSD, *("--shared-dir", share.source), *("--socket-path", f"{share.tag}.sock"),
        *("--cache", share.cache), *("--sandbox", "none"), *("--log-level", "error"),
        *(() if share.writable else ("--readonly",)),
    ]  # fmt: skip


def machine_argv(lab: Lab, qemu: str) -> list[str]:
    """QEMU's command line."""
    memory = f"memory-backend-memfd,id=ram,size={lab.memory_mib}M,share=on"
    argv = [
        qemu, *("-M", "q35"), *("-cpu", "max,+svm,+npt"), *_clock(lab),
        *("-m", str(lab.memory_mib)), *("-object", memory), *("-numa", "node,memdev=ram"),
        *("-kernel", lab.kernel), *("-initrd", "initramfs"), *("-append", KERNEL_LINE),
        "-nodefaults", "-no-reboot", *("-display", "none"), *("-serial", f"file:{CONSOLE}"),
        *("-drive", f"file={DISK},if=none,id=disk,format=raw,cache=unsafe,discard=unmap"),
        *("-device", "virtio-blk-pci,drive=disk"), *("-device", "virtio-rng-pci"),
        *("-device", f"virtio-serial-pci,max_ports={protocol.PORTS + 1}"),
    ]  # fmt: skip
    for share in shares(lab):
        argv += ["-chardev", f"socket,id={share.tag},path={share.tag}.sock"]
        argv += ["-device", f"vhost-user-fs-pci,chardev={share.tag},tag={share.tag}"]
    for number in range(protocol.PORTS):
        argv += ["-chardev", f"socket,id=port{number},path={port(number)},server=on,wait=off"]
        argv += ["-device", f"virtserialport,chardev=port{number},name={protocol.PORT_NAME}{number}"]
    return argv


def port(number: int) -> str:
    """The socket of a port of the agent."""
    return f"port{number}.sock"


def _clock(lab: Lab) -> tuple[str, ...]:
    if lab.deterministic:
        return ("-accel", "tcg", "-smp", "1", *ICOUNT)
    return ("-accel", "tcg,thread=multi", "-smp", str(lab.vcpus))


def environment(lab: Lab) -> str:
    """The file that init.sh reads."""
    path = ":".join((*lab.paths, STANDARD_PATH))
    settings = {"LAB_CHECKOUT": lab.checkout, "LAB_MODULES": lab.modules, "LAB_PATH": path}
    settings["LAB_DETERMINISTIC"] = "1" if lab.deterministic else ""
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in settings.items())


def load_order(modules_dep: str, names: tuple[str, ...] = MODULES) -> list[str]:
    """Files of modules, each after those it needs, from the text of modules.dep; what is built in is not there."""
    needs = {}
    for line in modules_dep.splitlines():
        path, _, others = line.partition(":")
        needs[_module_name(path)] = [*reversed(others.split()), path]
    expected = [path for name in names for path in needs.get(_module_name(name), [])]
    return list(dict.fromkeys(expected))


def _module_name(path: str) -> str:
    return os.path.basename(path).partition(".")[0].replace("-", "_")


def initramfs(lab: Lab, *, busybox: bytes, init: bytes, modules: dict[str, bytes]) -> list[cpio.Entry]:
    """The entries of the lab's initramfs; `modules` are uncompressed and in the order to load them."""
    table = "".join(f"{share.tag}\t{'rw' if share.writable else 'ro'}\t{share.target}\n" for share in shares(lab)[1:])
    return [
        *(cpio.Entry(name, cpio.S_DIR | 0o755) for name in ("bin", "dev", "modules", "proc")),
        cpio.Entry("dev/console", cpio.S_CHAR | 0o600, device=(5, 1)),
        cpio.Entry("bin/busybox", cpio.S_FILE | 0o755, busybox),
        *(cpio.Entry(f"bin/{name}", S_LINK | 0o777, b"busybox") for name in APPLETS),
        cpio.Entry("init", cpio.S_FILE | 0o755, init),
        *(
            cpio.Entry(f"modules/{number:03}-{name}.ko", cpio.S_FILE | 0o644, data)
            for number, (name, data) in enumerate(modules.items())
        ),
        cpio.Entry("lab.env", cpio.S_FILE | 0o644, environment(lab).encode()),
        cpio.Entry("shares", cpio.S_FILE | 0o644, table.encode()),
    ]


def passed_on(environ: dict[str, str]) -> dict[str, str]:
    """What a command in the lab inherits of its client's environment."""
    prefixes = ("CLEARPOD_", "PYTHON", "PYTEST", "TERM", "LANG", "LC_", "CI", "COLUMNS")
    return {name: value for name, value in environ.items() if name.startswith(prefixes)}


def needs_share(path: str) -> bool:
    """Whether the lab sees `path` only by a share of its own: the bind of / does not show it, or the lab's disk hides
    it.
    """
    return os.stat(path).st_dev != os.stat("/").st_dev or f"{path}/".startswith(HIDDEN)
