# SPDX-License-Identifier: Apache-2.0
"""CDI devices: the specs on this node, and what those that are named add to a container.

Called by CreateContainer. A spec says how a host would change a container; in a VM variables, groups, mounts of files
and the guest's own devices can be had, and whatever else is refused by name. See the Container Device Interface
1.0, https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md. Only JSON is read.
"""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cri.translate import mounts
from stage1.errors import BadRequest, NotFound, Unsupported
from stage1.pod.devices import device
from stage1.pod.model import Device, Mount

SPEC_BYTES = 4 << 20

Text = Annotated[str, Field(pattern="^[^\0]+$")]


class _Part(BaseModel):
    """An unknown key is something that a device needs and that we would leave out."""

    model_config = ConfigDict(extra="forbid")


class _Node(_Part):
    path: Text
    hostPath: str = ""
    permissions: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    fileMode: int = 0
    uid: int = 0
    gid: int = 0


class _Mount(_Part):
    hostPath: Text
    containerPath: Text
    type: str = ""
    options: list[str] = []


class _Edits(_Part):
    env: list[str] = []
    deviceNodes: list[_Node] = []
    mounts: list[_Mount] = []
    additionalGids: list[Annotated[int, Field(ge=0)]] = []
    hooks: list[Any] = []
    intelRdt: Any = None
    netDevices: list[Any] = []


class _Device(_Part):
    name: Text
    annotations: dict[str, str] = {}
    containerEdits: _Edits


class _Spec(_Part):
    cdiVersion: str
    kind: Text
    annotations: dict[str, str] = {}
    devices: list[_Device]
    containerEdits: _Edits = _Edits()


class Edits(NamedTuple):
    """What the named devices add to a container."""

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
    known: dict[str, tuple[_Spec, _Device]] = {}
    for spec in _specs(directories):
        known |= {f"{spec.kind}={one.name}": (spec, one) for one in spec.devices}
    used: list[_Spec] = []
    for name in devices:
        if name not in known:
            raise NotFound(f"no CDI spec in {' or '.join(directories)} has the device {name!r}; only *.json is read")
        spec, one = known[name]
        if spec not in used:
            used.append(spec)
            merged = _added(merged, spec.containerEdits, name=name)
        merged = _added(merged, one.containerEdits, name=name)
    return merged


def _specs(directories: tuple[str, ...]) -> Iterator[_Spec]:
    for directory in directories:
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        for name in names:
            if name.endswith(".json"):
                yield _read(f"{directory}/{name}")


def _read(path: str) -> _Spec:
    try:
        with open(path, "rb") as opened:
            return _Spec.model_validate(json.loads(opened.read(SPEC_BYTES)))
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise BadRequest(f"the CDI spec {path} is not one: {where}: {problem['msg']}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise BadRequest(f"the CDI spec {path} can't be read: {error}") from None


def _added(so_far: Edits, more: _Edits, *, name: str) -> Edits:
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


def _mount(given: _Mount, name: str) -> Mount:
    if given.type not in ("", "bind", "none"):
        raise Unsupported(f"the CDI device {name} wants a mount of type {given.type}; only binds of files can be had")
    source = os.path.realpath(given.hostPath)
    if not os.path.exists(source):
        raise NotFound(f"{given.hostPath}, which the CDI device {name} mounts, does not exist on the host")
    return Mount(source=source, target=mounts.target(given.containerPath), read_only="ro" in given.options)
