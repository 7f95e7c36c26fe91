# SPDX-License-Identifier: Apache-2.0
"""The images of this machine: their names, and the files they consist of.

Called by the image RPCs, by CreateContainer and `clearpod run`; safe for threads and for several processes. An image's
files are on the disk before its row is; a layer is removed with the last image that has it. An image with damaged files
is put aside: it stays listed, can be removed, and the next pull makes the damaged files anew. A pod that has an image
mounted keeps it after its removal: the kernel keeps unlinked files that are mounted.
"""

import contextlib
import errno
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from cri.store import reference, schema, workshop
from cri.store.integrity import Integrity
from cri.store.lookups import Lookups
from cri.store.schema import Database
from cri.store.workshop import Workshop
from stage1.errors import BadRequest, KernelError, NotFound, PodError
from stage1.linux import files as fs
from stage1.linux.libc import Guard
from stage1.linux.supervise import never
from stage1.rootfs import layout
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.share import ImageFiles

log = logging.getLogger("clearpod.images")

_PREFIX = re.compile(r"[0-9a-f]{1,64}")


class Image(NamedTuple):
    """One image. `id` is the digest of its config; `config` that document; `created` its time there, or
    empty. `aside` is a sentence about one that is damaged.
    """

    id: str
    repo_tags: tuple[str, ...]
    repo_digests: tuple[str, ...]
    size_bytes: int
    user: str
    config: dict[str, Any]
    created: str
    aside: str = ""

    @property
    def title(self) -> str:
        """The image's name in errors."""
        return (*self.repo_tags, *self.repo_digests, self.id)[0]


class NewImage(NamedTuple):
    """What `ImageStore.add` takes. `directory` holds the files of the image and is moved into the store."""

    id: str
    directory: str
    config: bytes
    diff_ids: tuple[str, ...]


class LayersVanished(PodError):
    """A layer that the image shares was removed before the image was added. Doing it all again helps."""


