# SPDX-License-Identifier: Apache-2.0
"""A disk whose power can be cut at any moment: an ext4 of which each write and each flush is logged, and all that could
be found on it after a power cut, one after the other.

`QemuDisk` needs no kernel that can do that. QEMU, without any machine, shows the disk as a file (its FUSE export) and
keeps the log below it (blklogwrites), in the format of dm-log-writes. A loop device is on that file, with direct I/O,
so that a flush of the file system's is a flush in the log. tests/fakes/mapped_disks.py has what the kernel offers.
Used by tests/system/test_power_cut.py; needs root, loop devices, and /dev/fuse for QEMU's.
"""

import abc
import contextlib
import json
import os
import random
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from tests.fakes.patience import PATIENCE

SECTOR = 512
_SUPER = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")
_MAGIC, _FLUSH, _FUA, _DISCARD, MARK = 0x6A736677736872, 1, 2, 4, 8
_LOG_BYTES = 4 << 30
_MKFS = ("mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0,nodiscard")


class Unavailable(Exception):
    """This machine can't have such a disk; the text says why."""


class Write(NamedTuple):
    """One entry of the log: where its data goes, and where it is in the log; `flags` as dm-log-writes has them."""

    sector: int
    sectors: int
    flags: int
    data_at: int


class State(NamedTuple):
    """What may be found after a power cut: `image` has it, until the next one is asked for. `durable` is how much is on
    it for certain, as `mark` counts; `more` how many later writes are there too.
    """

    image: Path
    durable: int
    more: int


class CrashDisk(abc.ABC):
    """Between `open` and `close` it is mounted at `mount`; `states` is for afterwards."""

    def __init__(self, place: Path, mib: int) -> None:
        self._place, self._mib = place, mib
        self.mount = place / "mount"
        self._image, self._base, self._log = (place / name for name in ("disk.img", "base.img", "log.img"))
        self._scope = contextlib.ExitStack()

    def open(self) -> None:
        """Make the disk, an empty one. Raises Unavailable."""
        if os.geteuid():
            raise Unavailable("to mount needs root")
        self.mount.mkdir(parents=True)
        for path, size in ((self._image, self._mib << 20), (self._log, _LOG_BYTES)):
            path.touch()
            os.truncate(path, size)
        run(*_MKFS, str(self._image))
        run("cp", "--sparse=always", str(self._image), str(self._base))
        try:
            run("mount", self._device(), str(self.mount))
            self._scope.callback(run, "umount", str(self.mount))
        except BaseException:
            self._scope.close()
            raise

    @abc.abstractmethod
    def _device(self) -> str:
        """The device whose writes are logged. Raises Unavailable."""

    @abc.abstractmethod
    def mark(self) -> int:
        """A number for now: what was flushed so far is durable in all states whose `durable` is not less."""

    @abc.abstractmethod
    def _durable(self, entries: list[Write]) -> int:
        """That of the state after these entries, which are all up to a flush."""

    def close(self) -> None:
        """Give everything back but the log. Idempotent."""
        self._scope.close()

    def states(self, seed: int) -> Iterator[State]:
        """For each flush what was on the disk then, and once more with some of the writes that followed, at random."""
        rng = random.Random(seed)
        entries = list(self._entries())
        flushes = [number for number, one in enumerate(entries, start=1) if one.flags & (_FLUSH | _FUA | MARK)]
        replay = self._place / "replay.img"
        run("cp", "--sparse=always", str(self._base), str(replay))
        with replay.open("r+b") as disk, self._log.open("rb") as log:
            done = 0
            for flush, after in zip(flushes, [*flushes[1:], len(entries)], strict=True):
                for one in entries[done:flush]:
                    _apply(one, log, disk)
                done = flush
                disk.flush()
                later = [one for one in entries[flush:after] if one.sectors]
                for some in ([], *([rng.sample(later, rng.randint(0, len(later)))] if later else [])):
                    # A new file each time: a loop device that is about to go would be used again, with what it knew.
                    with tempfile.NamedTemporaryFile(dir=self._place) as shown:
                        run("cp", str(replay), shown.name)
                        for one in some:
                            _apply(one, log, shown)
                        shown.flush()
                        yield State(Path(shown.name), self._durable(entries[:flush]), len(some))

    def _entries(self) -> Iterator[Write]:
        at, count = SECTOR, self._count()
        with self._log.open("rb") as log:
            for _ in range(count):
                log.seek(at)
                sector, sectors, flags, _ = _ENTRY.unpack(log.read(_ENTRY.size))
                yield Write(sector, sectors, flags, at + SECTOR)
                at += SECTOR * (1 + (0 if flags & _DISCARD else sectors))

    def _count(self) -> int:
        """Entries of the log, as its first sector says."""
        with self._log.open("rb") as log:
            magic, _, count, sector = _SUPER.unpack(log.read(_SUPER.size))
        assert magic == _MAGIC and sector == SECTOR
        return int(count)


