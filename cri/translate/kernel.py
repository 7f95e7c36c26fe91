# SPDX-License-Identifier: Apache-2.0
"""Which kernel a RunPodSandboxRequest asks for, and the RuntimeClass handlers that stand for kernels.

Called by `sandbox` and by the node. Pure.
"""

from collections.abc import Iterable

from cri import policy
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.net.conflist import is_word
from stage1.pod.model import KERNEL_OF_IMAGE
from stage1.vm.kernels import BUILD_STOCK, STOCK

ORDINARY = "default"
APPARMOR = "container.apparmor.security.beta.kubernetes.io/"
"""How Kubernetes' annotations begin that name a container's AppArmor profile, `localhost/NAME` if it is one by name."""
HANDLER = "clearpod"
"""The handler of the ordinary kernel, as the empty one; `clearpod-NAME` is that of the variant NAME, and
`clearpod-image` that of pods whose container brings its kernel."""


def handlers(variants: Iterable[str]) -> tuple[str, ...]:
    """The handlers of a node whose guest's directory has these variants of the kernel."""
    names = (KERNEL_OF_IMAGE, *variants)
    return ("", HANDLER, *(f"{HANDLER}-{name}" for name in names if is_word(name)))


def not_built(handler: str) -> str:
    """The end of a sentence about a handler that this node lacks: how to build its kernel; empty for other names."""
    if handler != f"{HANDLER}-{STOCK}":
        return ""
    return f"; that handler comes with the guest kernel {STOCK}, which `{BUILD_STOCK}` builds"


def variant(request: pb.RunPodSandboxRequest) -> str:
    """The annotation `clearpod.io/kernel`, else the handler's, else `stock` for a pod with an AppArmor profile by
    name, else nothing. Raises BadRequest.

    Whether the guest's directory has that variant is checked by the engine; `image` stands for the kernel that the
    pod's container brings.
    """
    sandbox = request.config
    text = sandbox.annotations.get(policy.KERNEL, "")
    if text and not is_word(text):
        raise BadRequest(f"the annotation {policy.KERNEL} must be a name such as {STOCK}, but it is {text[:100]!r}")
    if text:
        return "" if text == ORDINARY else text
    if by_handler := _of_handler(request):
        return by_handler
    return STOCK if _names_profile(request) else ""


def asker(request: pb.RunPodSandboxRequest) -> str:
    """The beginning of a sentence that ends with a kernel's name: what it is that asks for it."""
    if request.config.annotations.get(policy.KERNEL):
        return f"the annotation {policy.KERNEL} asks for"
    if _of_handler(request):
        return f"the runtime handler {request.runtime_handler} stands for the kernel"
    return "an AppArmor profile of the pod needs the kernel"


def _names_profile(request: pb.RunPodSandboxRequest) -> bool:
    given = request.config.annotations.items()
    if any(key.startswith(APPARMOR) and value.startswith("localhost/") for key, value in given):
        return True
    profile = request.config.linux.security_context.apparmor
    return bool(profile.profile_type == pb.SecurityProfile.Localhost)


def _of_handler(request: pb.RunPodSandboxRequest) -> str:
    return request.runtime_handler.removeprefix(HANDLER).removeprefix("-")
