# SPDX-License-Identifier: Apache-2.0
"""What `digests` asks and `digestjob` answers. Apart, since only the confined process loads a client of HTTP."""

from typing import NamedTuple

BLOBS = "blobs"
"""The word for those of layers, beside manifest and blob for documents."""


class Asked(NamedTuple):
    """`user` is USER:PASSWORD or empty; `reference` a tag or a digest."""

    registry: str
    path: str
    reference: str
    is_insecure: bool = False
    user: str = ""
