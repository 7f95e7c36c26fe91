# SPDX-License-Identifier: Apache-2.0
"""The images of this machine: which there are, under which names, and the files they consist of.

Called by the image RPCs, by CreateContainer and `clearpod run`; safe for threads and for several processes.
An image's files are there when its row is; a layer goes with the last image that has it. A pod that has an
image mounted keeps it, whatever is removed here: the kernel keeps unlinked files as long as they are
mounted.
"""

import contextlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from cri.store import reference
from cri.store.schema import Database
from stage1.errors import BadRequest, NotFound, PodError
from stage1.linux import files as fs
from stage1.linux.flock import Lock
from stage1.linux.libc import Guard
from stage1.rootfs import layout
from stage1.rootfs.share import ImageFiles

_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class Image(NamedTuple):
    """One image. `id` is the digest of its config; `config` that document; `created` its time there, or
    empty.
    """

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size_bytes: int
    user: str
    config: dict[str, Any]
    created: str


class NewImage(NamedTuple):
    """What `ImageStore.add` takes. `directory` holds the files of the image and is moved into the store."""

    id: str
    directory: str
    config: bytes
    diff_ids: tuple[str, ...]


class LayersVanished(PodError):
    """Somebody removed a layer that the image shares, before it was added. Doing it all again helps."""


