# SPDX-License-Identifier: Apache-2.0
"""The warm pool: VMs that are booted before a pod is asked for. `fit` decides, `pool` boots and hands out.

Called by the table of the pods. It knows no RPC.
"""
