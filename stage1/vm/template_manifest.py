# SPDX-License-Identifier: Apache-2.0
"""The manifest of a template, and a look at one template by it. For `template_store`, and for rkt's pods, which start
one VM and wait for each import: what only a maker needs is not here, and no guest's memory is read.
"""

import json
import os
import time
from typing import NamedTuple

from stage1.errors import VmFailed
from stage1.linux import files
from stage1.linux.libc import Guard
from stage1.vm.template import Template

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MANIFEST = "manifest.json"
REJECTED = "rejected"
"""The manifest's name when the template is no good; rkt's launcher gives it, too (images/launcher)."""
_USED_S = 3600
"""The resolution of the last use."""


class Manifest(NamedTuple):
    """`made_of` are the parts of `template_key`, `digests` those of the files by name, and `facts` what of the files
    would be another after a change; none in one of an earlier version.
    """

    made_of: "Mapping[str, str]"
    digests: "Mapping[str, str]"
    facts: "Mapping[str, str]" = {}  # noqa: RUF012  never changed

    def encode(self) -> bytes:
        """Return the manifest as the content of its file."""
        return json.dumps({"version": 1, **self._asdict()}, indent=1).encode()


def decode(text: bytes) -> Manifest:
    """The inverse of `encode`. Raises VmFailed if it is damaged or of a later version."""
    try:
        record = json.loads(text)
        if record["version"] != 1:
            raise ValueError
        tables = (record["made_of"], record["digests"], record.get("facts", {}))
        return Manifest(*({str(key): str(value) for key, value in table.items()} for table in tables))
    except (ValueError, KeyError, TypeError, AttributeError):
        raise VmFailed("the manifest of a template is damaged") from None


def find_at_once(top: str, name: str) -> Template | None:
    """Return the template `name` of the store at `top`, None when there is none. A change is known by sizes, times and
    inodes: a checksum would take as long as a good part of a boot. One that is damaged is rejected first. Raises
    VmFailed, KernelError.
    """
    template = Template(f"{top}/{name}")
    try:
        manifest = decode(files.read(f"{template.directory}/{MANIFEST}"))
        if manifest.facts != written(template):
            raise VmFailed(f"the template {template.directory} was changed since it was written")
    except FileNotFoundError:
        return None
    except VmFailed:
        _reject(template)
        raise
    note_use(template)
    return template


def _reject(template: Template) -> None:
    """Make it impossible to find. It stays as a mark that its name is not to be used, until it is removed."""
    with Guard("rename", f"{template.directory}/{MANIFEST}"):
        os.rename(f"{template.directory}/{MANIFEST}", f"{template.directory}/{REJECTED}")


def written(template: Template) -> dict[str, str]:
    """Return the facts about the template's files as they stand in the manifest, by name."""
    names = (template.ram, template.state)
    return {os.path.basename(name): " ".join(map(str, one)) for name, one in zip(names, facts(template), strict=True)}


def facts(template: Template) -> tuple[tuple[int, ...], ...]:
    """Facts that a change of the files would alter. Raises FileNotFoundError."""
    status = [os.stat(path) for path in (template.ram, template.state)]
    return tuple((one.st_ino, one.st_size, one.st_mtime_ns, one.st_ctime_ns) for one in status)


def note_use(template: Template) -> None:
    """Note that it is used, for who removes those that were not. Best-effort."""
    path = f"{template.directory}/{MANIFEST}"
    try:
        if time.time() - os.stat(path).st_mtime > _USED_S:
            os.utime(path)
    except OSError:
        pass  # it is only about which one is removed first
