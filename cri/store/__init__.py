# SPDX-License-Identifier: Apache-2.0
"""State that outlives the daemon: one versioned JSON file per pod in the run directory, and the image index. Pods end
with the boot of the machine, so their files are on tmpfs and are not synced.
"""
