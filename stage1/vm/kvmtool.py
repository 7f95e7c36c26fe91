# SPDX-License-Identifier: Apache-2.0
"""kvmtool: a VM as a command line of `lkvm run`, and what else is its own. For `hypervisors.py` and the golden tests.
Pure, but for `find` and the startup check.

The kernel is the bzImage, the only thing kvmtool loads; devices are virtio-pci. A share has no read-only option here:
the host exports a read-only mount instead. kvmtool keeps a control socket in `$HOME/.lkvm`, which is not used; the
name, which is the socket's, is a short one: a unix socket's path has 107 bytes.

With `vm.dax` the system image is no disk but memory: see `dax.py`.
"""

from stage1.errors import BadRequest, CidTaken, VmFailed
from stage1.linux import host
from stage1.linux.host import Program
from stage1.linux.process import PidHandle
from stage1.vm import dax, kernel_line, own_machine, startup
from stage1.vm.spec import HOME, TAP_FD, Hypervisor, VmSpec, VsockLink, check

# What kvmtool puts before our arguments, of which "root=/dev/vda rw" means nothing to a kernel with an initramfs.
_OWN_ARGUMENTS = (
    "noapic noacpi pci=conf1 reboot=k panic=1 i8042.direct=1 i8042.dumbkbd=1 i8042.nopnp=1 "
    "earlyprintk=serial i8042.noaux=1 console=ttyS0 root=/dev/vda rw  "
)
_NAME = "vm"
_HUGE_PAGE_MIB = 2
"""Memory that is no multiple of it lies where the host can give no huge pages for any of it: 3500 exits at boot."""
_KEPT_BACK_BYTES = 1
"""It counts the terminating zero twice, and would cut off the last letter of the longest line."""


def argv(vm: VmSpec) -> list[str]:
    """The whole command line. Raises BadRequest when `vm` has what kvmtool can't do."""
    check(vm)
    if vm.own:
        return own_machine.argv_of_pci(vm, before=_OWN_ARGUMENTS, network=_network(vm))
    if not isinstance(vm.link, VsockLink):
        raise BadRequest("kvmtool has no serial link to the agent: give the VM a vsock link, or use QEMU")
    return [
        vm.binary,
        "run",
        *("--name", _NAME),
        *("--kernel", vm.kernel),
        *("--initrd", vm.initramfs),
        *("--mem", f"{vm.memory_mib + vm.memory_mib % _HUGE_PAGE_MIB}M"),
        *("--cpus", str(vm.vcpus)),
        *("--console", "virtio" if vm.console_attached else "serial"),
        *(() if vm.has_rdrand else ("--rng",)),  # its set-up is 330 exits to the host
        *("--vsock", str(vm.link.cid)),
        *(word for disk in _disks(vm) for word in ("--disk", disk)),
        *(word for share in vm.shares for word in ("--9p", f"{share.path},{share.tag}")),
        *_network(vm),
        *("--params", kernel_command_line(vm)),
    ]


def environment(vm: VmSpec) -> dict[str, str]:
    """kvmtool's environment: a HOME of the pod's own, and the library for DAX."""
    own = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": HOME if vm.jailer else vm.run_dir}
    if not vm.dax:
        return own

    disk = {"CLEARPOD_DISK": vm.scratch} if vm.scratch else {}
    filtered = {"CLEARPOD_FILTERED": "1"} if vm.filter else {}
    return own | disk | filtered | dax.environment(vm.dax, vm.memory_mib, by_descriptor=bool(vm.jailer))


