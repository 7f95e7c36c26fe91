# SPDX-License-Identifier: Apache-2.0
"""What a pod needs from outside, in one value, so that tests can put fakes in. No behaviour."""

import secrets
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from stage1.engine import Host
    from stage1.vm.vmm import Vmm


class Tools(NamedTuple):
    """`epoch` names this daemon process on every link (docs/link.md); it is random and never 0."""

    host: "Host"
    vmm: "Vmm"
    boot_timeout_s: float = 60.0
    call_timeout_s: float = 60.0
    epoch: int = secrets.randbits(63) | 1
