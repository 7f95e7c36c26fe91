# SPDX-License-Identifier: Apache-2.0
"""The live objects: a pod with its VM, its link, its containers and everything else that it owns.

`cri.pods` and `cri.containers` work on them. Nothing here decides when a pod or a container is made or removed.
"""