def kernel_command_line(vm: VmSpec) -> str:
    """Our part of the kernel command line. Raises BadRequest when the whole line is too long."""
    memory = []
    if vm.dax:
        memory = dax.kernel_arguments(vm.dax, vm.memory_mib)
    system, scratch = ("/dev/pmem0", "/dev/vda") if vm.dax else ("/dev/vda", "/dev/vdb")
    # The console of an attached console carries records, among which the kernel's lines would be noise.
    quiet = ["loglevel=1"] if vm.console_attached else []
    line = [
        "panic=-1",
        "pci=noearly",  # else it looks for flaws of real chipsets, 88 exits to the host
        *kernel_line.SPEED,
        *quiet,
        *memory,
        *kernel_line.for_agent(vm, system=system, scratch=scratch),
        *vm.kernel_arguments,
    ]
    return kernel_line.join(line, added_bytes=len(_OWN_ARGUMENTS) + _KEPT_BACK_BYTES)


def _disks(vm: VmSpec) -> list[str]:
    system = [] if vm.dax else [f"{vm.system_image},ro"]
    return [*system, *([vm.scratch] if vm.scratch else [])]


def _network(vm: VmSpec) -> list[str]:
    if not vm.nics:
        # Without it there would be a user-mode network.
        return ["--network", "mode=none"]
    options = [f"mode=tap,{_tap(vm, number)},guest_mac={nic.mac},script=none" for number, nic in enumerate(vm.nics)]
    return [word for option in options for word in ("--network", option)]


def _tap(vm: VmSpec, number: int) -> str:
    """An interface that is a path is taken for a macvtap's, whose descriptor kvmtool leaves as it is.

    Any other it would attach to its tap once more, which the kernel refuses.
    """
    return f"tapif=/tap,fd={TAP_FD + number}" if vm.jailer else f"tapif={vm.nics[number].tap}"


def find() -> Program:
    """lkvm on PATH, as `examine` has it."""
    return examine(host.which("lkvm"))


def examine(path: str) -> Program:
    """The program at `path`, empty for none. Of a script that starts it nothing is known."""
    if not path:
        return Program(lack="lkvm is not on PATH", remedy="Debian has no package: install kvmtool yourself")
    if host.has_text(path, b"\x7fELF") and not host.has_text(path, b"/dev/vhost-vsock"):
        return Program(path, f"{path} is too old: it has no option --vsock", remedy="install a newer kvmtool")
    if host.is_static(path):
        flaw = f"{path} is linked statically, so guests have copies of images: DAX needs a preloaded library"
        return Program(path, flaw=flaw, remedy="build kvmtool without LDFLAGS=-static", preload=False)
    return Program(path)


class _Kvmtool(Hypervisor):
    name = title = "kvmtool"
    kernel, filter, shim = "bzImage", "seccomp-kvmtool.bpf", "lkvm-shim.so"
    uses_vsock = needs_terminal = True
    user_namespaces_lack = "kvmtool creates files on volumes as root for every user; set vm.hypervisor to qemu"

    def find(self) -> Program:
        return find()

    def is_program(self, name: str) -> bool:
        return name in ("lkvm", "kvmtool", "vm")

    def argv(self, vm: VmSpec) -> list[str]:
        return argv(vm)

    def environment(self, vm: VmSpec) -> dict[str, str]:
        return environment(vm)

    def listener(self, vm: VmSpec) -> tuple[str, bool] | None:
        """Return the socket of the DAX window, through which images are mapped while the guest runs."""
        return (vm.dax.socket, True) if vm.dax and vm.dax.window_bytes else None

    def has_ended(self, handle: PidHandle, watch_s: float) -> bool:
        """Whether it ends before a vCPU's thread is there: by then it has opened all that it was given."""
        return startup.ends_before_thread(handle, "kvm-vcpu-")

    def explain(self, binary: str, output: str, *, sentence: str) -> VmFailed:
        _, unknown, rest = output.partition("unknown option `")
        if unknown:
            option = rest.partition("'")[0]
            return VmFailed(f"{binary} is too old: it has no option --{option}; install a newer kvmtool")
        if "SET_GUEST_CID failed: Address already in use" in output:
            return CidTaken(sentence)
        return VmFailed(sentence)


HYPERVISOR = _Kvmtool()
