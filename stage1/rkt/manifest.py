# SPDX-License-Identifier: Apache-2.0
"""rkt's pod manifest and the manifests of its images, as values. Called by plan.

Lists that are null are empty, and an entry without `app` has its image's. Isolators are kept as they are. See the App
Container specification 0.8, schemas PodManifest and ImageManifest.
"""

import json
from collections.abc import Callable
from typing import NamedTuple

from stage1.errors import BadRequest
from stage1.linux import files
from stage1.rkt import document, spelling
from stage1.rkt.annotations import of_app
from stage1.rkt.document import Document

HOST, EMPTY = "host", "empty"
_DOCKER = "appc.io/docker/repository"
KERNEL = ("io.clearpod.kernel.", "com.urunc.unikernel.")
KERNEL_FILE, MOST_KERNEL_FILE_BYTES = "urunc.json", 8192
"""Those of `pod.own_kernel`, which is imported only if there are any."""
_HANDLERS = ("pre-start", "post-stop")
MOST_PORT = 65535


class Volume(NamedTuple):
    """A volume of the pod, or of one app. `read_only` is None when the manifest leaves that to the image."""

    name: str
    kind: str
    source: str = ""
    read_only: bool | None = None
    recursive: bool = True
    mode: int = 0o755
    uid: int = 0
    gid: int = 0


class MountPoint(NamedTuple):
    """A mount point that an image declares."""

    name: str
    path: str
    read_only: bool = False


class Mounted(NamedTuple):
    """A mount of the pod in an app; `own` is a volume that no other app has."""

    volume: str
    path: str
    own: Volume | None = None


class AppPort(NamedTuple):
    """`length` ports from `port` on."""

    name: str
    protocol: str
    port: int
    length: int = 1
    socket_activated: bool = False


class HostPort(NamedTuple):
    """A port of the host. Without `pod_port` it leads to the port of that name in some app."""

    name: str
    host_port: int
    host_ip: str = ""
    pod_port: AppPort | None = None


