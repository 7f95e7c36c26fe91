# SPDX-License-Identifier: Apache-2.0
"""`clearpod cp`: copies files between a container that runs and the host, by the tar program of the container.

The container's archive is hostile: nothing of it leaves the target directory, follows a link, is a device, or has the
set-user-id bits. A target is what podman's cp would make it.
"""

import argparse
import os
import posixpath
import stat
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from cri.cli import lookup
from cri.cli.daemon import Daemon, connect
from cri.cli.parser import Command, Parser
from cri.cli.run import exec as execs
from cri.cli.run.remote import Files
from stage1.errors import BadRequest, NoCommand, NotFound, PodError, Unsupported
from stage1.linux.beneath import Root
from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.facts import normal
from stage1.rootfs.limits import Limits, OverLimit
from stage1.rootfs.passing import Passing
from stage1.rootfs.tarheaders import Entry, Headers

EXAMPLES = (
    ("clearpod cp web:/etc/nginx/nginx.conf .", "a file of the container, into this directory"),
    ("clearpod cp ./site web:/usr/share/nginx", "a directory with all that is in it, to /usr/share/nginx/site"),
    ("clearpod cp ./site/. web:/usr/share/nginx/html", "what is in the directory"),
    ("clearpod cp web:/var/log - | tar t", "as an archive; one on standard input is unpacked into a directory"),
)
LIMITS = Limits(layer_mib=1 << 40, layer_entries=1 << 40)
"""Of the container's archive: there is no limit but the target's disk, only the headers are bounded."""
FILES, HARD, SYMBOLIC = (b"0", b"\0", b"7"), b"1", b"2"
"""Kinds of entries of a tar archive."""
MOST_SHOWN_BYTES = 4096


def add_arguments(parser: Parser) -> None:
    """The options of `clearpod cp`."""
    parser.take_podmans_codes()
    parser.usage = "clearpod cp [-c NAME] POD:PATH PATH|-\n       clearpod cp [-c NAME] PATH|- POD:PATH"
    what = "a path of the host; POD:PATH, one in a container; - is an archive of tar"
    parser.add_argument("source", metavar="SOURCE", help=what)
    parser.add_argument("target", metavar="TARGET", help="the same; a directory that exists gets the source in it")
    parser.add_argument("-c", "--container", default="", metavar="NAME", help="the pod's container of this name")
    parser.take_config()


class Inside(NamedTuple):
    """A path in a container; `takes_content` with a `/.` at its end: not the directory, but what is in it."""

    daemon: Daemon
    container: Any
    path: str
    takes_content: bool
    is_slashed: bool

    def is_there(self, *, as_directory: bool) -> bool:
        """Whether there is anything, or a directory, at the path; links are followed."""
        path = self.path + ("/." if as_directory else "")
        try:
            answer = self.daemon("ExecSync", container_id=self.container.id, cmd=["ls", "-d", path], timeout=30)
        except NoCommand:
            raise self._lacks("ls") from None
        return bool(answer.exit_code == 0)

    def _lacks(self, program: str) -> PodError:
        name = self.container.metadata.name
        return PodError(
            f"the image of the container {name} has no program {program}; files are copied by its ls and tar, so use a "
            "volume instead"
        )

    def tar(self, *options: str, stdin: int = -1, stdout: int = -1) -> None:
        """Run tar with these descriptors, and close them. Raises PodError with the last line of its errors."""
        errors = os.memfd_create("clearpod-cp")
        try:
            streams = {"stdin": stdin >= 0, "stdout": stdout >= 0, "stderr": True, "tty": False}
            files = Files(stdin, stdout, errors)
            code = execs.run(self.daemon, self.container.id, command=["tar", *options], files=files, **streams)
            text = os.pread(errors, MOST_SHOWN_BYTES, max(0, os.fstat(errors).st_size - MOST_SHOWN_BYTES)).decode(
                errors="replace"
            )
        except NoCommand:
            raise self._lacks("tar") from None
        finally:
            for fd in (errors, *(one for one in (stdin, stdout) if one > 2)):
                os.close(fd)
        if code:
            last = (text.strip().splitlines() or [f"exit code {code}"])[-1]
            raise PodError(f"{self.path} can't be copied: {last[:300]}")


