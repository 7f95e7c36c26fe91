# SPDX-License-Identifier: Apache-2.0
"""The host's end of the link to the agent in the guest (docs/dev/link.md)."""
