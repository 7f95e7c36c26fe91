# SPDX-License-Identifier: Apache-2.0
"""Mount -> stage1.pod.model.Mount: volumes of the host and of images. Called by `container`.
Looks at the host's files, for links, and makes a directory where a source does not exist; mounts nothing.
"""

import os
import stat
from collections.abc import Iterable, Mapping
from typing import Any

from cri.pb import runtime_pb2 as pb
from cri.translate import userns
from cri.translate.bounds import short
from stage1.errors import BadRequest, NotFound, PodError, Unsupported
from stage1.linux import beneath
from stage1.pod.devices import EVERYWHERE, GUEST
from stage1.pod.model import BIDIRECTIONAL, HOST_TO_CONTAINER, PRIVATE, IdMap, Mount

VOLUMES, VOLUME_BYTES = 32, 255
"""The agent's limits, proto/agent/agent.options."""
PROPAGATION = {
    pb.PROPAGATION_PRIVATE: PRIVATE,
    pb.PROPAGATION_HOST_TO_CONTAINER: HOST_TO_CONTAINER,
    pb.PROPAGATION_BIDIRECTIONAL: BIDIRECTIONAL,
}
OPTIONS = ("noexec", "nodev", "nosuid")
"""The allowed mount_options, KEP-5855. The guest's kernel enforces them."""


def mount(given: pb.Mount, images: Mapping[str, str], *, pod_ids: IdMap = IdMap()) -> Mount:  # noqa: B008 - a constant
    """The mounts of the request; `images` has the id of every image on this node that is named in it. Raises
    BadRequest, NotFound, Unsupported.
    """
    _check(given)
    mapped = userns.is_mapped(given, pod_ids)
    if given.image.image:
        return _image_volume(given, images)
    if not given.host_path.startswith("/"):
        raise BadRequest(f"the mount {given.container_path} needs an absolute host_path, but it is {given.host_path!r}")
    return Mount(
        source=_source(given.host_path, given.container_path),
        target=target(given.container_path),
        read_only=given.readonly,
        recursive_read_only=given.recursive_read_only,
        propagation=PROPAGATION[given.propagation],
        mapped=mapped,
        options=tuple(dict.fromkeys(given.mount_options)),
    )


def _source(path: str, where: str) -> str:
    """The source without links. Where nothing is a directory is made, as containerd does, and stays: the kubelet relies
    on it for a hostPath without a type. Raises NotFound when it can't be made, as at the end of a dangling link.
    """
    if os.path.exists(path):
        return os.path.realpath(path)
    lacks = f"the volume source {path} for {where} does not exist on the host"
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if ".." in parts:
        raise NotFound(f"{lacks}; a path with '..' is not made")
    there = next(n for n in range(len(parts), -1, -1) if os.path.exists("/" + "/".join(parts[:n])))
    source = os.path.join(os.path.realpath("/" + "/".join(parts[:there])), *parts[there:])
    try:
        with beneath.Root("/") as root:
            root.make_directories(source[1:], 0o755)
    except (PodError, OSError) as error:
        raise NotFound(f"{lacks}, and can't be made there: {error}") from None
    return source


def require_no_bidirectional(made: Iterable[Mount], *, on_host: bool, privileged: bool) -> None:
    """Raise for volumes by which a container's mounts would reach the host, but for privileged ones on the host.

    Raises Unsupported, BadRequest.
    """
    for volume in made:
        if volume.propagation == BIDIRECTIONAL and not on_host:
            raise Unsupported(
                f"the mount {volume.target} can't be BIDIRECTIONAL: what a VM mounts can't reach the host; only a pod"
                " on the host can do that (host_pods.allow in clearpod's configuration)"
            )
        if volume.propagation == BIDIRECTIONAL and not privileged:
            raise BadRequest(f"the mount {volume.target} can be BIDIRECTIONAL in a privileged container only")


def require_no_devices(made: Iterable[Mount]) -> None:
    """Raise Unsupported for a source with device nodes: in a VM those would be the guest's own of the same numbers."""
    for volume in made:
        if not volume.image and _has_devices(volume.source):
            raise Unsupported(
                f"the volume source {volume.source} for {volume.target} has device nodes of the host, which a VM does"
                f" not have: ask for single devices, by a device plugin, by CDI or in `devices` (a guest has"
                f" {', '.join(sorted(set(GUEST) - EVERYWHERE))}), or run the pod on the host (host_pods.allow in"
                " clearpod's configuration)"
            )


def _has_devices(source: str) -> bool:
    """/dev, what is below it on the same file system, and its nodes; /dev/shm and the like are files as any others."""
    if source != "/dev" and not source.startswith("/dev/"):
        return False
    try:
        status = os.stat(source)
    except OSError:
        return False  # it is gone by now, as its mounting will tell
    return status.st_dev == os.stat("/dev").st_dev or stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)


def of_image(config: Mapping[str, Any], mounts: Iterable[Mount]) -> tuple[str, ...]:
    """The image's own volumes (VOLUME), at whose place the request mounts nothing.

    Raises BadRequest for more or longer ones than a guest takes.
    """
    taken = {one.target for one in mounts}
    paths = ("/" + os.path.normpath(f"/{path}").lstrip("/") for path in config.get("Volumes") or {} if "\0" not in path)
    kept = (path for path in paths if path not in taken and path.split("/")[1] not in ("", "dev", "proc", "sys"))
    targets = tuple(dict.fromkeys(kept))
    if len(targets) > VOLUMES or any(len(path.encode(errors="replace")) > VOLUME_BYTES for path in targets):
        raise BadRequest(
            f"the image declares {len(targets)} volumes, and at most {VOLUMES} with paths of {VOLUME_BYTES} bytes can"
            " be had; mount something at their places, or build it with fewer"
        )
    return targets


def target(path: str) -> str:
    """The place in the container, without `..` and double slashes. Raises BadRequest for the root, and for no path."""
    if not path.startswith("/") or "\0" in path:
        raise BadRequest(f"a mount needs an absolute container_path, but it is {path!r}")
    clean = "/" + os.path.normpath(path).lstrip("/")
    if clean == "/":
        raise BadRequest("a mount can't be at /, which is the container's own root")
    return clean


def _check(given: pb.Mount) -> None:
    where = given.container_path
    if unknown := [one for one in given.mount_options if one not in OPTIONS]:
        raise BadRequest(f"mount_options of {where} can be {', '.join(OPTIONS)}, but one is {short(unknown[0])}")
    if given.recursive_read_only and not (given.readonly and given.propagation == pb.PROPAGATION_PRIVATE):
        raise BadRequest(f"recursive_read_only of {where} needs readonly and PROPAGATION_PRIVATE")


def _image_volume(given: pb.Mount, images: Mapping[str, str]) -> Mount:
    name, where, path = given.image.image, given.container_path, given.image_sub_path
    if given.host_path:
        raise BadRequest(f"the mount {where} has a host_path and an image; it can have only one of them")
    if not given.readonly:
        raise BadRequest(f"the image volume {where} must be readonly: an image can't be written to")
    if path.startswith("/") or ".." in path.split("/") or "\0" in path:
        raise BadRequest(f"image_sub_path of {where} must be relative and without '..', but it is {path!r}")
    if name not in images:
        raise NotFound(f"the image {name} of the volume {where} is not on this machine; pull it first")
    return Mount(
        source=os.path.normpath(path) if path else "",
        target=target(where),
        read_only=True,
        image=images[name],
        options=tuple(dict.fromkeys(given.mount_options)),
    )
