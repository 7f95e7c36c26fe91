# SPDX-License-Identifier: Apache-2.0
"""The environment of an app: the manifests' variables, defaults, and nothing of the caller's. Pure. Called by plan."""

from collections.abc import Iterable

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEFAULTS = (("PATH", PATH), ("SHELL", "/bin/sh"), ("USER", "root"), ("LOGNAME", "root"), ("HOME", "/root"))
"""Also for users that are not root: so it has always been, and images rely on it."""
METADATA_PORT = 18112


def variables(app: str, given: Iterable[tuple[str, str]], *, terminal: str | None = None) -> tuple[str, ...]:
    """NAME=VALUE, those of the manifest first; with a `terminal` also its TERM, unless that is there already."""
    values = dict(given)
    defaults = [*_DEFAULTS, *((("TERM", terminal or "vt100"),) if terminal is not None else ())]
    for name, value in defaults:
        values.setdefault(name, value)
    values["AC_APP_NAME"] = app
    return tuple(f"{name}={value}" for name, value in values.items())


def metadata_url(host_ip: str, token: str) -> str:
    """The URL at which the app reaches the metadata service, which runs on the host."""
    host = f"[{host_ip}]" if ":" in host_ip else host_ip
    return f"http://{host}:{METADATA_PORT}/{token}"
