# SPDX-License-Identifier: Apache-2.0
"""`clearpod images`: the images of containers on this machine (ls, pull, rm, prune, inspect, verify), and `build`:
makes what the guest consists of by images/build.

Works on the store itself, which several processes may share: with a daemon and without. It builds nothing itself: the
recipe is part of the source tree, not of this package.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cri.cli import root, shown
from cri.cli.parser import Command, Parser
from stage1.errors import NotFound, Unavailable

if TYPE_CHECKING:
    from cri.store.images import Image, ImageStore

PLACES = ("/usr/share/clearpod", "/usr/local/share/clearpod")
EXAMPLES = (
    ("sudo clearpod images ls", "all stored images"),
    ("sudo clearpod images pull alpine:3.20", "pull an image, or its newest version"),
    ("sudo clearpod images rm alpine:3.20", "remove it, with all its names"),
    ("sudo clearpod images prune --all", "remove all images that no container of the daemon uses"),
    ("sudo clearpod images inspect --json alpine | jq '.[0].config.config.Cmd'", "for programs"),
    ("clearpod images build", "build the missing parts of the guest"),
)
HEADER = ("NAME", "ID", "SIZE", "CREATED")
NONE = "<none>"


def add_arguments(parser: Parser) -> None:
    """Arguments of `clearpod images`."""
    actions = parser.take_actions()
    for name, function, summary in (
        ("ls", ls, "list the stored images, most recently pulled first"),
        ("pull", bring, "pull images, or their newest version"),
        ("rm", remove, "remove images with all their names; containers that use them are not affected"),
        ("prune", prune, "remove the images without a name"),
        ("inspect", inspect, "show images with their configuration"),
        ("verify", verify, "verify all images, and put damaged ones aside"),
    ):
        action = actions.add_parser(name, help=summary)
        action.set_defaults(action_of=function)
        if name in ("pull", "rm", "inspect"):
            what = (
                "a registry reference, oci:DIR[:REF] or docker-archive:FILE" if name == "pull" else "a name, or an id"
            )
            action.add_argument("image", nargs="+", metavar="IMAGE", help=what)
        if name == "pull":
            action.take_credentials()
            what = "print the id of each image and nothing else, also on a terminal"
            action.add_argument("-q", "--quiet", action="store_true", help=what)
        if name in ("ls", "inspect"):
            action.add_argument("--json", action="store_true", help="one array, for programs")
        if name == "prune":
            what = "also remove named images that no container of the daemon uses"
            action.add_argument("-a", "--all", action="store_true", help=what)
        action.take_config()
    build = actions.add_parser("build", help="build the parts of the guest, by images/build", add_help=False)
    build.usage = "clearpod images build [WORDS OF images/build...]"
    build.take_command(after=0)


def main(args: argparse.Namespace) -> int:
    """Becomes images/build; raises NotFound when there is none. Else the action's code: 0, or 1 for damaged images."""
    if args.action == "build":
        program = find_build()
        os.execv(program, [program, *args.rest])
    root.require("works on the images of the whole machine")
    action: Callable[[argparse.Namespace], int] = args.action_of
    return action(args)


@contextmanager
def _store(config: Any) -> "Iterator[ImageStore]":
    from cri.store.images import ImageStore

    store = ImageStore(config.state_dir)
    try:
        yield store
    finally:
        store.close()


def _load(args: argparse.Namespace) -> Any:
    from cri.config import load

    return load(args.config)


def ls(args: argparse.Namespace) -> int:
    """One line for each name of an image."""
    with _store(_load(args)) as store:
        images = store.list()
    if args.json:
        shown.write(json.dumps([as_json(image) for image in images], indent=2))
    else:
        rows = [row for image in images for row in _rows(image, time.time())]
        shown.write(shown.table([HEADER, *rows], shown.width()))
    return 0


def _rows(image: "Image", now_s: float) -> Iterator[tuple[str, ...]]:
    created = shown.moment(image.created).timestamp()
    age = shown.age(now_s - created) if created > 0 else ""
    for name in image.repo_tags or image.repo_digests or (NONE,):
        yield name, image.id.removeprefix("sha256:")[: shown.ID_CHARS], shown.size(image.size_bytes), age


def as_json(image: "Image") -> dict[str, Any]:
    """Return an image as an object for --json; sizes in bytes."""
    return {
        "id": image.id,
        "names": list(image.repo_tags),
        "digests": list(image.repo_digests),
        "sizeBytes": image.size_bytes,
        "created": image.created,
        "damaged": image.aside,
    }