def main(args: argparse.Namespace) -> int:
    """Copy. Raises NotFound, BadRequest, WrongState when the container does not run, PodError."""
    named = [_split(text) for text in (args.source, args.target)]
    place = named[0] or named[1]
    if place is None or None not in named:
        raise BadRequest("one of the two paths is in a container, as POD:PATH, and one on the host")
    if not (args.source and args.target):
        raise BadRequest("a path is empty; give the paths of the source and of the target")
    with connect(args.config) as daemon:
        word, path = place
        container = lookup.container(daemon, word, name=args.container)
        clean = posixpath.normpath(f"/{path}")
        inside = Inside(daemon, container, clean.replace("//", "/"), path.endswith("/."), path.endswith("/"))
        if named[0]:
            _out(inside, args.target)
        else:
            _into(inside, args.source)
    return 0


def _split(text: str) -> tuple[str, str] | None:
    """POD and path of POD:PATH; None for a path of the host, which has a slash or a dot first if it has a colon."""
    word, colon, path = text.partition(":")
    if not colon or text[:1] in (".", "/") or word.count("/") > 1:
        return None
    if not word or not path:
        raise BadRequest(f"{text[:100]!r} is not POD:PATH; a path of the host that has a colon begins with ./ or /")
    return word, path


# -- out of the container ----------------------------------------------------------------------------------------


def _out(inside: Inside, target: str) -> None:
    is_directory = inside.is_there(as_directory=True)
    if not is_directory and not inside.is_there(as_directory=False):
        raise NotFound(f"there is no {inside.path} in the container {inside.container.metadata.name}")
    above, name = posixpath.split(inside.path)
    if target == "-":
        options = ["-C", inside.path, "."] if inside.takes_content or not name else ["-C", above, f"./{name}"]
        return inside.tar("-cf", "-", *options, stdout=1)
    directory, base = _place(target, name, is_directory=is_directory, takes_content=inside.takes_content or not name)
    options = ["-cf", "-", "-C", inside.path, "."] if is_directory else ["-chf", "-", "-C", above, f"./{name}"]

    def place(path: str) -> str:
        """All of a directory is below `base`, a file is `base` itself."""
        return posixpath.join(base, path).rstrip("/") if is_directory else base

    with Root(directory) as root, _archive(inside, options) as source:
        _Unpacking(root, place).run(source)
    return None


def _place(target: str, name: str, *, is_directory: bool, takes_content: bool) -> tuple[str, str]:
    """The directory on the host to unpack in, and the name that the source has there; empty for what is in it.

    Raises NotFound, BadRequest.
    """
    if os.path.isdir(target):
        return target, "" if is_directory and takes_content else name
    above, base = os.path.split(target.rstrip("/"))
    if not is_directory and target.endswith("/"):
        raise NotFound(f"there is no directory {target}; make it first")
    if is_directory and os.path.lexists(target):
        raise BadRequest(f"{target} is not a directory, and a directory can't be copied to it")
    if not os.path.isdir(above or "."):
        raise NotFound(f"there is no directory {above}; make it first")
    return above or ".", base


