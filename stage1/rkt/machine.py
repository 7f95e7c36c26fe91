# SPDX-License-Identifier: Apache-2.0
"""The VM of an rkt pod: what the engine makes of it, and how later programs find it. Called by stage1/entry.

The engine's directory of the pod lies in RUN, whatever rkt calls its own directory meanwhile, and short enough for
sockets. What the guest sees is only there: apps' roots and a place for their codes are mounted in it one by one, with
mapped owners, in a mount namespace that ends with the pod. rkt's tree, which holds programs that the host runs as root,
is no part of it.
"""

import os
import time

from stage1 import engine
from stage1.engine import Host, Prepared
from stage1.errors import NotFound, PodError, Unsupported
from stage1.guest.settings import configure
from stage1.linux import beneath, files, idmap, namespace, process, tsc
from stage1.pod.model import Mount
from stage1.pod.network import PodNetwork
from stage1.rkt import copies, directory, logs, make, plan
from stage1.rkt.loader import App, RktPod
from stage1.rkt.streams import INTERACTIVE
from stage1.rootfs import identity, overlay, owners, unmounting, volumes
from stage1.vm import choose, hypervisors, kernels, launch_spec, record, slots
from stage1.vm.launch_spec import LaunchSpec
from stage1.vm.record import Record
from stage1.vm.spec import SerialLink, VmSpec, VsockLink, nics
from stage1.vm.vmm import VmProcess, find_unrecorded

RUN = "/run/clearpod/rkt"
HOME = "usr/lib/clearpod"
"""Of ours in the stage1 image."""
PORT = 1024
"""Of the guest, where its agent listens."""
KEY = "link-key"
KILLED = "killed"
"""Made before a stop kills the VMM, so that the launcher knows why (images/launcher/death.c)."""
OWN_KERNEL = "own-kernel"
"""A mark: the VM boots a kernel out of the app's image, and no guest of ours."""
APPS, EMPTY = "tree/layers/apps", "tree/layers/empty"
TEMPLATES = "clearpod/vm-templates"
"""The directory below rkt's data directory, created with the first template. A file in its place forbids templates."""
DATA = "rkt-data"
"""A link to rkt's data directory, in which the pod is."""
_LAUNCHER_S = 1.0


def host(pod_dir: str, hypervisor: str, *, root: str = "") -> Host:
    """The components of the image, whose root is the pod's or `root`, and facts of this machine. Raises NotFound,
    BadRequest as `choose.choose` does.
    """
    home = f"{root or directory.stage1_root(pod_dir)}/{HOME}"
    # The host's own mkfs.ext4 before that of the image, which has to be loaded first.
    os.environ["PATH"] = f"{home}/bin:{os.environ.get('PATH', os.defpath)}:{home}/{launch_spec.LOADED}"
    chosen = choose.choose(hypervisor, hypervisors.facts())
    return Host(RUN, f"{home}/guest", f"{RUN}/state", chosen, scratch_mib=0, vsock_port=PORT, ids=slots.configured())


def place(uuid: str) -> str:
    """The engine's directory of the pod, whether it exists or not."""
    return f"{RUN}/pods/{uuid}"


def prepare(pod: RktPod, pod_dir: str, *, network: PodNetwork | None, netns: str) -> LaunchSpec:
    """Make all that the guest needs, and return the launch spec. Undo: `undo`.

    Must run in the mount namespace of the VMM to come. Raises what the engine does.
    """
    tsc.use_file(f"{RUN}/tsc-khz")
    on = _with_disk(host(pod_dir, pod.pod.hypervisor), pod, pod_dir=pod_dir)
    _require_kernel(on, pod.pod.kernel)
    if pod.pod.journal:
        files.make_dirs(directory.journal_of_stage1(pod_dir), 0o755)  # so that the overlay knows of its directories
    prepared = engine.prepare(pod.pod, on)
    try:
        return _fill(prepared._replace(network=network), pod, pod_dir=pod_dir, netns=netns)
    except BaseException:
        undo(prepared.directory)
        raise


def _require_kernel(on: Host, variant: str) -> None:
    """Raise NotFound for a variant that is not in the stage1 image."""
    known = kernels.variants(on.guest_dir, hypervisor=on.choice.hypervisor)
    if variant and variant not in known:
        raise NotFound(
            f"the pod needs the guest kernel {variant[:100]!r}; its stage1 image has the ordinary one and "
            f"{', '.join(known) or 'none'}; use an image that `scripts/build-aci --kernel {kernels.STOCK}` makes"
        )


def _with_disk(on: Host, pod: RktPod, *, pod_dir: str) -> Host:
    """The disk for empty volumes lies in the pod's directory, and goes with it; an empty one of that size is kept."""
    templates = f"{directory.data(pod_dir)}/clearpod/templates"
    return on._replace(scratch_mib=pod.pod.scratch_mib, state_dir=pod_dir, template_dir=templates)


