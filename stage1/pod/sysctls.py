# SPDX-License-Identifier: Apache-2.0
"""Limits for the sysctls of a pod, their number and lengths: those of the agent (proto/agent/agent.options). Pure.
Used by the translation of pods, for the CRI and for rkt. Only the guest's kernel knows which sysctls exist.
"""

from collections.abc import Mapping

from stage1.errors import BadRequest

MOST, KEY_BYTES, VALUE_BYTES = 64, 127, 255


def check(given: Mapping[str, str]) -> None:
    """Raise BadRequest when there are too many, or one is too long, has no name, or one that leads elsewhere: the agent
    would refuse it, after a boot.
    """
    if len(given) > MOST:
        raise BadRequest(f"a pod can set at most {MOST} sysctls, but this one has {len(given)}")
    for key, value in given.items():
        if not 0 < len(key.encode()) <= KEY_BYTES or len(value.encode()) > VALUE_BYTES:
            raise BadRequest(f"the sysctl {key[:40]!r} is too long, or has no name; leave it out")
        if "/" in key or not all(key.split(".")):
            raise BadRequest(f"the sysctl {key[:40]!r} must be a name such as net.ipv4.ip_forward")
