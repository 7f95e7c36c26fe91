# SPDX-License-Identifier: Apache-2.0
"""Which userspace a PodSandboxConfig asks for. Called by `sandbox`. Pure."""

from cri.pb import runtime_pb2 as pb
from stage1.errors import BadRequest
from stage1.pod import profile


def of_pod(sandbox: pb.PodSandboxConfig) -> str:
    """The profile that the annotation names; empty for the default one. Raises BadRequest. Whether the guest's
    directory has that profile is checked by the engine.
    """
    try:
        return profile.named(sandbox.annotations.get(profile.WORD, ""))
    except BadRequest as error:
        raise BadRequest(f"the annotation {profile.WORD}: {error}") from None
