# SPDX-License-Identifier: Apache-2.0
"""What tests and all that they start see of whoever runs them: a few variables, no home, a usual umask, no core files.

Proxies, registries' logins, variables of docker-registry's, crictl's, systemd's or git's would change what is tested.
What is found in files, tests name themselves: tests/odd_host runs them where the host's are odd.
"""

import os
import resource
from types import MappingProxyType

AT_START = MappingProxyType(dict(os.environ))
"""The environment as it was, for who fetches from a mirror."""
DROPPED = ("CLEARPOD_DEBUG",)
KEPT = ("PATH", "TMPDIR", "TERM", "CI", "LAB", "RESULTS", "DIE_AT", "WARM", "LD_LIBRARY_PATH")
FAMILIES = ("CLEARPOD_", "LAB_", "PYTEST_", "HYPOTHESIS_", "COVERAGE_")
SET = MappingProxyType({"HOME": "/proc/nonexistent", "LANG": "C.UTF-8", "GIT_CONFIG_NOSYSTEM": "1"})
UMASK = 0o022


def forget() -> None:
    """For this process and its children, once and for all."""
    os.umask(UMASK)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for name in set(os.environ) - {*KEPT}:
        if name in DROPPED or not name.startswith(FAMILIES):
            del os.environ[name]
    os.environ.update(SET)
