# SPDX-License-Identifier: Apache-2.0
"""Small app images for rkt, made of Debian's static busybox: a directory, or the ACI that the real rkt fetches."""

import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path
from typing import Any

BUSYBOX = "/bin/busybox"
LABELS = [{"name": "version", "value": "1.0"}, {"name": "arch", "value": "amd64"}, {"name": "os", "value": "linux"}]


def root(place: Path) -> Path:
    """A root file system with busybox, all of its applets, and users."""
    for name in ("bin", "etc", "tmp", "data", "root"):
        (place / name).mkdir(parents=True, exist_ok=True)
    shutil.copyfile(BUSYBOX, place / "bin/busybox")
    (place / "bin/busybox").chmod(0o755)
    applets = subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in applets:
        if applet != "busybox":
            (place / "bin" / applet).symlink_to("busybox")
    (place / "tmp").chmod(0o1777)
    (place / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/data:/bin/sh\n")
    (place / "etc/group").write_text("root:x:0:\nappg:x:1001:\n")
    return place


def manifest(name: str, app: dict[str, Any]) -> dict[str, Any]:
    """Of an app image."""
    whole = {"exec": ["/bin/true"], "user": "0", "group": "0", **app}
    return {"acKind": "ImageManifest", "acVersion": "0.8.11", "name": name, "labels": LABELS, "app": whole}


def pack(files: Path, target: Path, *, name: str, **app: Any) -> Path:
    """Write the ACI of `files` to `target`; keywords go into the manifest's `app`."""
    text = json.dumps(manifest(name, app))
    document = target.with_suffix(".json")
    document.write_text(text)
    with tarfile.open(target, "w") as archive:
        archive.add(document, "manifest")
        archive.add(files, "rootfs")
    os.unlink(document)
    return target
