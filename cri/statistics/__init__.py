# SPDX-License-Identifier: Apache-2.0
"""The numbers of pods and containers: asked of their guests, kept as samples, and put together for lists.

Called by the RPCs about stats and metrics. Nothing here knows protobuf: `cri.translate` makes the answers.
"""
