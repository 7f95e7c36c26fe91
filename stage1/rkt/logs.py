# SPDX-License-Identifier: Apache-2.0
"""Log files of apps in Kubernetes' format, which the launcher writes (images/launcher/log.h). Called by machine and
apps.

In the engine's directory of the pod, `logs/N` is a link to the file of the log N, and `logs/app-NAME` one with the
number N. The guest sends only a log's number, so it can't name a file. Callers hold the lock (`apps.changing`).
"""

import os

from stage1.errors import BadRequest, NotFound
from stage1.linux import beneath
from stage1.linux.files import NotPlain
from stage1.linux.libc import Guard
from stage1.rkt.loader import App
from stage1.rkt.streams import STREAM

DIR = "logs"
_MOST = 255
"""Numbers are a byte, and 0 is none."""
_OUT, _ERR = 256, 512
"""The flags of Stdio in agent.proto."""


def begin(place: str, app: App) -> App:
    """The app with the number of its log, whose file is empty now; without a log nothing happens. Undo: `forget`.

    Raises NotFound when the file's directory does not exist, BadRequest when the file is none, or there are too many.
    """
    path = app.streams.log_path
    if not path:
        return app
    if not os.path.isdir(os.path.dirname(path)):
        raise NotFound(f"app {app.name!r}: its log is {path}, whose directory is not on this host; make it first")
    path = f"{os.path.realpath(os.path.dirname(path))}/{os.path.basename(path)}"
    _empty(app, path)
    with beneath.Root(place) as own:
        own.make_directories(DIR, 0o700)
    number = _number(place, app.name) or _take_number(place, app.name, path=path)
    which = _OUT * (app.streams.stdout == STREAM) | _ERR * (app.streams.stderr == STREAM)
    return app._replace(streams=app.streams._replace(log=number | which))


def forget(place: str, app: str) -> None:
    """Give the app's number back; the file stays. Idempotent."""
    if number := _number(place, app):
        for name in (f"app-{app}", str(number)):
            with beneath.Root(place) as own:
                own.unlink(f"{DIR}/{name}")


def _empty(app: App, path: str) -> None:
    directory, name = os.path.split(path)
    try:
        with beneath.Root(directory) as root:
            fd = root.open_or_make(name, os.O_WRONLY, mode=0o640)
    except NotPlain as error:
        raise BadRequest(f"app {app.name!r}: its log is not a file: {error}, or name another one") from None
    try:
        if (names := os.fstat(fd).st_nlink) > 1:
            raise BadRequest(f"app {app.name!r}: its log {path} is a file with {names} hard links; name another file")
        with Guard("truncate", path):
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _number(place: str, app: str) -> int:
    try:
        with beneath.Root(place) as own:
            return int(own.read_link(f"{DIR}/app-{app}") or 0)
    except FileNotFoundError:
        return 0


def _take_number(place: str, app: str, *, path: str) -> int:
    with beneath.Root(place) as own:
        return _take_free(own, app, path=path)


def _take_free(own: beneath.Root, app: str, *, path: str) -> int:
    taken = set(own.names(DIR))
    number = next((one for one in range(1, _MOST + 1) if str(one) not in taken), 0)
    if not number:
        raise BadRequest(f"app {app!r}: the pod has {_MOST} logs already; remove an app first")
    own.link(f"{DIR}/{number}", path)
    own.link(f"{DIR}/app-{app}", str(number))
    return number
