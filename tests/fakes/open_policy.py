# SPDX-License-Identifier: Apache-2.0
"""A policy that allows every annotation, for tests of what the annotations do."""

from cri.policy import KNOWN, MOST_MEMORY_MIB, MOST_VCPUS, Policy
from stage1.pod.model import MOST_WINDOW_MIB

OPEN = Policy(
    annotations=KNOWN,
    max_memory_mib=MOST_MEMORY_MIB,
    max_vcpus=MOST_VCPUS,
    max_shm_mib=MOST_MEMORY_MIB,
    max_window_mib=MOST_WINDOW_MIB,
    networks=("*",),
    profiles=("*",),
)
TEXT = f"""
[policy]
max_memory_mib = {MOST_MEMORY_MIB}
max_vcpus = {MOST_VCPUS}
max_shm_mib = {MOST_MEMORY_MIB}
max_window_mib = {MOST_WINDOW_MIB}
networks = ["*"]
profiles = ["*"]
"""
"""The same as a part of a configuration file, but for allow-spoofing."""
