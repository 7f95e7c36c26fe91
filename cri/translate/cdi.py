# SPDX-License-Identifier: Apache-2.0
"""CDI devices: the specs on this node, and what the named ones add to a container.

Called by CreateContainer. A spec describes changes of a container on a host; in a VM variables, groups, mounts of files
and the guest's own devices are possible, and everything else is refused by name. See the Container Device Interface
1.0, https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md. Only JSON is read.
"""

import json
import os
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from cri.translate import mounts
from stage1.errors import BadRequest, NotFound, Unsupported
from stage1.pod.devices import device
from stage1.pod.model import Device, Mount

if TYPE_CHECKING:
    from cri.translate import cdi_spec

SPEC_BYTES = 4 << 20


class Edits(NamedTuple):
    """The edits that the named devices make to a container."""

    env: tuple[str, ...] = ()
    devices: tuple[Device, ...] = ()
    mounts: tuple[Mount, ...] = ()
    groups: tuple[int, ...] = ()


def edits(names: Iterable[str], directories: tuple[str, ...]) -> Edits:
    """The edits of the devices `vendor.com/class=device`, each spec's own once; a later directory wins.

    Raises NotFound for a name that no spec has, BadRequest for a spec that is none, Unsupported for an edit that a VM
    can't have.
    """
    devices, merged = list(dict.fromkeys(names)), Edits()
    if not devices:
        return merged
    known: dict[str, tuple[cdi_spec.Spec, cdi_spec.Device]] = {}
    for spec in _specs(directories):
        known |= {f"{spec.kind}={one.name}": (spec, one) for one in spec.devices}
    used: list[cdi_spec.Spec] = []
    for name in devices:
        if name not in known:
            raise NotFound(f"no CDI spec in {' or '.join(directories)} has the device {name!r}; only *.json is read")
        spec, one = known[name]
        if spec not in used:
            used.append(spec)
            merged = _added(merged, spec.containerEdits, name=name)
        merged = _added(merged, one.containerEdits, name=name)
    return merged


def _specs(directories: tuple[str, ...]) -> "Iterator[cdi_spec.Spec]":
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        for name in names:
            if name.endswith(".json"):
                yield _read(f"{directory}/{name}")


def _read(path: str) -> "cdi_spec.Spec":
    from cri.translate import cdi_spec  # late: pydantic is only for nodes with CDI devices

    try:
        with open(path, "rb") as opened:
            return cdi_spec.parse(json.loads(opened.read(SPEC_BYTES)))
    except cdi_spec.NoSpec as error:
        raise BadRequest(f"the CDI spec {path} is invalid: {error}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"the CDI spec {path} can't be read: {error}") from None


def _added(so_far: Edits, more: "cdi_spec.Edits", *, name: str) -> Edits:
    for what, given in (("hooks", more.hooks), ("intelRdt", more.intelRdt), ("netDevices", more.netDevices)):
        if given:
            raise Unsupported(
                f"the CDI device {name} can't be handed to a container in a VM: it needs {what} of the host"
            )
    return Edits(
        env=(*so_far.env, *more.env),
        devices=(
            *so_far.devices,
            *(device(n.hostPath or n.path, n.path, access=n.permissions) for n in more.deviceNodes),
        ),
        mounts=(*so_far.mounts, *(_mount(one, name) for one in more.mounts)),
        groups=(*so_far.groups, *more.additionalGids),
    )


def _mount(given: "cdi_spec.Mount", name: str) -> Mount:
    if given.type not in ("", "bind", "none"):
        raise Unsupported(f"the CDI device {name} has a mount of type {given.type}; only bind mounts are supported")
    source = os.path.realpath(given.hostPath)
    if not os.path.exists(source):
        raise NotFound(f"{given.hostPath}, which the CDI device {name} mounts, does not exist on the host")
    return Mount(source=source, target=mounts.target(given.containerPath), read_only="ro" in given.options)
