# SPDX-License-Identifier: Apache-2.0
"""ContainerConfig and the image's configuration -> ContainerRecord. Called by CreateContainer.

What a VM can't do, or this version doesn't, is refused.
Not here: whom the container runs as and what confines it (`security`), volumes (`mounts`), CDI (`cdi`).
"""

import os
import secrets
import signal
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from cri.live.images import Accounts
from cri.pb import runtime_pb2 as pb
from cri.store import reference
from cri.store.pods import ContainerRecord, PodRecord
from cri.translate import cdi, extras, guest_volumes, limits, mounts, own_kernel, security, shown, userns
from cri.translate.bounds import PATH_BYTES, short
from stage1.errors import BadRequest, Unsupported
from stage1.pod import users
from stage1.pod.devices import device
from stage1.pod.model import Container, Mount, Pod, Process, User
from stage1.pod.own_kernel import OwnKernel

if TYPE_CHECKING:
    from cri.store.images import Image


class Findings(NamedTuple):
    """Beside the request: the accounts in its image, the kernel that the image brings, and what its CDI devices add."""

    accounts: Accounts
    kernel: OwnKernel = OwnKernel()
    added: cdi.Edits = cdi.Edits()


def record(
    config: pb.ContainerConfig, pod: PodRecord, *, images: Mapping[str, "Image"], findings: Findings
) -> ContainerRecord:
    """The container that the request asks for, with a new id and no streams.

    `images` has those that the request names, by the name that it uses. Raises BadRequest, NotFound, Unsupported.
    """
    accounts, kernel, added = findings
    check(config)
    limits.check(config.linux.resources)
    image = images[config.image.image]
    image_config: Mapping[str, Any] = image.config.get("config") or {}
    user = _user(config, pod.pod, image=image, accounts=accounts, added=added)
    volumes = _volumes(config, pod.pod, images=images)
    sandbox = pb.PodSandboxConfig.FromString(pod.config)
    arguments = command(config, image, kernel=kernel)
    env = environment(config, image_config, more=added.env)
    env = env if kernel.path else users.with_home(env, user, passwd=accounts.passwd)
    require_env(env, pod.pod)
    container = Container(
        id=secrets.token_hex(32),
        name=config.metadata.name,
        image=image.id,
        process=_process(config, image_config, argv=arguments, env=env, user=user),
        mounts=(*volumes, *added.mounts),
        volumes=mounts.of_image(image_config, (*volumes, *added.mounts)),
        devices=(
            *(device(d.host_path, d.container_path, access=d.permissions) for d in config.devices),
            *added.devices,
        ),
        limits=limits.of_container(config.linux.resources, pod.pod),
        security=security.security(config, sandbox),
        stop_signal=stop_signal(config, image_config),
        oom_score_adj=config.linux.resources.oom_score_adj,
        tmpfs=extras.tmpfs(config.annotations),
        rlimits=extras.rlimits(config.annotations),
    )
    return ContainerRecord(
        container=container,
        config=config.SerializeToString(),
        attempt=config.metadata.attempt,
        created_ns=time.time_ns(),
        image_id=image.id,
        image_ref=image.repo_digests[0] if image.repo_digests else image.id,
        log_path=log_path(pod.log_directory, config.log_path),
        image_tag=shown_tag(config.image, image.repo_tags),
        kernel=kernel,
    )


def _process(
    config: pb.ContainerConfig,
    image_config: Mapping[str, Any],
    *,
    argv: tuple[str, ...],
    env: tuple[str, ...],
    user: User,
) -> Process:
    directory = config.working_dir or image_config.get("WorkingDir") or "/"
    return Process(argv=argv, env=env, cwd=directory, user=user, tty=config.tty, stdin=config.stdin)


def _user(config: pb.ContainerConfig, pod: Pod, *, image: "Image", accounts: Accounts, added: cdi.Edits) -> User:
    """Whom the container runs as, which the pod's user namespace has to know."""
    user = security.user(config, image.user, passwd=accounts.passwd, group=accounts.group)
    user = user._replace(groups=tuple(dict.fromkeys((*user.groups, *added.groups))))
    userns.check_container(config.linux.security_context.namespace_options, pod.ids)
    userns.check_user(user, pod.ids)
    return user


def _volumes(config: pb.ContainerConfig, pod: Pod, *, images: Mapping[str, "Image"]) -> tuple[Mount, ...]:
    """The request's mounts, none of which a pod in a VM, or without privileges, can't have."""
    ids = {name: one.id for name, one in images.items()}
    volumes = guest_volumes.placed((mounts.mount(one, ids, pod_ids=pod.ids) for one in config.mounts), pod)
    privileged = config.linux.security_context.privileged
    mounts.require_no_bidirectional(volumes, on_host=bool(pod.host), privileged=privileged)
    if not pod.host:
        mounts.require_no_devices(volumes)
    return volumes


