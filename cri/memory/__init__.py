# SPDX-License-Identifier: Apache-2.0
"""The host's memory: what pods save of it together. Used by the node; knows nothing of RPCs and of single pods."""
