# SPDX-License-Identifier: Apache-2.0
"""`clearpod images build`: hands over to images/build, which makes the guest's kernel, agent and system
image. `clearpod images verify`: reads all containers' images, and says which are damaged.

Called by `cri.__main__`. It builds nothing itself: the recipe is part of the source tree, not of this
package.
"""

import argparse
import os

from cri.cli.parser import Parser
from stage1.errors import NotFound

PLACES = ("/usr/share/clearpod", "/usr/local/share/clearpod")
EXAMPLES = (
    ("clearpod images build", "make what is missing of the guest"),
    ("clearpod images verify", "read all images of containers"),
)


def add_arguments(parser: Parser) -> None:
    """Arguments of `clearpod images`."""
    actions = parser.add_subparsers(metavar="ACTION", dest="action", required=True)
    build = actions.add_parser("build", help="make what the guest consists of, by images/build", add_help=False)
    build.usage = "clearpod images build [WORDS OF images/build...]"
    build.take_command(after=0)
    check = actions.add_parser("verify", help="read all images of containers, and put damaged ones aside")
    check.take_config()


def main(args: argparse.Namespace) -> int:
    """Becomes images/build; raises NotFound when there is none. Of verify: 1 when an image is damaged, else 0."""
    if args.action == "build":
        program = find_build()
        os.execv(program, [program, *args.rest])
    return verify(args.config)


def verify(path: str | None) -> int:
    """Print a line for each image: ok, or damaged and what is wrong. The next pull replaces what is damaged."""
    from cri.config import load
    from cri.store.images import ImageStore

    store = ImageStore(load(path).state_dir)
    try:
        examined = [(image, store.examine(image, whole=True)) for image in store.list()]
    finally:
        store.close()
    for image, why in examined:
        print(f"damaged  {why}" if why else f"ok       {image.title}")
    return 1 if any(why for _, why in examined) else 0


def find_build() -> str:
    """images/build of the checkout that this module lies in, or of an installed copy of the sources."""
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    for place in (os.environ.get("CLEARPOD_SOURCE", ""), checkout, *PLACES):
        program = f"{place}/images/build"
        if place and os.access(program, os.X_OK):
            return program
    raise NotFound(
        "images/build is in none of the usual places; run this in a checkout of clearpod, or set CLEARPOD_SOURCE to one"
    )
