# SPDX-License-Identifier: Apache-2.0
"""`clearpod check`: whether this host can run pods. One line for each requirement, and how to fix what is wrong.

Facts come from `facts`; the results are a pure function of them, one Item for each thing, in the order of printing.
Changes nothing.
"""

import argparse
import json
from typing import TYPE_CHECKING, NamedTuple

from cri import readiness
from cri.cli.check import unit
from cri.cli.check.facts import Facts, gather
from cri.cli.parser import Command, Parser
from cri.pool import fit
from stage1.linux.cgroup import LIMITED
from stage1.linux.host import Program
from stage1.vm import hypervisors, kernels, limits, programs
from stage1.vm.choose import kvm_remedy
from stage1.vm.spec import Hypervisor

if TYPE_CHECKING:
    from cri.cli.check.start import Tried

OK, WARN, FAIL = "ok", "warn", "fail"
GIB = 1 << 30
LEAST_BYTES, ENOUGH_BYTES = 1 * GIB, 8 * GIB

# tool -> (status when it is missing, what it is for)
_TOOLS = {
    "mkfs.erofs": (FAIL, "stores image layers"),
    "mkfs.ext4": (FAIL, "makes scratch disks"),
    "gzip": (FAIL, "unpacks layers"),
    "zstd": (WARN, "unpacks layers with zstd compression"),
}


class Item(NamedTuple):
    """One line: `status` ok, warn or fail; `remedy` empty when there is nothing to do."""

    name: str
    status: str
    detail: str
    remedy: str = ""


def evaluate(facts: Facts) -> list[Item]:
    """All items. A fail means that no pod can run; a warn, that something is slower or missing."""
    return [
        _user(facts),
        _config(facts),
        *(Item(one.name, *_status_and_text(one)) for one in facts.start),
        _kvm(facts),
        _device("vsock", facts.host.vsock_error),
        *(_program(facts, one) for one in hypervisors.ALL),
        _hypervisor(facts),
        *_guest(facts),
        _guest_digests(facts),
        *_tools(facts),
        _crun(facts),
        *_mounts(facts),
        _plugins(facts),
        _network(facts),
        _streaming(facts),
        _device("tun", facts.tun_error),
        _cgroup(facts),
        _driver(facts),
        *_unit(facts),
        *_overhead(facts),
        _pool(facts),
        _host_pods(facts),
        *_policy(facts),
        _confinement(facts),
        _ids(facts),
        _owners(facts),
        _space(facts),
        _layers(facts),
        _reserve(facts),
    ]


def _user(facts: Facts) -> Item:
    if facts.is_root:
        return Item("user", OK, "root")
    return Item("user", FAIL, "not root: clearpod mounts and makes devices", "run it with sudo")


def _config(facts: Facts) -> Item:
    if facts.config_error:
        return Item("configuration", FAIL, facts.config_error, "fix the file")
    return Item("configuration", OK, f"state in {facts.state_dir}, guest in {facts.guest_dir}")


def _status_and_text(one: "Tried") -> tuple[str, str]:
    """Return status and text for one part of the daemon's start. An error already says what to do."""
    return (FAIL if one.is_fatal else WARN, one.error) if one.error else (OK, one.detail)


def _kvm(facts: Facts) -> Item:
    host = facts.host
    if not host.cpu_virtualization:
        remedy = "turn virtualisation on in the firmware, or nesting on the outer host"
        return Item("KVM", WARN, "the CPU shows neither vmx nor svm", remedy)
    if host.kvm_error:
        return Item("KVM", WARN, f"/dev/kvm: {host.kvm_error}", kvm_remedy(host))
    return Item("KVM", OK, f"/dev/kvm opens and the CPU has {host.cpu_virtualization}")


_NEED_VSOCK = " and ".join(one.title for one in hypervisors.ALL if one.uses_vsock)
# name -> (path, kernel module, what it is for)
_DEVICES = {
    "vsock": ("/dev/vhost-vsock", "vhost_vsock", f"{_NEED_VSOCK} needs it"),
    "tun": ("/dev/net/tun", "tun", "pods have no network without it"),
}


def _device(name: str, error: str) -> Item:
    path, module, why = _DEVICES[name]
    if error:
        return Item(name, WARN, f"{path}: {error}; {why}", f"modprobe {module}")
    return Item(name, OK, f"{path} opens")


