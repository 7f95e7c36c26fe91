# SPDX-License-Identifier: Apache-2.0
"""The manifest loader: from a pod directory that rkt has prepared to values that the engine knows. For stage1/entry.

Reads the manifests and looks into the apps' roots; changes nothing and asks no network. The order for `run`:

    options = arguments.run(argv)
    pod = loader.read_pod(pod_dir, options)
    make.make(pod)                              # empty volumes
    network = ...                               # stage1.net.rkt
    pod = loader.with_network(pod, pod_dir, options=options, network=network, host_ip=...)
    # write pod.files where the guest has /run/clearpod/volumes/pod, the rest is the engine's

For app add: `read_pod` with `only`, `make`, `with_network`, and the one app in `apps`.
"""

import errno
import os
from collections.abc import Callable
from typing import NamedTuple, Self

from stage1.errors import BadRequest, KernelError, NotFound, Unsupported
from stage1.linux import files, in_root
from stage1.pod import own_kernel
from stage1.pod.model import Container, Device, Limits, Mount, Pod, Port, Process, User
from stage1.pod.network import PodNetwork
from stage1.rkt import (
    annotations,
    covers,
    directory,
    environment,
    inside,
    isolators,
    manifest,
    podwide,
    security,
    sizing,
    streams,
    syscalls,
    texts,
    users,
    userspace,
    volumes,
)
from stage1.rkt.arguments import RunOptions as RunOptions
from stage1.rkt.isolators import Isolators
from stage1.rkt.manifest import Entry, Manifest
from stage1.rkt.streams import Streams
from stage1.rkt.volumes import EmptyVolume, Volumes

_NOBODY = 65534
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1_000
"""The kernel's own."""

_TUN = "/dev/net/tun"
_IPC = ("", "auto", "private")


class App(NamedTuple):
    """One app. `root` is its root on the host, writable: an overlay of rkt's or a plain directory.

    `pre_start` and `post_stop` are containers of their own in the same root: as root, with every capability and no
    filter; None when there is no such handler. Where the streams are INTERACTIVE, they are those of `run` itself.
    """

    name: str
    container: Container
    root: str
    pre_start: Container | None = None
    post_stop: Container | None = None
    streams: Streams = Streams()

    @property
    def containers(self) -> tuple[Container, ...]:
        """All of them, in the order in which they run."""
        return tuple(one for one in (self.pre_start, self.container, self.post_stop) if one)

    def each(self, change: Callable[[Container], Container]) -> Self:
        """The same app, whose containers are what `change` makes of them."""
        return self._replace(
            container=change(self.container),
            pre_start=change(self.pre_start) if self.pre_start else None,
            post_stop=change(self.post_stop) if self.post_stop else None,
        )


