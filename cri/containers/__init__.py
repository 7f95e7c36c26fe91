# SPDX-License-Identifier: Apache-2.0
"""What is done with one container of a live pod: create, start, stop, remove, exec, attach, new limits.

Called by the RPCs, by streaming and by plugins. `order` says what is possible when. Requests arrive as records made by
`cri.translate`.
"""
