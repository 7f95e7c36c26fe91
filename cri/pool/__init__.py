# SPDX-License-Identifier: Apache-2.0
"""The warm pool: VMs that are booted before a pod is asked for. `fit` decides; in `pool` slots are filled and claimed.

Called by the table of the pods. It knows no RPC.
"""
