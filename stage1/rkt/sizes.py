# SPDX-License-Identifier: Apache-2.0
"""Limits of a pod of rkt's by the sizes of the agent's tables. Pure. Called by loader, before anything is created on
the host for an image that declares thousands of volumes.
"""

from stage1.errors import BadRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from stage1.rkt.loader import App
    from stage1.rkt.volumes import EmptyVolume

MOST_APPS = 64
"""Of one pod: the agent's table has room for so many."""
MOST_CONTAINERS = 128
"""The same: apps, their handlers, roots on the pod's disk and empty volumes."""
MOST_LETTERS = {"app": 89, "volume": 92}
"""Of names: with what is put behind them they are ids of the agent's."""


def check(apps: "list[App]", empty: "tuple[EmptyVolume, ...]") -> None:
    """Raises BadRequest."""
    if len(apps) > MOST_APPS:
        raise BadRequest(f"the pod has {len(apps)} apps, and a VM runs at most {MOST_APPS}; make several pods of it")
    for kind, names in (("app", [app.name for app in apps]), ("volume", [volume.name for volume in empty])):
        if names and len(longest := max(names, key=len)) > MOST_LETTERS[kind]:
            raise BadRequest(
                f"the name of the {kind} {longest!r} has {len(longest)} letters, and may have {MOST_LETTERS[kind]};"
                f" give {'a shorter one (--name)' if kind == 'app' else 'a volume with a shorter one (--volume)'}"
            )
    containers = [*(one for app in apps for one in app.containers), *(app for app in apps if app.container.root_of)]
    if (count := len(containers) + len(empty)) > MOST_CONTAINERS:
        raise BadRequest(
            f"the pod's apps, their handlers and empty volumes are {count}, and a VM can have {MOST_CONTAINERS};"
            " give volumes of the host, or make several pods of it"
        )
