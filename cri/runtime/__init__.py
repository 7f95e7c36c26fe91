# SPDX-License-Identifier: Apache-2.0
"""RuntimeService, one file per RPC, named after it: `async def NAME(node, request) -> response`. The streamed twins of
lists share `streams`, those about snapshots `snapshots`, and the RPCs that are not offered `not_offered`.

`cri.server` finds them by name. They must not log, time, or map errors: the server's interceptor does.
"""
