# SPDX-License-Identifier: Apache-2.0
"""The commands that run programs: `run`, which makes a pod for one, and `exec`, `debug` and `cp` in pods that exist."""
