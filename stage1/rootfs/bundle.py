# SPDX-License-Identifier: Apache-2.0
"""New limits, and sizes of volumes, in a container's bundle, whose files the engine has written. Called by the daemon;
blocking.

`directory` is the pod's, `bundle` the path of the container's bundle in it.
"""

import json

from stage1.errors import WrongState
from stage1.linux import beneath
from stage1.pod import guest_volumes, oci
from stage1.pod.model import Container, IdMap, Limits

RESOURCES = "resources.json"
PERIOD_US = 100_000
"""The kernel's own."""


def change_limits(directory: str, bundle: str, *, limits: Limits) -> None:
    """Change the limits of a container that was not started yet, in config.json. Raises PodError, also if that file
    is not what we wrote.
    """
    path = f"{bundle}/config.json"
    with beneath.Root(directory, one_mount=True) as own:
        try:
            document = json.loads(own.read(path).decode(errors="surrogateescape"))
            linux = document["linux"]
            linux["resources"] = {"devices": linux["resources"]["devices"], **oci.resources(limits)}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise WrongState(f"{directory}/{path} is damaged, so limits can't be changed: {error!r:.200}") from None
        own.write(path, oci.written(document))


def write_resources(directory: str, bundle: str, *, limits: Limits) -> str:
    """Write the limits for `crun update`; return the file's name in the bundle."""
    document = oci.resources(_without_quota(limits) if limits.cpu_quota_us < 0 else limits)
    with beneath.Root(directory, one_mount=True) as own:
        own.write(f"{bundle}/{RESOURCES}", json.dumps(document).encode())
    return RESOURCES


def write_guest_volumes(directory: str, bundle: str, *, container: Container, ids: IdMap) -> None:
    """Write the list of volumes that the guest has itself again, for the guest's next refresh. Raises PodError."""
    with beneath.Root(directory, one_mount=True) as own:
        own.write(f"{bundle}/{guest_volumes.FILE}", guest_volumes.listing(container, ids))


def _without_quota(limits: Limits) -> Limits:
    """The limits with the quota lifted through the kernel's own file: crun ignores a quota of -1."""
    lifted = ("cpu.max", f"max {limits.cpu_period_us or PERIOD_US}")
    others = tuple(item for item in limits.unified if item[0] != lifted[0])
    return limits._replace(cpu_quota_us=0, unified=(*others, lifted))
