# SPDX-License-Identifier: Apache-2.0
"""Which kernel a PodSandboxConfig asks for. Called by `sandbox`. Pure."""

from cri import policy
from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.net.conflist import is_word

ORDINARY, SCTP = "default", "sctp"


def variant(sandbox: pb.PodSandboxConfig) -> str:
    """The annotation `clearpod.io/kernel`, else `sctp` for a pod with an SCTP port, else nothing. Raises BadRequest.

    Whether the guest's directory has that variant is the engine's to say.
    """
    text = sandbox.annotations.get(policy.KERNEL, "")
    if text and not is_word(text):
        raise BadRequest(f"the annotation {policy.KERNEL} must be a name such as {SCTP}, but it is {text[:100]!r}")
    if text:
        return "" if text == ORDINARY else text
    return SCTP if any(mapping.protocol == pb.SCTP for mapping in sandbox.port_mappings) else ""
