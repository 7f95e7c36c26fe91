# SPDX-License-Identifier: Apache-2.0
"""The plan of a pod: a file with the link's requests, which the agent carries out by itself (docs/design/rkt.md).

Pure. Called by `machine` when the pod starts, and by the entry points that add an app later, which send the same
requests over the link (docs/dev/link.md, "Autonomous pods").
"""

import binascii
from collections.abc import Sequence

from stage1.guest import frame
from stage1.guest.pod_messages import Configure, Create, Launch, Stdio, encode_request
from stage1.pod import oci
from stage1.pod.model import Container
from stage1.rkt.loader import App
from stage1.rkt.streams import INTERACTIVE, LOG, NULL
from stage1.rkt.volumes import inside_of

FILE = "volumes/pod/plan"


def plan(settings: Configure, apps: tuple[App, ...], *, volumes: Sequence[str] = ()) -> bytes:
    """The file: first all empty volumes, by their names, and roots, so that an app that fails can't be mistaken for a
    pod that can't be made.
    """
    roots = [one for one in map(root, apps) if one]
    made = [*map(volume, volumes), *roots, *(request for app in apps for request in creation(app))]
    requests: list[Configure | Create | Launch] = [settings, *made]
    launched = [_framed(0, launch(app)) for app in apps]  # 0: the agent does not wait for it
    return b"".join([*(_framed(number, op) for number, op in enumerate(requests, 1)), *launched])


def volume(name: str) -> Create:
    """The pod's empty volume of that name: as a root it has what the host shows, and is written to the pod's disk."""
    return Create(inside_of(name), lower=f"empty/{name}")


def root(app: App) -> Create | None:
    """The app's root on the pod's disk, over the one that rkt has made; None where it is the latter itself."""
    name = app.container.root_of
    return Create(name, lower=f"apps/{app.name}") if name else None


def creation(app: App) -> list[Create]:
    """The Create requests of the app, each in its root as rkt has prepared it, unless its bundle names `root`."""
    return [
        Create(one.id, lower=f"apps/{app.name}", stdio=_stdio(app, one), shared=True, raw=oci.is_raw(one.process))
        for one in app.containers
    ]


def launch(app: App) -> Launch:
    """Start the app."""
    before, after = app.pre_start, app.post_stop
    return Launch(app.name, before.id if before else "", after.id if after else "")


def streams(app: str) -> tuple[int, int, int]:
    """The ids of an app's streams: input, output, error. Above those of execs, and the same in every program."""
    base = 1 << 31 | binascii.crc32(app.encode()) << 2 & 0x7FFFFFFF
    return base, base + 1, base + 2


def _stdio(app: App, one: Container) -> Stdio | None:
    """The app's streams: one that goes to the console has no id, and one that goes nowhere has an id without a
    reader.
    """
    used = app.streams
    if one is not app.container:
        return None
    if used.stdin == INTERACTIVE:
        return Stdio(tty=one.process.tty, console=True)
    given, out, err = streams(app.name)
    if used.is_terminal:
        return Stdio(given, out, tty=True)
    given, out, err = given * (used.stdin != NULL), out * (used.stdout != LOG), err * (used.stderr != LOG)
    return Stdio(given, out, err, log=used.log) if given or out or err else None


def _framed(number: int, op: Configure | Create | Launch) -> bytes:
    return frame.pack(frame.REQUEST, encode_request(op), stream=number)