@contextmanager
def _archive(inside: Inside, options: list[str]) -> Iterator[int]:
    """The archive that tar writes, as a descriptor. Raises what `tar` raises, rather than what that led to."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    failures: list[PodError] = []

    def write() -> None:
        try:
            inside.tar(*options, stdout=sink)
        except BrokenPipeError:
            return
        except PodError as error:
            failures.append(error)

    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    try:
        yield source
    except PodError as error:
        failures.append(error)
    finally:
        os.close(source)
        thread.join()
    if failures:
        raise failures[0]


class _Unpacking:
    """Unpacks the archive below `root`, each entry at its `place`. The content of files comes later than their headers,
    by `_give`.
    """

    def __init__(self, root: Root, place: Callable[[str], str]) -> None:
        self._root, self._place = root, place
        self._given = 0
        self._open: deque[tuple[int, int, int]] = deque()
        """First and last place in the archive of a file's content, and the file."""

    def run(self, source: int) -> None:
        """Read the archive from this descriptor. Raises PodError."""
        passing = Passing(source, self._give)
        try:
            for entry in Headers(passing, limits=LIMITS, what="the container's archive").entries():
                self._make(entry, self._place(normal(entry.name)), begin=passing.position)
                passing.approve()
            passing.finish()
        except (OverLimit, Corrupt, Unsupported) as error:
            raise PodError(f"what tar wrote in the container can't be unpacked: {error}") from None
        finally:
            while self._open:
                os.close(self._open.popleft()[2])

    def _give(self, data: memoryview) -> None:
        """Write the bytes that are the content of a file."""
        end = self._given + len(data)
        while self._open and self._open[0][0] < end:
            begin, until, fd = self._open[0]
            piece = data[max(begin, self._given) - self._given : min(until, end) - self._given]
            with Guard("write", "a copied file"):
                while piece:
                    piece = piece[os.write(fd, piece) :]
            if until > end:
                break
            os.close(self._open.popleft()[2])
        self._given = end

    def _make(self, entry: Entry, path: str, *, begin: int) -> None:
        """Make what the entry is, without its content."""
        kind, root = entry.header[156:157], self._root
        mode = int(entry.header[100:108].strip(b"\0 ") or b"0", 8) & 0o777
        if entry.is_directory:
            return root.make_directories(path, mode | stat.S_IRWXU) if path else None
        if kind not in (*FILES, SYMBOLIC, HARD):
            sys.stderr.write(f"clearpod: warning: {entry.name[:200]!r} is a device, pipe or socket, and is left out\n")
            return None
        above, _, name = path.rpartition("/")
        if not name:
            raise Corrupt("it has a file where its directory should be")
        if above:
            root.make_directories(above, 0o755)
        root.unlink(path)
        if kind == SYMBOLIC:
            root.link(path, entry.link)
        elif kind == HARD:
            self._link(self._place(normal(entry.link)), above or ".", name=name)
        else:
            self._open.append((begin, begin + entry.size, root.make_file(path, mode=mode)))
        return None

    def _link(self, old: str, above: str, *, name: str) -> None:
        """Make one more name of a file that was unpacked."""
        pinned, directory = self._root.pin(old), self._root.open_directory(above)
        try:
            with Guard("link", name):
                os.link(f"/proc/self/fd/{pinned}", name, dst_dir_fd=directory, follow_symlinks=True)
        finally:
            os.close(pinned)
            os.close(directory)


# -- into the container ------------------------------------------------------------------------------------------


def _into(inside: Inside, source: str) -> None:
    is_directory = inside.is_there(as_directory=True)
    if source == "-":
        if not is_directory:
            raise NotFound(f"there is no directory {inside.path} in the container, to unpack standard input in")
        return inside.tar("-xf", "-", "-C", inside.path, stdin=0)
    if not os.path.exists(source):
        raise NotFound(f"there is no file or directory {source}")
    above, base = posixpath.split(inside.path)
    takes_content = source.endswith("/.") or source == "."
    if is_directory:
        above = inside.path
        base = "." if os.path.isdir(source) and takes_content else os.path.basename(os.path.abspath(source)) or "."
    elif not os.path.isdir(source) and inside.is_slashed:
        raise NotFound(f"there is no directory {inside.path} in the container; make it first")
    elif os.path.isdir(source) and inside.is_there(as_directory=False):
        raise BadRequest(f"{inside.path} is not a directory, and a directory can't be copied to it")
    reading, writing = os.pipe2(os.O_CLOEXEC)
    failures: list[PodError] = []
    thread = threading.Thread(
        target=_pack, args=(source, base), kwargs={"sink": writing, "failures": failures}, daemon=True
    )
    thread.start()
    try:
        inside.tar("-xf", "-", "-C", above, stdin=reading)
    finally:
        thread.join()
    if failures:
        raise failures[0]
    return None


def _pack(source: str, name: str, *, sink: int, failures: list[PodError]) -> None:
    """Write an archive of `source`, as `name`, to the descriptor, and close it. A link that is `source` is followed."""
    import tarfile

    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.uid = entry.gid = 0
        entry.uname = entry.gname = ""
        return entry if entry.isreg() or entry.isdir() or entry.issym() or entry.islnk() else None

    try:
        with open(sink, "wb") as file, tarfile.open(fileobj=file, mode="w|", format=tarfile.GNU_FORMAT) as archive:
            archive.add(os.path.realpath(source), name, filter=plain)
    except BrokenPipeError:
        return  # tar has ended, and has errors why
    except OSError as error:
        failures.append(PodError(f"{error.filename or source} can't be read: {error.strerror}"))


COMMANDS = {"cp": Command(EXAMPLES, add_arguments, main)}
