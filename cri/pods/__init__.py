# SPDX-License-Identifier: Apache-2.0
"""The live pods: one asyncio task owns one pod, its VM, its link and its containers.

Used by the RPCs. Nothing here knows protobuf; requests arrive as records made by `cri.translate`.
"""
