# SPDX-License-Identifier: Apache-2.0
"""NRI, the runtime's side: plugins that are notified of pods and containers, and adjust them (docs/admin/nri.md).

`frames` and `calls` are the wire format, `link` one connection, `plugin` one plugin, `hub` all of them, which the pods
know as their `Hooks`. `shown` makes what a plugin sees, `adjust` and `amounts` parse what it requests. Made by the
node, and only imported when `nri.enabled` is set.

A plugin's messages are not trusted: nothing of them is used before `frames`, `calls`, `adjust` and `amounts` have
validated it, and each plugin has a time limit.
"""
