# SPDX-License-Identifier: Apache-2.0
"""Which userspace a PodSandboxConfig asks for. Called by `sandbox`. Pure."""

from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.pod import profile


def of_pod(sandbox: pb.PodSandboxConfig) -> str:
    """What the annotation names; nothing for the ordinary one. Raises BadRequest.

    Whether the guest's directory has that profile is the engine's to say.
    """
    try:
        return profile.named(sandbox.annotations.get(profile.WORD, ""))
    except BadRequest as error:
        raise BadRequest(f"the annotation {profile.WORD}: {error}") from None
