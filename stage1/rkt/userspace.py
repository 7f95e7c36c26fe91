# SPDX-License-Identifier: Apache-2.0
"""Which userspace a pod's guest has: what the pod manifest says, else what the stage1 image was built for.

Called by plan and by enter. See stage1/pod/profile.py.
"""

from stage1.errors import BadRequest
from stage1.linux import files
from stage1.pod import profile
from stage1.rkt import directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FILE = "usr/lib/clearpod/profile"
"""The file in the stage1 image with the name of a profile."""


def of_pod(pod_dir: str, annotations: "Mapping[str, str]") -> str:
    """The profile; empty for the ordinary one. Raises BadRequest."""
    annotated = annotations.get(profile.WORD, "")
    try:
        return profile.named(annotated or _of_image(pod_dir))
    except BadRequest as error:
        raise BadRequest(f"the annotation {profile.WORD}: {error}") from None


def _of_image(pod_dir: str) -> str:
    try:
        return files.read(f"{directory.stage1_root(pod_dir)}/{FILE}").decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