class ImageStore:
    """`state_dir` is made when absent. What a dead process left half done there is removed."""

    def __init__(self, state_dir: str) -> None:
        """Raises WrongState (a newer clearpod's), NoSpace, KernelError."""
        self.state_dir = state_dir
        self.layers_dir, self._images_dir, self._tmp = (f"{state_dir}/{n}" for n in ("layers", "images", "tmp"))
        for path in (self.layers_dir, self._images_dir, self._tmp):
            fs.make_dirs(path, 0o700)
        self._db = Database(f"{state_dir}/images.db")
        try:
            self.sweep()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    # What is there

    def list(self) -> "tuple[Image, ...]":
        """All images, the newest pull first."""
        with self._db.read() as db:
            ids = [row[0] for row in db.execute("SELECT id FROM images ORDER BY number DESC")]
            return tuple(image for image in map(self._load, ids) if image)

    def find(self, ref: str) -> Image | None:
        """By tag, by digest, by id (with or without sha256:), or by the unique beginning of an id.

        Raises BadRequest when several ids begin so.
        """
        with self._db.read():
            found = self._id_of(ref)
            return self._load(found) if found else None

    def files(self, image: Image) -> ImageFiles:
        """The files to mount. Raises NotFound when the image was removed meanwhile."""
        with self._db.read() as db:
            rows = db.execute("SELECT diff_id FROM layers WHERE image = ? ORDER BY position", (image.id,))
            blobs = tuple(layout.layer_path(self.layers_dir, row[0]) for row in rows)
        if not blobs:
            raise NotFound(f"the image {image.id} was removed; pull it again")
        directory = self._directory(image.id)
        return ImageFiles(image.id, blobs, f"{directory}/merged.erofs", f"{directory}/config.json")

    def usage(self) -> tuple[int, int]:
        """Bytes and inodes that the images take on disk."""
        used = inodes = 0
        todo = [self.layers_dir, self._images_dir]
        while todo:
            with contextlib.suppress(FileNotFoundError), os.scandir(todo.pop()) as entries:
                for entry in entries:
                    inodes += 1
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        used += entry.stat(follow_symlinks=False).st_blocks * 512
        return used, inodes

    def _directory(self, image_id: str) -> str:
        return f"{self._images_dir}/{layout.hex_of(image_id)}"

    def _id_of(self, ref: str) -> str | None:
        with self._db.read() as db:
            for name in _names(ref):
                for table in ("tags", "digests"):
                    if row := db.execute(f"SELECT image FROM {table} WHERE name = ?", (name,)).fetchone():
                        return str(row[0])
            digits = ref.removeprefix("sha256:")
            if not _PREFIX.fullmatch(digits):
                return None
            # g sorts behind every hex digit.
            between = (f"sha256:{digits}", f"sha256:{digits}g")
            rows = db.execute("SELECT id FROM images WHERE id >= ? AND id < ? LIMIT 2", between).fetchall()
        if len(rows) > 1:
            raise BadRequest(f"several images have ids that begin with {ref}; give more digits")
        return str(rows[0][0]) if rows else None

    def _load(self, image_id: str) -> Image | None:
        with self._db.read() as db:
            row = db.execute("SELECT size_bytes, config FROM images WHERE id = ?", (image_id,)).fetchone()
            tags, digests = (
                tuple(r[0] for r in db.execute(f"SELECT name FROM {table} WHERE image = ? ORDER BY name", (image_id,)))
                for table in ("tags", "digests")
            )
        if row is None:
            return None
        config = json.loads(row[1])
        user = str((config.get("config") or {}).get("User") or "")
        return Image(image_id, tags, digests, row[0], user, config, str(config.get("created") or ""))

    # What changes

    def add(self, new: NewImage, *, tag: str = "", digest: str = "") -> Image:
        """Keep an image, or only give it one more name if it is there. A tag leaves the image that had it.

        Raises LayersVanished, NoSpace, KernelError; nothing has changed then.
        """
        with self._db.change() as db:
            target = self._directory(new.id)
            is_new = db.execute("SELECT 1 FROM images WHERE id = ?", (new.id,)).fetchone() is None
            if is_new:
                self._insert(new, target)
            try:
                self._name(new.id, tag=tag, digest=digest)
            except BaseException:
                if is_new:
                    fs.remove_tree(target)
                raise
        image = self._load(new.id)
        assert image is not None
        return image

    def _insert(self, new: NewImage, target: str) -> None:
        blobs = {layout.layer_path(self.layers_dir, diff_id) for diff_id in new.diff_ids}
        if not all(map(os.path.exists, blobs)):
            raise LayersVanished(f"a layer of {new.id} was removed during the pull; pull again")
        size = sum(map(os.path.getsize, blobs)) + sum(e.stat().st_size for e in os.scandir(new.directory))
        with self._db.read() as db:
            db.execute(
                "INSERT INTO images SELECT ?, coalesce(max(number), 0) + 1, ?, ? FROM images",
                (new.id, size, new.config.decode("utf-8", "surrogateescape")),
            )
            rows = [(new.id, position, diff_id) for position, diff_id in enumerate(new.diff_ids)]
            db.executemany("INSERT INTO layers VALUES (?, ?, ?)", rows)
        fs.remove_tree(target)
        with Guard("rename", target):
            os.rename(new.directory, target)

    def name(self, image: Image, *, tag: str = "", digest: str = "") -> Image | None:
        """Give an image one more name; None when it was removed meanwhile."""
        with self._db.change():
            if self._load(image.id) is None:
                return None
            self._name(image.id, tag=tag, digest=digest)
            return self._load(image.id)

    def _name(self, image_id: str, *, tag: str, digest: str) -> None:
        with self._db.read() as db:
            for table, name in (("tags", tag), ("digests", digest)):
                if name:
                    db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, image_id))

    def remove(self, ref: str) -> Image | None:
        """Remove the image that `ref` names, with all its names and the layers that only it has; what it
        was.
        """
        with self._db.change() as db:
            image = self.find(ref)
            if image is None:
                return None
            layers = {row[0] for row in db.execute("SELECT diff_id FROM layers WHERE image = ?", (image.id,))}
            db.execute("DELETE FROM images WHERE id = ?", (image.id,))
            fs.remove_tree(self._directory(image.id))
            self._remove_unused(layers)
        return image

    def discard(self, diff_ids: Iterable[str]) -> None:
        """Remove the layers among `diff_ids` that no image has; a pull that failed calls this."""
        with self._db.change():
            self._remove_unused(diff_ids)

    def _remove_unused(self, diff_ids: Iterable[str]) -> None:
        with self._db.read() as db:
            for diff_id in diff_ids:
                if not db.execute("SELECT 1 FROM layers WHERE diff_id = ?", (diff_id,)).fetchone():
                    _unlink(layout.layer_path(self.layers_dir, diff_id))
                    _unlink(layout.facts_path(self.layers_dir, diff_id))

    # Work in progress

    @contextlib.contextmanager
    def workshop(self) -> Iterator[str]:
        """A directory of one's own on the file system of the store, removed in the end, by a sweep if need be."""
        with contextlib.ExitStack() as scope:
            path = self._claim(scope)
            try:
                fs.make_dirs(path, 0o700)
                yield path
            finally:
                fs.remove_tree(path)
                _unlink(f"{path}.lock")

    def _claim(self, scope: contextlib.ExitStack) -> str:
        while True:
            path = f"{self._tmp}/{secrets.token_hex(8)}"
            scope.enter_context(Lock(f"{path}.lock"))
            # A sweep may have taken the file between its making and its locking.
            if os.path.exists(f"{path}.lock"):
                return path

    def sweep(self) -> None:
        """Remove what dead processes left: half done work, files without rows, rows without files."""
        busy = False
        names = sorted({name.removesuffix(".lock") for name in os.listdir(self._tmp)})
        for name in names:
            try:
                with Lock(f"{self._tmp}/{name}.lock", wait=False):
                    fs.remove_tree(f"{self._tmp}/{name}")
                    _unlink(f"{self._tmp}/{name}.lock")
            except PodError:
                busy = True
        with self._db.change() as db:
            self._drop_broken()
            if not busy:
                # A pull in progress has layers already that no image has yet.
                known = {layout.hex_of(row[0]) for row in db.execute("SELECT diff_id FROM layers")}
                _remove_others(self.layers_dir, known)
            _remove_others(self._images_dir, {layout.hex_of(row[0]) for row in db.execute("SELECT id FROM images")})

    def _drop_broken(self) -> None:
        with self._db.read() as db:
            for (image_id,) in db.execute("SELECT id FROM images").fetchall():
                rows = db.execute("SELECT diff_id FROM layers WHERE image = ?", (image_id,))
                blobs = (layout.layer_path(self.layers_dir, row[0]) for row in rows)
                paths = itertools.chain([f"{self._directory(image_id)}/merged.erofs"], blobs)
                if not all(map(os.path.exists, paths)):
                    db.execute("DELETE FROM images WHERE id = ?", (image_id,))


def _names(ref: str) -> Iterator[str]:
    """The full names that `ref` may stand for: with its digest, and with its tag."""
    with contextlib.suppress(BadRequest):
        yield str(reference.parse(ref))


def _remove_others(directory: str, known: set[str]) -> None:
    for name in os.listdir(directory):
        if name.partition(".")[0] not in known:
            fs.remove_tree(f"{directory}/{name}")


def _unlink(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
