# SPDX-License-Identifier: Apache-2.0
"""A small pod directory without mounts, as rkt leaves it with --no-overlay."""

import json
from pathlib import Path
from typing import Any

Document = dict[str, Any]
UUID = "6733c088-a507-4694-aabf-eda9d3f3f5c0"
APP: Document = {"exec": ["/bin/sh"], "user": "0", "group": "0"}
DOCKER = [{"name": "appc.io/docker/repository", "value": "library/redis"}]


def app(name: str = "one", /, entry: Document | None = None, **fields: Any) -> Document:
    """An entry of the pod manifest; `fields` are laid over its `app`."""
    return {"name": name, "image": {"id": "sha512-00"}, "app": {**APP, **fields}, **(entry or {})}


def lay(place: Path, *apps: Document, image: Document | None = None, **manifest: Any) -> str:
    """The directory's path. Every app has a root with bin/sh, usr/bin/env, etc/passwd and etc/group."""
    pod = place / UUID
    (pod / "stage1" / "rootfs" / "rkt" / "status").mkdir(parents=True)
    document = {"acVersion": "1.30.0", "acKind": "PodManifest", "apps": list(apps), **manifest}
    (pod / "pod").write_text(json.dumps(document))
    for one in apps:
        stage2 = pod / "stage1" / "rootfs" / "opt" / "stage2" / one["name"]
        root = stage2 / "rootfs"
        for name in ("bin", "usr/bin", "etc"):
            (root / name).mkdir(parents=True)
        for name in ("bin/sh", "usr/bin/env"):
            (root / name).write_text("")
            (root / name).chmod(0o755)
        (root / "etc" / "passwd").write_text("root:x:0:0::/:/bin/sh\nweb:x:33:44::/:/bin/sh\n")
        (root / "etc" / "group").write_text("root:x:0:\nwww:x:55:web\n")
        manifest_of_image = {"acKind": "ImageManifest", "name": "example.com/x", "app": APP, **(image or {})}
        (stage2 / "manifest").write_text(json.dumps(manifest_of_image))
    return str(pod)


def root_of(pod: str, name: str = "one") -> Path:
    """An app's root."""
    return Path(pod) / "stage1" / "rootfs" / "opt" / "stage2" / name / "rootfs"