def _program(facts: Facts, hypervisor: Hypervisor) -> Item:
    """A fail where it would run on any host, and no other one is here."""
    program = facts.host.programs.get(hypervisor.name, Program(lack="not looked for"))
    if program.lack:
        status = FAIL if hypervisor.can_emulate and not facts.choice else WARN
        return Item(hypervisor.title, status, program.lack, program.remedy)
    return Item(hypervisor.title, WARN if program.flaw else OK, program.flaw or program.path, program.remedy)


def _hypervisor(facts: Facts) -> Item:
    choice = facts.choice
    if choice is None:
        return Item("hypervisor", FAIL, facts.choice_error)
    detail = f"{choice.hypervisor.name} with {choice.accel}: {'; '.join(choice.reasons)}"
    if choice.warning:
        return Item("hypervisor", WARN, f"{detail}; {choice.warning}")
    return Item("hypervisor", OK, detail)


def _guest(facts: Facts) -> list[Item]:
    hypervisor = facts.choice.hypervisor if facts.choice else hypervisors.ALL[-1]
    stock = f"{hypervisor.kernel}-{kernels.STOCK}"
    is_stock = hypervisor.kernel not in facts.guest_files and stock in facts.guest_files
    files = readiness.guest_files(hypervisor, is_jailed=True, is_stock=is_stock)
    names = dict(zip(files, _GUEST, strict=True))
    return [_guest_file(facts, title, file=name) for name, title in names.items() if title]


_GUEST = ("kernel image", "initramfs", "system image", "", "seccomp")
"""Titles of `readiness.guest_files`; the jailer is looked at with the confinement."""


def _guest_file(facts: Facts, name: str, *, file: str) -> Item:
    path = f"{facts.guest_dir}/{file}"
    if file in facts.guest_files:
        is_slow = name == "kernel image" and file.endswith(f"-{kernels.STOCK}")
        return Item(name, WARN, f"{path}; {kernels.SLOW}", kernels.REMEDY) if is_slow else Item(name, OK, path)
    absent = readiness.absent_file(path)
    return Item(name, FAIL, absent.lack, absent.remedy)


def _guest_digests(facts: Facts) -> Item:
    if facts.guest_problems:
        remedy = "clearpod images build, or install the package clearpod-guest again"
        return Item("guest files", FAIL, "; ".join(facts.guest_problems), remedy)
    return Item("guest files", OK, f"as they were built: {facts.guest_dir}/manifest.json")


def _tools(facts: Facts) -> list[Item]:
    paths = dict(facts.tools)
    return [_tool(name, paths.get(name, "")) for name in _TOOLS]


def _tool(name: str, path: str) -> Item:
    status, purpose = _TOOLS[name]
    if path:
        return Item(name, OK, path)
    absent = readiness.absent_tool(name)
    return Item(name, status, f"{absent.lack}; {purpose}", absent.remedy)


def _crun(facts: Facts) -> Item:
    path = dict(facts.tools).get("crun", "")
    return Item("crun", OK, f"in the guest's system image; on this host {path or 'absent, needed by host pods only'}")


def _mounts(facts: Facts) -> list[Item]:
    errors = dict(facts.mount_errors)
    remedies = {
        "erofs": (FAIL, "use Linux 6.12 or later, and a state_dir on a disk"),
        "overlay": (WARN, "modprobe overlay"),
    }
    return [
        Item(name, status, errors[name], remedy) if errors.get(name) else Item(name, OK, _MOUNTED[name])
        for name, (status, remedy) in remedies.items()
    ]


_MOUNTED = {"erofs": "this kernel mounts it from a file", "overlay": "this kernel mounts it"}


def _plugins(facts: Facts) -> Item:
    where = " or ".join(facts.bin_dirs)
    if not facts.missing_plugins:
        return Item("CNI plugins", OK, f"in {where}")
    missing = ", ".join(facts.missing_plugins)
    remedy = "apt install containernetworking-plugins"
    return Item("CNI plugins", WARN, f"{missing} not in {where}; pods get no network", remedy)


def _network(facts: Facts) -> Item:
    if not facts.network_error:
        detail = f"{facts.network}; {facts.network_note}" if facts.network_note else facts.network
        return Item("CNI network", WARN if facts.network_problems else OK, detail)
    remedy = "install your cluster's CNI network, which puts a .conflist there"
    return Item("CNI network", WARN, f"{facts.network_error}; pods have loopback only", remedy)


def _streaming(facts: Facts) -> Item:
    detail = f"exec, attach and port-forward on {facts.streaming}"
    if not facts.is_streaming_open:
        return Item("streaming", OK, detail)
    return Item("streaming", WARN, f"{detail}, without TLS for other hosts too", "set streaming.address to 127.0.0.1")


