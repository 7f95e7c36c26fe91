# SPDX-License-Identifier: Apache-2.0
"""The requests of `digests` and the answers of `digestjob`. Separate, since only the confined process loads an HTTP
client.
"""

from typing import NamedTuple

BLOBS = "blobs"
"""The word for those of layers, beside manifest and blob for documents."""
LED = "!"
"""What an answer begins with when the registry leads to another host, which follows, in vain."""


class Asked(NamedTuple):
    """`user` is USER:PASSWORD or empty; `reference` a tag or a digest."""

    registry: str
    path: str
    reference: str
    is_insecure: bool = False
    user: str = ""
