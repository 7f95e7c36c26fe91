# SPDX-License-Identifier: Apache-2.0
"""A layer's blob, as a registry stores it, checked and unpacked to the bytes of a tar.

Called by `layers` only. Trusts nothing: the bytes must match the manifest's digest before they are unpacked, and the
unpacked bytes must match the config's diff id (OCI image-spec, "layer diff id") before anybody believes what was made
of them. The programs that decompress are confined and only write to a pipe: what comes out is counted and hashed here,
so even a program that a blob has taken over can't pass one layer off as another.
"""

import os
import stat
from collections.abc import Callable, Generator, Iterator, Sequence
from hashlib import sha256
from typing import NamedTuple, Protocol

from stage1.errors import NotFound, PodError
from stage1.linux import sandbox, supervise
from stage1.linux.host import which
from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.limits import ELAPSED, Limits, refusal

Chunks = Generator[bytes, None, None]


class Taker(Protocol):
    """The reader of what is unpacked, as `feeding.Fed` takes it."""

    def give(self, data: bytes) -> None:
        """Take these bytes."""
        ...

    def copy(self, source: int, most: int) -> int:
        """Take up to `most` bytes of the pipe `source`, and leave them there; how many."""
        ...


_CHUNK_BYTES = 1 << 20
_SIGNALLED, _NOT_STARTED = 128, (125, 126, 127)
_FENCES = ("setpriv: ", "unshare: ", "prlimit: ", "env: ")
"""The prefixes of messages of the programs in `sandbox.command`."""
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_SKIPPABLE = b"\x2a\x4d\x18"
"""A frame of zstd that is no data has this behind a byte from 0x50 to 0x5f. A blob may begin with one."""
_GUNZIPS = (["igzip", "-dcq"], ["gzip", "-dc"])
"""The first one, of ISA-L, takes a third of the time. It ignores what follows the last member, which is no layer's."""
_NAMELESS = "(null)"
"""In the place of a file's name in messages of igzip about its standard input."""
_FREE_BYTES = 64 << 20
"""A layer may have these whatever its blob's size is: tar pads small files with zeros."""
_BASE_TIMEOUT_S, _BYTES_PER_S = 60.0, 5_000_000


class Blob(NamedTuple):
    """One layer as it came: a file, the digest of its bytes, and the digest of the tar inside."""

    path: str
    digest: str
    diff_id: str

    @property
    def title(self) -> str:
        """The layer's name in errors."""
        return f"the layer {self.digest}"


class Rules(NamedTuple):
    """Limits of a layer's size, and the caller's cancellation."""

    limits: Limits = Limits()
    stop: Callable[[], bool] = supervise.never