def _cgroup(facts: Facts) -> Item:
    version = "version 2" if facts.cgroup == "v2" else facts.cgroup
    if not (missing := [name for name in LIMITED if name not in facts.limited]):
        return Item("cgroup", OK, f"{version}: each VMM has its own, with limits")
    detail = f"{version or 'nothing'} mounted on /sys/fs/cgroup, where a VMM has no limit of {', '.join(missing)}"
    remedy = "boot with systemd.unified_cgroup_hierarchy=1; in a container, give it a cgroup that it may change"
    return Item("cgroup", WARN, detail, remedy)


def _driver(facts: Facts) -> Item:
    name, lack = facts.driver
    if lack:
        remedy = 'set cgroup_driver to "auto" or "cgroupfs", and the kubelet\'s cgroupDriver to the same'
        return Item("cgroup driver", FAIL, f"{name}, but {lack}: no pod of the kubelet's can run", remedy)
    return Item("cgroup driver", OK, f"{name}, as reported to the kubelet")


def _unit(facts: Facts) -> list[Item]:
    used, hidden = facts.units
    return [Item("unit", WARN, f"{used} is used and hides {hidden}", unit.UNHIDE)] if hidden else []


def _overhead(facts: Facts) -> list[Item]:
    """Return the item with a VM's overhead, for a RuntimeClass."""
    if facts.choice is None or not facts.vm_mib:
        return []
    mib = limits.estimate_mib(facts.vm_mib, is_emulated=facts.choice.is_emulated)
    detail = f"a VM of {facts.vm_mib} MiB takes up to {mib} MiB for itself: overhead.podFixed.memory {mib}Mi"
    return [Item("pod overhead", OK, f"{detail} in the RuntimeClass lets its pod's cgroup count it")]


def _pool(facts: Facts) -> Item:
    bounds, each, (host, available) = facts.pool, facts.vm_mib, facts.memory_mib
    if not bounds.size:
        return Item("warm pool", OK, "off: pool.size is 0")
    if not (count := fit.most(bounds, each)):
        detail = f"no VM of {each} MiB (vm.memory_mib) is within pool.memory_mib, which is {bounds.memory_mib}"
        return Item("warm pool", WARN, detail, f"set pool.memory_mib to {bounds.size * each}, or to 0")
    if facts.choice is None:
        return Item("warm pool", WARN, "no VM can be prewarmed without a hypervisor", "see the hypervisors above")
    kept = host // fit.KEPT_FREE
    waiting = f"{count} VMs of {each} MiB wait"
    if count * each > host - kept:
        detail = f"{waiting}, together more than nine tenths of the host's {host} MiB"
        return Item("warm pool", WARN, detail, f"set pool.size to {(host - kept) // each} or less")
    if available - each < kept:
        detail = f"none is booted now: it needs {each} MiB of {available} available, and {kept} must stay free"
        return Item("warm pool", WARN, detail, "stop some pods, or give the host more memory")
    less = f" and not {bounds.size}, as pool.memory_mib is {bounds.memory_mib}" if count < bounds.size else ""
    return Item("warm pool", OK, f"{waiting}{less}")


def _host_pods(facts: Facts) -> Item:
    allowed = ", ".join(facts.host_pods)
    if not allowed:
        return Item("host pods", OK, "refused: host_pods.allow has no namespace of the host")
    if facts.host_pods_lack:
        remedy = "apt install crun, boot with cgroup v2, and build the guest"
        return Item("host pods", WARN, f"{allowed} allowed, but {'; '.join(facts.host_pods_lack)}", remedy)
    if facts.cgroup != "v2":
        detail = f"{allowed} allowed, but without limits: version 2 of the cgroups has no controllers"
        return Item("host pods", WARN, detail, "boot with systemd.unified_cgroup_hierarchy=1")
    return Item("host pods", OK, f"{allowed} allowed: such pods run with crun, outside of any VM")


def _policy(facts: Facts) -> list[Item]:
    names = ("policy", *(f"policy rule {number}" for number in range(1, len(facts.policy))))
    return [Item(name, OK, detail) for name, detail in zip(names, facts.policy, strict=False)]


