# SPDX-License-Identifier: Apache-2.0
"""A layer's blob, as a registry stores it, checked and unpacked to a plain tar file.

Called by `layers` only. Trusts nothing: the bytes must match the manifest's digest before they are
unpacked, and the unpacked bytes must match the config's diff id (OCI image-spec, "layer diff id") before
anybody reads them.
"""

import errno
import os
from typing import NamedTuple

from stage1.errors import KernelError, NotFound, PodError
from stage1.linux import process
from stage1.linux.libc import Guard
from stage1.rootfs.corrupt import Corrupt

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    Chunks = Generator[bytes, None, None]

_CHUNK_BYTES = 1 << 20
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class Blob(NamedTuple):
    """One layer as it came: a file, the digest of its bytes, and the digest of the tar inside."""

    path: str
    digest: str
    diff_id: str


class Stopped(PodError):
    """The caller no longer wants the result."""

    grpc_code = "CANCELLED"


def never() -> bool:
    """The `stop` of callers that always wait for the result."""
    return False


def unpack(blob: Blob, tar_path: str, *, stop: "Callable[[], bool]" = never) -> None:
    """Write the tar of `blob` (plain, gzip or zstd, told apart by content) to `tar_path`.

    Raises Corrupt, NoSpace, KernelError, Stopped; `tar_path` may then be there in part: the caller removes
    it.
    """
    _check("layer", wanted=blob.digest, found=_digest_of(_read_chunks(blob.path, stop)))
    chunks = _unpacked_chunks(blob, stop)
    try:
        with Guard("write", tar_path), open(tar_path, "wb", buffering=0) as out:
            unpacked = _digest_of(_copied(chunks, out.fileno()))
    finally:
        # A generator would else live, and keep its file open, as long as the error that interrupted it.
        chunks.close()
    _check("unpacked layer", wanted=blob.diff_id, found=unpacked)


def _check(what: str, *, wanted: str, found: str) -> None:
    if wanted != found:
        raise Corrupt(f"digest mismatch: the {what} {wanted} has the content of {found}; pull again, or push again")


def _digest_of(chunks: "Iterator[bytes]") -> str:
    from hashlib import sha256

    digest = sha256()
    for chunk in chunks:
        digest.update(chunk)
    return "sha256:" + digest.hexdigest()


def _read_chunks(path: str, stop: "Callable[[], bool]") -> "Chunks":
    with Guard("read", path), open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK_BYTES):
            if stop():
                raise Stopped("the pull was cancelled")
            yield chunk


def _copied(chunks: "Iterator[bytes]", fd: int) -> "Iterator[bytes]":
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            view = view[os.write(fd, view) :]
        yield chunk


def _unpacked_chunks(blob: Blob, stop: "Callable[[], bool]") -> "Chunks":
    with Guard("read", blob.path), open(blob.path, "rb") as file:
        magic = file.read(4)
    if magic.startswith(_GZIP):
        return _gunzipped(blob, stop)
    if magic == _ZSTD:
        return _unzstded(blob, stop)
    return _read_chunks(blob.path, stop)


def _gunzipped(blob: Blob, stop: "Callable[[], bool]") -> "Chunks":
    from gzip import BadGzipFile, GzipFile
    from zlib import error as ZlibError

    try:
        with GzipFile(blob.path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                if stop():
                    raise Stopped("the pull was cancelled")
                yield chunk
    except (BadGzipFile, EOFError, ZlibError) as error:
        raise Corrupt(f"the layer {blob.digest} is not valid gzip: {error}; push it again") from None


def _unzstded(blob: Blob, stop: "Callable[[], bool]") -> "Chunks":
    # Python has zstd since 3.14 only.
    read_end, write_end = os.pipe()
    try:
        try:
            pid = process.spawn(["zstd", "-dcq", "--long=31", blob.path], stdout=write_end)
        except KernelError as error:
            if error.errno != errno.ENOENT:
                raise
            raise NotFound("a layer is compressed by zstd and there is no `zstd` program; install zstd") from None
        finally:
            os.close(write_end)
        with process.PidHandle(pid, os.pidfd_open(pid)) as child:
            yield from _output_of(child, read_end, stop=stop)
            if child.exit_code != 0:
                raise Corrupt(f"the layer {blob.digest} is not valid zstd; push it again")
    finally:
        os.close(read_end)


def _output_of(child: process.PidHandle, fd: int, *, stop: "Callable[[], bool]") -> "Iterator[bytes]":
    try:
        while chunk := os.read(fd, _CHUNK_BYTES):
            if stop():
                raise Stopped("the pull was cancelled")
            yield chunk
    except BaseException:
        child.kill()
        raise
    finally:
        child.wait(10)
