# SPDX-License-Identifier: Apache-2.0
"""Whether a guest's files are those that were built: by the digests and the kernel's release of its manifest.json.

Called by `clearpod check`; reads all of them, some tenths of a second. That files are missing which every pod needs, is
`readiness`'s.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from typing import Any

from stage1.linux.host import has_text

MANIFEST = "manifest.json"
KERNELS = ("bzImage", "vmlinux")
MOST_BYTES = 1 << 20


def problems(guest_dir: str) -> list[str]:
    """Differences of the guest's files from how they were built, one sentence each."""
    try:
        with open(f"{guest_dir}/{MANIFEST}", "rb") as file:
            manifest = json.loads(file.read(MOST_BYTES))
        return [*_digests(guest_dir, manifest["files"]), *_releases(guest_dir, str(manifest["kernel_release"]))]
    except OSError as error:
        return [f"{guest_dir}/{MANIFEST} can't be read, so the guest's files can't be checked: {error.strerror}"]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return [f"{guest_dir}/{MANIFEST} is damaged, so the guest's files can't be checked"]


def _digests(guest_dir: str, files: dict[str, Any]) -> Iterator[str]:
    for name, expected in sorted(files.items()):
        path = f"{guest_dir}/{os.path.basename(name)}"
        path = f"{path}/index.json" if os.path.isdir(path) else path
        try:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue  # it was asked for once, or is packaged elsewhere
        except OSError as error:
            yield f"{path} can't be read: {error.strerror}"
            continue
        if digest != expected["sha256"]:
            yield (
                f"{path} is not the file that was built: its SHA-256 begins with {digest[:12]}, not with "
                + str(expected["sha256"])[:12]
            )


def _releases(guest_dir: str, release: str) -> Iterator[str]:
    for name in KERNELS:
        path = f"{guest_dir}/{name}"
        if release and os.path.isfile(path) and not has_text(path, b"Linux version " + release.encode()):
            yield f"{path} is not Linux {release}, as {MANIFEST} has it"