class ImageStore:
    """`state_dir` is made when absent. What a dead process left half done there is removed."""

    def __init__(self, state_dir: str) -> None:
        """Raises WrongState (a newer clearpod's), NoSpace, KernelError."""
        self.state_dir = state_dir
        self.at_close: Callable[[], None] = _nothing
        """Called by `close`: releases what a user of the store holds."""
        fs.make_dirs(state_dir, 0o700)
        self._db = Database(f"{state_dir}/{schema.NAME}")
        self.layers_dir, self._images_dir, self._tmp = (f"{state_dir}/{n}" for n in ("layers", "images", "tmp"))
        self._lookups: Lookups[Image | None] = Lookups()
        self._integrity = Integrity(self.layers_dir, self._images_dir)
        try:
            for path in (self.layers_dir, self._images_dir, self._tmp):
                fs.make_dirs(path, 0o700)
            fs.sync(state_dir)
            self.clean_up()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the database, after what `at_close` does."""
        self.at_close()
        self._db.close()

    # What is there

    def list(self) -> "tuple[Image, ...]":
        """All images, the newest pull first."""
        with self._db.read() as db:
            ids = [row[0] for row in db.execute("SELECT id FROM images ORDER BY number DESC")]
            return tuple(image for image in map(self._load, ids) if image)

    def count(self) -> tuple[int, int]:
        """How many images there are, and how many of these are damaged."""
        with self._db.read() as db:
            total, aside = db.execute("SELECT count(*), count(nullif(aside, '')) FROM images").fetchone()
        return total, aside

    def find(self, ref: str) -> Image | None:
        """Find an image by tag, by digest, by id (with or without sha256:), or by a unique prefix of an id. Raises
        BadRequest if the prefix is ambiguous.
        """
        with self._db.read():
            return self._lookups.of(ref, self._query, state=self._db.state())

    def _query(self, ref: str) -> Image | None:
        image_id = self._id_of(ref)
        return self._load(image_id) if image_id else None

    def usable(self, image: Image) -> ImageFiles:
        """`files`, if they look as they were made. Raises Corrupt, having put the image aside; and as `files`."""
        diff_ids = self._diff_ids(image.id)
        is_known = not image.aside and self._integrity.is_unchanged(image.id, diff_ids)
        if not is_known and (why := self._examine(image, diff_ids)):
            raise Corrupt(why)
        return self._files(image, diff_ids)

    def files(self, image: Image) -> ImageFiles:
        """The files to mount. Raises NotFound when the image was removed meanwhile."""
        return self._files(image, self._diff_ids(image.id))

    def _files(self, image: Image, diff_ids: tuple[str, ...]) -> ImageFiles:
        blobs = tuple(layout.layer_path(self.layers_dir, diff_id) for diff_id in diff_ids)
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

    def _diff_ids(self, image_id: str) -> tuple[str, ...]:
        with self._db.read() as db:
            rows = db.execute("SELECT diff_id FROM layers WHERE image = ? ORDER BY position", (image_id,))
            return tuple(str(row[0]) for row in rows)

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
            row = db.execute("SELECT size_bytes, config, aside FROM images WHERE id = ?", (image_id,)).fetchone()
            tags, digests = (
                tuple(r[0] for r in db.execute(f"SELECT name FROM {table} WHERE image = ? ORDER BY name", (image_id,)))
                for table in ("tags", "digests")
            )
        if row is None:
            return None
        try:
            config = json.loads(row[1])
            user = str((config.get("config") or {}).get("User") or "")
        except (ValueError, AttributeError, RecursionError):
            why = f"the image {(*tags, image_id)[0]} is damaged: its config can't be read any more; pull it again"
            return Image(image_id, tags, digests, row[0], "", {}, "", why)
        return Image(image_id, tags, digests, row[0], user, config, str(config.get("created") or ""), row[2])

    # What is as it was made

    def examine(self, image: Image, *, whole: bool, stop: Callable[[], bool] = never) -> str:
        """Look at the image's files, with `whole` at each byte that this process has not read yet.

        Returns a sentence when one is damaged, after the image was put aside; else nothing. Raises Stopped.
        """
        return self._examine(image, self._diff_ids(image.id), whole=whole, stop=stop)

    def _examine(
        self, image: Image, diff_ids: tuple[str, ...], *, whole: bool = False, stop: Callable[[], bool] = never
    ) -> str:
        if image.aside:
            return image.aside
        before = self._inodes(image.id, diff_ids)
        if why := self._integrity.of_image(image.id, diff_ids, whole=whole, stop=stop):
            return self._put_aside(image, why, inodes=before)
        if whole and diff_ids:
            self.seal(self._directory(image.id), diff_ids, stop=stop)
        return ""

    def _put_aside(self, image: Image, why: str, *, inodes: tuple[int, ...]) -> str:
        """Mark the image damaged and return the error message; empty if it was removed or pulled again meanwhile."""
        sentence = f"the image {image.title} is damaged: {why}; pull it again"
        with self._db.change() as db:
            if self._load(image.id) is None or self._inodes(image.id, self._diff_ids(image.id)) != inodes:
                return ""
            db.execute("UPDATE images SET aside = ? WHERE id = ?", (sentence, image.id))
        log.error("image.damaged", extra={"image": image.id, "error": sentence})
        return sentence

    def _inodes(self, image_id: str, diff_ids: Iterable[str]) -> tuple[int, ...]:
        layers = (layout.layer_path(self.layers_dir, diff_id) for diff_id in diff_ids)
        return tuple(map(_inode, (self._directory(image_id), *layers)))

    def drop_damaged(self, diff_ids: Iterable[str], stop: Callable[[], bool] = never) -> None:
        """Remove those of these layers that do not match their seals; a pull recreates them. Raises Stopped."""
        for diff_id in diff_ids:
            path = layout.layer_path(self.layers_dir, diff_id)
            before = _inode(path)
            if before and (why := self._integrity.of_layer(diff_id, whole=True, stop=stop)):
                log.warning("layer.damaged", extra={"error": f"{why}; it is recreated"})
                with self._db.change():
                    if _inode(path) == before:
                        self._remove_layer(diff_id)

    def seal(self, directory: str, diff_ids: Iterable[str], *, stop: Callable[[], bool] = never) -> None:
        """Sync the image's files in `directory` and seal them: they survive a power cut, and later changes are
        detected. Raises KernelError, NoSpace, Stopped.
        """
        self._integrity.seal(directory, diff_ids, stop=stop)

    # What changes

    def add(self, new: NewImage, *, tag: str = "", digest: str = "") -> Image:
        """Keep an image, or only give it one more name if it is there and sound. A tag leaves the image that had it.

        Raises LayersVanished, NoSpace, KernelError; nothing has changed then.
        """
        with self._db.change():
            target = self._directory(new.id)
            there = self._load(new.id)
            if there is None or there.aside:
                self._insert(new, target)
            try:
                self._name(new.id, tag=tag, digest=digest)
            except BaseException:
                if there is None:
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
                "INSERT INTO images SELECT ?, coalesce(max(number), 0) + 1, ?, ?, '' FROM images WHERE true "
                "ON CONFLICT (id) DO UPDATE SET size_bytes = excluded.size_bytes, config = excluded.config, aside = ''",
                (new.id, size, new.config.decode("utf-8", "surrogateescape")),
            )
            rows = [(new.id, position, diff_id) for position, diff_id in enumerate(new.diff_ids)]
            db.execute("DELETE FROM layers WHERE image = ?", (new.id,))
            db.executemany("INSERT INTO layers VALUES (?, ?, ?)", rows)
        fs.remove_tree(target)
        with Guard("rename", target):
            os.rename(new.directory, target)
        fs.sync(self._images_dir)  # and all of it is on the disk before the row is
        self._integrity.remember(new.id, new.diff_ids)

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
                known = db.execute(f"SELECT image FROM {table} WHERE name = ?", (name,)).fetchone()
                if name and known != (image_id,):
                    db.execute(f"INSERT OR REPLACE INTO {table} VALUES (?, ?)", (name, image_id))

    def remove(self, ref: str) -> Image | None:
        """Remove the image that `ref` names, with all its names and the layers that only it has; what it
        was.
        """
        with self._db.change() as db:
            image = self.find(ref)
            if image is None:
                return None
            layers = self._diff_ids(image.id)
            db.execute("DELETE FROM images WHERE id = ?", (image.id,))
        # Not before that is on the disk: a row without files would be a damaged image. `clean_up` does it if we die.
        with self._db.change():
            if self._load(image.id) is None:
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
                    self._remove_layer(diff_id)

    def _remove_layer(self, diff_id: str) -> None:
        for path_of in (layout.layer_path, layout.facts_path, layout.seal_path):
            _remove_file(path_of(self.layers_dir, diff_id))

    # Work in progress

    def workshop(self) -> Workshop:
        """A directory of one's own on the file system of the store. Raises KernelError, NoSpace."""
        return Workshop(self._tmp)

    def clean_up(self) -> None:
        """Remove what dead processes left: half done work, files without rows. Put aside images that are damaged."""
        busy = not workshop.remove_abandoned(self._tmp)
        with self._db.change() as db:
            if not busy:
                # A pull in progress has layers already that no image has yet.
                known = {layout.hex_of(row[0]) for row in db.execute("SELECT diff_id FROM layers")}
                _remove_others(self.layers_dir, known)
            _remove_others(self._images_dir, {layout.hex_of(row[0]) for row in db.execute("SELECT id FROM images")})

        for image in self.list():
            self.examine(image, whole=False)


def _nothing() -> None:
    return None


def _names(ref: str) -> Iterator[str]:
    """The full names that `ref` may stand for: with its digest, and with its tag."""
    with contextlib.suppress(BadRequest):
        yield str(reference.parse(ref))


def _remove_file(path: str) -> None:
    """Remove it without a descriptor, of which there may be none; also what is a directory now."""
    try:
        fs.unlink(path)
    except KernelError as error:
        if error.errno != errno.EISDIR:
            raise
        fs.remove_tree(path)


def _remove_others(directory: str, known: set[str]) -> None:
    for name in os.listdir(directory):
        if name.partition(".")[0] not in known or name.endswith("~"):  # `files.write_atomic` was killed there
            fs.remove_tree(f"{directory}/{name}")


def _inode(path: str) -> int:
    """Return the inode of the file; 0 when it does not exist."""
    with contextlib.suppress(OSError):
        return os.stat(path).st_ino
    return 0
