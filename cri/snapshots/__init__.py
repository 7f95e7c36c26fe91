# SPDX-License-Identifier: Apache-2.0
"""Snapshots of pods: who may have which, and when one is saved and loaded (docs/design/snapshots.md). What a snapshot
is, and how its files are made and read, is `stage1.snapshot`.

`templates` are of guests without a pod. `copies` saves a pod that runs, for a directory that does not stay (a fork),
for one of the caller's (`checkpoint`) and for one with a name (`named`), and brings up the pods that go on from one.
`suspension` saves a pod whose VM ends. `manifest` is what is written of a pod, and `decided` what a copy keeps.
"""