def unpack(blob: Blob, taker: Taker, *, rules: Rules) -> int:
    """Pass the tar of `blob` (plain, gzip or zstd, detected by content) to `taker` in pieces; return its size in bytes.

    Raises Corrupt, OverLimit, TimedOut, KernelError, Stopped, and the errors of `taker`: what it has received is no
    layer then.
    """
    with Guard("open", blob.path):
        fd = os.open(blob.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise Corrupt(f"{blob.title} is not a regular file at {blob.path}; pull again")
        if (actual := _digest_of(_read(fd, blob.path, stop=rules.stop))) != blob.digest:
            raise Corrupt(f"{blob.title} is damaged (digest mismatch: it has the content of {actual}); "
                          "pull again, or push again")  # fmt: skip
        os.lseek(fd, 0, os.SEEK_SET)
        bounded = _Bounded(blob, rules.limits, packed=status.st_size)
        chunks = _unpacked(_Work(blob, fd, taker, rules, bounded.most))
        try:
            unpacked = _digest_of(bounded.passed(chunks))
        finally:
            # A generator would else live, and its program with it, as long as the error that interrupted it.
            chunks.close()
    finally:
        os.close(fd)
    if unpacked != blob.diff_id:
        raise Corrupt(f"digest mismatch: the unpacked layer {blob.diff_id} has the content of {unpacked}; "
                      "pull again, or push again")  # fmt: skip
    return bounded.size


def _expanded(packed: int, limits: Limits) -> int:
    return max(_FREE_BYTES, packed * limits.ratio)


def most_unpacked(packed: int, limits: Limits) -> int:
    """How many bytes a blob of `packed` bytes may have unpacked."""
    return min(limits.layer_mib << 20, _expanded(packed, limits))


def _is_there(command: list[str]) -> bool:
    return bool(which(command[0]))


class _Bounded:
    """Counts what is unpacked, against the limits."""

    def __init__(self, blob: Blob, limits: Limits, *, packed: int) -> None:
        self._blob, self._limits = blob, limits
        self._layer = limits.layer_mib << 20
        self._ratio = _expanded(packed, limits)
        self.most = most_unpacked(packed, limits)
        self.size = 0

    def passed(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """The chunks as they are. Raises OverLimit."""
        for chunk in chunks:
            self.size += len(chunk)
            if self.size > self._layer:
                what, cap = f"{self._blob.title} has more than {self._layer} bytes", self._limits.layer_mib
                raise refusal(what, key="layer_mib", cap=cap)
            if self.size > self._ratio:
                what = f"{self._blob.title} unpacks to more than {self._ratio} bytes"
                raise refusal(what, key="ratio", cap=self._limits.ratio)
            yield chunk


def _digest_of(chunks: Iterator[bytes]) -> str:
    digest = sha256()
    for chunk in chunks:
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def _read(fd: int, path: str, *, stop: Callable[[], bool]) -> Chunks:
    with Guard("read", path):
        while chunk := os.read(fd, _CHUNK_BYTES):
            if stop():
                raise supervise.Stopped("the pull was cancelled")
            yield chunk


def _given(chunks: Chunks, taker: Taker) -> Chunks:
    for chunk in chunks:
        taker.give(chunk)
        yield chunk


class _Work(NamedTuple):
    """A blob, open as `fd`, and who gets what is unpacked: at `most` so many bytes."""

    blob: Blob
    fd: int
    taker: Taker
    rules: Rules
    most: int


def _unpacked(work: _Work) -> Chunks:
    """The pieces, on each of which the taker works already."""
    magic = os.pread(work.fd, 4, 0)
    if magic.startswith(_GZIP):
        return _decompressed(work, _GUNZIPS)
    if magic == _ZSTD or (magic[1:] == _SKIPPABLE and magic[0] >> 4 == 5):
        return _decompressed(work, (["zstd", "-dcq", "--long=31"],))
    return _given(_read(work.fd, work.blob.path, stop=work.rules.stop), work.taker)


def _decompressed(work: _Work, commands: Sequence[list[str]]) -> Chunks:
    """Unpack by the first of `commands` whose program exists."""
    command, name, limits = next(filter(_is_there, commands), commands[-1]), commands[-1][0], work.rules.limits
    if not (program := which(command[0])):
        raise NotFound(f"a layer is compressed by {name} and there is no `{name}` program; install {name}")
    timeout_s = _BASE_TIMEOUT_S + work.most / _BYTES_PER_S
    box = sandbox.Box(limits.memory_mib << 20, int(timeout_s), uid=limits.uid)
    start = supervise.program([*sandbox.command(box, sandbox.means()), program, *command[1:]])
    outcome: list[supervise.Ended] = []
    yield from supervise.output(
        supervise.Job(start, work.fd, ELAPSED * timeout_s, work.rules.stop, copy=work.taker.copy), outcome
    )
    code, last = outcome[0]
    if "memory" in last:
        what = f"{work.blob.title} needs more memory to be decompressed than {limits.memory_mib} MiB"
        raise refusal(what, key="memory_mib", cap=limits.memory_mib)
    if code != 0:
        raise _failure(work.blob, command[0], kind=name, ended=outcome[0])


def _failure(blob: Blob, program: str, *, kind: str, ended: supervise.Ended) -> PodError:
    """The program's error about the layer, or that it could not be run: the programs that confine it fail too."""
    if ended.code > _SIGNALLED:
        return Corrupt(
            f"{blob.title} is not valid {kind}: {program} ended by signal {ended.code - _SIGNALLED}; push it again"
        )
    if ended.code in _NOT_STARTED or ended.last.startswith(_FENCES):
        return PodError(f"{blob.title} can't be unpacked: {program} did not start (status {ended.code}: {ended.last})")
    reason = ended.last.rpartition(": ")[2] or f"{program} ended with status {ended.code}"
    if _NAMELESS in reason:
        reason = "it is incomplete" if "complete" in reason else "it is damaged"
    return Corrupt(f"{blob.title} is not valid {kind}: {reason}; push it again")
