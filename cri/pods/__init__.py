# SPDX-License-Identifier: Apache-2.0
"""All pods of the node: found, made and removed, adopted from a previous daemon; and what is done with one of them.

Called by the RPCs and by streaming. Nothing here knows how a container is made (`cri.containers`). Requests arrive as
records made by `cri.translate`.
"""
