# SPDX-License-Identifier: Apache-2.0
"""Snapshots: a guest in files, and its disk where it has one, from which VMs begin (docs/design/snapshots.md).

`format` is the manifest, `machine` what a guest is made of and why a VM can't begin with it, `save`, `load` and `store`
are what they are called. Used by the daemon in worker threads, and by rkt's pods, which load only what they need.
"""
