# SPDX-License-Identifier: Apache-2.0
"""`clearpod images build`: hands over to images/build, which makes the guest's kernel, agent and system
image.

Called by `cri.__main__`. It builds nothing itself: the recipe is part of the source tree, not of this
package.
"""

import argparse
import os

from stage1.errors import NotFound

PLACES = ("/usr/share/clearpod", "/usr/local/share/clearpod")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `clearpod images`."""
    parser.add_argument("action", choices=["build"], help="build: make what the guest consists of")
    parser.add_argument("rest", nargs=argparse.REMAINDER, metavar="...", help="handed on to images/build")


def main(args: argparse.Namespace) -> int:
    """Becomes images/build; raises NotFound when there is none."""
    program = find_build()
    os.execv(program, [program, *args.rest])


def find_build() -> str:
    """images/build of the checkout that this module lies in, or of an installed copy of the sources."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for place in (os.environ.get("CLEARPOD_SOURCE", ""), checkout, *PLACES):
        program = f"{place}/images/build"
        if place and os.access(program, os.X_OK):
            return program
    raise NotFound(
        "images/build is in none of the usual places; "
        "run this in a checkout of clearpod, or set CLEARPOD_SOURCE to one"
    )