class Entry(NamedTuple):
    """One app as the manifests have it. `image_owner` is user and group of the image itself."""

    name: str
    image_id: str
    argv: tuple[str, ...]
    user: str
    group: str
    image_owner: tuple[str, str]
    is_from_docker: bool
    gids: tuple[int, ...] = ()
    cwd: str = "/"
    env: tuple[tuple[str, str], ...] = ()
    mount_points: tuple[MountPoint, ...] = ()
    mounts: tuple[Mounted, ...] = ()
    ports: tuple[AppPort, ...] = ()
    isolators: tuple[Document, ...] = ()
    pre_start: tuple[str, ...] = ()
    post_stop: tuple[str, ...] = ()
    read_only_root: bool = False
    annotations: tuple[tuple[str, str], ...] = ()
    kernel: tuple[tuple[str, str], ...] = ()
    """The image's labels for a kernel of its own; see `pod.own_kernel`."""
    image_argv: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Begins error messages."""
        return f"app {self.name!r}"


class Manifest(NamedTuple):
    """The whole pod manifest."""

    entries: tuple[Entry, ...]
    volumes: dict[str, Volume]
    ports: tuple[HostPort, ...]
    annotations: dict[str, str]
    has_isolators: bool = False


def read(path: str, image_of: Callable[[str], str], *, only: str = "") -> Manifest:
    """Read the pod manifest at `path`; `image_of` returns the path of the manifest of an app's image.

    With `only`, the other apps are not parsed. Raises BadRequest and NotFound.
    """
    pod, where = _load(path), "the pod manifest"
    apps = document.objects(pod, "apps", where=where)
    names = [_name(app, where=where, what="an app") for app in apps]
    for name in names:
        if names.count(name) > 1:
            raise BadRequest(f"{where}: there are two apps with the name {name!r}; rename one of them")
    if only and only not in names:
        raise BadRequest(f"{where}: there is no app {only!r}; there are: {', '.join(names) or 'none'}")
    volumes = [_volume(one, where=where) for one in document.objects(pod, "volumes", where=where)]
    return Manifest(
        tuple(_entry(app, image_of) for app, name in zip(apps, names, strict=True) if only in ("", name)),
        {volume.name: volume for volume in volumes},
        tuple(_host_port(one, where=where) for one in document.objects(pod, "ports", where=where)),
        document.pairs(pod, "annotations", where=where),
        bool(document.objects(pod, "isolators", where=where)),
    )


def annotations(path: str) -> dict[str, str]:
    """Return the annotations of the pod manifest at `path`; nothing else of it is checked. Raises BadRequest and
    NotFound.
    """
    return document.pairs(_load(path), "annotations", where="the pod manifest")


def names(path: str) -> list[str]:
    """The names of the apps in the pod manifest at `path`, as they are there. Raises BadRequest and NotFound."""
    where = "the pod manifest"
    return [document.text(app, "name", where=where) for app in document.objects(_load(path), "apps", where=where)]


def _load(path: str) -> Document:
    try:
        parsed = json.loads(files.read(path))
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"{path} is not JSON: {error}; prepare the pod again") from None
    if not isinstance(parsed, dict):
        raise BadRequest(f"{path} must be a JSON object; prepare the pod again")
    return parsed


def _name(given: Document, *, where: str, what: str) -> str:
    name = document.text(given, "name", where=where)
    if not spelling.is_name(name):
        raise BadRequest(f"{where}: {name!r} is not a valid name for {what}; use a-z, 0-9 and single '-' between them")
    return name


def _entry(given: Document, image_of: Callable[[str], str]) -> Entry:
    name = document.text(given, "name", where="the pod manifest")
    where = f"app {name!r}"
    image = _load(image_of(name))
    own = document.object_(image, "app", where=f"the image of {where}")
    app = document.object_(given, "app", where=where) or own
    if not app:
        raise BadRequest(f"{where}: neither the pod manifest nor the image has a command; give --exec")
    handlers = _handlers(app, where=where)
    return Entry(
        name=name,
        image_id=document.text(document.object_(given, "image", where=where), "id", where=where),
        argv=_argv(document.texts(app, "exec", where=where), where=where),
        user=document.text(app, "user", where=where),
        group=document.text(app, "group", where=where),
        image_owner=(document.text(own, "user", where=where), document.text(own, "group", where=where)),
        is_from_docker=_DOCKER in document.pairs(image, "annotations", where=where),
        gids=document.numbers(app, "supplementaryGIDs", where=where),
        cwd=_absolute(
            document.text(app, "workingDirectory", where=where) or "/", where=where, what="working directory"
        ),
        env=_environment(app, where=where),
        mount_points=tuple(_mount_point(m, where=where) for m in document.objects(app, "mountPoints", where=where)),
        mounts=tuple(_mounted(one, where=where) for one in document.objects(given, "mounts", where=where)),
        ports=tuple(_app_port(one, where=where) for one in document.objects(app, "ports", where=where)),
        isolators=document.objects(app, "isolators", where=where),
        pre_start=handlers.get("pre-start", ()),
        post_stop=handlers.get("post-stop", ()),
        read_only_root=document.flag(given, "readOnlyRootFS", where=where),
        annotations=_annotations(given, image, where=where),
        kernel=_kernel(image, own, where=where),
        image_argv=document.texts(own, "exec", where=where),
    )


def _annotations(given: Document, image: Document, *, where: str) -> tuple[tuple[str, str], ...]:
    of_image = document.pairs(image, "annotations", where=f"the image of {where}")
    return tuple(of_app(document.pairs(given, "annotations", where=where), of_image).items())


def _kernel(image: Document, own: Document, *, where: str) -> tuple[tuple[str, str], ...]:
    """Annotations of the image, and of its app the labels, to which Docker's become."""
    labels = document.object_(own, "userLabels", where=where)
    given = document.pairs(image, "annotations", where=where)
    given |= {key: document.text(labels, key, where=where) for key in labels}
    return tuple((key, text) for key, text in given.items() if key.startswith(KERNEL))


def _argv(argv: tuple[str, ...], *, where: str) -> tuple[str, ...]:
    if not argv or not argv[0]:
        raise BadRequest(f"{where}: there is no command to run; give --exec, or arguments after --")
    return argv


def _absolute(path: str, *, where: str, what: str) -> str:
    if not path.startswith("/"):
        raise BadRequest(f"{where}: the {what} must be an absolute path, but is {path!r}")
    return path


