# SPDX-License-Identifier: Apache-2.0
"""Turns one pod into one virtual machine. Standard library only.

Used by rkt's entry points, which start afresh for every pod, and by `cri`, which never goes away. It must
not import `cri`. What loads slowly in it is made fast where rkt's image is built (images/lib/startup.py).
"""
