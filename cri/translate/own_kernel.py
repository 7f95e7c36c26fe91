# SPDX-License-Identifier: Apache-2.0
"""The kernel that a container's image brings, its arguments from a ContainerConfig, and its part of a verbose status.
Called by CreateContainer, `container` and `replies`. Pure.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cri import policy
from cri.pb import runtime_pb2 as pb
from cri.policy import Grant
from stage1 import own
from stage1.errors import BadRequest, PodError
from stage1.pod import own_command_line, own_kernel
from stage1.pod.model import KERNEL_OF_IMAGE
from stage1.pod.own_kernel import OwnKernel
from stage1.pod.own_values import Asked, Line

if TYPE_CHECKING:
    from cri.live.container import LiveContainer
    from cri.live.pod import LivePod
    from cri.store.images import Image


def of(image: "Image", *annotations: Mapping[str, str]) -> OwnKernel:
    """The kernel that its labels describe, without a path if they name none. Raises BadRequest, Unsupported.

    `annotations` of pod and container count before the labels, the later ones first; where neither they nor the labels
    name a kernel they mean nothing.
    """
    labels = (image.config.get("config") or {}).get("Labels") or {}
    texts = {str(key): str(text) for key, text in labels.items()} if isinstance(labels, dict) else {}
    more = own_kernel.merged(*annotations)
    if more and (own_kernel.is_named(texts) or own_kernel.is_named(more)):
        texts = own_kernel.merged(texts, more)
    return own_kernel.read(texts, image=image.title) or OwnKernel()


def require_allowed(grant: Grant, namespace: str, *, image: str) -> None:
    """Raise BadRequest unless images may bring kernels of their own there: what a pod may not ask for does not come by
    its image either.
    """
    if not policy.is_match(KERNEL_OF_IMAGE, grant.bounds.kernels):
        raise BadRequest(
            f"the image {image} brings a kernel of its own, and in namespace {namespace!r} {grant.key('kernels')} in "
            f"clearpod's configuration does not allow {KERNEL_OF_IMAGE!r}; it allows "
            f"{', '.join(grant.bounds.kernels) or 'none'}"
        )


def arguments(config: pb.ContainerConfig, image: Mapping[str, Any], *, kernel: OwnKernel) -> tuple[str, ...]:
    """The kernel's arguments: the request's `command` and `args`, else those of the image's label, for which nothing is
    returned, else the image's Entrypoint and Cmd.
    """
    if asked := (*config.command, *config.args):
        return asked
    return () if kernel.arguments else (*(image.get("Entrypoint") or ()), *(image.get("Cmd") or ()))


def shown(pod: "LivePod", container: "LiveContainer") -> dict[str, Any]:
    """The verbose status of such a container: how the environment comes to it, and the names that are left out."""
    record, process = container.record, container.record.container.process
    passed = own_command_line.without_services(process.env)
    names = sorted({one.partition("=")[0] for one in process.env}.difference(one.partition("=")[0] for one in passed))
    boot = own.Boot(record.kernel, "", Asked(process.argv, process.env))
    try:
        line = own.line(pod.record.pod, boot, network=pod.network)
    except PodError as error:  # of one that was made by an earlier version
        return {"path": record.kernel.path, "error": str(error)}
    return {
        "path": record.kernel.path,
        "commandLine": line.text,
        "environmentBy": _environment_by(record.kernel, line),
        "leftOutOfEnvironment": names,
    }


def _environment_by(kernel: OwnKernel, line: Line) -> str:
    if line.carried:
        return "initrd"
    is_passed = kernel.environment == own_kernel.PASSED and own_command_line.has_environment(kernel)
    return "command line" if is_passed else "nothing"
