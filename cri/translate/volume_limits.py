# SPDX-License-Identifier: Apache-2.0
"""The annotation with limits of emptyDirs that are on the pod's disk. Called by `guest_volumes`. Pure."""

import re

from cri import policy
from cri.pb import runtime_pb2 as pb
from cri.translate.bounds import short
from stage1.errors import BadRequest
from stage1.pod.model import DiskLimit

MOST = 16
"""Volumes with a limit. Each is a file system that the guest mounts."""
LEAST_BYTES, MOST_BYTES = 16 << 20, policy.MOST_SCRATCH_MIB << 20
_UNITS = {"": 1} | {unit: 1000**power for power, unit in enumerate(("k", "M", "G", "T"), start=1)}
_UNITS |= {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti"), start=1)}
_LIMIT = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)=([0-9]{1,15})(k|M|G|T|Ki|Mi|Gi|Ti)?")


def asked(sandbox: pb.PodSandboxConfig) -> tuple[DiskLimit, ...]:
    """The limits that the annotation has, in its order. Raises BadRequest."""
    text = sandbox.annotations.get(policy.EMPTY_DIR_LIMITS, "")
    limits = tuple(_limit(part.strip()) for part in text.split(",")) if text else ()
    names = [limit.name for limit in limits]
    if len(limits) > MOST:
        raise BadRequest(f"the annotation {policy.EMPTY_DIR_LIMITS} has {len(limits)} volumes, and can have {MOST}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadRequest(f"the annotation {policy.EMPTY_DIR_LIMITS} names {', '.join(twice)} twice")
    return limits


def _limit(text: str) -> DiskLimit:
    match = _LIMIT.fullmatch(text)
    if not match:
        raise BadRequest(
            f"the annotation {policy.EMPTY_DIR_LIMITS} must be names with sizes such as cache=512Mi,work=2Gi, but "
            f"{short(text)} is in it"
        )
    size = int(match[3]) * _UNITS[match[4] or ""]
    if not LEAST_BYTES <= size <= MOST_BYTES:
        raise BadRequest(
            f"the annotation {policy.EMPTY_DIR_LIMITS} must give each volume {LEAST_BYTES >> 20}Mi to "
            f"{MOST_BYTES >> 40}Ti, but it has {short(text)}"
        )
    return DiskLimit(match[1], size)


def require(limits: tuple[DiskLimit, ...], *, on_disk: tuple[str, ...]) -> None:
    """Raise BadRequest for a limit of a volume that is not on the pod's disk, since it would not be enforced."""
    if names := [limit.name for limit in limits if limit.name not in on_disk]:
        raise BadRequest(
            f"the annotation {policy.EMPTY_DIR_LIMITS} names {', '.join(names)}, which is no emptyDir on the pod's "
            f"disk; leave it out, or put the pod's emptyDirs there by {policy.EMPTY_DIRS}: guest"
        )
