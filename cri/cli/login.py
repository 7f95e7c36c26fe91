# SPDX-License-Identifier: Apache-2.0
"""`clearpod login` and `logout`: credentials for registries, stored where podman and docker have theirs.

`login` checks them with the registry first. The password comes by standard input or from the terminal, never as an
argument, which every user of the host can read.
"""

import argparse
import asyncio
import contextlib
import getpass
import os
import sys

from cri.cli import credentials, root, shown
from cri.cli.credentials import DOCKER_HUB
from cri.cli.parser import Command, Parser
from cri.config import Config, load
from cri.image import origins
from cri.image.origins import Auth
from cri.image.registry import Client, LoginNeeded
from cri.store.reference import Reference, registry_of
from stage1.errors import BadRequest, NotFound
from stage1.rootfs.worker import Asker

LOGIN_EXAMPLES = (
    ("clearpod login registry.example", "asks for the name of the user and the password"),
    ("clearpod login -u me --password-stdin registry.example < password", "for scripts"),
    ("clearpod login --get-login registry.example", "who is logged in"),
)
MOST_BYTES = 1 << 16


def add_login(parser: Parser) -> None:
    """The options of `clearpod login`."""
    parser.take_podmans_codes()
    what = "HOST[:PORT], with /REPOSITORY for credentials of a part of it; default docker.io"
    parser.add_argument("registry", nargs="?", metavar="REGISTRY", default=DOCKER_HUB, help=what)
    parser.add_argument("-u", "--username", metavar="NAME", help="the user; without it, the terminal is asked")
    parser.add_argument("--password-stdin", action="store_true", help="read the password from standard input")
    parser.add_argument("-p", "--password", nargs="?", action=_Refuse, help=argparse.SUPPRESS)
    parser.add_argument("--get-login", action="store_true", help="print the name of the user who is logged in")
    parser.take_authfile()
    parser.take_config()


class _Refuse(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        parser.error("every user of this host can read arguments; use --password-stdin, or the terminal")


def login(args: argparse.Namespace) -> int:
    """Log in. Raises BadRequest, LoginNeeded when the registry rejects them, RegistryUnavailable, PodError."""
    registry = registry_of(args.registry)
    where = credentials.places(args.authfile, os.environ)
    if args.get_login:
        name = credentials.user(where, registry)
        if not name:
            raise BadRequest(f"nobody is logged in to {registry}")
        shown.write(name)
        return 0
    root.require("stores what root's pulls use")
    auth = _asked(args)
    credentials.check(auth.username, auth.password)
    _verify(registry, auth, config=load(args.config))
    place = credentials.store(where, registry, auth=auth)
    shown.write(f"Login Succeeded! The credentials for {registry} are in {place}.")
    return 0


def _asked(args: argparse.Namespace) -> Auth:
    if args.password_stdin:
        if not args.username:
            raise BadRequest("--password-stdin needs --username")
        data = sys.stdin.buffer.read(MOST_BYTES)
        return Auth(username=args.username, password=data.decode("utf-8", "surrogateescape").removesuffix("\n"))
    if not sys.stdin.isatty():
        raise BadRequest("standard input is no terminal to ask for the password; use --username and --password-stdin")
    name = args.username or input("Username: ")
    return Auth(username=name, password=getpass.getpass("Password: "))


def _verify(registry: str, auth: Auth, *, config: Config) -> None:
    """Raise LoginNeeded unless the registry takes them."""
    host, _, path = registry.partition("/")
    asked = origins.question(Reference(host, path or "login"), registries=config.registries, auth=auth)
    with contextlib.closing(Client(asked, registry, asker=Asker(config.images.limits))) as client:
        try:
            asyncio.run(client.log_in())
        except LoginNeeded:
            raise LoginNeeded(f"the registry {registry} does not take this user name with this password") from None


LOGOUT_EXAMPLES = (
    ("clearpod logout registry.example", "remove its credentials from the file"),
    ("clearpod logout --all", "remove all credentials from the file"),
)


def add_logout(parser: Parser) -> None:
    """The options of `clearpod logout`."""
    parser.take_podmans_codes()
    parser.add_argument("registry", nargs="?", metavar="REGISTRY", default=DOCKER_HUB, help="default docker.io")
    parser.add_argument("-a", "--all", action="store_true", help="remove all credentials in the file")
    parser.take_authfile()
    parser.take_config()


def logout(args: argparse.Namespace) -> int:
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


COMMANDS = {
    "login": Command(LOGIN_EXAMPLES, add_login, login),
    "logout": Command(LOGOUT_EXAMPLES, add_logout, logout),
}