class QemuDisk(CrashDisk):
    """By QEMU's blklogwrites. A mark is the number of entries."""

    def mark(self) -> int:
        """How many writes and flushes there were so far."""
        return self._count()

    def _durable(self, entries: list[Write]) -> int:
        return len(entries)

    def _device(self) -> str:
        return attach(self._scope, self._export(), "--direct-io=on")

    def _export(self) -> Path:
        """Start QEMU; the file as which it shows the disk."""
        target, socket_path = self._place / "export", self._place / "qmp"
        target.touch()
        drivers: list[dict[str, object]] = [
            {"driver": "file", "filename": str(self._image), "node-name": "image"},
            {"driver": "file", "filename": str(self._log), "node-name": "log"},
            {"driver": "blklogwrites", "file": "image", "log": "log", "node-name": "recorded",
             "log-sector-size": SECTOR, "log-super-update-interval": 1},
        ]  # fmt: skip
        argv = ["qemu-system-x86_64", "-M", "none", "-nodefaults", "-display", "none"]
        argv += ["-qmp", f"unix:{socket_path},server=on,wait=off"]
        argv += [word for driver in drivers for word in ("-blockdev", json.dumps(driver))]
        try:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
        except FileNotFoundError:
            raise Unavailable("there is no qemu-system-x86_64; install qemu-system-x86") from None
        self._scope.callback(_end, process)
        with _connected(socket_path, process) as qmp:
            _ask(qmp, "qmp_capabilities")
            export = {"type": "fuse", "id": "disk", "node-name": "recorded", "writable": True}
            _ask(qmp, "block-export-add", **export, mountpoint=str(target))
        return target


def attach(scope: contextlib.ExitStack, file: Path, *options: str) -> str:
    """A loop device on the file, until the end of the scope. Raises Unavailable."""
    argv = ["losetup", "--find", "--show", *options, str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Unavailable(f"there is no loop device for it: {' '.join(argv)}: {done.stderr.strip()}")
    device = done.stdout.strip()
    scope.callback(run, "losetup", "--detach", device)
    return device


@contextlib.contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """The file system in the image, as after a boot: its journal is replayed."""
    at.mkdir(exist_ok=True)
    run("mount", "-o", "loop", str(image), str(at))
    try:
        yield at
    finally:
        run("umount", str(at))


def _apply(one: Write, log: IO[bytes], disk: Any) -> None:
    if one.sectors and not one.flags & _DISCARD:
        log.seek(one.data_at)
        disk.seek(one.sector * SECTOR)
        disk.write(log.read(one.sectors * SECTOR))


@contextlib.contextmanager
def _connected(path: Path, process: "subprocess.Popen[bytes]") -> Iterator[IO[str]]:
    limit = time.monotonic() + 20 * PATIENCE
    with socket.socket(socket.AF_UNIX) as peer:
        while peer.connect_ex(str(path)):
            if process.poll() is not None or time.monotonic() > limit:
                output = process.stderr.read().decode() if process.poll() is not None and process.stderr else "it hangs"
                raise Unavailable(f"QEMU can't log writes here: {output.strip()}")
            time.sleep(0.02)
        with peer.makefile("rw") as qmp:
            qmp.readline()
            yield qmp


def _ask(qmp: IO[str], command: str, **arguments: Any) -> None:
    qmp.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
    qmp.flush()
    answer = json.loads(qmp.readline())
    if "error" in answer:
        raise Unavailable(f"QEMU can't do {command}: {answer['error']['desc']}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()
    if process.stderr:
        process.stderr.close()


def run(*argv: str) -> None:
    """A program that must succeed."""
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