def undo(place: str) -> str:
    """Undo `prepare` before the VMM was started; idempotent. Returns and raises what `engine.clean_up` does.

    The record names the launcher, who is our parent and still has to report the error: it must not be killed.
    """
    try:
        with beneath.Root(place) as own:
            own.unlink(record.FILE)
    except FileNotFoundError:
        pass
    return engine.clean_up(place)


def _fill(prepared: Prepared, pod: RktPod, *, pod_dir: str, netns: str) -> LaunchSpec:
    place = prepared.directory
    with beneath.Root(place, one_mount=True) as own:
        return _fill_in(own, prepared, pod=pod, pod_dir=pod_dir, netns=netns)


def _fill_in(own: beneath.Root, prepared: Prepared, *, pod: RktPod, pod_dir: str, netns: str) -> LaunchSpec:
    place = prepared.directory
    own.link(DATA, directory.data(pod_dir))
    assert isinstance(prepared.vm, VmSpec)  # rkt has no pods on the host
    vm = _attached(prepared.vm, pod)._replace(netns=netns, nics=nics(prepared.network))
    owners.keep_plain(place, vm.ids)
    cid = vm.link.cid if isinstance(vm.link, VsockLink) else 0
    record.write(place, Record(launcher(place), vm.ids, cid=cid))
    for name in (APPS, EMPTY):
        own.make_directory(name, 0o755)
    statuses = directory.make_told(pod_dir), directory.writable_status_dir(pod_dir)
    show(place, pod, source=statuses[0], at="volumes/status")
    for name, text in pod.files:
        own.write(f"{identity.WHERE}/{name}", text.encode(), 0o644)
    apps = tuple(logs.begin(place, app) for app in pod.apps)
    for app in apps:
        add(place, pod, app=app)
    copy, warnings = _as_copy(vm, pod, pod_dir=pod_dir)
    vm = vm._replace(nics=copy.nics) if copy else vm  # its configuration fits both
    settings = configure(pod.pod, prepared.network, has_waited=bool(copy))._replace(
        lasting=pod.mutable, link_key=prepared.link_key, unix_ns=time.time_ns()
    )
    named = tuple(dict.fromkeys(volume.name for volume in pod.empty_volumes))
    own.write(f"tree/{plan.FILE}", plan.plan(settings, apps, volumes=named))
    own.write(KEY, prepared.link_key)
    own.write(engine.CONSOLE, b"")
    interactive = any(app.streams.stdin == INTERACTIVE for app in pod.apps)
    return launch_spec.of(vm, interactive=interactive, copy=copy, statuses=statuses)._replace(warnings=warnings)


def _as_copy(vm: VmSpec, pod: RktPod, *, pod_dir: str) -> tuple[VmSpec | None, tuple[str, ...]]:
    """Like `copies.find`, if templates are enabled."""
    top = templates(pod_dir) if vm.hypervisor.has_templates else ""
    if not top:
        return None, ()

    return copies.find(vm, pod.pod, pod_dir=pod_dir, top=top)


def templates(pod_dir: str) -> str:
    """Return the directory of templates, whether it exists or not; empty where the administrator forbids them."""
    top = f"{directory.data(pod_dir)}/{TEMPLATES}"
    return top if os.path.isdir(top) or not os.path.lexists(top) else ""


def has_own_kernel(place: str) -> bool:
    """Whether the VM boots a kernel of the image's: there is no agent then."""
    try:
        with beneath.Root(place, one_mount=True) as own:
            return own.exists(OWN_KERNEL)
    except FileNotFoundError:
        return False


def add(place: str, pod: RktPod, *, app: App) -> None:
    """Show the guest one app: its root, and the bundle of each of its containers with their volumes.

    Raises NotFound when a volume's source does not exist.
    """
    _show_volumes(place, pod)
    make.mount_points(app)
    show(place, pod, source=app.root, at=f"layers/apps/{app.name}")
    for one in app.containers:
        try:
            engine.add_container(place, pod.pod, container=one)
        except idmap.OwnersRefused as error:
            if not error.is_below:
                raise
            raise Unsupported(f"{error}, or give the volume recursive=false, so that it is not shown") from None


def apps(place: str) -> list[str]:
    """The names of the apps that the guest is shown."""
    with beneath.Root(place, one_mount=True) as own:
        return own.names(APPS)


def remove(place: str, app: str) -> None:
    """Undo `add`; idempotent. The agent must be done with the app."""
    for one in (app, f"{app}.pre-start", f"{app}.post-stop"):
        engine.remove_container(place, one)
    try:
        shown = f"share/layers/apps/{app}"
        namespace.in_mounts_of(engine.living_pid(place) or os.getpid(), lambda: unmounting.below(place, shown))
        with beneath.Root(place, one_mount=True) as own:
            own.remove_tree(f"{APPS}/{app}")
    except FileNotFoundError:
        pass  # done, or the pod has ended just now
    logs.forget(place, app)


