# SPDX-License-Identifier: Apache-2.0
"""New limits in a container's bundle, whose other files the engine writes. Called by the daemon; blocking."""

import json

from stage1.linux import files
from stage1.pod import oci
from stage1.pod.model import Limits

RESOURCES = "resources.json"


def change_limits(bundle: str, limits: Limits) -> None:
    """For a container that was not started yet: crun will read them in config.json."""
    path = f"{bundle}/config.json"
    document = json.loads(files.read(path))
    linux = document["linux"]
    linux["resources"] = {"devices": linux["resources"]["devices"], **oci.resources(limits)}
    files.write_atomic(path, json.dumps(document).encode())


def write_resources(bundle: str, limits: Limits) -> str:
    """For `crun update`: returns the file's name in the bundle."""
    files.write_atomic(f"{bundle}/{RESOURCES}", json.dumps(oci.resources(limits)).encode())
    return RESOURCES
