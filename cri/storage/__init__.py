# SPDX-License-Identifier: Apache-2.0
"""The disk of the pods' writable layers: what is used, what was promised, and when it is too full.

Called by the table, the node, the image RPCs and `clearpod check`. It knows no guest.
"""