def _confinement(facts: Facts) -> Item:
    if facts.confinement.missing:
        return Item("confinement", FAIL, facts.confinement.missing, "VMMs are never started with less")
    if facts.confinement.weaker:
        return Item("confinement", WARN, facts.confinement.weaker, "boot with Landlock")
    choice = facts.choice
    if choice and facts.is_script:
        shown = f"{choice.binary} is a script, so its jail shows all of {', '.join(programs.SYSTEM)}"
        remedy = "name the program that it starts as the hypervisor"
        if facts.covered:
            lost = f"{shown}, and no pod can have files in {' or '.join(facts.covered)}"
            return Item("confinement", FAIL, lost, f"{remedy}, or move the directory")
        return Item("confinement", WARN, shown, remedy)
    if choice and choice.hypervisor.can_confine_itself and not choice.sandbox:
        detail = f"{choice.binary} was built without seccomp, so it may make any system call"
        return Item("confinement", WARN, detail, f"use Debian's {choice.hypervisor.title}")
    return Item("confinement", OK, "VMMs get a user of their own, no privileges on this host, and only their own files")


def _ids(facts: Facts) -> Item:
    ids = facts.jail_ids
    detail = f"VMMs run as users from {ids.first} to {ids.first + ids.length - 1}, enough for {len(ids.slots)} pods"
    if not facts.jail_overlaps:
        return Item("ids", OK, detail)
    taken = f"{detail}, but {'; '.join(facts.jail_overlaps)} gives some of them to an account"
    return Item("ids", WARN, taken, "set jail.first_id and jail.count to ids that no user has")


def _owners(facts: Facts) -> Item:
    if not facts.unmapped:
        return Item("owners", OK, f"what is in {facts.run_dir} can be shown to VMMs with mapped owners")
    return Item("owners", FAIL, facts.unmapped, "set run_dir to a directory on a tmpfs, as /run is, or on ext4")


def _space(facts: Facts) -> Item:
    detail = f"{facts.free_bytes / GIB:.1f} GiB free for {facts.state_dir}"
    if facts.free_bytes >= ENOUGH_BYTES:
        return Item("disk space", OK, detail)
    status = FAIL if facts.free_bytes < LEAST_BYTES else WARN
    return Item("disk space", status, detail, "free some, or set state_dir to a larger disk")


def _layers(facts: Facts) -> Item:
    overcommit, is_allocated, _ = facts.storage
    layers, there = facts.layers, facts.free_bytes + facts.layers.used_bytes
    detail = f"pods have written {layers.used_bytes / GIB:.1f} GiB and may write {layers.size_bytes / GIB:.1f} GiB"
    if is_allocated:
        return Item("layers", OK, f"{detail}, which is allocated")
    if overcommit:
        bound = f"{detail}, of {overcommit * there / GIB:.1f} GiB that storage.overcommit allows"
        if layers.size_bytes <= overcommit * there:
            return Item("layers", OK, bound)
        return Item("layers", WARN, f"{bound}: no pod is made", "remove pods, or free some space")
    if layers.size_bytes <= there:
        return Item("layers", OK, detail)
    detail += f", more than the {there / GIB:.1f} GiB that there are; when one has filled the disk, others can't write"
    return Item("layers", WARN, detail, "set storage.overcommit, storage.allocate or a smaller vm.scratch_mib")


def _reserve(facts: Facts) -> Item:
    reserve_mib = facts.storage[2]
    kept = facts.kept_bytes >> 20
    detail = f"{kept} MiB of the {reserve_mib} MiB of storage.reserve_mib are kept, to be able to remove on a full disk"
    if kept >= reserve_mib or facts.free_bytes > 2 * (reserve_mib << 20):
        return Item("reserve", OK, detail)  # a daemon that runs fills it up, and the next one makes it
    return Item("reserve", WARN, detail, "free some space")


EXAMPLES = (
    ("sudo clearpod check", "a line for each requirement of pods"),
    ("sudo clearpod check --json | jq '.[] | select(.status == \"fail\")'", "for programs"),
)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod check`."""
    parser.add_argument("--json", action="store_true", help="print a list of {name, status, detail, remedy}")
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Print the results; 1 when something that pods need is missing, else 0."""
    items = evaluate(gather(args.config))
    print(json.dumps([item._asdict() for item in items], indent=1) if args.json else text(items))
    return 1 if any(item.status == FAIL for item in items) else 0


def text(items: list[Item]) -> str:
    """One line for each: status, name, what is, and what to do about it."""
    width = max(len(item.name) for item in items)
    return "\n".join(
        f"{item.status:<4}  {item.name:<{width}}  {item.detail}" + (f"; {item.remedy}" if item.remedy else "")
        for item in items
    )


COMMANDS = {"check": Command(EXAMPLES, add_arguments, main)}
