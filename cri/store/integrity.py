# SPDX-License-Identifier: Apache-2.0
"""Verifies that the files of images are as they were made: by sizes and erofs headers, or by reading all of them.

Used by the image store, in threads. It only verifies; putting an image aside is the store's. What was read once and
has not been touched since is not read again by the same process, and seals are not either.
"""

import contextlib
import os
from collections.abc import Callable, Iterable

from stage1.linux.supervise import never
from stage1.rootfs import layout, seal
from stage1.rootfs.corrupt import Corrupt
from stage1.rootfs.seal import Seal

_Identity = tuple[int, int, int, int]
_Sealed = tuple[dict[str, Seal], tuple[str, ...]]

MOST_SEALS, MOST_IMAGES = 4096, 256
"""That are remembered."""


class Integrity:
    """Compares the files in these two directories of the store with the seals that were made when they were written."""

    def __init__(self, layers_dir: str, images_dir: str) -> None:
        self._layers_dir, self._images_dir = layers_dir, images_dir
        self._read: dict[str, _Identity] = {}
        self._parsed: dict[str, tuple[_Identity, _Sealed]] = {}
        self._intact: dict[tuple[str, tuple[str, ...]], dict[str, _Identity]] = {}

    def is_unchanged(self, image_id: str, diff_ids: tuple[str, ...]) -> bool:
        """Whether the image was found intact before, and none of its files and seals has been touched since."""
        known = self._intact.get((image_id, diff_ids))
        try:
            return known is not None and all(_identity(path) == before for path, before in known.items())
        except OSError:
            return False

    def of_image(self, image_id: str, diff_ids: Iterable[str], *, whole: bool, stop: Callable[[], bool] = never) -> str:
        """The damage of an image, as a clause that names the file; empty if it is intact. Raises Stopped."""
        layers = tuple(diff_ids)
        before = self._identities(image_id, layers)
        if why := self._damage(image_id, layers, whole=whole, stop=stop):
            return why
        if before:
            if len(self._intact) >= MOST_IMAGES:
                self._intact = {}
            self._intact[image_id, layers] = before
        return ""

    def _identities(self, image_id: str, diff_ids: tuple[str, ...]) -> dict[str, _Identity]:
        """The identities of an image's files, layers and seals; none if a seal is missing: one may be made later."""
        try:
            seals = (layout.seal_path(self._layers_dir, diff_id) for diff_id in diff_ids)
            return {path: _identity(path) for path in (*self._paths(image_id, diff_ids), *seals)}
        except OSError:
            return {}

    def _paths(self, image_id: str, diff_ids: Iterable[str]) -> list[str]:
        """An image's own files, of which one is its seal, and those of its layers. Raises OSError."""
        directory = f"{self._images_dir}/{layout.hex_of(image_id)}"
        paths = [f"{directory}/{name}" for name in {layout.SEAL, *os.listdir(directory)}]
        for diff_id in diff_ids:
            paths += (layout.layer_path(self._layers_dir, diff_id), layout.facts_path(self._layers_dir, diff_id))
        return paths

    def _damage(self, image_id: str, layers: tuple[str, ...], *, whole: bool, stop: Callable[[], bool]) -> str:
        for diff_id in layers:
            if why := self.of_layer(diff_id, whole=whole, stop=stop):
                return why
        directory = f"{self._images_dir}/{layout.hex_of(image_id)}"
        try:
            seals, merged_from = self._sealed(f"{directory}/{layout.SEAL}")
        except FileNotFoundError:
            seals, merged_from = {}, ()
        except Corrupt as error:
            return str(error)
        expected: dict[str, Seal | None] = {"merged.erofs": None, "config.json": None, **seals}
        for name, made in expected.items():
            if why := self._why(f"{directory}/{name}", made, whole=whole, stop=stop):
                return f"its file {name} {why}"
        if merged_from and merged_from != tuple(map(self._checksum, layers)):
            return "a layer was recreated differently since it was merged"
        return ""

    def of_layer(self, diff_id: str, *, whole: bool, stop: Callable[[], bool] = never) -> str:
        """Like `of_image`, for one layer."""
        try:
            seals = self._seals(diff_id)
        except Corrupt as error:
            return f"its layer {diff_id} can't be checked: {error}"
        for path in (layout.layer_path(self._layers_dir, diff_id), layout.facts_path(self._layers_dir, diff_id)):
            if why := self._why(path, seals.get(os.path.basename(path)), whole=whole, stop=stop):
                return f"its layer {diff_id} {why}"
        return ""

    def seal(self, directory: str, diff_ids: Iterable[str], *, stop: Callable[[], bool] = never) -> None:
        """Seal the files of an image in `directory`, merged from these layers, and those of a layer that a former
        version made. What is sealed stays so.

        Raises KernelError, FileNotFoundError, NoSpace, Corrupt, Stopped.
        """
        layers = tuple(diff_ids)
        for diff_id in layers:
            if not self._seals(diff_id):
                paths = (layout.layer_path(self._layers_dir, diff_id), layout.facts_path(self._layers_dir, diff_id))
                seals = dict(zip(map(os.path.basename, paths), seal.of(paths, stop), strict=True))
                seal.write(layout.seal_path(self._layers_dir, diff_id), seals)
        if not os.path.exists(f"{directory}/{layout.SEAL}"):
            names = os.listdir(directory)
            seals = dict(zip(names, seal.of((f"{directory}/{name}" for name in names), stop), strict=True))
            seal.write(f"{directory}/{layout.SEAL}", seals, merged_from=tuple(map(self._checksum, layers)))

    def remember(self, image_id: str, diff_ids: Iterable[str]) -> None:
        """All files of this image were read to be sealed, just now."""
        for path in self._paths(image_id, diff_ids):
            with contextlib.suppress(FileNotFoundError):
                self._read[path] = _identity(path)

    def _seals(self, diff_id: str) -> dict[str, Seal]:
        try:
            return self._sealed(layout.seal_path(self._layers_dir, diff_id))[0]
        except FileNotFoundError:
            return {}

    def _sealed(self, path: str) -> _Sealed:
        """Like `seal.read`, cached: each new container compares all seals of its image."""
        try:
            before = _identity(path)
        except FileNotFoundError:
            raise
        except OSError:
            return seal.read(path)  # whose error is raised
        known = self._parsed.get(path)
        if known is None or known[0] != before:
            if len(self._parsed) >= MOST_SEALS:
                self._parsed = {}
            known = self._parsed[path] = before, seal.read(path)
        return known[1]

    def _checksum(self, diff_id: str) -> str:
        seal = self._seals(diff_id).get(os.path.basename(layout.layer_path(self._layers_dir, diff_id)))
        return seal.sha256 if seal else ""

    def _why(self, path: str, made: Seal | None, *, whole: bool, stop: Callable[[], bool]) -> str:
        if why := seal.broken(path, made):
            return why
        if not whole or made is None or (before := _identity(path)) == self._read.get(path):
            return ""
        if why := seal.differs(path, made, stop=stop):
            return why
        self._read[path] = before
        return ""


def _identity(path: str) -> _Identity:
    status = os.stat(path)
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
