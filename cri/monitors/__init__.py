# SPDX-License-Identifier: Apache-2.0
"""Tasks of the node that watch something of the host for all pods: the state disk, memory, mounts, the network.

Made and ended by the node. One that fails is logged, and delays no pod and no RPC.
"""
