# SPDX-License-Identifier: Apache-2.0
"""The userspace and the kernel of a pod's guest: those of the pod's annotations, else those that the stage1 image was
built for.

Called by loader and by enter. See stage1/pod/profile.py.
"""

from collections.abc import Mapping

from stage1.errors import BadRequest
from stage1.linux import files
from stage1.pod import profile
from stage1.pod.model import KERNEL_OF_IMAGE
from stage1.rkt import annotations, directory

FILE, KERNEL_FILE = "usr/lib/clearpod/profile", "usr/lib/clearpod/kernel"
"""Files in the stage1 image: the name of a profile, and of a variant of the kernel."""
_ORDINARY = "default"


def of_pod(pod_dir: str, given: Mapping[str, str]) -> str:
    """The profile; empty for the ordinary one. Raises BadRequest."""
    annotated = given.get(profile.WORD, "")
    try:
        return profile.named(annotated or _of_image(pod_dir, FILE))
    except BadRequest as error:
        raise BadRequest(f"the annotation {profile.WORD}: {error}") from None


def kernel(pod_dir: str, given: Mapping[str, str], *, brings_own: bool) -> str:
    """The variant of the guest's kernel; empty for the ordinary one. `brings_own`: the image of the pod's app brings
    one, which is booted in its place. Raises BadRequest.
    """
    asked = given.get(annotations.KERNEL, "")
    if brings_own and asked not in ("", _ORDINARY, KERNEL_OF_IMAGE):
        raise BadRequest(
            f"the annotation {annotations.KERNEL} is {asked[:100]!r}, and the image of the pod's app brings a kernel "
            "of its own, which is booted instead; remove the annotation"
        )
    if brings_own:
        return ""
    if asked == KERNEL_OF_IMAGE:
        raise BadRequest(
            f"the annotation {annotations.KERNEL} is {asked}, and no image of the pod has labels of a kernel of its "
            "own; leave it out"
        )
    chosen = asked or _of_image(pod_dir, KERNEL_FILE)
    return "" if chosen == _ORDINARY else chosen


def _of_image(pod_dir: str, name: str) -> str:
    try:
        return files.read(f"{directory.stage1_root(pod_dir)}/{name}").decode("ascii", "replace").strip()
    except FileNotFoundError:
        return ""
