# SPDX-License-Identifier: Apache-2.0
"""Operations on one container of a live pod: create, start, stop, remove, exec, attach, new limits.

Called by the RPCs, by streaming and by plugins. `order` has the states in which each is possible. Requests arrive as
records made by `cri.translate`.
"""
