# SPDX-License-Identifier: Apache-2.0
"""`clearpod logout`: removes stored credentials. Nothing is asked of a registry, which knows nothing of a login."""

import argparse
import os

from cri.cli import credentials, shown
from cri.cli.credentials import DOCKER_HUB
from cri.cli.parser import Parser
from cri.store.reference import registry_of
from stage1.errors import NotFound

EXAMPLES = (
    ("clearpod logout registry.example", "remove its credentials from the file"),
    ("clearpod logout --all", "remove all credentials from the file"),
)


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod logout`."""
    parser.take_podmans_codes()
    parser.add_argument("registry", nargs="?", metavar="REGISTRY", default=DOCKER_HUB, help="default docker.io")
    parser.add_argument("-a", "--all", action="store_true", help="remove all credentials in the file")
    parser.take_authfile()
    parser.take_config()


def main(args: argparse.Namespace) -> int:
    """Remove them. Raises NotFound when there are none, BadRequest, PodError."""
    where = credentials.places(args.authfile, os.environ)
    if args.all:
        credentials.forget_all(where)
        shown.write(f"Removed the credentials for all registries from {where.writable}.")
        return 0
    registry = registry_of(args.registry)
    if not credentials.forget(where, registry):
        elsewhere = credentials.user(where, registry)
        hint = "; other files have some: " + ", ".join(where.readable[1:]) if elsewhere else ""
        raise NotFound(f"{where.writable} has no credentials for {registry}{hint}")
    shown.write(f"Removed the credentials for {registry} from {where.writable}.")
    return 0
