# SPDX-License-Identifier: Apache-2.0
"""Images and apps as the fake of rkt is given them, and the copies of them that it makes. Used by stage0."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

Document = dict[str, Any]
LABELS = [{"name": "version", "value": "1.0"}, {"name": "arch", "value": "amd64"}, {"name": "os", "value": "linux"}]


class Image(NamedTuple):
    """An image: its root on the disk, which is copied, and the `app` of its manifest."""

    root: Path
    app: Document
    name: str = "example.com/image"
    annotations: Mapping[str, str] = {}

    def manifest(self) -> Document:
        annotations = [{"name": name, "value": value} for name, value in self.annotations.items()]
        return {
            "acKind": "ImageManifest", "acVersion": "0.8.11", "name": self.name, "labels": LABELS, "app": self.app,
            "annotations": annotations,
        }  # fmt: skip

    @property
    def tree(self) -> str:
        """The id of its tree: the same for the same image."""
        return "deps-sha512-" + hashlib.sha512(f"{self.name} {self.root}".encode()).hexdigest()[:64]


class AppSpec(NamedTuple):
    """An app of a pod. `more` is laid over the image's `app`, `entry` over the entry in the pod manifest."""

    name: str
    image: Image
    more: Mapping[str, Any] = {}
    entry: Mapping[str, Any] = {}

    def document(self) -> Document:
        image = {"name": self.image.name, "id": "sha512-" + self.image.tree[-64:], "labels": LABELS}
        return {"name": self.name, "image": image, "app": {**self.image.app, **self.more}, **self.entry}


def copy(source: Path, target: Path) -> None:
    """A whole tree with owners, modes and links."""
    subprocess.run(["cp", "-a", source, target], check=True)


def add_mtab(root: Path) -> None:
    """rkt's one addition to the root of an app."""
    link = root / "etc" / "mtab"
    if (root / "etc").is_dir() and not os.path.lexists(link):
        link.symlink_to("../proc/self/mounts")
