# SPDX-License-Identifier: Apache-2.0
"""NRI, the runtime's side: plugins that hear of pods and containers, and adjust them (docs/admin/nri.md).

`frames` and `calls` are the protocol's bytes, `link` one connection, `plugin` one plugin, `hub` all of them, which the
pods know as their `Hooks`. `shown` says what a plugin sees, `adjust` and `amounts` read what it asks for. Made by the
node, and only imported when `nri.enabled` is set.

A plugin's bytes are foreign: nothing of them is used before `frames`, `calls`, `adjust` and `amounts` have checked it,
and no plugin is waited for longer than its time limit.
"""
