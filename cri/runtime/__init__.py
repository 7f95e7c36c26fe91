# SPDX-License-Identifier: Apache-2.0
"""RuntimeService, one file per RPC, named after it: `async def NAME(node, request) -> response`.

`cri.server` finds them by name. They must not log, time, or map errors: the server's interceptor does.
"""