def _environment(app: Document, *, where: str) -> tuple[tuple[str, str], ...]:
    pairs = document.pairs(app, "environment", where=where)
    for name in pairs:
        if not spelling.is_variable(name):
            raise BadRequest(f"{where}: {name!r} is not a valid name for an environment variable")
    return tuple(pairs.items())


def _handlers(app: Document, *, where: str) -> dict[str, tuple[str, ...]]:
    handlers: dict[str, tuple[str, ...]] = {}
    for one in document.objects(app, "eventHandlers", where=where):
        name = document.text(one, "name", where=where)
        if name not in _HANDLERS:
            raise BadRequest(f"{where}: the event {name!r} is not known; there are {' and '.join(_HANDLERS)}")
        if name in handlers:
            raise BadRequest(f"{where}: there are two handlers of the event {name}; one is allowed")
        handlers[name] = document.texts(one, "exec", where=where)
        if not handlers[name] or not handlers[name][0]:
            raise BadRequest(f"{where}: the handler of the event {name} has no command; remove it")
    return handlers


def _volume(given: Document, *, where: str) -> Volume:
    name = _name(given, where=where, what="a volume")
    where = f"volume {name!r}"
    kind = document.text(given, "kind", where=where)
    if kind not in (HOST, EMPTY):
        raise BadRequest(f"{where}: its kind is {kind!r}, but must be {HOST} or {EMPTY}")
    source = document.text(given, "source", where=where)
    return Volume(
        name=name,
        kind=kind,
        source=_absolute(source, where=where, what="source") if kind == HOST else "",
        read_only=document.flag(given, "readOnly", where=where) if given.get("readOnly") is not None else None,
        recursive=given.get("recursive") is None or document.flag(given, "recursive", where=where),
        mode=_mode(document.text(given, "mode", where=where) or "0755", where=where),
        uid=_id(document.number(given, "uid", where=where), where=where),
        gid=_id(document.number(given, "gid", where=where), where=where),
    )


def _mode(text: str, *, where: str) -> int:
    if not spelling.is_octal(text) or int(text, 8) > 0o7777:
        raise BadRequest(f"{where}: its mode must be an octal number such as 0755, but is {text!r}")
    return int(text, 8)


def _id(value: int, *, where: str) -> int:
    if not 0 <= value < (1 << 32) - 1:
        raise BadRequest(f"{where}: {value} is not the number of a user or a group")
    return value


def _mount_point(given: Document, *, where: str) -> MountPoint:
    name = _name(given, where=where, what="a mount point")
    path = _absolute(document.text(given, "path", where=where), where=where, what=f"mount point {name!r}")
    return MountPoint(name, path, document.flag(given, "readOnly", where=where))


def _mounted(given: Document, *, where: str) -> Mounted:
    own = document.object_(given, "appVolume", where=where)
    volume = document.text(given, "volume", where=where)
    path = _absolute(document.text(given, "path", where=where), where=where, what=f"mount of {volume!r}")
    return Mounted(volume, path, _volume(own, where=where) if own else None)


def _app_port(given: Document, *, where: str) -> AppPort:
    name = _name(given, where=where, what="a port")
    where = f"{where}: port {name!r}"
    protocol = document.text(given, "protocol", where=where).lower()
    if protocol not in ("tcp", "udp"):
        raise BadRequest(f"{where}: its protocol is {protocol!r}, but must be tcp or udp")
    port, length = document.number(given, "port", where=where), document.number(given, "count", where=where, default=1)
    if not (0 < port <= MOST_PORT and 0 < length <= MOST_PORT + 1 - port):
        raise BadRequest(f"{where}: {length} port(s) from {port} on are not between 1 and {MOST_PORT}")
    return AppPort(name, protocol, port, length, document.flag(given, "socketActivated", where=where))


def _host_port(given: Document, *, where: str) -> HostPort:
    name = _name(given, where=where, what="a port")
    port = document.number(given, "hostPort", where=where)
    if not 0 < port <= MOST_PORT:
        raise BadRequest(f"{where}: the host's port {port} for {name!r} is not between 1 and {MOST_PORT}")
    pod_port = document.object_(given, "podPort", where=where)
    ip = document.text(given, "hostIP", where=where)
    return HostPort(name, port, ip, _app_port({"name": name, **pod_port}, where=where) if pod_port else None)