def bring(args: argparse.Namespace) -> int:
    """Pull the images, and print the id of each. On a terminal, what goes on is shown on standard error."""
    from cri.cli.credentials import of_command
    from cri.cli.progress import Progress
    from cri.image.convert import unseen
    from cri.image.pull import pull

    config = _load(args)
    with _store(config) as store:
        for name in args.image:
            auth = of_command(args.creds, args.authfile, reference=name)
            progress = Progress(name) if sys.stderr.isatty() and not args.quiet else None
            try:
                image = asyncio.run(
                    pull(store, name, config=config, auth=auth, seen=progress.see if progress else unseen)
                )
            finally:
                if progress:
                    progress.end()
            shown.write(image.id)
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove images and print which. Raises NotFound for the first that is not there; those before it are gone."""
    from cri.storage.disk import reserve_of

    config = _load(args)
    with _store(config) as store:
        for name in args.image:
            gone = reserve_of(config).spend(store.remove, name)
            if gone is None:
                raise _absent(name)
            shown.write(gone.title)
    return 0


def prune(args: argparse.Namespace) -> int:
    """Print what was removed, and how much that was. Images of named snapshots stay."""
    from cri.snapshots.named import images_of, of_state
    from cri.storage.disk import reserve_of

    config, freed = _load(args), 0
    used = _used(config) if args.all else set()
    needed = images_of(of_state(config.state_dir))
    with _store(config) as store:
        for image in store.list():
            is_unused = image.id not in used if args.all else not (image.repo_tags or image.repo_digests)
            if is_unused and image.id not in needed:
                reserve_of(config).spend(store.remove, image.id)
                shown.write(image.title)
                freed += image.size_bytes
    shown.write(f"removed images of {shown.size(freed)}")
    return 0


def _used(config: Any) -> set[str]:
    """The images of the daemon's containers; none when no daemon serves."""
    from cri.cli.daemon import Daemon

    try:
        with Daemon(config.socket_path) as daemon:
            return {one.image_id for one in daemon("ListContainers").containers}
    except Unavailable:
        return set()


def inspect(args: argparse.Namespace) -> int:
    """The whole of each image, with the document that its author wrote."""
    with _store(_load(args)) as store:
        images = [_image(store, name) for name in args.image]
    if args.json:
        shown.write(json.dumps([{**as_json(image), "config": image.config} for image in images], indent=2))
    else:
        shown.write("\n\n".join(map(_text, images)))
    return 0


def _image(store: "ImageStore", name: str) -> "Image":
    image = store.find(name)
    if image is None:
        raise _absent(name)
    return image


def _absent(name: str) -> NotFound:
    return NotFound(f"the image {name[:255]!r} is not stored; `clearpod images ls` shows what is")


def _text(image: "Image") -> str:
    config = image.config.get("config") or {}
    rows = [
        ("id", image.id),
        *(("name", name) for name in image.repo_tags),
        *(("digest", name) for name in image.repo_digests),
        ("size", shown.size(image.size_bytes)),
        ("created", image.created),
        ("platform", f"{image.config.get('os', '')}/{image.config.get('architecture', '')}"),
        ("layers", str(len((image.config.get("rootfs") or {}).get("diff_ids") or ()))),
        ("user", image.user or "root"),
        ("entrypoint", json.dumps(config.get("Entrypoint") or [])),
        ("command", json.dumps(config.get("Cmd") or [])),
        ("directory", str(config.get("WorkingDir") or "/")),
        *(("variable", str(entry)) for entry in config.get("Env") or ()),
        *(("port", str(port)) for port in config.get("ExposedPorts") or ()),
        *(("volume", str(path)) for path in config.get("Volumes") or ()),
        *((("damaged", image.aside),) if image.aside else ()),
    ]
    return "\n".join(f"{name:<12}{shown.printable(value)}" for name, value in rows)


def verify(args: argparse.Namespace) -> int:
    """Print a line for each image: ok, or damaged and what is wrong. The next pull replaces what is damaged."""
    with _store(_load(args)) as store:
        examined = [(image, store.examine(image, whole=True)) for image in store.list()]
    for image, why in examined:
        shown.write(f"damaged  {why}" if why else f"ok       {image.title}")
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


COMMANDS = {"images": Command(EXAMPLES, add_arguments, main)}
