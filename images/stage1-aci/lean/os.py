# SPDX-License-Identifier: Apache-2.0
"""What stage1 uses of `os`, on the interpreter's own `posix`; goes into the stage1 image under that name.

The library's brings in the abstract classes of collections, for the sake of `environ`, and asks what each call of the
kernel can do: five million instructions.
"""

import posix
import posixpath as path
import sys
from posix import *  # noqa: F403  as the library does
from posix import _exit as _exit

sys.modules["os.path"] = path

name, linesep, defpath, devnull = "posix", "\n", "/bin:/usr/bin", "/dev/null"
curdir, pardir, sep, altsep, extsep, pathsep = ".", "..", "/", None, ".", ":"
SEEK_SET, SEEK_CUR, SEEK_END = range(3)


class PathLike:
    """For checks of types: nothing here has a path but text."""


def fsencode(filename):
    """The bytes of a path."""
    filename = posix.fspath(filename)
    return filename.encode("utf-8", "surrogateescape") if isinstance(filename, str) else filename


def fsdecode(filename):
    """The text of a path."""
    filename = posix.fspath(filename)
    return filename.decode("utf-8", "surrogateescape") if isinstance(filename, bytes) else filename


class _Environ(dict):
    """Texts by name. What is set goes to the C library's too, where programs are looked for by it."""

    def __setitem__(self, key, value):
        posix.putenv(fsencode(key), fsencode(value))
        dict.__setitem__(self, key, value)

    def __delitem__(self, key):
        posix.unsetenv(fsencode(key))
        dict.__delitem__(self, key)


environ = _Environ((fsdecode(key), fsdecode(value)) for key, value in posix.environ.items())


def makedirs(name, mode=0o777, exist_ok=False):
    """Make a directory, and those above it."""
    above = path.dirname(name.rstrip("/"))
    if above and not path.exists(above):
        makedirs(above, exist_ok=True)
    try:
        posix.mkdir(name, mode)
    except OSError:
        if not exist_ok or not path.isdir(name):
            raise


def walk(top, topdown=True):
    """Each directory from `top` on: its path, and the names of directories and of other files in it."""
    try:
        with posix.scandir(top) as scan:
            entries = [(entry.name, entry.is_dir(), entry.is_symlink()) for entry in scan]
    except OSError:
        return
    here = top, [one for one, is_dir, _ in entries if is_dir], [one for one, is_dir, _ in entries if not is_dir]
    links = {one for one, _, is_link in entries if is_link}
    if topdown:
        yield here
    for one in here[1]:
        if one not in links:
            yield from walk(f"{top}/{one}", topdown)
    if not topdown:
        yield here


def _get_exports_list(module):
    """For `socket`: the public names of a module."""
    return [name for name in dir(module) if name[0] != "_"]
