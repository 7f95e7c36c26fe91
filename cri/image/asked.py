# SPDX-License-Identifier: Apache-2.0
"""What `digests` asks and `digestjob` answers. Apart, since only the confined process loads a client of HTTP."""

from typing import NamedTuple

ANSWER_S = 4.0
"""For everything that one question needs."""


class Asked(NamedTuple):
    """`user` is USER:PASSWORD or empty; `reference` a tag or a digest."""

    registry: str
    path: str
    reference: str
    is_insecure: bool = False
    user: str = ""
