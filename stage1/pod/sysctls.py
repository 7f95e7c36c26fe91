# SPDX-License-Identifier: Apache-2.0
"""How many sysctls a pod may set, and how long they may be: what the agent takes (proto/agent/agent.options). Pure.

For whoever translates a pod, for the CRI and for rkt. Which sysctls exist only the guest's kernel knows.
"""

from stage1.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MOST, KEY_BYTES, VALUE_BYTES = 64, 127, 255


def check(given: "Mapping[str, str]") -> None:
    """Raise BadRequest when there are too many, or one is too long or has no name."""
    if len(given) > MOST:
        raise BadRequest(f"a pod can set at most {MOST} sysctls, but this one has {len(given)}")
    for key, value in given.items():
        if not 0 < len(key.encode()) <= KEY_BYTES or len(value.encode()) > VALUE_BYTES:
            raise BadRequest(f"the sysctl {key[:40]!r} is too long, or has no name; leave it out")
