# SPDX-License-Identifier: Apache-2.0
"""What outlives the daemon: one versioned JSON file per pod in the run directory, and the image index.

Pods die with the boot of the machine, so their files are on tmpfs and are not synced.
"""
