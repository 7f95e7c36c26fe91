# SPDX-License-Identifier: Apache-2.0
"""VmSpec to argv, one pure file per hypervisor, and the process that comes of it."""
