# SPDX-License-Identifier: Apache-2.0
"""RuntimeService: each RPC is a function of its name, `async def NAME(node, request) -> response`, in the module of its
subject. `cri.server.SERVICES` says which.

They must not log, time, or map errors: the server's interceptor does.
"""
