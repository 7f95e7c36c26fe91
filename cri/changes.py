# SPDX-License-Identifier: Apache-2.0
"""What a configuration that is read again changes: what a running daemon can apply, and what needs a restart. Pure.
Called by `clearpod serve` at SIGHUP.
"""

from typing import Any, NamedTuple

from cri.config import Config

LIVE = (
    "cdi_dirs",
    "images",
    "limits",
    "log",
    "pinned_images",
    "policy",
    "registries",
    "snapshots.disk_mib",
    "volumes",
    "vm.ceiling",
    "vm.memory_mib",
    "vm.vcpus",
    "vm.window_mib",
)
"""Keys and tables that are looked at each time they are needed."""
FIXED = ("images.pulls", "images.readers")
"""Those among them that are not."""


class Changes(NamedTuple):
    """`config` is what is in force from now on; `taken` and `later` are the keys that changed, by their full names."""

    config: Config
    taken: tuple[str, ...]
    later: tuple[str, ...]

    def sentence(self) -> str:
        """The result, for people."""
        if not self.taken and not self.later:
            return "the configuration has not changed"
        parts = [f"changed: {', '.join(self.taken)}"] if self.taken else []
        return "; ".join([*parts, f"only after a restart: {', '.join(self.later)}"] if self.later else parts)


def between(now: Config, new: Config) -> Changes:
    """What a daemon with the configuration `now` has to do for `new`."""
    old_keys, new_keys = _flat(now.values()), _flat(new.values())
    changed = [key for key in new_keys if new_keys[key] != old_keys[key]]
    taken = tuple(key for key in changed if is_live(key))
    return Changes(_with(now, new, keys=taken), taken, tuple(key for key in changed if not is_live(key)))


def is_live(key: str) -> bool:
    """Whether a running daemon takes another value of this key."""
    return key not in FIXED and any(key == live or key.startswith(f"{live}.") for live in LIVE)


def _flat(tables: dict[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tables.items():
        flat.update(_flat(value, f"{above}{key}.") if isinstance(value, dict) else {f"{above}{key}": value})
    return flat


def _with(now: Config, new: Config, *, keys: tuple[str, ...]) -> Config:
    values: dict[str, Any] = {}
    for key in keys:
        table, _, name = key.rpartition(".")
        if table:
            values.setdefault(table, {})[name] = getattr(getattr(new, table), name)
        else:
            values[name] = getattr(new, name)
    for table, fields in values.items():
        if isinstance(fields, dict):
            values[table] = getattr(now, table).but(**fields)
    return now.but(**values)