def _attached(vm: VmSpec, pod: RktPod) -> VmSpec:
    """The VM as of `attached`. Apps' roots are on the layers share, which the guest caches as if it alone changed it,
    and it does.

    A kernel argument marks pods in which two roots may be of one image: their files have the same inode numbers, by
    which alone that server of 9p identifies them.
    """
    vm = attached(vm)
    may_be_alike = (pod.mutable or len(pod.apps) > 1) and not vm.hypervisor.tells_files_apart
    more = ("clearpod.alike",) if may_be_alike else ()
    return vm._replace(kernel_arguments=(*vm.kernel_arguments, *more))


def attached(vm: VmSpec) -> VmSpec:
    """The properties of all VMs of rkt's pods: a console for the apps, and shares that these change. Their launcher
    starts copies with the environment of those that boot, so without a shim.
    """
    shares = tuple(share._replace(read_only=False) for share in vm.shares)
    return vm._replace(console_attached=True, shares=shares, memory_shim="", volume_server="")


def _show_volumes(place: str, pod: RktPod) -> None:
    """The initial contents of the pod's empty volumes; some may be mounted already. Read-only: changes are made in
    the guest.
    """
    pid = engine.living_pid(place)
    for volume in pod.empty_volumes:
        name = f"{EMPTY}/{volume.name}"
        with beneath.Root(place, one_mount=True) as own:
            if own.exists(name):
                continue
            try:
                with engine.owners_of(place, pod.pod) as mapped:
                    shown = Mount(volume.path, f"/{volume.name}", read_only=True)
                    volumes.attach(shown, place, at=name.removeprefix("tree/"), pid=pid, ids=mapped.plain())
            except BaseException:
                own.remove_tree(name)
                raise


def show(place: str, pod: RktPod, *, source: str, at: str) -> None:
    """Show the guest a directory of the host, writable, at that place of the share, with the owners of its VMM."""
    pid = engine.living_pid(place)
    layers = overlay.find(source)
    with engine.owners_of(place, pod.pod) as mapped:
        if layers is None:
            volumes.attach(Mount(source, f"/{at}"), place, at=at, pid=pid, ids=mapped.plain())
            return
        with beneath.Root(place, one_mount=True) as own:
            own.make_directory(f"tree/{at}", 0o755)
        ids, owner = mapped.plain(), idmap.outside(mapped.extents, 0)
        namespace.in_mounts_of(pid, lambda: overlay.show(layers, place, at=at, ids=ids, owner=owner))


def launcher(place: str) -> VmProcess:
    """The launcher, our parent, stands for the VMM: they end together, and volumes are mounted in its mounts first."""
    pid = os.getppid()
    return VmProcess(pid, process.start_time(pid), f"{place}/{engine.CONSOLE}")


def link(place: str) -> SerialLink | VsockLink:
    """The agent's socket. Raises FileNotFoundError if the pod never started."""
    entry = record.read(place)
    if entry is None:
        raise FileNotFoundError(f"{place}/{record.FILE}")
    return VsockLink(entry.cid, PORT) if entry.cid else SerialLink(f"{place}/agent.sock")


def kill(place: str) -> None:
    """End the VM at once, and the launcher by that; if it is stuck, it too. Idempotent."""
    vmm, launcher = find_unrecorded(place), engine.find_vm(place)
    if vmm is not None:
        with beneath.Root(place) as own:
            os.close(own.open_or_make(KILLED, os.O_WRONLY, mode=0o600))
        vmm.kill()
    if launcher is not None and not launcher.wait(_LAUNCHER_S if vmm else 0):
        launcher.kill()


def collect_garbage() -> list[str]:
    """Remove the orphans of ended pods that rkt does not know any more, because its data directory was removed.

    A pod that lives is left alone, even without its directory. Returns a sentence for each that could not be removed.
    """
    problems = []
    for path in engine.directories(RUN):
        name = path.rpartition("/")[2]
        try:
            if _is_forgotten(path, name):
                engine.clean_up(path)
        except (PodError, OSError, ValueError) as error:
            if path in engine.directories(RUN):  # else another gc was faster
                problems.append(f"{path} can't be removed: {error}")
    return problems


def _is_forgotten(place: str, uuid: str) -> bool:
    try:
        with beneath.Root(place) as own:
            data = own.read_link(DATA)
    except FileNotFoundError:
        return False  # it is being removed
    if not data:
        return False  # it is just being made
    return not directory.exists(data, uuid) and not engine.living_pid(place) and find_unrecorded(place) is None


def key(place: str) -> bytes:
    """The key that a program needs to speak to the agent. Raises NotFound when the pod never started."""
    try:
        with beneath.Root(place) as own:
            return own.read(KEY, ours=True)
    except FileNotFoundError:
        raise NotFound(f"{place}/{KEY} is missing: this pod was not started, or has ended and was removed") from None