def check(config: pb.ContainerConfig) -> None:
    """Raise for what is missing and for what is not offered."""
    if not config.metadata.name:
        raise BadRequest("a container needs metadata.name")
    for env in config.envs:
        if not env.key or "=" in env.key or "\0" in env.key or b"\0" in env.value:
            raise BadRequest(f"{env.key!r} can't be the name of an environment variable, or its value has a zero byte")


def require_env(env: tuple[str, ...], pod: Pod) -> None:
    """Raise Unsupported for what is no UTF-8 in a pod on the host: crun is the host's own there, which refuses it."""
    for entry in env if pod.host else ():
        if shown.text(entry) != entry:
            name = short(entry.partition("=")[0])
            raise Unsupported(
                f"the value of the environment variable {name} is not UTF-8, which the host's crun does not take;"
                " encode it, as by base64, or give it as a file in a volume"
            )


def command(config: pb.ContainerConfig, image: "Image", *, kernel: OwnKernel) -> tuple[str, ...]:
    """The command, or the arguments of the kernel that the image brings. Raises as `argv`."""
    image_config = image.config.get("config") or {}
    return own_kernel.arguments(config, image_config, kernel=kernel) if kernel.path else argv(config, image_config)


def argv(config: pb.ContainerConfig, image: Mapping[str, Any]) -> tuple[str, ...]:
    """`command` replaces Entrypoint and drops Cmd, `args` replaces Cmd.

    Raises BadRequest when nothing is left.
    """
    entrypoint = list(config.command) or list(image.get("Entrypoint") or [])
    cmd = list(config.args) or ([] if config.command else list(image.get("Cmd") or []))
    if not entrypoint + cmd:
        raise BadRequest("neither the request nor the image has a command; set command or args")
    return tuple(entrypoint + cmd)


def environment(config: pb.ContainerConfig, image: Mapping[str, Any], *, more: tuple[str, ...] = ()) -> tuple[str, ...]:
    """The image's variables, overridden by the request's and then by `more`, in order of first appearance."""
    variables = dict(entry.partition("=")[::2] for entry in image.get("Env") or [])
    variables |= {env.key: env.value.decode(errors="surrogateescape") for env in config.envs}
    variables |= dict(entry.partition("=")[::2] for entry in more)
    return tuple(f"{key}={value}" for key, value in variables.items())


def stop_signal(config: pb.ContainerConfig, image: Mapping[str, Any]) -> int:
    """The kernel's number: the request's, else the image's, else SIGTERM."""
    if config.stop_signal:
        return signal_number(pb.Signal.Name(config.stop_signal).removeprefix("SIGNAL_"))
    return signal_number(image.get("StopSignal") or "SIGTERM")


def signal_number(name: str) -> int:
    """Parse a signal: SIGTERM, TERM, 15, SIGRTMIN+3, SIGRTMINPLUS3. Raises BadRequest."""
    text = name.upper().replace("PLUS", "+").replace("MINUS", "-")
    base, sign, offset = text.partition("+") if "+" in text else text.partition("-")
    try:
        number = int(base) if base.isdigit() else int(signal.Signals[base if base[:3] == "SIG" else f"SIG{base}"])
        number += int(f"{sign}{offset}") if sign else 0
    except (KeyError, ValueError):
        raise BadRequest(f"{short(name)} is not a signal") from None
    if not 1 <= number <= 64:
        raise BadRequest(f"{short(name)} is not a signal between 1 and 64")
    return number


def signal_enum(number: int) -> "pb.Signal.ValueType":
    """The CRI's value for the kernel's number."""
    name = signal.Signals(number).name if number in signal.Signals.__members__.values() else ""
    low, high = int(signal.SIGRTMIN), int(signal.SIGRTMAX)
    if not name:
        near_low = number - low <= 15
        name = f"SIGRTMINPLUS{number - low}" if near_low else f"SIGRTMAXMINUS{high - number}"
    return pb.Signal.Value(f"SIGNAL_{name}")


def shown_tag(asked: pb.ImageSpec, tags: Sequence[str]) -> str:
    """Return the tag that the pod's author wrote, else the image's first one: the kubelet requests the image by its id,
    and shows the status's name. Empty for an image without tags.
    """
    for name in (asked.user_specified_image, asked.image):
        try:
            full = str(reference.parse(name))
        except BadRequest:
            continue
        if full in tags:
            return full
    return tags[0] if tags else ""


def log_path(directory: str, path: str) -> str:
    """Absolute, or empty when the output is to be dropped.

    Raises BadRequest for one that leaves the directory.
    """
    if not directory or not path:
        return ""
    joined = os.path.normpath(os.path.join(directory, path))
    if not joined.startswith(directory.rstrip("/") + "/"):
        raise BadRequest(f"log_path {path!r} leaves the sandbox's log directory {directory}")
    if len(joined.encode()) > PATH_BYTES:
        raise BadRequest(f"log_path {short(path)} and the sandbox's log directory are too long together")
    return joined
