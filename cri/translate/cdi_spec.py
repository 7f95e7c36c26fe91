# SPDX-License-Identifier: Apache-2.0
"""The document of the Container Device Interface, as its specification has it: see `cdi`, which imports this late.

Its fields have the specification's names.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Text = Annotated[str, Field(pattern="^[^\0]+$")]


class _Part(BaseModel):
    """An unknown key is something that a device needs and that we would leave out."""

    model_config = ConfigDict(extra="forbid")


class Node(_Part):
    """A file of a device."""

    path: Text
    hostPath: str = ""
    permissions: str = ""
    type: str = ""
    major: int = 0
    minor: int = 0
    fileMode: int = 0
    uid: int = 0
    gid: int = 0


class Mount(_Part):
    """A file or directory of the host."""

    hostPath: Text
    containerPath: Text
    type: str = ""
    options: list[str] = []


class Edits(_Part):
    """The edits of a container."""

    env: list[str] = []
    deviceNodes: list[Node] = []
    mounts: list[Mount] = []
    additionalGids: list[Annotated[int, Field(ge=0)]] = []
    hooks: list[Any] = []
    intelRdt: Any = None
    netDevices: list[Any] = []


class Device(_Part):
    """One device, and what it needs."""

    name: Text
    annotations: dict[str, str] = {}
    containerEdits: Edits


class Spec(_Part):
    """The document."""

    cdiVersion: str
    kind: Text
    annotations: dict[str, str] = {}
    devices: list[Device]
    containerEdits: Edits = Edits()


class NoSpec(Exception):
    """The position and kind of an error in a document."""


def parse(document: Any) -> Spec:
    """The spec that a JSON document is. Raises NoSpec."""
    try:
        return Spec.model_validate(document)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise NoSpec(f"{where}: {problem['msg']}") from None