class RktPod(NamedTuple):
    """A whole pod. `files` are the texts of those of the pod's own files that apps see, set by `with_network`.

    `annotations` are the pod's. `warnings` are sentences for stderr. `own_kernel` is the entry of its one app, if the
    image of that brings a kernel of its own.
    """

    pod: Pod
    apps: tuple[App, ...]
    mutable: bool = False
    empty_volumes: tuple[EmptyVolume, ...] = ()
    annotations: tuple[tuple[str, str], ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    warnings: tuple[str, ...] = ()
    own_kernel: Entry | None = None


class Terminal(NamedTuple):
    """The terminal of the caller: its TERM, columns and rows."""

    term: str
    size: tuple[int, int]


class _Pod(NamedTuple):
    """The inputs for reading all apps; see `read_pod`."""

    manifest: Manifest
    dir: str
    options: RunOptions
    terminal: Terminal | None
    runs: bool


class _Read(NamedTuple):
    """The inputs for reading one app."""

    app: App
    limits: Isolators
    empty: tuple[EmptyVolume, ...]
    warnings: tuple[str, ...]


def read_pod(
    pod_dir: str, options: RunOptions, *, only: str = "", terminal: Terminal | None = None, runs: bool = False
) -> RktPod:
    """The pod in `pod_dir` as values; with `only` just the app of that name, as for app add.

    Args:
        terminal: the caller's when `--interactive` is on one, else None.
        runs: whether the app is running, and may have changed its root and volumes so that they can't be read. It has
            no volumes then, the user nobody if its own is missing, and no kernel out of a file.

    Raises:
        BadRequest: the manifest makes no sense, or a user or volume is not there: one sentence.
        NotFound: a file that rkt should have written, or a host volume, is missing.
        Unsupported: private users, the host's IPC, a socket-activated port.
    """
    _check(options)
    pod_dir = os.path.realpath(pod_dir)
    directory.require(pod_dir)
    given = manifest.read(f"{pod_dir}/pod", lambda app: _image_manifest(pod_dir, app), only=only)
    if not runs:
        of_apps = ((entry.where, dict(entry.annotations)) for entry in given.entries)
        given = given._replace(annotations=annotations.settled(given.annotations, of_apps, only=only))
    if options.interactive and len(given.entries) != 1:
        raise BadRequest(f"--interactive is for pods of one app, but this one has {len(given.entries)}")
    if not (given.entries or options.mutable):
        raise BadRequest("the pod manifest has no apps; name an image")
    apps = [_read(entry, _Pod(given, pod_dir, options, terminal, runs)) for entry in given.entries]
    empty = tuple(dict.fromkeys(volume for one in apps for volume in one.empty))
    check([one.app for one in apps], empty)
    has_disk = empty or options.mutable or any(one.app.container.root_of for one in apps)
    disk_mib = sizing.scratch_mib(given.annotations) if has_disk else 0
    own_kernel = None if runs else _with_own_kernel(given, options, pod_dir=pod_dir)
    kernel = "" if runs else userspace.kernel(pod_dir, given.annotations, brings_own=bool(own_kernel))
    asked = (({}, "the pod manifest"), *((dict(entry.annotations), entry.where) for entry in given.entries))
    boots = True in [sizing.boots({**given.annotations, **own}, where=where) for own, where in asked]
    pod_wide = ("isolators of the whole pod are not applied; give them to its apps",) if given.has_isolators else ()
    return RktPod(
        pod=_with_profile(
            _pod(
                given,
                options,
                limits=[one.limits for one in apps],
                ports=() if only else podwide.ports(given),
            ),
            pod_dir,
            annotations=given.annotations,
        )._replace(scratch_mib=disk_mib, boots=boots, kernel=kernel),
        apps=tuple(one.app for one in apps),
        mutable=options.mutable,
        empty_volumes=empty,
        annotations=tuple(given.annotations.items()),
        warnings=(*options.warnings, *pod_wide, *(warning for one in apps for warning in one.warnings)),
        own_kernel=own_kernel,
    )


def with_network(
    pod: RktPod, pod_dir: str, *, options: RunOptions, network: PodNetwork | None, host_ip: str = ""
) -> RktPod:
    """The pod with its own files and with the address of the metadata service, which is on `host_ip`."""
    resolv = texts.resolv_conf(pod_dir, options, network=network)
    hosts, wins = texts.hosts(pod_dir, options, hostname=pod.pod.hostname)
    files = {texts.HOSTS: hosts, texts.HOSTNAME: f"{pod.pod.hostname}\n"}
    if resolv is not None:
        files[texts.RESOLV] = resolv
    asked = (*([texts.HOSTS] if wins else ()), *([texts.RESOLV] if options.resolv_mode in texts.ASKED else ()))
    url = environment.metadata_url(host_ip, options.mds_token) if options.mds_token and host_ip else ""
    return pod._replace(
        apps=tuple(_settled(app, files=tuple(files), asked=asked, url=url) for app in pod.apps),
        files=tuple(files.items()),
    )


def root_on_disk(app: str) -> str:
    """The id of the container whose root the app has, in the guest, if it lies on the pod's disk."""
    return f"{app}.root"


def _check(options: RunOptions) -> None:
    if options.private_users:
        raise Unsupported("--private-users is not offered: a pod in a virtual machine has users of its own already")
    if options.ipc == "parent":
        raise Unsupported("--ipc=parent is not offered: a virtual machine can't share the host's IPC; leave it out")
    if options.ipc not in _IPC:
        raise BadRequest(f"--ipc={options.ipc} is not known; there are auto and private")


def _with_own_kernel(given: Manifest, options: RunOptions, *, pod_dir: str) -> Entry | None:
    """The app whose image brings a kernel of its own, which has its pod for itself. Raises Unsupported."""
    entries = (_with_file(entry, directory.app_root(pod_dir, entry.name)) for entry in given.entries)
    one = next((entry for entry in entries if entry.kernel), None)
    if one and (len(given.entries) > 1 or options.mutable):
        raise Unsupported(
            f"{one.where}: its image has a kernel of its own, which can't run with other apps or in a sandbox; run "
            "it as the only app of a pod"
        )
    if one and options.interactive:
        raise Unsupported(
            f"{one.where}: its image has a kernel of its own, which has no standard input; leave --interactive out"
        )
    return one


def _with_file(entry: Entry, root: str) -> Entry:
    """Return the app with the kernel of urunc's file in its root, where the image's manifest has no label of
    urunc's. Raises BadRequest for an invalid one, unless labels of ours name a kernel.
    """
    if any(key.startswith(manifest.KERNEL[1]) for key, _ in entry.kernel):
        return entry
    try:
        data = in_root.read(root, manifest.KERNEL_FILE, most=manifest.MOST_KERNEL_FILE_BYTES + 1)
    except FileNotFoundError:
        return entry
    except files.NotPlain:
        data = None
    except KernelError as error:
        if error.errno != errno.ELOOP:
            raise
        data = None

    labels = {own_kernel.FAULT: own_kernel.KIND} if data is None else own_kernel.of_file(data)
    given = {**dict(entry.kernel), **labels}
    own_kernel.require_no_fault(given, image=f"of {entry.where}")
    return entry._replace(kernel=tuple(given.items()))


def _host_mib() -> float:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / sizing.MIB


def _image_manifest(pod_dir: str, app: str) -> str:
    return f"{os.path.dirname(directory.app_root(pod_dir, app))}/manifest"


def _pod(given: Manifest, options: RunOptions, *, limits: list[Isolators], ports: tuple[Port, ...]) -> Pod:
    return Pod(
        id=options.uuid,
        name=f"rkt-{options.uuid}",
        namespace="rkt",
        uid=options.uuid,
        hostname=podwide.hostname(options),
        memory_mib=sizing.memory_mib(limits, given.annotations, mutable=options.mutable, host_mib=_host_mib()),
        vcpus=sizing.vcpus(limits, given.annotations, cpus=os.cpu_count() or 1),
        sysctls=podwide.sysctls(limits),
        ports=ports,
    )


def _with_profile(pod: Pod, pod_dir: str, *, annotations: dict[str, str]) -> Pod:
    profile = userspace.of_pod(pod_dir, annotations)
    if not profile:
        return pod
    memory_mib = sizing.with_systemd_mib(pod.memory_mib, annotations)
    return pod._replace(profile=profile, journal=directory.journal(pod_dir), memory_mib=memory_mib)


def _read(entry: Entry, pod: _Pod) -> _Read:
    given, options, root = pod.manifest, pod.options, directory.app_root(pod.dir, entry.name)
    if not os.path.isdir(root):
        raise NotFound(f"{entry.where}: its root {root} is missing; prepare the pod again")
    requested = isolators.read(entry.isolators, where=entry.where)
    placed = Volumes() if pod.runs else volumes.of_app(entry, given.volumes, pod_dir=pod.dir, root=root)
    app = _app(entry, requested, root=root, pod=pod)
    if sizing.is_root_on_disk({**given.annotations, **dict(entry.annotations)}, where=entry.where):
        app = app.each(lambda one: one._replace(root_of=root_on_disk(entry.name)))
    used = streams.of_app(entry, given.annotations, interactive=options.interactive)
    app = _with_volumes(app, placed.mounts, used=used, terminal=pod.terminal if options.interactive else None)
    odd = syscalls.unknown(requested.seccomp) if requested.seccomp else ()
    strange = (f"{entry.where}: no system calls here, so ignored: {', '.join(odd)}",) if odd else ()
    return _Read(app, requested, placed.empty, (*requested.warnings, *placed.warnings, *strange))


def _app(entry: Entry, given: Isolators, *, root: str, pod: _Pod) -> App:
    options = pod.options
    term = pod.terminal.term if options.interactive and pod.terminal else None
    env = environment.variables(entry.name, entry.env, terminal=term)
    path = dict(entry.env).get("PATH", "")
    command = inside.executable(root, entry.argv[0], cwd=entry.cwd, path=path)
    user = _user(entry, root, runs=pod.runs)
    container = Container(
        id=entry.name,
        name=entry.name,
        image=entry.image_id,
        process=Process((command, *entry.argv[1:]), env, entry.cwd, user, only_env=True),
        devices=(Device(_TUN, _TUN),),
        limits=_limits(given),
        security=security.security(
            given, options, uid=user.uid, read_only_root=entry.read_only_root, where=entry.where
        ),
        oom_score_adj=given.oom_score_adj,
    )
    return App(
        entry.name,
        container,
        root,
        _handler(entry, container, event="pre-start", options=options, root=root),
        _handler(entry, container, event="post-stop", options=options, root=root),
    )


def _user(entry: Entry, root: str, *, runs: bool) -> User:
    try:
        return users.resolve(entry, root)
    except BadRequest:
        if not runs:
            raise
        return User(_NOBODY, _NOBODY)


def _limits(given: Isolators) -> Limits:
    quota = max(given.cpu_milli * _PERIOD_US // 1000, _LEAST_QUOTA_US) if given.cpu_milli else 0
    return Limits(
        memory=given.memory,
        cpu_shares=given.cpu_shares,
        cpu_quota_us=quota,
        cpu_period_us=_PERIOD_US if quota else 0,
    )


def _handler(entry: Entry, container: Container, *, event: str, options: RunOptions, root: str) -> Container | None:
    argv = entry.pre_start if event == "pre-start" else entry.post_stop
    if not argv:
        return None
    path = dict(entry.env).get("PATH", "")
    command = inside.executable(root, argv[0], cwd=entry.cwd, path=path)
    name = f"{entry.name}.{event}"
    return container._replace(
        id=name,
        name=name,
        process=Process((command, *argv[1:]), container.process.env, entry.cwd, only_env=True),
        security=security.of_handler(options, read_only_root=entry.read_only_root),
    )


def _with_volumes(app: App, mounts: tuple[Mount, ...], *, used: Streams, terminal: Terminal | None) -> App:
    process = app.container.process._replace(tty=bool(terminal) or used.is_terminal, stdin=used.has_input)
    process = process._replace(size=terminal.size) if terminal else process
    app = app._replace(container=app.container._replace(process=process), streams=used)
    return app.each(lambda one: covers.uncovered(one._replace(mounts=mounts)))


def _settled(app: App, *, files: tuple[str, ...], asked: tuple[str, ...], url: str) -> App:
    """The app with its files in /etc: an image's own hosts file stays unless --dns-conf-mode overrides it."""
    keeps_hosts = texts.HOSTS not in asked and inside.status(app.root, "/etc/hosts") is not None
    kept = tuple(name for name in files if not (name == texts.HOSTS and keeps_hosts))
    over = covers.shown_over(app.container, kept, asked=asked, where=f"app {app.name!r}")
    more = (f"AC_METADATA_URL={url}",) if url else ()

    def settle(one: Container) -> Container:
        env = (*one.process.env, *more)
        return one._replace(pod_files=kept, files_over=over, process=one.process._replace(env=env))

    return app.each(settle)


# -- Limits by the sizes of the agent's tables -------------------------------------------------------------------------


MOST_APPS = 64
"""Of one pod: the agent's table has room for so many."""
MOST_CONTAINERS = 128
"""The same: apps, their handlers, roots on the pod's disk and empty volumes."""
MOST_LETTERS = {"app": 89, "volume": 92}
"""Of names: with what is put behind them they are ids of the agent's."""


def check(apps: list[App], empty: tuple[EmptyVolume, ...]) -> None:
    """Raises BadRequest."""
    if len(apps) > MOST_APPS:
        raise BadRequest(f"the pod has {len(apps)} apps, and a VM runs at most {MOST_APPS}; make several pods of it")
    for kind, names in (("app", [app.name for app in apps]), ("volume", [volume.name for volume in empty])):
        if names and len(longest := max(names, key=len)) > MOST_LETTERS[kind]:
            raise BadRequest(
                f"the name of the {kind} {longest!r} has {len(longest)} letters, and may have {MOST_LETTERS[kind]};"
                f" give {'a shorter one (--name)' if kind == 'app' else 'a volume with a shorter one (--volume)'}"
            )
    containers = [*(one for app in apps for one in app.containers), *(app for app in apps if app.container.root_of)]
    if (count := len(containers) + len(empty)) > MOST_CONTAINERS:
        raise BadRequest(
            f"the pod's apps, their handlers and empty volumes are {count}, and a VM can have {MOST_CONTAINERS};"
            " give volumes of the host, or make several pods of it"
        )
